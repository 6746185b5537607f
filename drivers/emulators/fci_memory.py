"""All that the emulated controller remembers from one millisecond to the next, a record that compiled code edits.

Vendor's names where he has one: `_d` desired, `_c` commanded, O base, F flange, NE nominal end effector, EE end
effector, K stiffness frame. Units as in his RobotState: m, rad, s, N, N m, kg. Matrices are (4, 4) here.
"""

from typing import Annotated, Any, get_type_hints

import numpy as np
from numpy.typing import NDArray

from drivers.emulators.fci_model import ArmDescription, ToolMass
from drivers.emulators.fci_protocol import ERRORS, ControllerMode, GeneratorMode, RobotMode

__all__ = ["WINDOW", "Memory", "new_memory"]

Array = NDArray[np.float64]
WINDOW = 100  # ticks over which the success rate is counted

_Three = Annotated[Array, (3,)]
_Six = Annotated[Array, (6,)]
_Joints = Annotated[Array, (7,)]
_Frame = Annotated[Array, (4, 4)]
_Inertia = Annotated[Array, (3, 3)]
_Jacobian = Annotated[Array, (6, 7)]
_Frames = Annotated[Array, (8, 4, 4)]
_Flags = Annotated[NDArray[np.int64], (len(ERRORS),)]


class Memory:
    """The record's fields; a type for readers and checkers, while what runs is a NumPy record of `MEMORY`."""

    # the arm
    links: Annotated[Array, (7, 4, 4)]
    flange: _Frame
    tool: _Frame  # EE in the last joint's frame
    position_limits: Annotated[Array, (7, 2)]
    velocity_limits: Annotated[Array, (7, 5)]
    torque_limits: _Joints
    # settings of the user
    F_T_NE: _Frame
    NE_T_EE: _Frame
    F_T_EE: _Frame
    EE_T_K: _Frame
    K_theta: _Joints
    K_x: _Six
    torque_contact: _Joints
    torque_collision: _Joints
    force_contact: _Six
    force_collision: _Six
    torque_contact_acceleration: _Joints
    torque_collision_acceleration: _Joints
    force_contact_acceleration: _Six
    force_collision_acceleration: _Six
    m_ee: float
    F_x_Cee: _Three
    I_ee: _Inertia
    m_load: float
    F_x_Cload: _Three
    I_load: _Inertia
    path_deviation: Annotated[Array, (2,)]
    # what is wanted
    q_d: _Joints
    dq_d: _Joints
    ddq_d: _Joints
    tau_d: _Joints
    O_T_EE_d: _Frame
    O_dP_EE_d: _Six
    O_T_EE_c: _Frame
    O_dP_EE_c: _Six
    O_ddP_EE_c: _Six
    elbow_c: Annotated[Array, (2,)]
    delbow_c: float
    ddelbow_c: float
    # what is measured
    O_T_EE: _Frame
    O_T_K: _Frame
    tau_J: _Joints
    tau_ext: _Joints
    tau_load: _Joints
    F_ext: _Six
    K_F_ext: _Six
    # damping of the joint controller, and room to work in
    D_theta: _Joints
    jacobian: _Jacobian
    jacobian_d: _Jacobian
    frames: _Frames
    frames_d: _Frames
    square: Annotated[Array, (6, 6)]
    six: Annotated[Array, (12,)]
    twist: _Six
    seven: _Joints
    free: _Joints
    more: _Jacobian
    point: _Three
    pose: _Frame
    # counters and flags
    time_ms: int
    mode: int
    generator: int
    controller: int
    ticks: int  # of this motion
    lost: int  # commands, in a row
    window: Annotated[NDArray[np.int64], (WINDOW,)]
    received: int  # of those in the window
    answered: int
    finished: int
    aborted: int
    errors: _Flags
    reflex: _Flags
    joint_collision: Annotated[NDArray[np.int64], (7,)]
    cartesian_collision: Annotated[NDArray[np.int64], (6,)]


def _dtype() -> np.dtype[Any]:
    fields = list[tuple[str, type, tuple[int, ...]]]()
    for name, kind in get_type_hints(Memory, include_extras=True).items():
        shape = getattr(kind, "__metadata__", ((),))[0]
        whole = kind is int or (shape and kind.__origin__ == NDArray[np.int64])
        fields.append((name, np.int64 if whole else np.float64, shape))
    return np.dtype(fields)


MEMORY = _dtype()

# Franka Hand, published (its end-effector configuration in Desk): 0.1034 m along the flange's z, turned by -45 degrees.
HAND_OFFSET, HAND_TURN = 0.1034, -np.pi / 4
# At start: libfranka's documentation gives the ranges, its examples (setDefaultBehavior) the values.
JOINT_STIFFNESS = (3000.0, 3000.0, 3000.0, 2500.0, 2500.0, 2000.0, 2000.0)
CARTESIAN_STIFFNESS = (3000.0, 3000.0, 3000.0, 300.0, 300.0, 300.0)
TORQUE_THRESHOLDS = (20.0, 20.0, 18.0, 18.0, 16.0, 14.0, 12.0)
FORCE_THRESHOLDS = (20.0, 20.0, 20.0, 25.0, 25.0, 25.0)


def new_memory(arm: ArmDescription, tool: ToolMass, positions: Array, velocities: Array) -> NDArray[Any]:
    """The record of a controller that has just been switched on, shape (1,).

    Args:
        arm: Its kinematics.
        tool: What is mounted at the flange.
        positions: Lowest and highest of each joint [rad], shape (7, 2).
        velocities: The numbers behind the velocity limits, `fci_model.JOINT_LIMITS`.
    """
    memory = np.zeros(1, dtype=MEMORY)
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
