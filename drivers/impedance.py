"""Cartesian impedance: what turns a target pose into joint torques, a thousand times a second.

    torque = J^T (K e - D J qd)  +  N (k_n (q_n - q) - d_n qd)  +  joint-limit repulsion  +  bias

`e` is the pose error (target minus measured, position [m] then rotation vector [rad], both in `base`), *clipped per
axis*. The clip is what makes contact safe: whatever the target, no axis pushes harder than K x clip, and in free space
none moves faster than K x clip / D. N projects into the arm's null space.

One compiled function, `impedance_torque`, allocates nothing and serves the twin and a real torque interface alike.
Sources: serl_franka_controllers (error clipping, torque-rate limit, defaults 2000/89/150/7), Khatib (1987) for the
null-space term. The clip acts along the axes of `base`.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drivers.impedance_gains import ImpedanceGains, JointLimits
from robot_rl.errors import ShapeError

__all__ = [
    "STATUS_BAD_STATE",
    "STATUS_BAD_TARGET",
    "STATUS_OK",
    "ImpedanceGains",
    "ImpedanceLaw",
    "JointLimits",
    "impedance_torque",
]

Array = NDArray[np.float64]

STATUS_OK = 0
STATUS_BAD_TARGET = 1  # target not finite: the last good one is kept
STATUS_BAD_STATE = 2  # measured state not finite: only `bias` (or nothing) is commanded


@njit(cache=True)
def impedance_torque(  # noqa: PLR0913 (arrays one by one: a config object would cost an allocation a tick)
    gains: Array,
    joints: Array,
    memory: Array,
    target_pose: Array,
    tcp_pose: Array,
    jacobian: Array,
    q: Array,
    qd: Array,
    bias: Array,
    torque: Array,
) -> int:
    """One tick of the law. Allocates nothing.

    Args:
        gains: `ImpedanceGains.pack`, shape (23,).
        joints: `JointLimits.pack`, shape (n, 4).
        memory: Shape (7 + n + 36 + 12,), kept by the caller between ticks: the low-passed target pose (7), the last
            torque without bias (n), scratch (48). Start it with `ImpedanceLaw.reset`.
        target_pose: Where the tcp should be, in `base`, shape (7,).
        tcp_pose: Where it is, shape (7,).
        jacobian: Of the tcp in `base`, linear rows first, shape (6, n).
        q: Joint positions [rad], shape (n,).
        qd: Joint velocities [rad/s], shape (n,).
        bias: Gravity and Coriolis torque to add [N m], shape (n,); only Coriolis where the arm holds its own weight.
        torque: Written: the torque to command [N m], shape (n,).

    Returns:
        0, or 1 when the target is not finite (the last good target is kept), or 2 when the measured state is not finite
        (the torque falls to the bias, or to zero where that is not finite either).
    """
    n = q.shape[0]
    status = STATUS_OK
    for i in range(7):
        if not math.isfinite(target_pose[i]):
            status = STATUS_BAD_TARGET
    if not _finite_state(tcp_pose, jacobian, q, qd, bias):
        for j in range(n):
            memory[7 + j] = 0.0
            limit = joints[j, 2]
            torque[j] = min(max(bias[j], -limit), limit) if math.isfinite(bias[j]) else 0.0
        return STATUS_BAD_STATE

    if status == STATUS_OK:
        _follow_target(memory, target_pose, gains[19])
    wrench = memory[7 + n + 36 : 7 + n + 42]
    _task_wrench(gains, memory, tcp_pose, jacobian, qd, wrench)

    nullspace = memory[7 + n + 42 : 7 + n + 48]
    k_n = gains[18]
    project = n > 6 and k_n > 0.0
    if project:
        _nullspace_correction(memory[7 + n : 7 + n + 36], joints, jacobian, q, qd, k_n, nullspace)
    margin, repulsion, rate = gains[21], gains[22], gains[20]
    d_n = 2.0 * math.sqrt(k_n)
    for j in range(n):
        command = 0.0
        for i in range(6):
            command += jacobian[i, j] * wrench[i]
        if project:
            command += k_n * (joints[j, 3] - q[j]) - d_n * qd[j]
            for i in range(6):
                command -= jacobian[i, j] * nullspace[i]
        low, high = joints[j, 0] + margin, joints[j, 1] - margin
        if q[j] < low:
            command += repulsion * (low - q[j])
        elif q[j] > high:
            command += repulsion * (high - q[j])
        last = memory[7 + j]
        command = min(max(command, last - rate), last + rate)
        memory[7 + j] = command
        limit = joints[j, 2]
        torque[j] = min(max(command + bias[j], -limit), limit)
    return status


@njit(cache=True)
def _finite_state(tcp_pose: Array, jacobian: Array, q: Array, qd: Array, bias: Array) -> bool:
    healthy = True
    for i in range(7):
        healthy &= math.isfinite(tcp_pose[i])
    for j in range(q.shape[0]):
        healthy &= math.isfinite(q[j]) and math.isfinite(qd[j]) and math.isfinite(bias[j])
        for i in range(6):
            healthy &= math.isfinite(jacobian[i, j])
    return healthy


@njit(cache=True)
def _follow_target(memory: Array, target: Array, blend: float) -> None:
    """Move the low-passed target a fraction `blend` towards `target`: straight in position, on SO(3) in rotation."""
    for i in range(3):
        memory[i] += blend * (target[i] - memory[i])
    x, y, z, w = memory[3], memory[4], memory[5], memory[6]
    rx, ry, rz = _rotation_between(target, x, y, z, w)
    rx, ry, rz = blend * rx, blend * ry, blend * rz
    angle = math.sqrt(rx * rx + ry * ry + rz * rz)
    scale = 0.5 - angle * angle / 48.0 if angle < 1e-4 else math.sin(0.5 * angle) / angle
    dx, dy, dz, dw = rx * scale, ry * scale, rz * scale, math.cos(0.5 * angle)
    qx = dw * x + dx * w + dy * z - dz * y
    qy = dw * y - dx * z + dy * w + dz * x
    qz = dw * z + dx * y - dy * x + dz * w
    qw = dw * w - dx * x - dy * y - dz * z
    norm = math.sqrt(qx * qx + qy * qy + qz * qz + qw * qw)
    memory[3], memory[4], memory[5], memory[6] = qx / norm, qy / norm, qz / norm, qw / norm


@njit(cache=True)
def _rotation_between(pose: Array, x: float, y: float, z: float, w: float) -> tuple[float, float, float]:
    """Rotation vector [rad], in `base`, that takes quaternion (x, y, z, w) to the pose's, the short way."""
    tx, ty, tz, tw = pose[3], pose[4], pose[5], pose[6]
    # e: the conjugate of the current rotation, then the target
    ex = -tw * x + tx * w - ty * z + tz * y
    ey = -tw * y + tx * z + ty * w - tz * x
    ez = -tw * z - tx * y + ty * x + tz * w
    ew = tw * w + tx * x + ty * y + tz * z
    if ew < 0.0:
        ex, ey, ez, ew = -ex, -ey, -ez, -ew
    half_sine = math.sqrt(ex * ex + ey * ey + ez * ez)
    scale = 2.0 if half_sine < 1e-9 else 2.0 * math.atan2(half_sine, ew) / half_sine
    return ex * scale, ey * scale, ez * scale


@njit(cache=True)
def _task_wrench(gains: Array, memory: Array, tcp: Array, jacobian: Array, qd: Array, wrench: Array) -> None:
    """K clip(e) - D J qd, in `base`."""
    rx, ry, rz = _rotation_between(memory, tcp[3], tcp[4], tcp[5], tcp[6])
    wrench[0], wrench[1], wrench[2] = memory[0] - tcp[0], memory[1] - tcp[1], memory[2] - tcp[2]
    wrench[3], wrench[4], wrench[5] = rx, ry, rz
    for i in range(6):
        velocity = 0.0
        for j in range(qd.shape[0]):
            velocity += jacobian[i, j] * qd[j]
        clip = gains[12 + i]
        wrench[i] = gains[i] * min(max(wrench[i], -clip), clip) - gains[6 + i] * velocity


@njit(cache=True)
def _nullspace_correction(
    square: Array, joints: Array, jacobian: Array, q: Array, qd: Array, k_n: float, out: Array
) -> None:
    """(J J^T + lambda^2 I)^-1 J t for the posture torque t, by a 6x6 Cholesky in place.

    lambda = 0.01 guards singularities.
    """
    n = q.shape[0]
    d_n = 2.0 * math.sqrt(k_n)
    for i in range(6):
        out[i] = 0.0
        for j in range(n):
            out[i] += jacobian[i, j] * (k_n * (joints[j, 3] - q[j]) - d_n * qd[j])
        for k in range(i + 1):
            total = 1e-4 if i == k else 0.0
            for j in range(n):
                total += jacobian[i, j] * jacobian[k, j]
            for m in range(k):
                total -= square[6 * i + m] * square[6 * k + m]
            square[6 * i + k] = math.sqrt(total) if i == k else total / square[7 * k]
    for i in range(6):
        for k in range(i):
            out[i] -= square[6 * i + k] * out[k]
        out[i] /= square[7 * i]
    for i in range(5, -1, -1):
        for k in range(i + 1, 6):
            out[i] -= square[6 * k + i] * out[k]
        out[i] /= square[7 * i]


class ImpedanceLaw:
    """`impedance_torque` with its memory, for one arm.

    Args:
        limits: The arm's joints.
        tick_s: Period at which `torque` will be called [s].
    """

    def __init__(self, limits: JointLimits, tick_s: float = 0.001) -> None:
        self.joints = limits.pack()
        self.tick_s = tick_s
        n = len(self.joints)
        self.memory = np.zeros(7 + n + 48)
        self.memory[6] = 1.0
        self.gains = ImpedanceGains().pack(tick_s)
        self.output = np.zeros(n)

    def set_gains(self, gains: ImpedanceGains) -> None:
        """Change stiffness, damping and clips from the next tick on; the torque-rate limit smooths the change."""
        self.gains[:] = gains.pack(self.tick_s)

    def reset(self, tcp_pose: Array) -> None:
        """Begin at rest: the low-passed target is the measured pose, shape (7,), and the last torque is zero."""
        if tcp_pose.shape != (7,):
            raise ShapeError(f"tcp_pose has shape {tcp_pose.shape}, expected (7,): position and quat_xyzw.")
        self.memory[:] = 0.0
        self.memory[:7] = tcp_pose
        self.output[:] = 0.0

    def torque(self, target_pose: Array, tcp_pose: Array, jacobian: Array, q: Array, qd: Array, bias: Array) -> Array:
        """One tick; see `impedance_torque`. Returns the joint torques [N m], shape (n,), valid until the next call."""
        impedance_torque(
            self.gains, self.joints, self.memory, target_pose, tcp_pose, jacobian, q, qd, bias, self.output
        )
        return self.output
