"""A UR5e's kinematics as its controller has them: from published DH parameters, in the controller's Base frame.

Base is turned by pi about z against our `base` (ROS's base_link). A controller's pose is position and rotation vector.

Source: Universal Robots, "DH Parameters for calculations of kinematics and dynamics" (UR5e); the same figures as
ur_description's default_kinematics.yaml. The twin's model is written from the link frames, so the two check each other.
"""

import math
from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from robot_rl.geometry import (
    IDENTITY_POSE,
    compose,
    quat_conjugate,
    quat_from_matrix,
    quat_from_rotvec,
    quat_multiply,
    rotvec_from_quat,
)  # fmt: skip

__all__ = [
    "FLANGE",
    "damped_solve",
    "forward",
    "from_ur",
    "inverse",
    "move_to",
    "to_ur",
    "tracking_torque",
    "wrench_of",
]

Array = NDArray[np.float64]

D = (0.1625, 0.0, 0.0, 0.1333, 0.0997, 0.0996)
A = (0.0, -0.425, -0.3922, 0.0, 0.0, 0.0)
SIN_ALPHA = (1.0, 0.0, 0.0, 1.0, -1.0, 0.0)  # alpha: pi/2, 0, 0, pi/2, -pi/2, 0
COS_ALPHA = (0.0, 1.0, 1.0, 0.0, 0.0, 1.0)
STEPS = 100
DAMPING = 1e-6
FLANGE: Array = IDENTITY_POSE.copy()  # the tool centre point when there is no tool; writable, as every other pose is


def from_ur(pose: Sequence[float] | Array) -> Array:
    """Pose (7,) of a controller's six numbers."""
    values = np.asarray(pose, dtype=np.float64)
    return np.concatenate([values[:3], quat_from_rotvec(values[3:])])


def to_ur(pose: Array) -> Array:
    """A controller's six numbers of a pose (7,)."""
    return np.concatenate([pose[:3], rotvec_from_quat(pose[3:])])


@njit(cache=True)
def forward(q: Array, tcp: Array) -> tuple[Array, Array]:
    """Pose of the tool centre point in Base, shape (7,), and its Jacobian, linear rows first, shape (6, 6).

    Args:
        q: Joint angles [rad], shape (6,).
        tcp: Of the tool centre point in the flange, shape (7,).
    """
    axes, anchors = np.empty((6, 3)), np.empty((6, 3))
    turn, at = np.eye(3), np.zeros(3)
    for j in range(6):
        axes[j], anchors[j] = turn[:, 2], at
        c, s, ca, sa = math.cos(q[j]), math.sin(q[j]), COS_ALPHA[j], SIN_ALPHA[j]
        at = at + turn @ np.array([A[j] * c, A[j] * s, D[j]])
        turn = turn @ np.array([[c, -s * ca, s * sa], [s, c * ca, -c * sa], [0.0, sa, ca]])
    flange = np.empty(7)
    flange[:3], flange[3:] = at, quat_from_matrix(turn)
    pose = compose(flange, tcp)
    jacobian = np.empty((6, 6))
    for j in range(6):
        r = pose[:3] - anchors[j]
        a = axes[j]
        jacobian[0, j] = a[1] * r[2] - a[2] * r[1]
        jacobian[1, j] = a[2] * r[0] - a[0] * r[2]
        jacobian[2, j] = a[0] * r[1] - a[1] * r[0]
        jacobian[3:, j] = a
    return pose, jacobian


@njit(cache=True)
def damped_solve(jacobian: Array, twist: Array, damping: float) -> Array:
    """Joint velocities J^T (J J^T + damping I)^-1 twist, shape (6,)."""
    return jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + damping * np.eye(6), twist)


@njit(cache=True)
def inverse(
    pose: Array, tcp: Array, near: Array, max_position: float = 1e-6, max_rotation: float = 1e-6
) -> tuple[Array, bool]:
    """Joint angles near a seed that put the tcp at a pose, by damped Newton steps, and whether they do."""
    q = near.copy()
    error = np.empty(6)
    for _ in range(STEPS):
        at, jacobian = forward(q, tcp)
        error[:3] = pose[:3] - at[:3]
        error[3:] = rotvec_from_quat(quat_multiply(pose[3:], quat_conjugate(at[3:])))
        if math.sqrt((error[:3] ** 2).sum()) < max_position and math.sqrt((error[3:] ** 2).sum()) < max_rotation:
            return q, np.abs(q).max() <= 2.0 * math.pi
        step = damped_solve(jacobian, error, DAMPING)
        q = q + step * min(1.0, 0.3 / max(np.abs(step).max(), 1e-12))
    return q, False


@njit(cache=True)
def tracking_torque(
    mass: Array, q: Array, qd: Array, bias: Array, wanted: Array, velocity: Array, acceleration: Array, rate: float
) -> Array:
    """Computed torque [N m], shape (6,), whose errors decay critically damped at `rate` [1/s].

    Args:
        mass: Joint-space inertia, shape (6, 6).
        q: Measured [rad], shape (6,).
        qd: Measured [rad/s].
        bias: Coriolis torque [N m].
        wanted: The reference's q.
        velocity: The reference's.
        acceleration: The reference's [rad/s^2].
        rate: [1/s].
    """
    return mass @ (acceleration + rate * rate * (wanted - q) + 2.0 * rate * (velocity - qd)) + bias


@njit(cache=True)
def wrench_of(q: Array, torque: Array, damping: float) -> Array:
    """Wrench on the flange in Base, shape (6,), whose joint torques J^T w are nearest to `torque` [N m], shape (6,)."""
    _, jacobian = forward(q, FLANGE)
    square: Array = jacobian @ jacobian.T + damping * np.eye(6)
    return np.linalg.solve(square, jacobian @ torque)  # pyright: ignore[reportReturnType]


@njit(cache=True)
def move_to(wrench: Array, q: Array, tcp: Array) -> Array:
    """A wrench on the flange as one at the tcp, in Base, shape (6,)."""
    flange, _ = forward(q, FLANGE)
    at, _ = forward(q, tcp)
    out = wrench.copy()
    out[3:] += np.cross(flange[:3] - at[:3], wrench[:3])
    return out
