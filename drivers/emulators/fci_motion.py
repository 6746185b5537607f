"""Following a client's commands a millisecond at a time, and the errors that end a motion. Compiled.

Units: rad, m, s, N m. Source of the limits: Franka's FCI documentation, "Robot limits" of the FR3 (joint: 10 rad/s^2,
5000 rad/s^3; translation 3 m/s, 9 m/s^2, 4500 m/s^3; rotation 2.5 rad/s, 17 rad/s^2, 8500 rad/s^3; elbow 1.5, 10, 5000;
torque 1000 N m/s), which are also what libfranka's rate limiter uses.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drivers.emulators import fci_flags as flags
from drivers.emulators.fci_flags import fail
from drivers.emulators.fci_kinematics import forward, move_rigid, rotation_vector, solve6, to_nullspace
from drivers.emulators.fci_memory import WINDOW, Memory

__all__ = ["begin", "end", "follow", "velocity_bounds"]

Array = NDArray[np.float64]

TICK = 1e-3
MISSING_LIMIT = 20  # commands in a row that may be missing
JOINT_ACCELERATION, JOINT_JERK = 10.0, 5000.0
TRANSLATION_LIMITS = (3.0, 9.0, 4500.0)
ROTATION_LIMITS = (2.5, 17.0, 8500.0)
ELBOW_LIMITS = (1.5, 10.0, 5000.0)
TORQUE_RATE = 1000.0
# A state travels as float32: 1e-7 of a position is 1e-4 of a velocity, 0.2 of an acceleration and 300 of a jerk.
SLACK_VELOCITY, SLACK_ACCELERATION, SLACK_JERK, SLACK_TORQUE = 1e-3, 1.05, 1.1, 1e-3
# How far from the current pose a first command may be (not published; our choice).
START_ANGLE, START_DISTANCE = 0.01, 0.01
FRAME_TOLERANCE = 1e-5  # as libfranka's own isHomogeneousTransformation
IK_DAMPING = 1e-8


@njit(cache=True)
def begin(m: Memory, generator: int, controller: int, q: Array) -> None:
    """Start a motion from where the arm is held."""
    m.mode, m.generator, m.controller = flags.MOVE, generator, controller
    m.ticks, m.lost, m.received, m.answered, m.finished, m.aborted = 0, 0, 0, 0, 0, 0
    m.tau_d[:] = 0.0
    if generator == flags.TORQUE_ONLY:
        _at_rest(m, q)
    else:
        _at_rest(m, m.q_d)


@njit(cache=True)
def end(m: Memory, mode: int, q: Array) -> None:
    """Stop following and hold the measured joint positions, in robot mode `mode`."""
    m.mode, m.generator, m.controller = mode, flags.NO_GENERATOR, flags.NO_CONTROLLER
    _at_rest(m, q)


@njit(cache=True)
def _at_rest(m: Memory, q: Array) -> None:
    m.q_d[:] = q
    m.dq_d[:] = 0.0
    m.ddq_d[:] = 0.0
    m.O_dP_EE_c[:] = 0.0
    m.O_ddP_EE_c[:] = 0.0
    forward(m.links, m.tool, m.q_d, m.frames_d, m.O_T_EE_d, m.jacobian_d)
    m.O_T_EE_c[:] = m.O_T_EE_d
    m.O_dP_EE_d[:] = 0.0
    m.elbow_c[0], m.elbow_c[1] = q[2], _elbow_sign(q)
    m.delbow_c, m.ddelbow_c = 0.0, 0.0


@njit(cache=True)
def _elbow_sign(q: Array) -> float:
    return 1.0 if q[3] > flags.ELBOW_FLIP else -1.0


@njit(cache=True)
def velocity_bounds(limits: Array, q: float) -> tuple[float, float]:
    """Lowest and highest velocity of one joint at angle `q`; `limits` as a row of `fci_model.JOINT_LIMITS`."""
    below, above = max(2.0 * limits[2] * (q - limits[3]), 0.0), max(2.0 * limits[2] * (limits[4] - q), 0.0)
    low = min(max(math.sqrt(below) - limits[1], 0.0), limits[0])
    high = min(max(math.sqrt(above) - limits[1], 0.0), limits[0])
    return -low, high


@njit(cache=True)
def follow(m: Memory, present: bool, numbers: Array, torque: Array, elbow: bool, finished: bool, q: Array) -> None:
    """One millisecond of a motion.

    Args:
        m: The controller's record; `m.aborted` is set when an error ends the motion.
        present: Whether a command arrived; without one the last is carried on (constant acceleration, constant torque).
        numbers: Of the command: q_c, dq_c, O_T_EE_c, O_dP_EE_c, elbow_c, shape (38,).
        torque: Commanded, without gravity, shape (7,).
        elbow: Whether elbow_c counts.
        finished: Whether the client says that it is done.
        q: Measured joint positions, shape (7,).
    """
    slot = m.ticks % WINDOW
    if m.ticks >= WINDOW:
        m.received -= m.window[slot]
    m.window[slot] = 1 if present else 0
    m.received += m.window[slot]
    m.ticks += 1
    m.lost = 0 if present else m.lost + 1
    if m.lost >= MISSING_LIMIT:
        fail(m, flags.NO_COMMANDS)
        return
    first = present and m.answered == 0
    if present:
        m.answered = 1
    if m.generator == flags.JOINT_POSITION or m.generator == flags.JOINT_VELOCITY:
        _follow_joints(m, present, numbers, first)
    elif m.generator == flags.CARTESIAN_POSITION or m.generator == flags.CARTESIAN_VELOCITY:
        _follow_pose(m, present, numbers, elbow, first)
    if m.controller == flags.EXTERNAL and present:
        for j in range(7):
            if abs(torque[j]) > m.torque_limits[j] + SLACK_TORQUE:
                fail(m, flags.TORQUE_RANGE)
            if abs(torque[j] - m.tau_d[j]) > TORQUE_RATE * TICK + SLACK_TORQUE:
                fail(m, flags.TORQUE_JUMP)
            m.tau_d[j] = torque[j]
    if m.generator == flags.TORQUE_ONLY:
        m.q_d[:] = q
        m.O_T_EE_d[:] = m.O_T_EE
        m.O_T_EE_c[:] = m.O_T_EE
    if present and finished and m.aborted == 0:
        _finish(m)


@njit(cache=True)
def _finish(m: Memory) -> None:
    """A motion may end only where it is at rest: to stop in one tick must not break the acceleration limits."""
    m.finished = 1
    if m.generator == flags.JOINT_POSITION or m.generator == flags.JOINT_VELOCITY:
        for j in range(7):
            if abs(m.dq_d[j]) > JOINT_ACCELERATION * SLACK_ACCELERATION * TICK:
                fail(m, flags.J_VELOCITY_JUMP)
    elif m.generator != flags.TORQUE_ONLY:
        speed, turn = _length(m.O_dP_EE_c, 0), _length(m.O_dP_EE_c, 3)
        if speed > TRANSLATION_LIMITS[1] * SLACK_ACCELERATION * TICK or turn > ROTATION_LIMITS[1] * TICK * 1.05:
            fail(m, flags.C_VELOCITY_JUMP)


@njit(cache=True)
def _follow_joints(m: Memory, present: bool, numbers: Array, first: bool) -> None:
    for j in range(7):
        if not present:
            velocity = m.dq_d[j] + m.ddq_d[j] * TICK
        elif m.generator == flags.JOINT_POSITION:
            if first and abs(numbers[j] - m.q_d[j]) > START_ANGLE:
                fail(m, flags.START_JOINTS)
            velocity = (numbers[j] - m.q_d[j]) / TICK
        else:
            velocity = numbers[7 + j]
        m.seven[j] = velocity
    _set_joint_velocity(
        m, present, flags.J_POSITION, flags.J_VELOCITY, flags.J_VELOCITY_JUMP, flags.J_ACCELERATION_JUMP
    )
    forward(m.links, m.tool, m.q_d, m.frames_d, m.O_T_EE_d, m.jacobian_d)
    m.O_T_EE_c[:] = m.O_T_EE_d
    _desired_twist(m)


@njit(cache=True)
def _set_joint_velocity(m: Memory, check: bool, position: int, speed: int, jump: int, acceleration_jump: int) -> None:
    """Take `m.seven` as the joints' velocity of this tick, raising the four errors it may break."""
    for j in range(7):
        velocity = m.seven[j]
        acceleration = (velocity - m.dq_d[j]) / TICK
        jerk = (acceleration - m.ddq_d[j]) / TICK
        angle = m.q_d[j] + velocity * TICK
        low, high = velocity_bounds(m.velocity_limits[j], m.q_d[j])
        if check:
            if angle < m.position_limits[j, 0] or angle > m.position_limits[j, 1]:
                fail(m, position)
            if velocity < low - SLACK_VELOCITY or velocity > high + SLACK_VELOCITY:
                fail(m, speed)
            if abs(acceleration) > JOINT_ACCELERATION * SLACK_ACCELERATION:
                fail(m, jump)
            if abs(jerk) > JOINT_JERK * SLACK_JERK:
                fail(m, acceleration_jump)
        m.q_d[j], m.dq_d[j], m.ddq_d[j] = angle, velocity, acceleration


@njit(cache=True)
def _desired_twist(m: Memory) -> None:
    for i in range(6):
        m.O_dP_EE_d[i] = 0.0
        for j in range(7):
            m.O_dP_EE_d[i] += m.jacobian_d[i, j] * m.dq_d[j]


@njit(cache=True)
def _follow_pose(m: Memory, present: bool, numbers: Array, elbow: bool, first: bool) -> None:
    twist = m.twist
    if not present:
        for i in range(6):
            twist[i] = m.O_dP_EE_c[i] + m.O_ddP_EE_c[i] * TICK
    elif m.generator == flags.CARTESIAN_VELOCITY:
        for i in range(6):
            twist[i] = numbers[30 + i]
    else:
        if not _read_frame(numbers, m.pose):
            fail(m, flags.BAD_FRAME)
            return
        rotation_vector(m.pose, m.O_T_EE_c, twist[3:])
        for i in range(3):
            twist[i] = (m.pose[i, 3] - m.O_T_EE_c[i, 3]) / TICK
            twist[3 + i] /= TICK
        if first and (_length(twist, 0) * TICK > START_DISTANCE or _length(twist, 3) * TICK > START_ANGLE):
            fail(m, flags.START_POSE)
    if present:
        _check_twist(m, twist, 0, TRANSLATION_LIMITS)
        _check_twist(m, twist, 3, ROTATION_LIMITS)
    for i in range(6):
        m.O_ddP_EE_c[i] = (twist[i] - m.O_dP_EE_c[i]) / TICK
        m.O_dP_EE_c[i] = twist[i]
    if present and m.generator == flags.CARTESIAN_POSITION:
        m.O_T_EE_c[:] = m.pose
    else:
        move_rigid(m.O_T_EE_c, twist, TICK)
    if present and elbow:
        _set_elbow(m, numbers[36], numbers[37], first)
    _solve_joints(m, elbow)
    _set_joint_velocity(
        m, present, flags.CJ_POSITION, flags.CJ_VELOCITY, flags.CJ_VELOCITY_JUMP, flags.CJ_ACCELERATION_JUMP
    )
    forward(m.links, m.tool, m.q_d, m.frames_d, m.O_T_EE_d, m.jacobian_d)
    _desired_twist(m)
    if not elbow:
        m.elbow_c[0] = m.q_d[2]


@njit(cache=True)
def _solve_joints(m: Memory, elbow: bool) -> None:
    """Joint velocities into `m.seven` that bring the desired pose to the commanded one; the elbow by the null space."""
    for i in range(3):
        m.six[i] = (m.O_T_EE_c[i, 3] - m.O_T_EE_d[i, 3]) / TICK
    rotation_vector(m.O_T_EE_c, m.O_T_EE_d, m.six[3:6])
    for i in range(3):
        m.six[3 + i] /= TICK
    solve6(m.jacobian_d, IK_DAMPING, m.six[:6], m.square, m.six[6:])
    for j in range(7):
        m.seven[j] = 0.0
        for i in range(6):
            m.seven[j] += m.jacobian_d[i, j] * m.six[6 + i]
    if elbow:
        free = m.free
        free[:] = 0.0
        free[2] = 1.0
        to_nullspace(m.jacobian_d, IK_DAMPING, free, m.square, m.six)
        if abs(free[2]) > 1e-3:
            scale = ((m.elbow_c[0] - m.q_d[2]) / TICK - m.seven[2]) / free[2]
            for j in range(7):
                m.seven[j] += scale * free[j]


@njit(cache=True)
def _set_elbow(m: Memory, angle: float, sign: float, first: bool) -> None:
    if sign != _elbow_sign(m.q_d):
        fail(m, flags.ELBOW_SIGN)
    if first and abs(angle - m.elbow_c[0]) > START_ANGLE:
        fail(m, flags.START_ELBOW)
    speed = (angle - m.elbow_c[0]) / TICK
    acceleration = (speed - m.delbow_c) / TICK
    jerk = (acceleration - m.ddelbow_c) / TICK
    if (
        abs(speed) > ELBOW_LIMITS[0] + SLACK_VELOCITY
        or abs(acceleration) > ELBOW_LIMITS[1] * SLACK_ACCELERATION
        or abs(jerk) > ELBOW_LIMITS[2] * SLACK_JERK
    ):
        fail(m, flags.ELBOW_LIMIT)
    m.elbow_c[0], m.delbow_c, m.ddelbow_c = angle, speed, acceleration


@njit(cache=True)
def _check_twist(m: Memory, twist: Array, start: int, limits: tuple[float, float, float]) -> None:
    acceleration = jerk = 0.0
    for i in range(start, start + 3):
        a = (twist[i] - m.O_dP_EE_c[i]) / TICK
        acceleration += a * a
        jerk += ((a - m.O_ddP_EE_c[i]) / TICK) ** 2
    if _length(twist, start) > limits[0] + SLACK_VELOCITY:
        fail(m, flags.C_VELOCITY)
    if math.sqrt(acceleration) > limits[1] * SLACK_ACCELERATION:
        fail(m, flags.C_VELOCITY_JUMP)
    if math.sqrt(jerk) > limits[2] * SLACK_JERK:
        fail(m, flags.C_ACCELERATION_JUMP)


@njit(cache=True)
def _length(values: Array, start: int) -> float:
    return math.sqrt(values[start] ** 2 + values[start + 1] ** 2 + values[start + 2] ** 2)


@njit(cache=True)
def _read_frame(numbers: Array, pose: Array) -> bool:
    """Column-major numbers[14:30] into `pose`; whether that is a rotation and a position."""
    for column in range(4):
        for row in range(4):
            pose[row, column] = numbers[14 + 4 * column + row]
    worst = abs(pose[3, 0]) + abs(pose[3, 1]) + abs(pose[3, 2]) + abs(pose[3, 3] - 1.0)
    for a in range(3):
        for b in range(3):
            dot = pose[0, a] * pose[0, b] + pose[1, a] * pose[1, b] + pose[2, a] * pose[2, b]
            worst = max(worst, abs(dot - (1.0 if a == b else 0.0)))
    return worst <= FRAME_TOLERANCE
