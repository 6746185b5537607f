"""Rotations, poses, twists and wrenches, in one convention.

A quaternion is unit, `xyzw`. A pose is position [m] then `quat_xyzw`, shape (7,); `pose_a_b` (or `T_a_b`) maps
coordinates in b to a. A twist is linear then angular, a wrench force then torque.

The functions on single quaternions and poses are compiled: they are called at every control step.
Source: Lynch & Park, Modern Robotics, ch. 3 (which stacks angular first; we stack linear first).
"""

import math
from itertools import permutations, product
from types import EllipsisType

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from robot_rl.errors import ShapeError

__all__ = [
    "CUBE_ROTATIONS",
    "IDENTITY_POSE",
    "IDENTITY_XYZW",
    "adjoint",
    "compose",
    "invert",
    "least_turned",
    "matrix_from_quat",
    "move_wrench",
    "quat_conjugate",
    "quat_from_matrix",
    "quat_from_rotvec",
    "quat_multiply",
    "quat_rotate",
    "quat_slerp",
    "rotvec_from_quat",
]

Array = NDArray[np.float64]

IDENTITY_XYZW: Array = np.array([0.0, 0.0, 0.0, 1.0])
IDENTITY_POSE: Array = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
IDENTITY_XYZW.setflags(write=False)
IDENTITY_POSE.setflags(write=False)


@njit(cache=True)
def quat_multiply(a_xyzw: Array, b_xyzw: Array) -> Array:
    """Rotation b followed by rotation a, shape (4,)."""
    ax, ay, az, aw = a_xyzw[0], a_xyzw[1], a_xyzw[2], a_xyzw[3]
    bx, by, bz, bw = b_xyzw[0], b_xyzw[1], b_xyzw[2], b_xyzw[3]
    out = np.empty(4)
    out[0] = aw * bx + ax * bw + ay * bz - az * by
    out[1] = aw * by - ax * bz + ay * bw + az * bx
    out[2] = aw * bz + ax * by - ay * bx + az * bw
    out[3] = aw * bw - ax * bx - ay * by - az * bz
    return out


@njit(cache=True)
def quat_conjugate(quat_xyzw: Array) -> Array:
    """The inverse rotation, shape (4,)."""
    return np.array([-quat_xyzw[0], -quat_xyzw[1], -quat_xyzw[2], quat_xyzw[3]])


@njit(cache=True)
def quat_rotate(quat_xyzw: Array, vector: Array) -> Array:
    """A vector, shape (3,), turned by a rotation."""
    x, y, z, w = quat_xyzw[0], quat_xyzw[1], quat_xyzw[2], quat_xyzw[3]
    tx = 2.0 * (y * vector[2] - z * vector[1])
    ty = 2.0 * (z * vector[0] - x * vector[2])
    tz = 2.0 * (x * vector[1] - y * vector[0])
    out = np.empty(3)
    out[0] = vector[0] + w * tx + y * tz - z * ty
    out[1] = vector[1] + w * ty + z * tx - x * tz
    out[2] = vector[2] + w * tz + x * ty - y * tx
    return out


@njit(cache=True)
def quat_from_rotvec(rotvec: Array) -> Array:
    """Quaternion of a rotation vector (axis times angle [rad]), shape (3,) -> (4,)."""
    angle = math.sqrt(rotvec[0] ** 2 + rotvec[1] ** 2 + rotvec[2] ** 2)
    scale = 0.5 - angle * angle / 48.0 if angle < 1e-4 else math.sin(0.5 * angle) / angle
    return np.array([rotvec[0] * scale, rotvec[1] * scale, rotvec[2] * scale, math.cos(0.5 * angle)])


@njit(cache=True)
def rotvec_from_quat(quat_xyzw: Array) -> Array:
    """Rotation vector of a quaternion, shape (4,) -> (3,), the short way round: its norm is at most pi."""
    x, y, z, w = quat_xyzw[0], quat_xyzw[1], quat_xyzw[2], quat_xyzw[3]
    if w < 0.0:  # q and -q are the same rotation
        x, y, z, w = -x, -y, -z, -w
    half_sine = math.sqrt(x * x + y * y + z * z)
    scale = 2.0 / w if half_sine < 1e-9 else 2.0 * math.atan2(half_sine, w) / half_sine
    return np.array([x * scale, y * scale, z * scale])


@njit(cache=True)
def quat_slerp(a_xyzw: Array, b_xyzw: Array, fraction: float) -> Array:
    """The rotation a `fraction` of the short way from a (0) to b (1), shape (4,)."""
    turn = rotvec_from_quat(quat_multiply(b_xyzw, quat_conjugate(a_xyzw)))
    return quat_multiply(quat_from_rotvec(turn * fraction), a_xyzw)


@njit(cache=True)
def matrix_from_quat(quat_xyzw: Array) -> Array:
    """Rotation matrix, shape (3, 3), of a unit quaternion."""
    x, y, z, w = quat_xyzw[0], quat_xyzw[1], quat_xyzw[2], quat_xyzw[3]
    out = np.empty((3, 3))
    out[0, 0], out[0, 1], out[0, 2] = 1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)
    out[1, 0], out[1, 1], out[1, 2] = 2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)
    out[2, 0], out[2, 1], out[2, 2] = 2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)
    return out


@njit(cache=True)
def quat_from_matrix(matrix: Array) -> Array:
    """Unit quaternion, w >= 0, of a rotation matrix, shape (3, 3). Source: Shepperd (1978), largest-pivot form."""
    m = matrix
    trace = m[0, 0] + m[1, 1] + m[2, 2]
    out = np.empty(4)
    if trace >= m[0, 0] and trace >= m[1, 1] and trace >= m[2, 2]:
        out[0], out[1], out[2], out[3] = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], 1.0 + trace
    else:
        i = 0
        if m[1, 1] > m[0, 0]:
            i = 1
        if m[2, 2] > m[i, i]:
            i = 2
        j, k = (i + 1) % 3, (i + 2) % 3
        out[i] = 1.0 + m[i, i] - m[j, j] - m[k, k]
        out[j] = m[j, i] + m[i, j]
        out[k] = m[k, i] + m[i, k]
        out[3] = m[k, j] - m[j, k]
    out /= math.sqrt(out[0] ** 2 + out[1] ** 2 + out[2] ** 2 + out[3] ** 2)
    return out if out[3] >= 0.0 else -out


def _cube_rotations() -> Array:
    signed = [
        np.eye(3)[list(order)] * signs for order in permutations(range(3)) for signs in product((1.0, -1.0), repeat=3)
    ]
    return np.array([matrix for matrix in signed if np.linalg.det(matrix) > 0.0])


CUBE_ROTATIONS: Array = _cube_rotations()
CUBE_ROTATIONS.setflags(write=False)
"""The 24 rotations that a cube looks the same after, shape (24, 3, 3)."""


def least_turned(matrix: Array, rotations: Array) -> Array:
    """Of the orientations that a symmetric body cannot be told apart in, the one nearest to no turn at all.

    Args:
        matrix: An orientation of the body, shape (3, 3).
        rotations: Those of the body onto itself, shape (N, 3, 3).

    Returns:
        Shape (3, 3).
    """
    return matrix @ rotations[np.argmax(np.einsum("ij,nji->n", matrix, rotations))]


@njit(cache=True)
def compose(pose_a_b: Array, pose_b_c: Array) -> Array:
    """pose_a_c, shape (7,): where c lies in a."""
    out = np.empty(7)
    out[:3] = pose_a_b[:3] + quat_rotate(pose_a_b[3:], pose_b_c[:3])
    out[3:] = quat_multiply(pose_a_b[3:], pose_b_c[3:])
    return out


@njit(cache=True)
def invert(pose_a_b: Array) -> Array:
    """pose_b_a, shape (7,)."""
    out = np.empty(7)
    out[3:] = quat_conjugate(pose_a_b[3:])
    out[:3] = -quat_rotate(out[3:], pose_a_b[:3])
    return out


def adjoint(pose_a_b: ArrayLike) -> Array:
    """The (6, 6) matrix that turns a twist (linear, angular) in b, at b's origin, into one in a, at a's origin.

    With the linear part first the lever arm stands top right: a pure linear twist never gains rotation.

    Raises:
        ShapeError: The pose is not of shape (7,).
    """
    p = np.asarray(pose_a_b, dtype=np.float64)
    _expect(p, (7,), "pose_a_b")
    rotation = matrix_from_quat(p[3:])
    cross = np.array([[0.0, -p[2], p[1]], [p[2], 0.0, -p[0]], [-p[1], p[0], 0.0]])
    out = np.zeros((6, 6))
    out[:3, :3] = rotation
    out[3:, 3:] = rotation
    out[:3, 3:] = cross @ rotation
    return out


def move_wrench(wrench_sensor: ArrayLike, position_tcp_sensor: ArrayLike, quat_tcp_sensor_xyzw: ArrayLike) -> Array:
    """Express a wrench measured at a force sensor at the tool centre point.

    Args:
        wrench_sensor: Force [N] then torque [N m], shape (..., 6), in frame `sensor`, acting at its origin.
            Positive = robot on environment.
        position_tcp_sensor: Origin of `sensor` in `tcp` [m], shape (3,).
        quat_tcp_sensor_xyzw: Rotation taking `sensor` vectors to `tcp`, shape (4,).

    Returns:
        The same wrench in `tcp`, acting at the tcp, shape (..., 6).

    Raises:
        ShapeError: `wrench_sensor` is not of shape (..., 6), or the others not of theirs.
    """
    wrench = np.asarray(wrench_sensor, dtype=np.float64)
    position = np.asarray(position_tcp_sensor, dtype=np.float64)
    quat = np.asarray(quat_tcp_sensor_xyzw, dtype=np.float64)
    _expect(wrench, (..., 6), "wrench_sensor")
    _expect(position, (3,), "position_tcp_sensor")
    _expect(quat, (4,), "quat_tcp_sensor_xyzw")
    rotation = matrix_from_quat(quat)
    force = wrench[..., :3] @ rotation.T
    torque = wrench[..., 3:] @ rotation.T + np.cross(position, force)
    return np.concatenate([force, torque], axis=-1)


def _expect(array: Array, shape: tuple[int | EllipsisType, ...], name: str) -> None:
    """Raise ShapeError unless the array has this shape; a leading `...` stands for any dimensions."""
    size = shape[-1]
    if array.ndim == 0 or array.shape[-1] != size or (shape[0] is not ... and array.ndim != len(shape)):
        expected = str(shape).replace("Ellipsis", "...")
        raise ShapeError(f"{name} has shape {array.shape}, expected {expected}.", name=name)
