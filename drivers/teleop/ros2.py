"""A hand somewhere in ROS 2: whatever publishes a Twist or a Joy, and words that another program says for a person.

`teleop_node` publishes such topics from any device here; joy's game_controller_node and spacenav do from theirs.
"""

import threading
import time
from collections import deque
from typing import Any

import numpy as np

from drivers.ros2.arguments import in_namespace
from drivers.ros2.messages import twist_of
from drivers.ros2.node import DEFAULT, NEWEST, SENSOR_DATA, Node
from drivers.ros2.opening import open_node
from drivers.teleop.device import BUTTONS, Raw
from robot_rl.errors import ConfigError, DeviceConnectionError

__all__ = ["JOY_BUTTONS", "Ros2Hand"]

JOY_BUTTONS = {0: "gripper", 1: "rerecord", 2: "failure", 3: "success", 4: "stop", 6: "pause", 10: "engage"}
"""What a button of joy's game_controller_node means: A, B, X, Y, BACK, START and the right shoulder."""
JOY, TWIST, STAMPED = "sensor_msgs/msg/Joy", "geometry_msgs/msg/Twist", "geometry_msgs/msg/TwistStamped"
STALE_S = 0.25  # a Twist older than this counts as let go
WORD, GAP = 8, 2  # polls that a word is held down for, and up again: `TeleopDevice` sees changes


class Ros2Hand:
    """A `Source` over topics.

    Args:
        twist: Deflections; of a Twist or TwistStamped, see `stamped`.
        joy: Buttons, see `JOY_BUTTONS`; empty for none.
        say: Topic of type String with words of `BUTTONS`, as training_node's services say them.
        stamped: Whether `twist` is a TwistStamped.
        full: Values of a full deflection, linear and angular: 1 of unitless ones; spacenav's are near 0.68.
        namespace: In front of the topics.
        transport: `rclpy`, `dds`, or empty for the first that is there.
    """

    name = "ROS 2"
    controls = {  # noqa: RUF012 (never changed)
        "teleop/twist": "move (TwistStamped, unitless: 1 is a full deflection)",
        "teleop/joy": "A gripper; Y, X, B success, failure, re-record; START, BACK pause, stop; RB drive",
        "teleop/say": f"one of: {', '.join(BUTTONS)} (String)",
    }

    def __init__(
        self, twist: str = "teleop/twist", joy: str = "teleop/joy", say: str = "teleop/say", *, stamped: bool = True,
        full: tuple[float, float] = (1.0, 1.0), namespace: str = "/", transport: str = "",
    ) -> None:  # fmt: skip
        if min(full) <= 0.0:
            raise ConfigError(f"teleop ros2: full is {full}; both are above 0.")
        self._topics, self._stamped, self._full = (twist, joy, say), stamped, np.repeat(np.asarray(full, np.float64), 3)
        self._arguments, self._transport = in_namespace(namespace), transport
        self._lock = threading.Lock()
        self._deflection, self._moved = np.zeros(6), -np.inf
        self._buttons: frozenset[str] = frozenset()
        self._since: frozenset[str] = frozenset()  # buttons that were down since the last poll, however shortly
        self._said = -np.inf  # when the last Joy came
        self._words: deque[str] = deque()
        self._node: Node | None = None

    def open(self) -> None:
        """Begin to listen; nobody need be there yet."""
        if self._node is not None:
            return
        twist, joy, say = self._topics
        node = self._node = open_node("robot_rl_hand", self._arguments, transport=self._transport)
        node.subscribe(twist, STAMPED if self._stamped else TWIST, self._take_twist, SENSOR_DATA)
        if joy:
            node.subscribe(joy, JOY, self._take_joy, NEWEST)
        if say:
            node.subscribe(say, "std_msgs/msg/String", self._take_word, DEFAULT)

    def poll(self) -> Raw:
        """What came last; a hand that went silent counts as let go."""
        if self._node is None:
            raise DeviceConnectionError("The ROS hand is not open.")
        now = time.monotonic()
        if self._buttons and now - self._said > STALE_S and not self._node.publishers(self._topics[1]):
            self._buttons = frozenset()  # who held them has gone; others tell of changes alone
        with self._lock:
            fresh = now - self._moved < STALE_S
            held, self._since = set(self._buttons | self._since), frozenset()
            if self._words:
                word = self._words.popleft()
                held |= {word} - {""}
            return Raw(tuple(self._deflection) if fresh else (0.0,) * 6, frozenset(held))

    def close(self) -> None:
        """Leave."""
        if self._node is not None:
            self._node.close()
            self._node = None

    def _take_twist(self, content: Any) -> None:
        values = twist_of(content.twist if self._stamped else content) / self._full
        if np.isfinite(values).all():
            with self._lock:
                self._deflection, self._moved = np.clip(values, -1.0, 1.0), time.monotonic()

    def _take_joy(self, content: Any) -> None:
        down = {JOY_BUTTONS[i] for i, value in enumerate(content.buttons) if value and i in JOY_BUTTONS}
        with self._lock:
            self._buttons, self._said = frozenset(down), time.monotonic()
            self._since |= self._buttons

    def _take_word(self, content: Any) -> None:
        if content.data in BUTTONS:
            with self._lock:
                self._words.extend([content.data] * WORD + [""] * GAP)
