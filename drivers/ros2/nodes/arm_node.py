"""Any arm of ours as a ROS 2 robot: `ros2 run robot_rl arm_node --ros-args -p cell:=cells/lab.yaml`."""

import threading
from dataclasses import replace
from typing import Any

from drivers.cell import Cell, SceneRequest, open_cell
from drivers.cell_file import LimitsFile, load_cell_file, tighten
from drivers.ros2.arguments import Parameter
from drivers.ros2.node import Node
from drivers.ros2.program import run_node
from drivers.ros2.robot import Robot, RobotOptions
from drivers.safety_limits import SafetyLimits
from robot_rl.errors import ConfigError

__all__ = ["PARAMETERS", "ArmNode", "limits_of", "main", "options_of"]

ROBOT_PARAMETERS = (
    Parameter("base_frame", "base", "frame of poses and targets"),
    Parameter("tcp_frame", "tcp", "frame of twist and wrench"),
    Parameter("rate_hz", 200.0, "how often the state is published and targets are taken", 1.0, 1000.0),
    Parameter("hold_after_s", 1.0, "without a new target for longer than this the arm holds", 0.05, 60.0),
    Parameter("max_target_age_s", 0.5, "targets with an older stamp are refused", 0.01, 60.0),
)
PARAMETERS = (
    Parameter("cell", "", "cell file of the arm (robot-rl cells new)"),
    Parameter("rehearse", "", "address of an emulator that stands in for the cell's devices; empty on metal"),
    *ROBOT_PARAMETERS,
)


def options_of(values: dict[str, Any]) -> RobotOptions:
    """How the arm presents itself, of a node's parameters."""
    return RobotOptions(**{one.name: values[one.name] for one in ROBOT_PARAMETERS})


def limits_of(path: str, limits: LimitsFile) -> SafetyLimits:
    """A cell's own limits, where no task says any.

    Raises:
        ConfigError: The box is not given.
    """
    if limits.position_low is None or limits.position_high is None:
        raise ConfigError(
            f"{path}: limits.position_low and position_high are missing. Whoever sends targets over ROS is kept within "
            "them, so they must be there: metres in `base`."
        )
    unbounded = SafetyLimits(
        position_low=limits.position_low, position_high=limits.position_high, rotation_limit=(3.2, 3.2, 3.2)
    )
    return tighten(replace(unbounded, max_speed=limits.max_speed or unbounded.max_speed), limits)


class ArmNode:
    """Opens a cell's arm and gripper and presents them.

    Args:
        node: Over which.
        values: Of `PARAMETERS`.

    Raises:
        ConfigError: No cell, or one that cannot be a ROS robot.
        DeviceConnectionError: The arm does not answer.
    """

    def __init__(self, node: Node, values: dict[str, Any]) -> None:
        path = values["cell"]
        if path in ("", "twin"):
            raise ConfigError(
                "arm_node needs a cell file: -p cell:=cells/lab.yaml (robot-rl cells new lab --arm franka). The twin "
                "as a ROS robot is sim_node."
            )
        file = load_cell_file(path)
        if file.arm.driver in ("ros2", "twin"):
            raise ConfigError(
                f"{path}: arm.driver is {file.arm.driver}. An arm that runs in ROS 2 needs no arm_node; the twin as a "
                "ROS robot is sim_node."
            )
        limits = limits_of(path, file.limits)
        only_arm = file.model_copy(update={"cameras": {}, "tracker": type(file.tracker)()})
        self._cell: Cell = open_cell(only_arm, SceneRequest(), rehearse=values["rehearse"])
        try:
            self._cell.arm.connect()
            self._cell.arm.set_limits(limits)
            self.robot = Robot(node, self._cell.arm, self._cell.gripper, self._cell.clock, options_of(values))
        except Exception:
            self._cell.close()
            raise

    def run(self, ended: threading.Event) -> None:
        """Until ended; the arm then holds, and its control is closed."""
        try:
            self.robot.run(ended)
        finally:
            self._cell.close()


def main() -> int:
    """Entry of the program."""
    return run_node("arm_node", "An arm of a cell file as a ROS 2 robot.", PARAMETERS, ArmNode)
