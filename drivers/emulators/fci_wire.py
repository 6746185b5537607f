"""The packets of a millisecond as bytes, and what of the controller's record goes into them. Compiled."""

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drivers.emulators.fci_flags import ELBOW_FLIP, MOVE
from drivers.emulators.fci_memory import WINDOW, Memory
from drivers.emulators.fci_protocol import COMMAND_BYTES, ERRORS, STATE_BYTES, STATE_FLOATS
from drivers.emulators.plant import PlantArrays

__all__ = [
    "AT",
    "COMMAND_SIZE",
    "GRAVITY",
    "STATE_SIZE",
    "Wire",
    "new_wire",
    "pack_measured",
    "pack_settings",
    "pack_wanted",
]

Array = NDArray[np.float64]
GRAVITY = 9.81

STATE_SIZE, COMMAND_SIZE = int(STATE_BYTES.size), int(COMMAND_BYTES.size)
GENERATOR_AT, CONTROLLER_AT, ERRORS_AT = (
    int(STATE_BYTES.generator),
    int(STATE_BYTES.controller),
    int(STATE_BYTES.errors),
)
REFLEX_AT, MODE_AT, SUCCESS_AT = int(STATE_BYTES.reflex), int(STATE_BYTES.mode), int(STATE_BYTES.success_rate)
ELBOW_AT = int(COMMAND_BYTES.valid_elbow)


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
    answers: NDArray[np.int64]
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
        newest[:8].view(np.int64), newest[8:ELBOW_AT].view(np.float64), torque, torque.view(np.uint8),
        rate, rate.view(np.uint8), np.zeros(2, dtype=np.int64),
    )  # fmt: skip


def pack_settings(memory: NDArray[Any], wire: Wire) -> None:
    """Write what only a setter changes into the state."""
    record = memory[0]
    for name in ("F_T_EE", "EE_T_K", "F_T_NE", "NE_T_EE", "I_ee", "I_load"):
        wire.floats[STATE_FLOATS[name]] = record[name].ravel(order="F")
    for name in ("m_ee", "F_x_Cee", "m_load", "F_x_Cload"):
        wire.floats[STATE_FLOATS[name]] = record[name]
    wire.floats[STATE_FLOATS["O_ddP_O"]] = (0.0, 0.0, -GRAVITY)


@njit(cache=True)
def pack_measured(m: Memory, plant: PlantArrays, wire: Wire) -> None:
    """Pose, joints, torques and estimates into the state."""
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
def pack_wanted(m: Memory, wire: Wire) -> None:
    """Time, modes, errors and everything desired or commanded into the state."""
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
