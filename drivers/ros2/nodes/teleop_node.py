"""A person's device as ROS 2 topics, and, where it drives, as targets of an arm.

`ros2 run robot_rl teleop_node --ros-args -p device:=spacemouse` publishes teleop/twist and teleop/joy, which a training
run with `--teleop ros2` listens to. With `-p drive:=true` it sends target_pose itself: then nobody else may.
"""

import threading
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivers.ros2 import messages as ros
from drivers.ros2.arguments import Parameter
from drivers.ros2.arm_link import POSE
from drivers.ros2.node import NEWEST, SENSOR_DATA, Node, Publisher
from drivers.ros2.program import run_node
from drivers.teleop import Teleop, TeleopReading, open_teleop
from drivers.teleop.ros2 import JOY, JOY_BUTTONS, STAMPED
from robot_rl.geometry import quat_conjugate, quat_from_rotvec, quat_multiply, quat_rotate, rotvec_from_quat

__all__ = ["PARAMETERS", "Driving", "TeleopNode", "main"]

Array = NDArray[np.float64]

PARAMETERS = (
    Parameter("device", "keyboard", "spacemouse, gamepad, keyboard, page, ros2, module:Class; joined by +"),
    Parameter("frame", "base", "what its deflections are relative to", choices=("base", "tcp")),
    Parameter("rate_hz", 50.0, "how often it is read", 5.0, 500.0),
    Parameter("drive", False, "send target_pose to the arm"),
    Parameter("base_frame", "base", "drive: frame of the targets"),
    Parameter("linear_speed", 0.1, "drive: of a full deflection [m/s]", 0.001, 0.5),
    Parameter("angular_speed", 0.5, "drive: of a full deflection [rad/s]", 0.001, 2.0),
    Parameter("gripper_opening", 0.08, "drive: of the open gripper [m]", 0.0, 0.2),
)
LEASH = (0.02, 0.1)  # a target is never further ahead of the measured pose [m, rad], so that letting go stops the arm
STALE_S = 0.25  # nobody is driven on from a pose older than this
LONGEST_S = 0.1  # a step is of no longer time than this
LETTING_GO_S = 0.5  # targets go on for so long after the last touch


class Driving:
    """Deflections into targets: from the measured pose on, never further ahead of it than the leash.

    Args:
        frame: `base` or `tcp`: what deflections are relative to.
        speed: Of a full deflection [m/s, rad/s].
    """

    def __init__(self, frame: str, speed: tuple[float, float]) -> None:
        self._frame, self._speed = frame, speed
        self._touched = self._last = -np.inf
        self._target: Array | None = None

    def target(self, reading: TeleopReading, measured: Array, now_s: float) -> Array | None:
        """The pose to send, shape (7,); None while nobody drives.

        Args:
            reading: Of the device.
            measured: Pose of the tcp in `base`, shape (7,).
            now_s: Of a monotonic clock.
        """
        dt_s, self._last = min(now_s - self._last, LONGEST_S), now_s
        if reading.touched:
            self._touched = now_s
        elif now_s - self._touched > LETTING_GO_S:
            self._target = None
            return None
        before = measured if self._target is None else self._target
        step = reading.deflection * np.repeat(self._speed, 3) * dt_s
        move, turn = step[:3], step[3:]
        if self._frame == "tcp":
            move, turn = quat_rotate(measured[3:], move), quat_rotate(measured[3:], turn)
        ahead = _shortened(before[:3] + move - measured[:3], LEASH[0])
        wanted = quat_multiply(quat_from_rotvec(turn), before[3:])
        turned = _shortened(rotvec_from_quat(quat_multiply(wanted, quat_conjugate(measured[3:]))), LEASH[1])
        self._target = np.concatenate([measured[:3] + ahead, quat_multiply(quat_from_rotvec(turned), measured[3:])])
        return self._target


def _shortened(vector: Array, limit: float) -> Array:
    return vector * min(1.0, limit / max(float(np.linalg.norm(vector)), 1e-12))


class TeleopNode:
    """Publishes a device.

    Args:
        node: Over which.
        values: Of `PARAMETERS`.
        device: In place of the one that `values` names.

    Raises:
        ConfigError: No such device.
        DeviceError: It is not there.
    """

    def __init__(self, node: Node, values: dict[str, Any], device: Teleop | None = None) -> None:
        self._node, self._values = node, values
        self._device = device or open_teleop(values["device"], frame=values["frame"])
        self._twist = node.publisher("teleop/twist", STAMPED, SENSOR_DATA)
        self._joy = node.publisher("teleop/joy", JOY, NEWEST)
        self._measured: Array | None = None
        self._measured_s = -np.inf
        self._target: Publisher | None = None
        if values["drive"]:
            self._driving = Driving(values["frame"], (values["linear_speed"], values["angular_speed"]))
            self._target = node.publisher("target_pose", POSE, NEWEST)
            self._gripper = node.publisher("gripper/command", "std_msgs/msg/Float64MultiArray", NEWEST)
            self._open = True
            node.subscribe("current_pose", POSE, self._take_pose, SENSOR_DATA)
        self._device.connect()

    def run(self, ended: threading.Event) -> None:
        """Until ended."""
        try:
            while not ended.wait(1.0 / self._values["rate_hz"]):
                self.tick()
        finally:
            self._device.close()

    def tick(self) -> None:
        """Read the device once and tell."""
        reading, now = self._device.read(), self._node.now()
        header = ros.header(
            now, self._values["frame"] if self._values["frame"] == "tcp" else self._values["base_frame"]
        )
        self._twist.publish(ros.message(STAMPED, header=header, twist=ros.twist(reading.deflection)))
        down = np.zeros(max(JOY_BUTTONS) + 1, np.int32)
        for index, name in JOY_BUTTONS.items():
            down[index] = name in reading.pressed or (name == "engage" and reading.engaged)
        self._joy.publish(ros.message(JOY, header=header, axes=reading.deflection.astype(np.float32), buttons=down))
        fresh = time.monotonic() - self._measured_s < STALE_S
        if self._target is not None and self._measured is not None and fresh:
            self._drive(self._target, self._measured, reading, now)

    def _drive(self, publisher: Publisher, measured: Array, reading: TeleopReading, now: float) -> None:
        target = self._driving.target(reading, measured, time.monotonic())
        if target is not None:
            header = ros.header(now, self._values["base_frame"])
            publisher.publish(ros.message(POSE, header=header, pose=ros.pose(target)))
        if "gripper" in reading.pressed:
            self._open = not self._open
            wanted = self._values["gripper_opening"] if self._open else 0.0
            self._gripper.publish(ros.message("std_msgs/msg/Float64MultiArray", data=np.array([wanted])))

    def _take_pose(self, content: Any) -> None:
        self._measured, self._measured_s = ros.pose_of(content.pose), time.monotonic()


def main() -> int:
    """Entry of the program."""
    return run_node(
        "teleop_node", "A person's device as ROS 2 topics, and as an arm's targets.", PARAMETERS, TeleopNode
    )
