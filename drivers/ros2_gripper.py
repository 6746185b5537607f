"""A gripper in ROS 2: an action of type GripperCommand, or a topic, and a joint that says how far it is open."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from drivers.ros2 import messages as ros
from drivers.ros2.actions import ActionClient
from drivers.ros2.arguments import in_namespace
from drivers.ros2.arm_link import JOINTS, explain_silence
from drivers.ros2.node import NEWEST, SENSOR_DATA
from drivers.ros2.opening import open_node
from robot_rl.errors import ConfigError, DeviceConnectionError, DeviceError, DeviceFaultError, StaleStateError

__all__ = ["Ros2Gripper"]

ACTION, FLOATS = "control_msgs/action/GripperCommand", "std_msgs/msg/Float64MultiArray"
SAME = 0.002  # [m]; a command closer than this to the last one is the same command
ACTION_S = 10.0


class Ros2Gripper:
    """A `Gripper`. Connects at once. The defaults are those of our own arm_node.

    Args:
        host: Not used: ROS finds it by its domain.
        namespace: In front of every name.
        transport: `rclpy`, `dds`, or empty for the first that is there.
        state: Topic of type JointState.
        joint: Which joint of it; by default its first.
        action: Action of type GripperCommand that moves it; empty to use the topic.
        topic: Topic of type Float64MultiArray that moves it.
        opening_per_position: Opening [m] per unit of the joint's position, and of a command: 2 for a finger that
            moves half the opening.
        max_opening: [m].
        max_effort: Of the action [N].
        max_age_s: A state older than this is stale.
        connect_s: How long finding it may take.

    Raises:
        ConfigError: Neither action nor topic.
        DeviceConnectionError: Its joint is not reported.
    """

    def __init__(  # noqa: PLR0913 (a cell file's options, each with its default)
        self, host: str = "", *, namespace: str = "/", transport: str = "", state: str = "gripper/joint_states",
        joint: str = "", action: str = "", topic: str = "gripper/command", opening_per_position: float = 1.0,
        max_opening: float = 0.08, max_effort: float = 30.0, max_age_s: float = 1.0, connect_s: float = 15.0,
    ) -> None:  # fmt: skip
        if not (action or topic) or opening_per_position == 0.0:
            raise ConfigError(
                "Ros2Gripper: name an action or a topic; opening_per_position is not 0 (gripper.options)."
            )
        self.max_opening = max_opening
        self._state, self._joint, self._scale, self._max_age_s = state, joint, opening_per_position, max_age_s
        self._max_effort = max_effort
        self._changed = threading.Condition()
        self._newest: tuple[float, float] | None = None  # when it came, position
        self._known: tuple[str, ...] = ()
        self._asked: float | None = None
        self._failure: DeviceError | None = None
        self._node = open_node("robot_rl_gripper", in_namespace(namespace), transport=transport)
        self._goals = ThreadPoolExecutor(1, thread_name_prefix="gripper")
        self._action = ActionClient(self._node, action, ACTION) if action else None
        self._publisher = None if action else self._node.publisher(topic, FLOATS, NEWEST)
        self._node.subscribe(state, JOINTS, self._take, SENSOR_DATA)
        with self._changed:
            if not self._changed.wait_for(lambda: self._newest is not None, connect_s):
                why = (
                    f"it reports {', '.join(self._known)}, no {joint!r} (gripper.options.joint)." if self._known
                    else explain_silence(self._node, state, JOINTS, SENSOR_DATA)
                )  # fmt: skip
                self._node.close()
                raise DeviceConnectionError(
                    f"The gripper's state does not come on {state} within {connect_s:g} s: {why}"
                )

    def opening(self) -> float:
        """Measured distance between the fingers [m]. Raises StaleStateError, DeviceFaultError."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise DeviceFaultError(f"The gripper did not do what it was told: {failure}") from failure
        assert self._newest is not None  # or the constructor had raised
        came, position = self._newest
        age = time.monotonic() - came
        if age > self._max_age_s:
            raise StaleStateError(
                f"The gripper's state is {age:.2f} s old, limit {self._max_age_s:g} s (gripper.options.max_age_s). "
                + explain_silence(self._node, self._state, JOINTS, SENSOR_DATA),
                age_s=age,
            )
        return position * self._scale

    def command(self, opening: float) -> None:
        """Move towards an opening [m]. Returns at once."""
        opening = min(max(opening, 0.0), self.max_opening)
        if self._publisher is not None:
            self._publisher.publish(ros.message(FLOATS, data=_floats(opening / self._scale)))
        elif self._asked is None or abs(opening - self._asked) > SAME:
            self._asked = opening
            self._goals.submit(self._act, opening / self._scale)

    def close(self) -> None:
        """Let go; the fingers stay as they are."""
        self._goals.shutdown(wait=False, cancel_futures=True)
        self._node.close()

    def _act(self, position: float) -> None:
        assert self._action is not None
        wanted = ros.message("control_msgs/msg/GripperCommand", position=position, max_effort=self._max_effort)
        try:  # a newer goal ends this one, which is no failure; nor is a grasp that stalls
            self._action.send(ros.message(f"{ACTION}_Goal", command=wanted), ACTION_S)
        except DeviceError as error:
            self._failure, self._asked = error, None  # asked for again, it is tried again

    def _take(self, content: Any) -> None:
        self._known = tuple(content.name)
        index = content.name.index(self._joint) if self._joint in content.name else 0
        if (self._joint and self._joint not in content.name) or not len(content.position):
            return
        with self._changed:
            self._newest = (time.monotonic(), float(content.position[index]))
            self._changed.notify_all()


def _floats(*values: float) -> Any:
    import numpy as np

    return np.array(values, np.float64)
