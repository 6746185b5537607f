"""Cartesian impedance: what turns a target pose into joint torques, a thousand times a second.

    torque = J^T (guard(K e) - D J qd)  +  N (k_n (q_n - q) - d_n qd)  +  joint-limit repulsion  +  bias

`e` is the pose error (target minus measured, position [m] then rotation vector [rad], both in `base`), *clipped per
axis*. The clip is what makes contact safe: whatever the target, no axis pushes harder than K x clip, and in free space
none moves faster than K x clip / D. N projects into the arm's null space. `guard` keeps the arm within `SafetyLimits`.

One compiled function, `impedance_torque`, allocates nothing and serves the twin and a real torque interface alike.
Sources: serl_franka_controllers (error clipping, torque-rate limit, defaults 2000/89/150/7), Khatib (1987) for the
null-space term. The clip acts along the axes of `base`.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drivers.impedance_gains import ImpedanceGains, JointLimits
from drivers.impedance_guard import NO_LIMITS, guard, guard_joints
from drivers.impedance_numerics import finite_state, follow_target, rotation_between, solve_damped
from drivers.safety_limits import SafetyLimits
from robot_rl.errors import ShapeError

__all__ = [
    "STATUS_BAD_STATE",
    "STATUS_BAD_TARGET",
    "STATUS_OK",
    "ImpedanceGains",
    "ImpedanceLaw",
    "JointLimits",
    "impedance_torque",
    "impedance_wrench",
]

Array = NDArray[np.float64]

SPRING_RATE = 0.7  # of the torque rate that the spring may use; what is left is the brakes'
STATUS_OK = 0
STATUS_BAD_TARGET = 1  # target not finite: the last good one is kept
STATUS_BAD_STATE = 2  # measured state not finite: only `bias` (or nothing) is commanded


@njit(cache=True)
def impedance_torque(  # noqa: PLR0913 (arrays one by one: a config object would cost an allocation a tick)
    gains: Array,
    joints: Array,
    limits: Array,
    contact: Array,
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
        limits: `SafetyLimits.pack`, or `NO_LIMITS`, shape (27,).
        contact: Measured wrench that the robot exerts on the world at the tcp, in `base`, shape (6,); zeros where
            nothing measures it.
        memory: Shape (7 + 2 n + 60 + n,), kept by the caller between ticks: the low-passed target pose (7), the last
            torque without bias (n), the spring's part of it (n), scratch (60 + n). Start it with `ImpedanceLaw.reset`.
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
    if not finite_state(tcp_pose, jacobian, q, qd, bias):
        for j in range(n):
            memory[7 + j], memory[7 + n + j] = 0.0, 0.0
            limit = joints[j, 2]
            torque[j] = min(max(bias[j], -limit), limit) if math.isfinite(bias[j]) else 0.0
        return STATUS_BAD_STATE

    if status == STATUS_OK:
        follow_target(memory, target_pose, gains[19])
    scratch = memory[7 + 2 * n :]
    spring, brake, twist, nullspace = scratch[36:42], scratch[42:48], scratch[48:54], scratch[54:60]
    for i in range(6):
        twist[i], nullspace[i] = 0.0, 0.0
        for j in range(n):
            twist[i] += jacobian[i, j] * qd[j]
    left = guard_joints(limits, joints, q, qd, torque)
    _task_wrench(gains, limits, contact, memory, tcp_pose, twist, left, spring, brake)

    k_n = gains[18] if n > 6 else 0.0
    d_n = 2.0 * math.sqrt(k_n)
    if k_n > 0.0:
        for j in range(n):
            posture = k_n * (joints[j, 3] - q[j]) - d_n * qd[j]
            torque[j] += posture
            for i in range(6):
                nullspace[i] += jacobian[i, j] * posture
        solve_damped(scratch, jacobian, nullspace)
    margin, repulsion = gains[21], gains[22]
    for j in range(n):
        push = 0.0
        for i in range(6):
            push += jacobian[i, j] * spring[i]
            torque[j] += jacobian[i, j] * (brake[i] - nullspace[i])
        scratch[60 + j] = push
        low, high = joints[j, 0] + margin, joints[j, 1] - margin
        if q[j] < low:
            torque[j] += repulsion * (low - q[j])
        elif q[j] > high:
            torque[j] += repulsion * (high - q[j])
    _put_together(joints, gains[20], memory, bias, torque)
    return status


@njit(cache=True)
def _put_together(joints: Array, rate: float, memory: Array, bias: Array, torque: Array) -> None:
    """Add the spring to the torques that hold and brake, such that these have their way.

    The spring yields where a joint would saturate, and changes by at most `SPRING_RATE` of the torque rate; either is
    one factor for all joints, so that its wrench keeps its direction.
    """
    n = torque.shape[0]
    held, push = memory[7 + n : 7 + 2 * n], memory[7 + 2 * n + 60 :]
    share, change = 1.0, 0.0
    for j in range(n):
        rest = torque[j] + bias[j]
        size = abs(push[j])
        room = joints[j, 2] - (rest if push[j] > 0.0 else -rest)
        if size > 0.0 and size > room:
            share = min(share, max(room, 0.0) / size)
    for j in range(n):
        push[j] *= share
        change = max(change, abs(push[j] - held[j]))
    part = 1.0 if change <= SPRING_RATE * rate else SPRING_RATE * rate / change
    for j in range(n):
        held[j] += part * (push[j] - held[j])
        last = memory[7 + j]
        command = min(max(torque[j] + held[j], last - rate), last + rate)
        memory[7 + j] = command
        limit = joints[j, 2]
        torque[j] = min(max(command + bias[j], -limit), limit)


@njit(cache=True)
def _task_wrench(  # noqa: PLR0913 (compiled; arrays one by one)
    gains: Array, limits: Array, contact: Array, followed: Array, tcp: Array, twist: Array, left: float,
    spring: Array, brake: Array,
) -> None:  # fmt: skip
    """The guarded spring, K clip(e), and what brakes, -D v and the guard's, in `base`."""
    rx, ry, rz = rotation_between(followed, tcp[3], tcp[4], tcp[5], tcp[6])
    spring[0], spring[1], spring[2] = followed[0] - tcp[0], followed[1] - tcp[1], followed[2] - tcp[2]
    spring[3], spring[4], spring[5] = rx, ry, rz
    for i in range(6):
        clip = gains[12 + i]
        spring[i] = gains[i] * min(max(spring[i], -clip), clip)
    guard(limits, contact, tcp, twist, gains[6:12], left, spring, brake)
    for i in range(6):
        brake[i] -= gains[6 + i] * twist[i]


@njit(cache=True)
def impedance_wrench(
    gains: Array,
    limits: Array,
    contact: Array,
    followed: Array,
    target_pose: Array,
    tcp_pose: Array,
    twist: Array,
    wrench: Array,
) -> int:
    """The task-space part of one tick, for arms that are commanded wrenches. Allocates nothing.

    Args:
        gains: As in `impedance_torque`, and so `limits`, `contact`, `target_pose` and `tcp_pose`.
        limits: Packed.
        contact: Measured.
        followed: The low-passed target pose (7), kept by the caller between ticks, and scratch (6), shape (13,).
        target_pose: In `base`.
        tcp_pose: In `base`.
        twist: Of the tcp in `base`: linear [m/s], angular [rad/s], shape (6,).
        wrench: Written: force [N] and torque [N m] to apply at the tcp, in `base`, shape (6,).

    Returns:
        As `impedance_torque`; with a measured state that is not finite the wrench is zero.
    """
    status, healthy = STATUS_OK, True
    for i in range(7):
        if not math.isfinite(target_pose[i]):
            status = STATUS_BAD_TARGET
        healthy &= math.isfinite(tcp_pose[i])
    for i in range(6):
        healthy &= math.isfinite(twist[i])
    if not healthy:
        for i in range(6):
            wrench[i] = 0.0
        return STATUS_BAD_STATE
    if status == STATUS_OK:
        follow_target(followed, target_pose, gains[19])
    _task_wrench(gains, limits, contact, followed[:7], tcp_pose, twist, 1.0, wrench, followed[7:13])
    for i in range(6):
        wrench[i] += followed[7 + i]
    return status


class ImpedanceLaw:
    """`impedance_torque`, or `impedance_wrench`, with its memory, for one arm.

    Args:
        joints: The arm's joints.
        tick_s: Period at which `torque` or `wrench` will be called [s].

    Attributes:
        contact: Measured wrench that the robot exerts on the world at the tcp, in `base`, shape (6,); write it before
            a tick (`contact[:] = ...`) where a sensor or the arm measures one. Zeros otherwise.
    """

    def __init__(self, joints: JointLimits, tick_s: float = 0.001) -> None:
        self.joints = joints.pack()
        self.tick_s = tick_s
        n = len(self.joints)
        self.memory = np.zeros(7 + 2 * n + 60 + n)
        self.memory[6] = 1.0
        self.gains = ImpedanceGains().pack(tick_s)
        self.limits = NO_LIMITS.copy()
        self.contact = np.zeros(6)
        self.output, self.output_wrench = np.zeros(n), np.zeros(6)

    def set_gains(self, gains: ImpedanceGains) -> None:
        """Change stiffness, damping and clips from the next tick on; the torque-rate limit smooths the change."""
        self.gains[:] = gains.pack(self.tick_s)

    def set_limits(self, limits: SafetyLimits) -> None:
        """Keep the tcp within limits from the next tick on; before the first call there are none."""
        self.limits[:] = limits.pack()

    def reset(self, tcp_pose: Array) -> None:
        """Begin at rest: the low-passed target is the measured pose, shape (7,), and the last torque is zero."""
        if tcp_pose.shape != (7,):
            raise ShapeError(f"tcp_pose has shape {tcp_pose.shape}, expected (7,): position and quat_xyzw.")
        self.memory[:] = 0.0
        self.memory[:7] = tcp_pose
        self.contact[:] = 0.0
        self.output[:] = 0.0

    def torque(self, target_pose: Array, tcp_pose: Array, jacobian: Array, q: Array, qd: Array, bias: Array) -> Array:
        """One tick; see `impedance_torque`. Returns the joint torques [N m], shape (n,), valid until the next call."""
        impedance_torque(
            self.gains, self.joints, self.limits, self.contact, self.memory,
            target_pose, tcp_pose, jacobian, q, qd, bias, self.output,
        )  # fmt: skip
        return self.output

    def wrench(self, target_pose: Array, tcp_pose: Array, twist_base: Array) -> Array:
        """One tick for an arm that takes wrenches; see `impedance_wrench`.

        Args:
            target_pose: Where the tcp should be, in `base`, shape (7,).
            tcp_pose: Where it is, shape (7,).
            twist_base: Its linear [m/s] and angular [rad/s] velocity, in `base`, shape (6,).

        Returns:
            Force [N] and torque [N m] to apply to the world at the tcp, in `base`, shape (6,), valid until the next
            call. The arm's own controller must carry its weight and keep its joint and torque limits.
        """
        impedance_wrench(
            self.gains, self.limits, self.contact, self.memory, target_pose, tcp_pose, twist_base,
            self.output_wrench,
        )  # fmt: skip
        return self.output_wrench
