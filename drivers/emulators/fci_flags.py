"""Modes and error flags by the numbers they have on the wire, for compiled code, and how a flag is raised."""

from numba import njit

from drivers.emulators.fci_memory import Memory
from drivers.emulators.fci_protocol import ERRORS, ControllerMode, GeneratorMode, RobotMode

ELBOW_FLIP = -0.467002423653011  # [rad], of joint 4; FCI documentation, "Constants"

MOVE, REFLEX, IDLE = int(RobotMode.MOVE), int(RobotMode.REFLEX), int(RobotMode.IDLE)
CARTESIAN_IMPEDANCE = int(ControllerMode.CARTESIAN_IMPEDANCE)
EXTERNAL, NO_CONTROLLER = int(ControllerMode.EXTERNAL), int(ControllerMode.OTHER)
JOINT_POSITION, JOINT_VELOCITY = int(GeneratorMode.JOINT_POSITION), int(GeneratorMode.JOINT_VELOCITY)
CARTESIAN_POSITION, CARTESIAN_VELOCITY = int(GeneratorMode.CARTESIAN_POSITION), int(GeneratorMode.CARTESIAN_VELOCITY)
NO_GENERATOR, TORQUE_ONLY = int(GeneratorMode.IDLE), int(GeneratorMode.NONE)

_JOINT = "joint_motion_generator_"
_CARTESIAN = "cartesian_motion_generator_"
START_JOINTS = ERRORS.index("joint_position_motion_generator_start_pose_invalid")
START_POSE = ERRORS.index("cartesian_position_motion_generator_start_pose_invalid")
BAD_FRAME = ERRORS.index("cartesian_position_motion_generator_invalid_frame")
# Position, velocity, jumps of velocity and acceleration: of joints commanded, and of joints behind a pose commanded.
J_POSITION = ERRORS.index(_JOINT + "position_limits_violation")
J_VELOCITY = ERRORS.index(_JOINT + "velocity_limits_violation")
J_VELOCITY_JUMP = ERRORS.index(_JOINT + "velocity_discontinuity")
J_ACCELERATION_JUMP = ERRORS.index(_JOINT + "acceleration_discontinuity")
CJ_POSITION = ERRORS.index(_CARTESIAN + "joint_position_limits_violation")
CJ_VELOCITY = ERRORS.index(_CARTESIAN + "joint_velocity_limits_violation")
CJ_VELOCITY_JUMP = ERRORS.index(_CARTESIAN + "joint_velocity_discontinuity")
CJ_ACCELERATION_JUMP = ERRORS.index(_CARTESIAN + "joint_acceleration_discontinuity")
C_VELOCITY = ERRORS.index(_CARTESIAN + "velocity_limits_violation")
C_VELOCITY_JUMP = ERRORS.index(_CARTESIAN + "velocity_discontinuity")
C_ACCELERATION_JUMP = ERRORS.index(_CARTESIAN + "acceleration_discontinuity")
ELBOW_LIMIT = ERRORS.index(_CARTESIAN + "elbow_limit_violation")
ELBOW_SIGN = ERRORS.index(_CARTESIAN + "elbow_sign_inconsistent")
START_ELBOW = ERRORS.index(_CARTESIAN + "start_elbow_invalid")
TORQUE_JUMP = ERRORS.index("controller_torque_discontinuity")
TORQUE_RANGE = ERRORS.index("tau_j_range_violation")
UNSTABLE = ERRORS.index("instability_detected")
OFF_PATH = ERRORS.index("max_path_pose_deviation_violation")
JOINT_REFLEX, CARTESIAN_REFLEX = ERRORS.index("joint_reflex"), ERRORS.index("cartesian_reflex")
MEASURED_POSITION = ERRORS.index("joint_position_limits_violation")
MEASURED_VELOCITY = ERRORS.index("joint_velocity_violation")
NO_COMMANDS = ERRORS.index("communication_constraints_violation")


@njit(cache=True)
def fail(m: Memory, error: int) -> None:
    """Raise an error flag; the tick that raised it ends the motion."""
    if m.aborted == 0:
        m.reflex[:] = 0
    m.errors[error], m.reflex[error], m.aborted = 1, 1, 1
