"""The cameras of a cell file as ROS 2 cameras: `ros2 run robot_rl camera_node --ros-args -p cell:=cells/lab.yaml`."""

import threading
from typing import Any

from drivers.cell_cameras import Eyes, StageView
from drivers.cell_file import load_cell_file
from drivers.emulators.stage import Stage
from drivers.realtime import WallClock
from drivers.ros2.arguments import Parameter
from drivers.ros2.cameras import CameraPublisher
from drivers.ros2.node import Node
from drivers.ros2.program import run_node
from robot_rl.errors import ConfigError

__all__ = ["PARAMETERS", "CameraNode", "main"]

PARAMETERS = (
    Parameter("cell", "", "cell file with the cameras"),
    Parameter("camera", "", "which of them; empty for all"),
    Parameter("rehearse", "", "address of an emulator that stands in for the cell's devices; empty on metal"),
    Parameter("fps", 30.0, "pictures a second, at most", 0.1, 240.0),
)


class CameraNode:
    """Publishes cameras, each in a thread of its own.

    Args:
        node: Over which.
        values: Of `PARAMETERS`.

    Raises:
        ConfigError: No cell file, or no camera of that name.
    """

    def __init__(self, node: Node, values: dict[str, Any]) -> None:
        if values["cell"] in ("", "twin"):
            raise ConfigError(
                "camera_node needs a cell file with cameras: -p cell:=cells/lab.yaml. See robot-rl cells new"
            )
        file = load_cell_file(values["cell"])
        names = [values["camera"]] if values["camera"] else list(file.cameras)
        if not names or not set(names) <= set(file.cameras):
            raise ConfigError(
                f"{values['cell']} has no camera {values['camera']!r}: {', '.join(file.cameras) or 'none'}."
            )
        stage = Stage(values["rehearse"]) if values["rehearse"] else None
        clock = WallClock()
        self._eyes = Eyes(file, clock, StageView(stage) if stage else None, paced=True)
        self.publishers = [
            CameraPublisher(node, name, lambda n=name: self._eyes.camera(n, None), fps=values["fps"], now=clock.now)
            for name in names
        ]

    def run(self, ended: threading.Event) -> None:
        """Until ended."""
        threads = [threading.Thread(target=one.run, args=(ended,), name=one.name) for one in self.publishers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._eyes.close()


def main() -> int:
    """Entry of the program."""
    return run_node("camera_node", "The cameras of a cell file as ROS 2 cameras.", PARAMETERS, CameraNode)
