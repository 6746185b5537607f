"""What the impedance law, its guard and the twin compute with: rotations, the target's low-pass, J^T's inverse."""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["finite_state", "follow_target", "rotation_between", "solve_damped"]

Array = NDArray[np.float64]

DAMPING = 1e-4  # lambda^2: guards singularities


@njit(cache=True)
def finite_state(tcp_pose: Array, jacobian: Array, q: Array, qd: Array, bias: Array) -> bool:
    """Whether every number of a measured state is finite."""
    healthy = True
    for i in range(7):
        healthy &= math.isfinite(tcp_pose[i])
    for j in range(q.shape[0]):
        healthy &= math.isfinite(q[j]) and math.isfinite(qd[j]) and math.isfinite(bias[j])
        for i in range(6):
            healthy &= math.isfinite(jacobian[i, j])
    return healthy


@njit(cache=True)
def follow_target(followed: Array, target: Array, blend: float) -> None:
    """Move a pose a fraction `blend` towards another: straight in position, on SO(3) in rotation."""
    for i in range(3):
        followed[i] += blend * (target[i] - followed[i])
    x, y, z, w = followed[3], followed[4], followed[5], followed[6]
    rx, ry, rz = rotation_between(target, x, y, z, w)
    rx, ry, rz = blend * rx, blend * ry, blend * rz
    angle = math.sqrt(rx * rx + ry * ry + rz * rz)
    scale = 0.5 - angle * angle / 48.0 if angle < 1e-4 else math.sin(0.5 * angle) / angle
    dx, dy, dz, dw = rx * scale, ry * scale, rz * scale, math.cos(0.5 * angle)
    qx = dw * x + dx * w + dy * z - dz * y
    qy = dw * y - dx * z + dy * w + dz * x
    qz = dw * z + dx * y - dy * x + dz * w
    qw = dw * w - dx * x - dy * y - dz * z
    norm = math.sqrt(qx * qx + qy * qy + qz * qz + qw * qw)
    followed[3], followed[4], followed[5], followed[6] = qx / norm, qy / norm, qz / norm, qw / norm


@njit(cache=True)
def rotation_between(pose: Array, x: float, y: float, z: float, w: float) -> tuple[float, float, float]:
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
def solve_damped(square: Array, jacobian: Array, out: Array) -> None:
    """Solve in place: out <- (J J^T + lambda^2 I)^-1 out, by a 6x6 Cholesky.

    Args:
        square: Scratch, at least 36 numbers.
        jacobian: Shape (6, n).
        out: Right-hand side, then solution, shape (6,).
    """
    for i in range(6):
        for k in range(i + 1):
            total = DAMPING if i == k else 0.0
            for j in range(jacobian.shape[1]):
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
