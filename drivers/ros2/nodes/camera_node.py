"""The cameras of a cell file as ROS 2 cameras: `ros2 run robot_rl camera_node --ros-args -p cell:=cells/lab.yaml`."""

import threading
from typing import Any

from drivers.cameras import CameraIntrinsics
from drivers.cell_cameras import Eyes, StageView
from drivers.cell_file import CellFile, load_cell_file
from drivers.emulators.stage import Stage
from drivers.interfaces import Frame
from drivers.realtime import WallClock
from drivers.ros2.arguments import Parameter
from drivers.ros2.cameras import CameraPublisher
from drivers.ros2.node import Node
from drivers.ros2.program import run_node
from robot_rl.errors import ConfigError, RobotRLError

__all__ = ["PARAMETERS", "CameraNode", "main"]

PARAMETERS = (
    Parameter("cell", "", "cell file with the cameras"),
    Parameter("camera", "", "which of them; empty for all that are not in ROS 2 already"),
    Parameter("rehearse", "", "address of an emulator that stands in for the cell's devices; empty on metal"),
    Parameter("fps", 30.0, "pictures a second, at most", 0.1, 240.0),
)


class _Eye:
    """A `Camera` of a cell file with all that belongs to it, so that it can be let go of and opened anew."""

    def __init__(self, name: str, file: CellFile, clock: WallClock, stage: Stage | None) -> None:
        self._eyes = Eyes(file, clock, StageView(stage) if stage else None, paced=True)
        try:
            self._camera: Any = self._eyes.camera(name, None)
        except RobotRLError:
            self._eyes.close()
            raise
        self.height, self.width = self._camera.height, self._camera.width

    @property
    def intrinsics(self) -> CameraIntrinsics | None:
        return getattr(self._camera, "intrinsics", None)

    def read(self) -> Frame:
        return self._camera.read()

    def close(self) -> None:
        self._eyes.close()


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
        known = [name for name, camera in file.cameras.items() if camera.driver != "ros2"]
        names = [values["camera"]] if values["camera"] else known
        if not names or not set(names) <= set(known):
            raise ConfigError(
                f"{values['cell']} has no camera {values['camera']!r} that is not in ROS 2 already: "
                f"{', '.join(known) or 'none'}."
            )
        stage = self._stage = Stage(values["rehearse"]) if values["rehearse"] else None
        # Whole pictures: who looks at them crops them, and finds tags beside what a policy sees.
        whole = {name: camera.model_copy(update={"crop": None}) for name, camera in file.cameras.items()}
        file = file.model_copy(update={"cameras": whole})
        clock = WallClock()
        self.publishers = [
            CameraPublisher(node, name, lambda n=name: _Eye(n, file, clock, stage), fps=values["fps"], now=clock.now)
            for name in names
        ]

    def run(self, ended: threading.Event) -> None:
        """Until ended.

        Raises:
            ConfigError: A camera cannot be what the cell file says.
        """
        wrong: list[RobotRLError] = []

        def publish(one: CameraPublisher) -> None:
            try:
                one.run(ended)
            except RobotRLError as error:
                wrong.append(error)
                ended.set()

        threads = [threading.Thread(target=publish, args=(one,), name=one.name) for one in self.publishers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._stage is not None:
            self._stage.close()
        if wrong:
            raise wrong[0]


def main() -> int:
    """Entry of the program."""
    return run_node("camera_node", "The cameras of a cell file as ROS 2 cameras.", PARAMETERS, CameraNode)
