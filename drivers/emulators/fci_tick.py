"""One millisecond of the emulated controller, compiled, sockets and all: take the command, send the state, move the plant.

The order is the robot's own: a command that answers state k acts from k + 1 on, and state k + 1 is measured as it begins
to. So the state can leave before physics runs, and client and simulation work at the same time.
"""

import math
import socket
from typing import NamedTuple

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from drivers.emulators.fci_kinematics import forward, jacobian_at, mount, rotation_vector, solve6, to_nullspace
from drivers.emulators.fci_memory import WINDOW, Memory
from drivers.emulators.fci_motion import ELBOW_FLIP, IDLE, MOVE, REFLEX, TORQUE_ONLY, end, fail, follow, velocity_bounds
from drivers.emulators.fci_protocol import COMMAND_BYTES, ERRORS, STATE_BYTES, STATE_FLOATS, ControllerMode
from drivers.emulators.plant import PlantArrays, add_inertial_torque, advance_plant

__all__ = ["RAN", "STOPPED", "WAITING", "Wire", "measure", "new_wire", "pack_settings", "run"]

Array = NDArray[np.float64]

RAN, WAITING, STOPPED = 0, 1, 2

_recv = types.ExternalFunction("recv", types.intp(types.int32, types.intp, types.intp, types.int32))
_send = types.ExternalFunction("send", types.intp(types.int32, types.intp, types.intp, types.int32))
_clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.intp))
MONOTONIC = 1
NO_WAIT = int(socket.MSG_DONTWAIT)
NO_SIGNAL = int(getattr(socket, "MSG_NOSIGNAL", 0))

EXTERNAL, CARTESIAN = int(ControllerMode.EXTERNAL), int(ControllerMode.CARTESIAN_IMPEDANCE)
JOINT_REFLEX, CARTESIAN_REFLEX = ERRORS.index("joint_reflex"), ERRORS.index("cartesian_reflex")
JOINT_POSITION, JOINT_VELOCITY = (
    ERRORS.index("joint_position_limits_violation"),
    ERRORS.index("joint_velocity_violation"),
)
UNSTABLE = ERRORS.index("instability_detected")
PATH_DEVIATION = ERRORS.index("max_path_pose_deviation_violation")

GRAVITY = 9.81
WRENCH_DAMPING = 1e-4  # lambda^2 of the damped inverse that turns joint torques into a wrench
VELOCITY_MARGIN = 0.1  # [rad/s] that a measured joint may exceed the limit for commands by (our choice)
# The controllers inside are not published. Damping ratio 1 about these masses of the hand [kg, kg m^2].
HAND_MASS, HAND_INERTIA = 4.0, 0.06
POSTURE_STIFFNESS = 20.0  # [N m/rad] of the null space under Cartesian impedance

STATE_SIZE, COMMAND_SIZE = int(STATE_BYTES.size), int(COMMAND_BYTES.size)
GENERATOR_AT, CONTROLLER_AT, ERRORS_AT = (
    int(STATE_BYTES.generator),
    int(STATE_BYTES.controller),
    int(STATE_BYTES.errors),
)
REFLEX_AT, MODE_AT, SUCCESS_AT = int(STATE_BYTES.reflex), int(STATE_BYTES.mode), int(STATE_BYTES.success_rate)
ELBOW_AT, MOTION_DONE_AT = int(COMMAND_BYTES.valid_elbow), int(COMMAND_BYTES.motion_finished)
TORQUE_AT, TORQUE_DONE_AT = int(COMMAND_BYTES.torque), int(COMMAND_BYTES.torque_finished)


class _Start(NamedTuple):
    """Where quantities begin among a state's floats."""

    O_T_EE: int
    O_T_EE_d: int
    O_T_EE_c: int
    elbow: int
    elbow_d: int
    elbow_c: int
    delbow_c: int
    ddelbow_c: int
    tau_J: int
    tau_J_d: int
    dtau_J: int
    q: int
    q_d: int
    dq: int
    dq_d: int
    ddq_d: int
    joint_contact: int
    cartesian_contact: int
    joint_collision: int
    cartesian_collision: int
    tau_ext_hat_filtered: int
    O_F_ext_hat_K: int
    K_F_ext_hat_K: int
    O_dP_EE_d: int
    O_dP_EE_c: int
    O_ddP_EE_c: int
    theta: int
    dtheta: int


AT = _Start(*(STATE_FLOATS[name].start for name in _Start._fields))


class Wire(NamedTuple):
    """The packets as bytes, and views of the numbers in them; `torque` and `rate` are copies, their place being odd."""

    state: NDArray[np.uint8]
    time: NDArray[np.uint64]
    floats: NDArray[np.float32]
    command: NDArray[np.uint8]
    newest: NDArray[np.uint8]
    numbers: Array
    torque: Array
    torque_bytes: NDArray[np.uint8]
    rate: NDArray[np.float32]
    rate_bytes: NDArray[np.uint8]
    clock: NDArray[np.int64]


def new_wire() -> Wire:
    """Empty packets."""
    state, command, newest = (np.zeros(n, dtype=np.uint8) for n in (STATE_SIZE, COMMAND_SIZE, COMMAND_SIZE))
    torque, rate = np.zeros(7), np.zeros(1, dtype=np.float32)
    return Wire(
        state, state[:8].view(np.uint64), state[8:GENERATOR_AT].view(np.float32), command, newest,
        newest[8:ELBOW_AT].view(np.float64), torque, torque.view(np.uint8), rate, rate.view(np.uint8),
        np.zeros(2, dtype=np.int64),
    )  # fmt: skip


def pack_settings(memory: Memory, wire: Wire) -> None:
    """Write what only a setter changes into the state."""
    record = memory[0]
    for name in ("F_T_EE", "EE_T_K", "F_T_NE", "NE_T_EE", "I_ee", "I_load"):
        wire.floats[STATE_FLOATS[name]] = record[name].ravel(order="F")
    for name in ("m_ee", "F_x_Cee", "m_load", "F_x_Cload"):
        wire.floats[STATE_FLOATS[name]] = record[name]
    wire.floats[STATE_FLOATS["O_ddP_O"]] = (0.0, 0.0, -GRAVITY)


@njit(cache=True, nogil=True)
def run(memory: Memory, plant: PlantArrays, wire: Wire, connection: int, ticks: int, spin_ns: int, mute: int) -> int:
    """Run some milliseconds.

    Args:
        memory: The controller's record, shape (1,).
        plant: What it drives; hold its lock.
        wire: Packets.
        connection: Connected UDP socket, -1 for none.
        ticks: How many.
        spin_ns: In a motion, wait this long for each command [ns]; 0 takes what is there.
        mute: 1 to send no state.

    Returns:
        RAN, WAITING (`spin_ns` passed without a command and nothing was done), or STOPPED (a motion ended; its last
        state is sent).
    """
    m = memory[0]
    for _ in range(ticks):
        present = connection >= 0 and _receive(wire, connection)
        if not present and spin_ns > 0 and m.mode == MOVE:
            start = _now(wire.clock)
            while not present:
                present = _receive(wire, connection)
                if not present and _now(wire.clock) - start > spin_ns:
                    return WAITING
        moving = m.mode == MOVE
        if moving:
            finished = wire.newest[MOTION_DONE_AT] != 0 or wire.newest[TORQUE_DONE_AT] != 0
            elbow = wire.newest[ELBOW_AT] != 0
            follow(m, present, wire.numbers, wire.torque, elbow, finished, plant.q)
        _settle_errors(m, plant.q)
        m.time_ms += 1
        _pack_wanted(m, wire)
        if connection >= 0 and mute == 0:
            _send(connection, wire.state.ctypes.data, STATE_SIZE, NO_SIGNAL | NO_WAIT)
        _choose_torque(m, plant)
        advance_plant(plant)
        measure(m, plant, wire)
        if moving and m.mode != MOVE:
            return STOPPED
    return RAN


@njit(cache=True)
def _now(clock: NDArray[np.int64]) -> int:
    _clock_gettime(MONOTONIC, clock.ctypes.data)
    return clock[0] * 1_000_000_000 + clock[1]


@njit(cache=True)
def _receive(wire: Wire, connection: int) -> bool:
    """Take the newest command off the socket into `wire`; whether there was one."""
    found = False
    while _recv(connection, wire.command.ctypes.data, COMMAND_SIZE, NO_WAIT) == COMMAND_SIZE:
        wire.newest[:] = wire.command
        found = True
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
        end(m, REFLEX, q)
    elif m.finished:
        m.finished = 0
        m.reflex[:] = 0
        if m.generator == TORQUE_ONLY or m.controller == CARTESIAN:
            end(m, IDLE, q)
        else:
            end(m, IDLE, m.q_d)  # where it was told to be, not where it is by now


@njit(cache=True)
def _choose_torque(m: Memory, plant: PlantArrays) -> None:
    """Torque of this tick into the plant; `m.tau_d` is it without gravity and load."""
    q, qd = plant.q, plant.qd
    if m.mode == MOVE and m.controller == EXTERNAL:
        pass
    elif m.mode == MOVE and m.controller == CARTESIAN:
        _cartesian_impedance(m, plant)
    else:
        for j in range(7):
            m.tau_d[j] = m.K_theta[j] * (m.q_d[j] - q[j]) + m.D_theta[j] * (m.dq_d[j] - qd[j]) + plant.bias[j]
    if m.mode == MOVE and m.generator != TORQUE_ONLY and m.controller != EXTERNAL:
        add_inertial_torque(plant, m.ddq_d, m.tau_d)
    if m.m_load > 0.0:
        _load_torque(m, plant)
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
        m.seven[j] = POSTURE_STIFFNESS * (m.q_d[j] - plant.q[j]) - 2.0 * math.sqrt(POSTURE_STIFFNESS) * plant.qd[j]
    to_nullspace(m.jacobian, WRENCH_DAMPING, m.seven, m.square, m.six)
    for j in range(7):
        m.tau_d[j] = m.seven[j] + plant.bias[j]
        for i in range(6):
            m.tau_d[j] += m.jacobian[i, j] * wrench[i]


@njit(cache=True)
def _load_torque(m: Memory, plant: PlantArrays) -> None:
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
    _pack_measured(m, plant, wire)


@njit(cache=True)
def _watch(m: Memory, plant: PlantArrays, wire: Wire) -> None:
    """Contacts and collisions by the user's thresholds, measured joint limits and path deviation."""
    moving, accelerates = m.mode == MOVE, False
    for j in range(7):
        accelerates |= abs(m.ddq_d[j]) > 1e-3
    t_low, t_high, f_low, f_high = m.torque_contact, m.torque_collision, m.force_contact, m.force_collision
    if accelerates:
        t_low, t_high = m.torque_contact_acceleration, m.torque_collision_acceleration
        f_low, f_high = m.force_contact_acceleration, m.force_collision_acceleration
    for j in range(7):
        if not math.isfinite(plant.q[j]):
            fail(m, UNSTABLE)
        push = abs(m.tau_ext[j])
        wire.floats[AT.joint_contact + j] = 1.0 if push > t_low[j] else 0.0
        if moving and push > t_high[j]:
            m.joint_collision[j] = 1
            fail(m, JOINT_REFLEX)
        low, high = velocity_bounds(m.velocity_limits[j], plant.q[j])
        if moving and (plant.qd[j] < low - VELOCITY_MARGIN or plant.qd[j] > high + VELOCITY_MARGIN):
            fail(m, JOINT_VELOCITY)
        if moving and (plant.q[j] < m.position_limits[j, 0] or plant.q[j] > m.position_limits[j, 1]):
            fail(m, JOINT_POSITION)
    for i in range(6):
        push = abs(m.K_F_ext[i])
        wire.floats[AT.cartesian_contact + i] = 1.0 if push > f_low[i] else 0.0
        if moving and push > f_high[i]:
            m.cartesian_collision[i] = 1
            fail(m, CARTESIAN_REFLEX)
    if moving:
        rotation_vector(m.O_T_EE_d, m.O_T_EE, m.six[:3])
        off = turned = 0.0
        for i in range(3):
            off += (m.O_T_EE_d[i, 3] - m.O_T_EE[i, 3]) ** 2
            turned += m.six[i] ** 2
        if math.sqrt(off) > m.path_deviation[0] or math.sqrt(turned) > m.path_deviation[1]:
            fail(m, PATH_DEVIATION)


@njit(cache=True)
def _pack_measured(m: Memory, plant: PlantArrays, wire: Wire) -> None:
    out = wire.floats
    for column in range(4):
        for row in range(4):
            out[AT.O_T_EE + 4 * column + row] = m.O_T_EE[row, column]
    out[AT.elbow], out[AT.elbow + 1] = plant.q[2], 1.0 if plant.q[3] > ELBOW_FLIP else -1.0
    for j in range(7):
        before = m.tau_J[j]
        m.tau_J[j] = plant.torque[j] + plant.gravity[plant.views.dofs[j]]
        out[AT.tau_J + j], out[AT.dtau_J + j] = m.tau_J[j], (m.tau_J[j] - before) * 1e3
        out[AT.q + j], out[AT.dq + j] = plant.q[j], plant.qd[j]
        out[AT.theta + j], out[AT.dtheta + j] = plant.q[j], plant.qd[j]
        out[AT.tau_ext_hat_filtered + j] = m.tau_ext[j]
        out[AT.joint_collision + j] = m.joint_collision[j]
    for i in range(6):
        out[AT.O_F_ext_hat_K + i], out[AT.K_F_ext_hat_K + i] = m.F_ext[i], m.K_F_ext[i]
        out[AT.cartesian_collision + i] = m.cartesian_collision[i]


@njit(cache=True)
def _pack_wanted(m: Memory, wire: Wire) -> None:
    out = wire.floats
    wire.time[0] = m.time_ms
    for column in range(4):
        for row in range(4):
            out[AT.O_T_EE_d + 4 * column + row] = m.O_T_EE_d[row, column]
            out[AT.O_T_EE_c + 4 * column + row] = m.O_T_EE_c[row, column]
    for j in range(7):
        out[AT.tau_J_d + j] = m.tau_d[j]
        out[AT.q_d + j], out[AT.dq_d + j], out[AT.ddq_d + j] = m.q_d[j], m.dq_d[j], m.ddq_d[j]
    for i in range(6):
        out[AT.O_dP_EE_d + i], out[AT.O_dP_EE_c + i] = m.O_dP_EE_d[i], m.O_dP_EE_c[i]
        out[AT.O_ddP_EE_c + i] = m.O_ddP_EE_c[i]
    out[AT.elbow_d], out[AT.elbow_d + 1] = m.q_d[2], 1.0 if m.q_d[3] > ELBOW_FLIP else -1.0
    out[AT.elbow_c], out[AT.elbow_c + 1] = m.elbow_c[0], m.elbow_c[1]
    out[AT.delbow_c], out[AT.ddelbow_c] = m.delbow_c, m.ddelbow_c
    wire.state[GENERATOR_AT], wire.state[CONTROLLER_AT], wire.state[MODE_AT] = m.generator, m.controller, m.mode
    for i in range(len(ERRORS)):
        wire.state[ERRORS_AT + i], wire.state[REFLEX_AT + i] = m.errors[i], m.reflex[i]
    wire.rate[0] = m.received / min(m.ticks, WINDOW) if m.mode == MOVE and m.ticks > 0 else 0.0
    wire.state[SUCCESS_AT:STATE_SIZE] = wire.rate_bytes
