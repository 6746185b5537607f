"""All that the emulated controller remembers from one millisecond to the next, as one record that compiled code edits.

Vendor's names where he has one: `_d` desired, `_c` commanded, O base, F flange, NE nominal end effector, EE end effector,
K stiffness frame. Units as in his RobotState: m, rad, s, N, N m, kg. Matrices are (4, 4) here.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivers.emulators.fci_model import ArmDescription, ToolMass
from drivers.emulators.fci_protocol import ERRORS, ControllerMode, GeneratorMode, RobotMode

__all__ = ["WINDOW", "Memory", "new_memory"]

Memory = NDArray[Any]  # one record of MEMORY

WINDOW = 100  # ticks over which the success rate is counted

_J, _C, _T = (7,), (6,), (4, 4)
_FIELDS: dict[str, tuple[int, ...]] = {
    # the arm
    "links": (7, 4, 4), "flange": _T, "tool": _T, "position_limits": (7, 2), "torque_limits": _J,
    "velocity_limits": (7, 5),
    # settings of the user
    "F_T_NE": _T, "NE_T_EE": _T, "EE_T_K": _T, "F_T_EE": _T, "K_theta": _J, "K_x": _C,
    "torque_contact": _J, "torque_collision": _J, "force_contact": _C, "force_collision": _C,
    "torque_contact_acceleration": _J, "torque_collision_acceleration": _J,
    "force_contact_acceleration": _C, "force_collision_acceleration": _C,
    "m_load": (), "F_x_Cload": (3,), "I_load": (3, 3), "m_ee": (), "F_x_Cee": (3,), "I_ee": (3, 3),
    # what is wanted
    "q_d": _J, "dq_d": _J, "ddq_d": _J, "tau_d": _J, "O_T_EE_d": _T, "O_dP_EE_d": _C, "O_T_EE_c": _T, "O_dP_EE_c": _C,
    "O_ddP_EE_c": _C, "elbow_c": (2,), "delbow_c": (), "ddelbow_c": (), "path_deviation": (2,),
    # what is measured
    "O_T_EE": _T, "O_T_K": _T, "tau_J": _J, "tau_ext": _J, "tau_load": _J, "F_ext": _C, "K_F_ext": _C,
    # damping of the controllers inside, and room to work in
    "D_theta": _J, "jacobian": (6, 7), "jacobian_d": (6, 7), "frames": (8, 4, 4), "frames_d": (8, 4, 4),
    "square": (6, 6), "six": (12,), "seven": _J, "more": (6, 7), "free": _J, "point": (3,), "pose": _T, "twist": _C,
}  # fmt: skip
_INTEGERS: dict[str, tuple[int, ...]] = {
    "time_ms": (), "mode": (), "generator": (), "controller": (), "ticks": (), "lost": (), "window": (WINDOW,),
    "received": (), "answered": (), "finished": (), "aborted": (), "errors": (len(ERRORS),),
    "reflex": (len(ERRORS),), "joint_collision": _J, "cartesian_collision": _C,
}  # fmt: skip
MEMORY = np.dtype(
    [(name, np.float64, shape) for name, shape in _FIELDS.items()]
    + [(name, np.int64, shape) for name, shape in _INTEGERS.items()]
)

# Franka Hand, published (its end-effector configuration in Desk): 0.1034 m along the flange's z, turned by -45 degrees.
HAND_OFFSET, HAND_TURN = 0.1034, -np.pi / 4
# Internal controllers at start: libfranka's documentation gives the ranges, its examples (setDefaultBehavior) the values.
JOINT_STIFFNESS = (3000.0, 3000.0, 3000.0, 2500.0, 2500.0, 2000.0, 2000.0)
CARTESIAN_STIFFNESS = (3000.0, 3000.0, 3000.0, 300.0, 300.0, 300.0)
TORQUE_THRESHOLDS = (20.0, 20.0, 18.0, 18.0, 16.0, 14.0, 12.0)
FORCE_THRESHOLDS = (20.0, 20.0, 20.0, 25.0, 25.0, 25.0)


def new_memory(arm: ArmDescription, tool: ToolMass, positions: NDArray[Any], velocities: NDArray[Any]) -> Memory:
    """The record of a controller that has just been switched on, shape (1,).

    Args:
        arm: Its kinematics.
        tool: What is mounted at the flange.
        positions: Lowest and highest of each joint [rad], shape (7, 2).
        velocities: The numbers behind the velocity limits, `fci_model.JOINT_LIMITS`.
    """
    memory: Memory = np.zeros(1, dtype=MEMORY)
    record = memory[0]
    record["links"], record["flange"], record["torque_limits"] = arm.links, arm.flange, arm.torque
    record["position_limits"], record["velocity_limits"] = positions, velocities
    cosine, sine = np.cos(HAND_TURN), np.sin(HAND_TURN)
    hand = np.array([[cosine, -sine, 0, 0], [sine, cosine, 0, 0], [0, 0, 1, HAND_OFFSET], [0, 0, 0, 1]])
    record["F_T_NE"], record["F_T_EE"], record["tool"] = hand, hand, arm.flange @ hand
    record["NE_T_EE"], record["EE_T_K"] = np.eye(4), np.eye(4)
    record["K_theta"], record["K_x"] = JOINT_STIFFNESS, CARTESIAN_STIFFNESS
    for kind in ("contact", "collision"):
        for when in ("", "_acceleration"):
            record[f"torque_{kind}{when}"], record[f"force_{kind}{when}"] = TORQUE_THRESHOLDS, FORCE_THRESHOLDS
    record["m_ee"], record["F_x_Cee"], record["I_ee"] = tool.mass, tool.centre, tool.inertia
    record["path_deviation"] = np.inf
    record["mode"], record["generator"] = RobotMode.IDLE, GeneratorMode.IDLE
    record["controller"] = ControllerMode.OTHER
    return memory
