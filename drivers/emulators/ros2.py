"""The twin as a ROS 2 robot: what `Ros2Arm`, `ros2 topic` and rviz see where no robot stands.

Physics and impedance law are the twin's own, paced to the wall clock; `drivers.ros2.robot` does the talking. Faults, by
`inject`: freeze (silence for duration_s), wrong_frame, stale_clock (stamps offset_s behind), rival (a second publisher
of target_pose), and well, which ends them all.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from drivers.emulators.plant import TurnLock
from drivers.ros2.arm_link import POSE
from drivers.ros2.cameras import CameraPublisher, StageCamera
from drivers.ros2.node import NEWEST, Node
from drivers.ros2.opening import open_node
from drivers.ros2.robot import LEAVE_S, Robot, RobotOptions
from drivers.twin.arms import load_arm
from drivers.twin.devices import TwinArm, TwinClock, TwinGripper
from drivers.twin.scene import Scene
from drivers.twin.twin import Twin
from robot_rl.errors import ConfigError

__all__ = ["Ros2Emulator", "TwinPlant"]

JOINT_NAMES = {  # as the vendors' own descriptions call them
    "fr3": tuple(f"fr3_joint{i}" for i in range(1, 8)),
    "ur5e": tuple(
        f"{name}_joint" for name in ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")
    ),
}
FAULTS = ("freeze", "wrong_frame", "stale_clock", "rival", "well")


class TwinPlant:
    """A twin with its own impedance law, in the shape the stage beside an emulator looks at."""

    def __init__(self, arm: str, build: Callable[[Scene], None] | None = None) -> None:
        self.twin = Twin(load_arm(arm), build)
        self.gripper = TwinGripper(self.twin)
        self.lock = TurnLock()

    @property
    def time_s(self) -> float:
        """Simulated seconds since the start."""
        return float(self.twin.data.time)

    def place(self, name: str, pose: Any) -> None:
        """Put a prop at a pose in `base`, shape (7,), at rest."""
        with self.lock:
            self.twin.place(name, pose)


class Ros2Emulator:
    """A robot in ROS 2 that is a twin.

    Args:
        plant: The simulated cell.
        arm: Its kind, for the names of its joints.
        objects: Bodies that tf tells the poses of.
        options: How it presents itself.
        node: Over which; its own by default.
        cameras, fps: Those of the scene to publish, and how often.
        host: Where the stage beside it will listen, which the cameras look at.
    """

    def __init__(
        self, plant: TwinPlant, arm: str = "fr3", objects: tuple[str, ...] = (), options: RobotOptions | None = None,
        *, node: Node | None = None, cameras: tuple[str, ...] = (), fps: float = 30.0, host: str = "127.0.0.1",
    ) -> None:  # fmt: skip
        self._plant, self._objects = plant, objects
        twin = plant.twin
        options = options or RobotOptions()
        options = replace(options, joint_names=options.joint_names or JOINT_NAMES.get(arm, ()))
        self.node = node or open_node("arm")
        self.robot = Robot(
            self.node, TwinArm(twin), plant.gripper, TwinClock(twin, real_time=True), options, lock=plant.lock,
            objects=self._poses,
        )  # fmt: skip
        eyes = [CameraPublisher(self.node, name, lambda n=name: StageCamera(host, n), fps=fps) for name in cameras]
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=each.run, args=(self._ended,), name=f"ROS {name}", daemon=True)
            for name, each in (("robot", self.robot), *((eye.name, eye) for eye in eyes))
        ]
        self._healthy = (options, self.robot.tick, self.node.now)
        self._rival: Node | None = None

    def start(self) -> None:
        """Begin to live."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Hold, and leave."""
        self._ended.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(LEAVE_S + 5.0)
        self._end_rival()
        self.node.close()

    def inject(self, name: str, **options: Any) -> None:
        """Make a fault happen; see the top of the module. Raises ConfigError when there is none of that name."""
        robot = self.robot
        if name not in FAULTS:
            raise ConfigError(f"An emulated ROS robot knows no fault {name!r}; known: {', '.join(FAULTS)}.")
        if name == "well":
            robot.options, robot.tick, robot.node.now = self._healthy
            self._end_rival()
        elif name == "freeze":
            until = time.monotonic() + float(options.get("duration_s", 1.0))
            tick = self._healthy[1]
            robot.tick = lambda: tick() if time.monotonic() > until else None
        elif name == "wrong_frame":
            robot.options = replace(robot.options, base_frame="world")
        elif name == "stale_clock":
            offset = float(options.get("offset_s", 5.0))
            robot.node.now = lambda: time.time() - offset
        elif self._rival is None:
            self._rival = open_node("rival")
            self._rival.publisher("target_pose", POSE, NEWEST)

    def _poses(self) -> dict[str, Any]:
        with self._plant.lock:
            return {name: self._plant.twin.body_pose(name) for name in self._objects}

    def _end_rival(self) -> None:
        if self._rival is not None:
            self._rival.close()
            self._rival = None
