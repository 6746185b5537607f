"""The Franka Control Interface on the wire: robot interface version 10, gripper interface version 3.

TCP carries commands, each a header and a packed little-endian payload; UDP carries a state a millisecond one way and a
command the other. Names are the vendor's own, so that his documentation can be read beside ours. Matrices are 4x4,
column-major.

Source: layouts, command numbers and status numbers as published in frankarobotics/libfranka-common 0.21
(research_interface/robot/{rbk_types,service_types,error}.h, gripper/types.h).
"""

import struct
from collections.abc import Iterable
from enum import IntEnum
from types import SimpleNamespace

__all__ = [
    "COMMAND_BYTES",
    "ERRORS",
    "GRIPPER_HEADER",
    "GRIPPER_PORT",
    "GRIPPER_STATE",
    "GRIPPER_VERSION",
    "ROBOT_HEADER",
    "ROBOT_PORT",
    "ROBOT_VERSION",
    "STATE_BYTES",
    "STATE_FLOATS",
    "Command",
    "ControllerMode",
    "GeneratorMode",
    "GripperCommand",
    "GripperStatus",
    "MoveStatus",
    "RobotMode",
    "SetterStatus",
]

ROBOT_PORT, ROBOT_VERSION = 1337, 10
GRIPPER_PORT, GRIPPER_VERSION = 1338, 3

ROBOT_HEADER = struct.Struct("<III")  # command, command id, size of the whole message
GRIPPER_HEADER = struct.Struct("<HII")
GRIPPER_STATE = struct.Struct("<Idd?H")  # time [ms], width [m], largest width [m], grasped, temperature [deg C]
CONNECT_REQUEST = struct.Struct("<HH")  # version, UDP port of the client
MOVE_REQUEST = struct.Struct("<II6d?7d")  # controller, generator, path and goal deviation, asynchronous, its velocities


class Command(IntEnum):
    """Commands to the robot."""

    CONNECT = 0
    MOVE = 1
    STOP_MOVE = 2
    SET_COLLISION_BEHAVIOR = 3
    SET_JOINT_IMPEDANCE = 4
    SET_CARTESIAN_IMPEDANCE = 5
    SET_GUIDING_MODE = 6
    SET_EE_TO_K = 7
    SET_NE_TO_EE = 8
    SET_LOAD = 9
    AUTOMATIC_ERROR_RECOVERY = 10
    GET_ROBOT_MODEL = 11


class GripperCommand(IntEnum):
    """Commands to the gripper."""

    CONNECT = 0
    HOMING = 1
    GRASP = 2
    MOVE = 3
    STOP = 4


class RobotMode(IntEnum):
    """What the robot is doing."""

    OTHER = 0
    IDLE = 1
    MOVE = 2
    GUIDING = 3
    REFLEX = 4
    USER_STOPPED = 5
    AUTOMATIC_ERROR_RECOVERY = 6


class GeneratorMode(IntEnum):
    """Where a motion's targets come from, as a state reports it. A Move request counts from JOINT_POSITION = 0."""

    IDLE = 0
    JOINT_POSITION = 1
    JOINT_VELOCITY = 2
    CARTESIAN_POSITION = 3
    CARTESIAN_VELOCITY = 4
    NONE = 5


class ControllerMode(IntEnum):
    """Which controller turns targets into torques; the same numbers in a Move request and in a state."""

    JOINT_IMPEDANCE = 0
    CARTESIAN_IMPEDANCE = 1
    EXTERNAL = 2
    OTHER = 3


class MoveStatus(IntEnum):
    """Answers to Move."""

    SUCCESS = 0
    MOTION_STARTED = 1
    PREEMPTED = 2
    NOT_POSSIBLE = 5
    INVALID_ARGUMENT = 7
    REFLEX_ABORTED = 8
    EMERGENCY_ABORTED = 9


class SetterStatus(IntEnum):
    """Answers to setters; SUCCESS and NOT_POSSIBLE are the same for every other command but Move."""

    SUCCESS = 0
    NOT_POSSIBLE = 1
    INVALID_ARGUMENT = 2


class GripperStatus(IntEnum):
    """Answers of the gripper; Connect knows only 0 and 1, which is an incompatible version."""

    SUCCESS = 0
    FAIL = 1
    UNSUCCESSFUL = 2
    ABORTED = 3


ERRORS = (
    "joint_position_limits_violation",
    "cartesian_position_limits_violation",
    "self_collision_avoidance_violation",
    "joint_velocity_violation",
    "cartesian_velocity_violation",
    "force_control_safety_violation",
    "joint_reflex",
    "cartesian_reflex",
    "max_goal_pose_deviation_violation",
    "max_path_pose_deviation_violation",
    "cartesian_velocity_profile_safety_violation",
    "joint_position_motion_generator_start_pose_invalid",
    "joint_motion_generator_position_limits_violation",
    "joint_motion_generator_velocity_limits_violation",
    "joint_motion_generator_velocity_discontinuity",
    "joint_motion_generator_acceleration_discontinuity",
    "cartesian_position_motion_generator_start_pose_invalid",
    "cartesian_motion_generator_elbow_limit_violation",
    "cartesian_motion_generator_velocity_limits_violation",
    "cartesian_motion_generator_velocity_discontinuity",
    "cartesian_motion_generator_acceleration_discontinuity",
    "cartesian_motion_generator_elbow_sign_inconsistent",
    "cartesian_motion_generator_start_elbow_invalid",
    "force_controller_desired_force_tolerance_violation",
    "start_elbow_sign_inconsistent",
    "communication_constraints_violation",
    "power_limit_violation",
    "cartesian_motion_generator_joint_position_limits_violation",
    "cartesian_motion_generator_joint_velocity_limits_violation",
    "cartesian_motion_generator_joint_velocity_discontinuity",
    "cartesian_motion_generator_joint_acceleration_discontinuity",
    "cartesian_position_motion_generator_invalid_frame",
    "controller_torque_discontinuity",
    "joint_p2p_insufficient_torque_for_planning",
    "tau_j_range_violation",
    "instability_detected",
    "joint_move_in_wrong_direction",
    "cartesian_spline_motion_generator_violation",
    "joint_via_motion_generator_planning_joint_limit_violation",
    "base_acceleration_initialization_timeout",
    "base_acceleration_invalid_reading",
)
"""Names of the error flags, in the order they have on the wire."""

_FLOATS = (
    ("O_T_EE", 16), ("O_T_EE_d", 16), ("F_T_EE", 16), ("EE_T_K", 16), ("F_T_NE", 16), ("NE_T_EE", 16),
    ("m_ee", 1), ("I_ee", 9), ("F_x_Cee", 3), ("m_load", 1), ("I_load", 9), ("F_x_Cload", 3),
    ("elbow", 2), ("elbow_d", 2), ("tau_J", 7), ("tau_J_d", 7), ("dtau_J", 7), ("q", 7), ("q_d", 7), ("dq", 7),
    ("dq_d", 7), ("ddq_d", 7), ("joint_contact", 7), ("cartesian_contact", 6), ("joint_collision", 7),
    ("cartesian_collision", 6), ("tau_ext_hat_filtered", 7), ("O_F_ext_hat_K", 6), ("K_F_ext_hat_K", 6),
    ("O_dP_EE_d", 6), ("O_ddP_O", 3), ("elbow_c", 2), ("delbow_c", 2), ("ddelbow_c", 2), ("O_T_EE_c", 16),
    ("O_dP_EE_c", 6), ("O_ddP_EE_c", 6), ("theta", 7), ("dtheta", 7), ("accelerometer_top", 18),
    ("accelerometer_bottom", 18),
)  # fmt: skip


def _slices(fields: Iterable[tuple[str, int]]) -> dict[str, slice]:
    table, start = dict[str, slice](), 0
    for name, count in fields:
        table[name] = slice(start, start + count)
        start += count
    return table


STATE_FLOATS = _slices(_FLOATS)
"""Where each quantity is among a state's float32 numbers, which begin at byte 8, after the time [ms] in 64 bits."""

_after = 8 + 4 * sum(count for _, count in _FLOATS)
STATE_BYTES = SimpleNamespace(
    generator=_after, controller=_after + 1, errors=_after + 2, reflex=_after + 43, mode=_after + 84,
    success_rate=_after + 85, size=_after + 89,
)  # fmt: skip
"""Byte offsets of what follows them: two modes, 41 + 41 error flags, the robot's mode, and a last (odd) float32."""

COMMAND_BYTES = SimpleNamespace(valid_elbow=312, motion_finished=313, torque=314, torque_finished=370, size=371)
"""A command: time of the state it answers (64 bits), 38 doubles (q_c 7, dq_c 7, O_T_EE_c 16, O_dP_EE_c 6, elbow_c 2),
two flags, then seven doubles of torque at an odd address, and a flag."""
