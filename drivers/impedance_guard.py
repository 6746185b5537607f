"""What keeps the arm within its limits at every tick, whatever the target: walls, speed, contact wrench, joints.

Each bound is a *reserve* r: how far a speed is below what is allowed. As it falls, springs fade and a brake comes in:

- A wall (of the box, of the rotation about the nominal orientation, of a joint) allows, at distance d, the speed from
  which a constant deceleration a, begun t late, still stops in time: v(d) = sqrt((a t)^2 + 2 a d) - a t; beyond the
  wall that speed is negative, back inside. The push towards the wall fades as r falls from `band` to 0; what is faster
  than allowed less a quarter of the band is damped away; and as r falls from 0 to -band / 2 the *whole* spring fades,
  because the arm's inertia turns a push along one axis into motion along another. The walls stand `INSET` inside the
  limits, which is what a stiff brake needs to hold its own.
- Speed: as the tcp's linear or angular speed nears its limit, the whole spring fades; from half way on it is braked.
- Contact: the push along the measured wrench fades from 80% of `max_wrench` to nothing at `max_wrench`.

The guard only takes push away, adds damping, and leads back inside. Without limits it does nothing.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drivers.impedance_numerics import rotation_between

__all__ = ["NO_LIMITS", "guard", "guard_joints"]

Array = NDArray[np.float64]

INSET = (0.002, 0.0)  # of the walls, inside the limits [m, rad]
BRAKING = (3.0, 8.0)  # deceleration that the law can always reach [m/s^2, rad/s^2]
LATE_S = 0.05  # how long it takes to build up
RETURN_S = 0.02  # time to come back from beyond a wall, if slowly
RETURN = (0.25, 0.5)  # fastest way back [m/s, rad/s]
BAND = (0.1, 0.4)  # smallest width over which a push towards a wall fades [m/s, rad/s]
BRAKE = (5.0, 3.0)  # damping of what is above, in units of the law's own
SPEED_BAND = (0.4, 0.7)  # part of `max_speed` over which all springs fade
WRENCH_BAND = 0.2
JOINT_INSET = 0.01  # [rad]
JOINT_BRAKING = 4.0  # [rad/s^2]
JOINT_BAND = 0.3  # [rad/s]
JOINT_BRAKE = 0.3  # damping of a joint above its allowed speed, in units of its torque limit a rad/s

_LOW, _QUAT, _TURN, _ROTATION, _SPEED, _WRENCH, _MARGIN = 0, 6, 10, 19, 22, 24, 26
NO_LIMITS: Array = np.array([-np.inf] * 3 + [np.inf] * 3 + [0, 0, 0, 1.0, 1, 0, 0, 0, 1, 0, 0, 0, 1] + [np.inf] * 8)
NO_LIMITS[_MARGIN] = -np.inf
NO_LIMITS.setflags(write=False)


@njit(cache=True)
def guard_joints(limits: Array, joints: Array, q: Array, qd: Array, brake: Array) -> float:
    """Torques that keep every joint's margin.

    Args:
        limits: `SafetyLimits.pack`, shape (27,).
        joints: `JointLimits.pack`, shape (n, 4).
        q: Joint positions [rad], shape (n,).
        qd: Joint velocities [rad/s], shape (n,).
        brake: Written: the torques [N m], shape (n,).

    Returns:
        What they leave of the law's spring, 0 to 1.
    """
    margin, left = limits[_MARGIN] + JOINT_INSET, 1.0
    for j in range(q.shape[0]):
        brake[j] = 0.0
        for side in (-1.0, 1.0):
            distance = (joints[j, 1] - q[j] if side > 0.0 else q[j] - joints[j, 0]) - margin
            _, excess, rest = _wall(0.0, side * qd[j], distance, JOINT_BRAKING, RETURN[1], JOINT_BAND)
            brake[j] -= side * JOINT_BRAKE * joints[j, 2] * excess
            left = min(left, rest)
    return left


@njit(cache=True)
def guard(
    limits: Array, contact: Array, tcp: Array, twist: Array, damping: Array, left: float, spring: Array, brake: Array
) -> None:
    """Take from the law's spring what would break a limit, and say what brakes.

    Args:
        limits: `SafetyLimits.pack`, shape (27,).
        contact: Measured wrench on the world at the tcp, in `base`, shape (6,).
        tcp: Measured pose in `base`, shape (7,).
        twist: Of the tcp in `base`, shape (6,).
        damping: Of the law, shape (6,).
        left: What the joints leave of the spring.
        spring: Wrench of the law's spring, in `base`, shape (6,); changed in place.
        brake: Written: wrench that brakes, in `base`, shape (6,).
    """
    for part in range(2):
        _limit_wrench(part, limits, contact, spring)
        left = min(left, _limit_speed(part, limits, twist, damping, brake))
    for i in range(3):
        for side in (-1.0, 1.0):
            distance = (limits[_LOW + 3 + i] - tcp[i] if side > 0.0 else tcp[i] - limits[_LOW + i]) - INSET[0]
            keep, excess, rest = _wall(side * spring[i], side * twist[i], distance, BRAKING[0], RETURN[0], BAND[0])
            spring[i] *= keep
            brake[i] -= side * BRAKE[0] * damping[i] * excess
            left = min(left, rest)
    if limits[_ROTATION] < math.inf:
        left = min(left, _rotation_walls(limits, tcp, twist, damping, spring, brake))
    for i in range(6):
        spring[i] *= left


@njit(cache=True)
def _wall(
    push: float, speed: float, distance: float, braking: float, back: float, least: float
) -> tuple[float, float, float]:
    """What is kept of a push towards a wall, the excess of speed to be damped, and what is left of the whole spring."""
    late = braking * LATE_S
    if distance < 0.0:
        allowed = max(distance / RETURN_S, -back)
    else:
        need = 1.7 * max(speed, 0.0) + least  # more than the speed at which the band below would begin
        if 2.0 * braking * distance >= need * (need + 2.0 * late):
            return 1.0, 0.0, 1.0
        allowed = math.sqrt(late * late + 2.0 * braking * distance) - late
    reserve, band = allowed - speed, max(least, 0.4 * allowed)
    keep = min(max(reserve / band, 0.0), 1.0) if push > 0.0 else 1.0
    return keep, max(0.25 * band - reserve, 0.0), min(max(1.0 + 2.0 * reserve / band, 0.0), 1.0)


@njit(cache=True)
def _rotation_walls(limits: Array, tcp: Array, twist: Array, damping: Array, spring: Array, brake: Array) -> float:
    """As the box, for the rotation vector a about the axes e of the nominal orientation.

    Its rate about e is n . omega, with n = e + a x e / 2 + a x (a x e) / 12. (Source: Sola et al., A micro Lie theory,
    the inverse left Jacobian of SO(3); to within 1% of n up to 1.6 rad.)
    """
    x, y, z = rotation_between(tcp, limits[_QUAT], limits[_QUAT + 1], limits[_QUAT + 2], limits[_QUAT + 3])
    left = 1.0
    for i in range(3):
        ex, ey, ez = limits[_TURN + i], limits[_TURN + 3 + i], limits[_TURN + 6 + i]
        cx, cy, cz = y * ez - z * ey, z * ex - x * ez, x * ey - y * ex
        nx = ex + cx / 2.0 + (y * cz - z * cy) / 12.0
        ny = ey + cy / 2.0 + (z * cx - x * cz) / 12.0
        nz = ez + cz / 2.0 + (x * cy - y * cx) / 12.0
        away = ex * x + ey * y + ez * z
        rate = nx * twist[3] + ny * twist[4] + nz * twist[5]
        square = nx * nx + ny * ny + nz * nz
        for side in (-1.0, 1.0):
            push = nx * spring[3] + ny * spring[4] + nz * spring[5]
            distance = limits[_ROTATION + i] - side * away - INSET[1]
            keep, excess, rest = _wall(side * push, side * rate, distance, BRAKING[1], RETURN[1], BAND[1])
            cut = (1.0 - keep) * push / square
            stop = side * BRAKE[1] * damping[3 + i] * excess
            left = min(left, rest)
            spring[3], spring[4], spring[5] = spring[3] - nx * cut, spring[4] - ny * cut, spring[5] - nz * cut
            brake[3], brake[4], brake[5] = brake[3] - nx * stop, brake[4] - ny * stop, brake[5] - nz * stop
    return left


@njit(cache=True)
def _limit_speed(part: int, limits: Array, twist: Array, damping: Array, brake: Array) -> float:
    """Brake what is too fast, linear (part 0) or angular (1); returns what is left of the whole spring."""
    k, limit = 3 * part, limits[_SPEED + part]
    speed = math.sqrt(twist[k] ** 2 + twist[k + 1] ** 2 + twist[k + 2] ** 2)
    band = SPEED_BAND[part] * limit
    reserve = limit - speed
    inside = not reserve < band  # also without a limit
    stop = 0.0 if inside else BRAKE[part] * max(0.5 * band - reserve, 0.0) / speed
    for i in range(k, k + 3):
        brake[i] = -stop * damping[i] * twist[i]
    return 1.0 if inside else max(reserve / band, 0.0)


@njit(cache=True)
def _limit_wrench(part: int, limits: Array, contact: Array, spring: Array) -> None:
    """Fade the push along a measured force (part 0) or torque (1) that nears its limit."""
    k, limit = 3 * part, limits[_WRENCH + part]
    size = math.sqrt(contact[k] ** 2 + contact[k + 1] ** 2 + contact[k + 2] ** 2)
    band = WRENCH_BAND * limit
    reserve = limit - size
    if not reserve < band:
        return
    along = 0.0
    for i in range(k, k + 3):
        along += spring[i] * contact[i] / size
    cut = max(along, 0.0) * (1.0 - max(reserve / band, 0.0))
    for i in range(k, k + 3):
        spring[i] -= cut * contact[i] / size
