"""Kinematics of a chain of hinges, compiled: where the flange is at joint angles other than the simulation's own.

A vendor's controller follows *desired* joint positions, so it needs the arm's kinematics there as well.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["forward", "invert_rigid", "jacobian_at", "mount", "move_rigid", "rotation_vector", "solve6", "to_nullspace"]

Array = NDArray[np.float64]


@njit(cache=True, error_model="numpy")
def mount(parent: Array, child: Array, out: Array) -> None:
    """`out` = `parent` @ `child` of rigid transforms, shape (4, 4) each; `out` is neither of them."""
    for i in range(3):
        for j in range(3):
            out[i, j] = parent[i, 0] * child[0, j] + parent[i, 1] * child[1, j] + parent[i, 2] * child[2, j]
        out[i, 3] = parent[i, 0] * child[0, 3] + parent[i, 1] * child[1, 3] + parent[i, 2] * child[2, 3] + parent[i, 3]
        out[3, i] = 0.0
    out[3, 3] = 1.0


def invert_rigid(transform: Array) -> Array:
    """T_b_a from T_a_b, shape (4, 4)."""
    inverse = np.eye(4)
    inverse[:3, :3] = transform[:3, :3].T
    inverse[:3, 3] = -transform[:3, :3].T @ transform[:3, 3]
    return inverse


@njit(cache=True, error_model="numpy")
def forward(links: Array, tool: Array, q: Array, scratch: Array, pose: Array, jacobian: Array) -> None:
    """Pose and Jacobian of a tool at the end of a chain, at joint angles `q`. Allocates nothing.

    Args:
        links: Pose of each joint's frame in the one before at angle zero, axis z, shape (n, 4, 4).
        tool: Of the tool in the last joint's frame, shape (4, 4).
        q: Joint angles [rad], shape (n,).
        scratch: Shape (n + 1, 4, 4).
        pose: Written: tool in base, shape (4, 4).
        jacobian: Written: of the tool in base, linear rows first, shape (6, n).
    """
    n = q.shape[0]
    for j in range(n):
        here = scratch[j + 1]
        if j == 0:
            here[:] = links[0]
        else:
            mount(scratch[j], links[j], here)
        c, s = math.cos(q[j]), math.sin(q[j])
        for i in range(3):
            x, y = here[i, 0], here[i, 1]
            here[i, 0], here[i, 1] = c * x + s * y, c * y - s * x
    mount(scratch[n], tool, pose)
    for j in range(n):
        here = scratch[j + 1]
        ax, ay, az = here[0, 2], here[1, 2], here[2, 2]
        rx, ry, rz = pose[0, 3] - here[0, 3], pose[1, 3] - here[1, 3], pose[2, 3] - here[2, 3]
        jacobian[0, j], jacobian[1, j], jacobian[2, j] = ay * rz - az * ry, az * rx - ax * rz, ax * ry - ay * rx
        jacobian[3, j], jacobian[4, j], jacobian[5, j] = ax, ay, az


@njit(cache=True, error_model="numpy")
def jacobian_at(jacobian: Array, from_point: Array, to_point: Array, out: Array) -> None:
    """Jacobian of another point of the same body: `out` (6, n), points (3,) in base."""
    rx, ry, rz = to_point[0] - from_point[0], to_point[1] - from_point[1], to_point[2] - from_point[2]
    for j in range(jacobian.shape[1]):
        wx, wy, wz = jacobian[3, j], jacobian[4, j], jacobian[5, j]
        out[0, j] = jacobian[0, j] + wy * rz - wz * ry
        out[1, j] = jacobian[1, j] + wz * rx - wx * rz
        out[2, j] = jacobian[2, j] + wx * ry - wy * rx
        out[3, j], out[4, j], out[5, j] = wx, wy, wz


@njit(cache=True, error_model="numpy")
def rotation_vector(target: Array, actual: Array, out: Array) -> None:
    """Rotation [rad] in base that takes the rotation of `actual` to that of `target` (4, 4), written to out[0:3]."""
    trace = 0.0
    for i in range(3):
        for k in range(3):
            trace += target[i, k] * actual[i, k]
    x = y = z = 0.0
    for k in range(3):
        x += target[2, k] * actual[1, k] - target[1, k] * actual[2, k]
        y += target[0, k] * actual[2, k] - target[2, k] * actual[0, k]
        z += target[1, k] * actual[0, k] - target[0, k] * actual[1, k]
    sine = 0.5 * math.sqrt(x * x + y * y + z * z)
    angle = math.atan2(sine, 0.5 * (trace - 1.0))
    scale = 0.5 * (angle / sine if sine > 1e-12 else 1.0)
    out[0], out[1], out[2] = scale * x, scale * y, scale * z


@njit(cache=True, error_model="numpy")
def move_rigid(pose: Array, twist: Array, duration: float) -> None:
    """Move `pose` (4, 4) in place by a twist in base (linear, then angular) for `duration` [s]."""
    wx, wy, wz = twist[3] * duration, twist[4] * duration, twist[5] * duration
    angle = math.sqrt(wx * wx + wy * wy + wz * wz)
    half = 0.5 * angle
    scale = 0.5 if half < 1e-9 else math.sin(half) / angle
    x, y, z, w = wx * scale, wy * scale, wz * scale, math.cos(half)
    for column in range(3):
        a, b, c = pose[0, column], pose[1, column], pose[2, column]
        tx, ty, tz = 2.0 * (y * c - z * b), 2.0 * (z * a - x * c), 2.0 * (x * b - y * a)
        pose[0, column] = a + w * tx + y * tz - z * ty
        pose[1, column] = b + w * ty + z * tx - x * tz
        pose[2, column] = c + w * tz + x * ty - y * tx
    for i in range(3):
        pose[i, 3] += twist[i] * duration


@njit(cache=True, error_model="numpy")
def solve6(jacobian: Array, damping: float, right: Array, square: Array, out: Array) -> None:
    """Solve (J J^T + damping) `out` = `right` by Cholesky; J is (6, n), `square` (6, 6) is scratch."""
    n = jacobian.shape[1]
    for i in range(6):
        for k in range(i + 1):
            total = damping if i == k else 0.0
            for j in range(n):
                total += jacobian[i, j] * jacobian[k, j]
            for m in range(k):
                total -= square[i, m] * square[k, m]
            square[i, k] = math.sqrt(total) if i == k else total / square[k, k]
    for i in range(6):
        total = right[i]
        for m in range(i):
            total -= square[i, m] * out[m]
        out[i] = total / square[i, i]
    for i in range(5, -1, -1):
        total = out[i]
        for m in range(i + 1, 6):
            total -= square[m, i] * out[m]
        out[i] = total / square[i, i]


@njit(cache=True, error_model="numpy")
def to_nullspace(jacobian: Array, damping: float, values: Array, square: Array, scratch: Array) -> None:
    """Take from `values` (n,), in place, the part that acts on the tool: I - J^T (J J^T + damping)^-1 J.

    `square` (6, 6) and `scratch` (12,) are scratch.
    """
    n = values.shape[0]
    right, weights = scratch[:6], scratch[6:12]
    for i in range(6):
        right[i] = 0.0
        for j in range(n):
            right[i] += jacobian[i, j] * values[j]
    solve6(jacobian, damping, right, square, weights)
    for j in range(n):
        for i in range(6):
            values[j] -= jacobian[i, j] * weights[i]
