"""A learned reward as a ROS 2 node: `ros2 run robot_rl reward_node --ros-args -p reward:=rewards/pick_cube`.

It looks through the cameras the reward was trained on (topic NAME/image_raw by default) and tells ~/probability
(Float64) and ~/success (Bool).
"""

import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivers.interfaces import Camera
from drivers.ros2 import messages as ros
from drivers.ros2.arguments import Parameter
from drivers.ros2.node import DEFAULT, Node
from drivers.ros2.program import run_node
from drivers.ros2_camera import Ros2Camera, Ros2CameraConfig
from robot_rl.errors import ConfigError, DeviceError
from robot_rl.rewards.stages import load_stages

__all__ = ["PARAMETERS", "RewardNode", "main"]

log = logging.getLogger("robot_rl.ros2")
PARAMETERS = (
    Parameter("reward", "", "directory of the reward (robot-rl reward train)"),
    Parameter("topics", [""], "where its cameras are, CAMERA=TOPIC each; by default CAMERA/image_raw"),
    Parameter("rate_hz", 10.0, "how often it looks", 0.1, 60.0),
)


class RewardNode:
    """Looks and tells.

    Args:
        node: Over which.
        values: Of `PARAMETERS`.
        cameras: In place of those that the topics are listened to with.

    Raises:
        ConfigError: No reward is named, or a camera it does not know.
        StoreError: There is none, or it is damaged.
        DeviceConnectionError: A camera sends nothing.
    """

    def __init__(self, node: Node, values: dict[str, Any], cameras: dict[str, Camera] | None = None) -> None:
        if not values["reward"]:
            raise ConfigError("reward_node needs a reward: -p reward:=DIRECTORY (robot-rl reward train --help)")
        self._classifier = load_stages(Path(values["reward"]))[0][-1]
        self._period_s = 1.0 / values["rate_hz"]
        topics = dict(pair.partition("=")[::2] for pair in values["topics"] if pair)
        layout = self._classifier.layout
        # It takes whole observations, and looks at pictures alone.
        self._blank = {name: np.zeros(layout.leaves[name].shape, np.float32) for name in layout.vectors}
        names = [name.rsplit("/", 1)[-1] for name in layout.images]
        if unknown := set(topics) - set(names):
            raise ConfigError(
                f"The reward looks through {', '.join(names)}, not {', '.join(sorted(unknown))} (topics)."
            )
        self._cameras = cameras or {
            name: Ros2Camera(
                Ros2CameraConfig(
                    topic=topics.get(name, f"{name}/image_raw"), image_size=layout.leaves[leaf].shape[0],
                    frozen_after_s=None,
                )
            )
            for leaf, name in zip(layout.images, names, strict=True)
        }  # fmt: skip
        self._leaves = dict(zip(layout.images, names, strict=True))
        self._probability = node.publisher("~/probability", "std_msgs/msg/Float64", DEFAULT)
        self._success = node.publisher("~/success", "std_msgs/msg/Bool", DEFAULT)

    def run(self, ended: threading.Event) -> None:
        """Until ended."""
        trouble: type[DeviceError] | None = None
        try:
            while not ended.wait(self._period_s):
                try:
                    self.tick()
                    trouble = None
                except DeviceError as error:
                    if type(error) is not trouble:  # its words change: they hold how long it has been so
                        log.error("%s", error)  # noqa: TRY400 (one message is what a user gets)
                    trouble = type(error)
        finally:
            for camera in self._cameras.values():
                camera.close()

    def tick(self) -> None:
        """Look once, and tell. Raises DeviceError where a camera is silent."""
        seen = {leaf: self._cameras[name].read().image for leaf, name in self._leaves.items()}
        probability = float(self._classifier.probability(_nested({**self._blank, **seen})))
        self._probability.publish(ros.message("std_msgs/msg/Float64", data=probability))
        self._success.publish(ros.message("std_msgs/msg/Bool", data=probability >= self._classifier.threshold))


def _nested(leaves: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """An observation of its leaves: `observation/images/front` is in `images`."""
    whole: dict[str, Any] = {}
    for name, values in leaves.items():
        *parents, last = name.split("/")[1:]
        inside = whole
        for parent in parents:
            inside = inside.setdefault(parent, {})
        inside[last] = values
    return whole


def main() -> int:
    """Entry of the program."""
    return run_node("reward_node", "A learned reward that looks through ROS 2 cameras.", PARAMETERS, RewardNode)
