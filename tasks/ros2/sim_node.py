"""The twin of a task's cell as a ROS 2 robot: `ros2 run robot_rl sim_node --ros-args -p task:=peg_insert`."""

import threading
from typing import Any

from drivers.emulators.ros2 import Ros2Emulator, TwinPlant
from drivers.emulators.stage import PORT, StageServer
from drivers.ros2.arguments import Parameter
from drivers.ros2.node import Node
from drivers.ros2.nodes.arm_node import ROBOT_PARAMETERS, options_of
from drivers.ros2.program import run_node
from drivers.twin.tags import with_tags
from robot_rl.errors import ConfigError, DeviceConnectionError
from tasks import task_class

__all__ = ["PARAMETERS", "SimNode", "main"]

PARAMETERS = (
    Parameter("task", "reach", "whose scene stands around the arm (robot-rl tasks)"),
    Parameter("model", "fr3", "which arm it is", choices=("fr3", "ur5e")),
    Parameter("cameras", ["front", "wrist"], "cameras of the scene to publish"),
    Parameter("fps", 30.0, "pictures a second, at most", 0.1, 240.0),
    Parameter("tags", False, "the task's objects wear AprilTags"),
    Parameter("stage", "127.0.0.1", "address at which resets and faults are taken (--rehearse)"),
    *ROBOT_PARAMETERS,
)


class SimNode:
    """A twin that lives in real time, and a stage beside it.

    Args:
        node: Over which.
        values: Of `PARAMETERS`.

    Raises:
        ConfigError: No such task or camera.
        DeviceConnectionError: The stage's address is taken: another emulator runs.
    """

    def __init__(self, node: Node, values: dict[str, Any]) -> None:
        definition = task_class(values["task"])()
        build = with_tags(definition.build, definition.spec.tags) if values["tags"] else definition.build
        plant = TwinPlant(values["model"], build)
        plant.gripper.jump_to(definition.spec.start_opening)
        model = plant.twin.model
        known = [model.camera(i).name.removeprefix("tool/") for i in range(model.ncam)]
        if unknown := [name for name in values["cameras"] if name and name not in known]:
            raise ConfigError(f"The scene has no camera {', '.join(unknown)}: {', '.join(known)} (cameras).")
        self.emulator = Ros2Emulator(
            plant, values["model"], definition.spec.objects, options_of(values), node=node,
            cameras=tuple(name for name in values["cameras"] if name), host=values["stage"], fps=values["fps"],
        )  # fmt: skip
        facts = {"arm": "ros2", "task": values["task"], "tags": values["tags"], "lockstep": False, "speed": 1.0}
        try:
            self.server = StageServer(plant, self.emulator.inject, facts, values["stage"])
        except DeviceConnectionError as error:
            raise DeviceConnectionError(
                f"{values['stage']}:{PORT} cannot be had: another emulator or sim_node runs there. "
                "End it, or give this one an address of its own: -p stage:=127.0.0.2"
            ) from error

    def start(self) -> None:
        """Begin to live."""
        self.server.start()
        self.emulator.start()

    def run(self, ended: threading.Event) -> None:
        """Until ended."""
        self.start()
        ended.wait()
        self.emulator.stop()  # its cameras look at the stage for as long as somebody looks at them
        self.server.stop()


def main() -> int:
    """Entry of the program."""
    return run_node("sim_node", "The twin of a task's cell as a ROS 2 robot.", PARAMETERS, SimNode)
