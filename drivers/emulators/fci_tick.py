"""One millisecond of the emulated controller, compiled, sockets and all: take the command, send the state, move.

The order is the robot's own: a command that answers state k acts from k + 1 on, and state k + 1 is measured as it
begins to. So the state can leave before physics runs, and client and simulation work at the same time.
"""

import math
import socket
from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from drivers.emulators import fci_flags as flags
from drivers.emulators.fci_flags import fail
from drivers.emulators.fci_kinematics import forward, jacobian_at, mount, rotation_vector, solve6, to_nullspace
from drivers.emulators.fci_memory import Memory
from drivers.emulators.fci_motion import end, follow, velocity_bounds
from drivers.emulators.fci_protocol import COMMAND_BYTES
from drivers.emulators.fci_wire import (
    AT,
    COMMAND_SIZE,
    GRAVITY,
    STATE_SIZE,
    Wire,
    pack_measured,
    pack_wanted,
)
from drivers.emulators.plant import PlantArrays, add_inertial_torque, advance_plant

__all__ = ["RAN", "STOPPED", "WAITING", "measure", "run"]

Array = NDArray[np.float64]

RAN, WAITING, STOPPED = 0, 1, 2

_recv = types.ExternalFunction("recv", types.intp(types.int32, types.intp, types.intp, types.int32))
_send = types.ExternalFunction("send", types.intp(types.int32, types.intp, types.intp, types.int32))
_clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.intp))
MONOTONIC = 1
NO_WAIT = int(socket.MSG_DONTWAIT)
ELBOW_AT, MOTION_DONE_AT = int(COMMAND_BYTES.valid_elbow), int(COMMAND_BYTES.motion_finished)
TORQUE_AT, TORQUE_DONE_AT = int(COMMAND_BYTES.torque), int(COMMAND_BYTES.torque_finished)
NO_SIGNAL = int(getattr(socket, "MSG_NOSIGNAL", 0))

WRENCH_DAMPING = 1e-4  # lambda^2 of the damped inverse that turns joint torques into a wrench
VELOCITY_MARGIN = 0.1  # [rad/s] that a measured joint may exceed the limit for commands by (our choice)
# The controllers inside are not published. Damping ratio 1 about these masses of the hand [kg, kg m^2].
HAND_MASS, HAND_INERTIA = 4.0, 0.06
POSTURE_STIFFNESS, POSTURE_DAMPING = 50.0, 10.0  # [N m/rad], [N m s/rad] of the null space under Cartesian impedance


@njit(cache=True, nogil=True)
def run(
    memory: NDArray[Any], plant: PlantArrays, wire: Wire, connection: int, ticks: int, spin_ns: int, mute: int
) -> int:
    """Run some milliseconds.

    Args:
        memory: The controller's record, shape (1,).
        plant: What it drives; hold its lock.
        wire: Packets.
        connection: Connected UDP socket, -1 for none.
        ticks: How many.
        spin_ns: In a motion, wait this long for each command [ns], and only for one that answers the last state sent:
            else one that came late would leave client and robot a tick apart for good. 0 takes what is there.
        mute: 1 to send no state.

    Returns:
        RAN, WAITING (`spin_ns` passed without a command and nothing was done), or STOPPED (a motion ended; its last
        state is sent).
    """
    m: Memory = memory[0]
    for _ in range(ticks):
        least = m.time_ms if spin_ns > 0 else 0
        present = connection >= 0 and _receive(wire, connection, least)
        if not present and spin_ns > 0 and m.mode == flags.MOVE:
            start = _now(wire.clock)
            while not present:
                present = _receive(wire, connection, least)
                if not present and _now(wire.clock) - start > spin_ns:
                    return WAITING
        moving = m.mode == flags.MOVE
        if moving:
            finished = wire.newest[MOTION_DONE_AT] != 0 or wire.newest[TORQUE_DONE_AT] != 0
            elbow = wire.newest[ELBOW_AT] != 0
            follow(m, present, wire.numbers, wire.torque, elbow, finished, plant.q)
        _settle_errors(m, plant.q)
        m.time_ms += 1
        pack_wanted(m, wire)
        if connection >= 0 and mute == 0:
            _send(connection, wire.state.ctypes.data, STATE_SIZE, NO_SIGNAL | NO_WAIT)
        _choose_torque(m, plant)
        advance_plant(plant)
        measure(m, plant, wire)
        if moving and m.mode != flags.MOVE:
            return STOPPED
    return RAN


@njit(cache=True)
def _now(clock: NDArray[np.int64]) -> int:
    _clock_gettime(MONOTONIC, clock.ctypes.data)
    return clock[0] * 1_000_000_000 + clock[1]


@njit(cache=True)
def _receive(wire: Wire, connection: int, least: int) -> bool:
    """Take the newest command off the socket into `wire`; whether one answers a state of time `least` [ms] or later."""
    found = False
    while _recv(connection, wire.command.ctypes.data, COMMAND_SIZE, NO_WAIT) == COMMAND_SIZE:
        wire.newest[:] = wire.command
        found = wire.answers[0] >= least
    if found:
        wire.torque_bytes[:] = wire.newest[TORQUE_AT:TORQUE_DONE_AT]
        for value in wire.numbers:
            found &= math.isfinite(value)
        for value in wire.torque:
            found &= math.isfinite(value)
    return found


@njit(cache=True)
def _settle_errors(m: Memory, q: Array) -> None:
    if m.aborted:
        m.aborted = 0
        end(m, flags.REFLEX, q)
    elif m.finished:
        m.finished = 0
        m.reflex[:] = 0
        if m.generator == flags.TORQUE_ONLY or m.controller == flags.CARTESIAN_IMPEDANCE:
            end(m, flags.IDLE, q)
        else:
            end(m, flags.IDLE, m.q_d)  # where it was told to be, not where it is by now


@njit(cache=True)
def _choose_torque(m: Memory, plant: PlantArrays) -> None:
    """Torque of this tick into the plant; `m.tau_d` is it without gravity and load."""
    q, qd = plant.q, plant.qd
    if m.mode == flags.MOVE and m.controller == flags.EXTERNAL:
        pass
    elif m.mode == flags.MOVE and m.controller == flags.CARTESIAN_IMPEDANCE:
        _cartesian_impedance(m, plant)
    else:
        for j in range(7):
            m.tau_d[j] = m.K_theta[j] * (m.q_d[j] - q[j]) + m.D_theta[j] * (m.dq_d[j] - qd[j]) + plant.bias[j]
    if m.mode == flags.MOVE and m.generator != flags.TORQUE_ONLY and m.controller != flags.EXTERNAL:
        add_inertial_torque(plant, m.ddq_d, m.tau_d)
    if m.m_load > 0.0:
        _load_torque(m)
    for j in range(7):
        plant.torque[j] = m.tau_d[j] + m.tau_load[j]


@njit(cache=True)
def _cartesian_impedance(m: Memory, plant: PlantArrays) -> None:
    """J^T (K e + D (twist_d - twist)), axes of K in the stiffness frame, and a posture in the null space."""
    error, wrench = m.six, m.twist
    rotation_vector(m.O_T_EE_d, m.O_T_EE, error[3:6])
    for i in range(3):
        error[i] = m.O_T_EE_d[i, 3] - m.O_T_EE[i, 3]
    for i in range(6):
        speed = m.O_dP_EE_d[i]
        for j in range(7):
            speed -= m.jacobian[i, j] * plant.qd[j]
        error[6 + i] = speed
    wrench[:] = 0.0
    for axis in range(6):
        block, k = 3 * (axis // 3), axis % 3
        along = faster = 0.0
        for i in range(3):
            along += m.O_T_K[i, k] * error[block + i]
            faster += m.O_T_K[i, k] * error[6 + block + i]
        damping = 2.0 * math.sqrt(m.K_x[axis] * (HAND_MASS if axis < 3 else HAND_INERTIA))
        for i in range(3):
            wrench[block + i] += m.O_T_K[i, k] * (m.K_x[axis] * along + damping * faster)
    for j in range(7):
        m.seven[j] = POSTURE_STIFFNESS * (m.q_d[j] - plant.q[j]) + POSTURE_DAMPING * (m.dq_d[j] - plant.qd[j])
    to_nullspace(m.jacobian, WRENCH_DAMPING, m.seven, m.square, m.six)
    for j in range(7):
        m.tau_d[j] = m.seven[j] + plant.bias[j]
        for i in range(6):
            m.tau_d[j] += m.jacobian[i, j] * wrench[i]


@njit(cache=True)
def _load_torque(m: Memory) -> None:
    """What carries the load that the user declared: J^T of its centre of mass, times its weight upwards."""
    mount(m.frames[7], m.flange, m.pose)
    for i in range(3):
        m.point[i] = m.pose[i, 3]
        for k in range(3):
            m.point[i] += m.pose[i, k] * m.F_x_Cload[k]
    jacobian_at(m.jacobian, m.O_T_EE[:3, 3], m.point, m.more)
    for j in range(7):
        m.tau_load[j] = m.more[2, j] * m.m_load * GRAVITY


@njit(cache=True)
def measure(m: Memory, plant: PlantArrays, wire: Wire) -> None:
    """Read the plant, estimate what pushes on it, raise the reflexes, and pack all that into the state."""
    forward(m.links, m.tool, plant.q, m.frames, m.O_T_EE, m.jacobian)
    mount(m.O_T_EE, m.EE_T_K, m.O_T_K)
    for j in range(7):
        m.tau_ext[j] = -plant.contact_torque[j] - m.tau_load[j]
    jacobian_at(m.jacobian, m.O_T_EE[:3, 3], m.O_T_K[:3, 3], m.more)
    for i in range(6):
        m.six[i] = 0.0
        for j in range(7):
            m.six[i] += m.more[i, j] * m.tau_ext[j]
    solve6(m.more, WRENCH_DAMPING, m.six[:6], m.square, m.F_ext)
    for i in range(3):
        m.K_F_ext[i] = m.K_F_ext[3 + i] = 0.0
        for k in range(3):
            m.K_F_ext[i] += m.O_T_K[k, i] * m.F_ext[k]
            m.K_F_ext[3 + i] += m.O_T_K[k, i] * m.F_ext[3 + k]
    _watch(m, plant, wire)
    pack_measured(m, plant, wire)


@njit(cache=True)
def _watch(m: Memory, plant: PlantArrays, wire: Wire) -> None:
    """Contacts and collisions by the user's thresholds, measured joint limits and path deviation."""
    moving, accelerates = m.mode == flags.MOVE, False
    for j in range(7):
        accelerates |= abs(m.ddq_d[j]) > 1e-3
    t_low, t_high, f_low, f_high = m.torque_contact, m.torque_collision, m.force_contact, m.force_collision
    if accelerates:
        t_low, t_high = m.torque_contact_acceleration, m.torque_collision_acceleration
        f_low, f_high = m.force_contact_acceleration, m.force_collision_acceleration
    for j in range(7):
        if not math.isfinite(plant.q[j]):
            fail(m, flags.UNSTABLE)
        push = abs(m.tau_ext[j])
        wire.floats[AT.joint_contact + j] = 1.0 if push > t_low[j] else 0.0
        if moving and push > t_high[j]:
            m.joint_collision[j] = 1
            fail(m, flags.JOINT_REFLEX)
        low, high = velocity_bounds(m.velocity_limits[j], plant.q[j])
        if moving and (plant.qd[j] < low - VELOCITY_MARGIN or plant.qd[j] > high + VELOCITY_MARGIN):
            fail(m, flags.MEASURED_VELOCITY)
        if moving and (plant.q[j] < m.position_limits[j, 0] or plant.q[j] > m.position_limits[j, 1]):
            fail(m, flags.MEASURED_POSITION)
    for i in range(6):
        push = abs(m.K_F_ext[i])
        wire.floats[AT.cartesian_contact + i] = 1.0 if push > f_low[i] else 0.0
        if moving and push > f_high[i]:
            m.cartesian_collision[i] = 1
            fail(m, flags.CARTESIAN_REFLEX)
    if moving:
        rotation_vector(m.O_T_EE_d, m.O_T_EE, m.six[:3])
        off = turned = 0.0
        for i in range(3):
            off += (m.O_T_EE_d[i, 3] - m.O_T_EE[i, 3]) ** 2
            turned += m.six[i] ** 2
        if math.sqrt(off) > m.path_deviation[0] or math.sqrt(turned) > m.path_deviation[1]:
            fail(m, flags.OFF_PATH)
