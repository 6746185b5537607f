"""A ROS 2 node as the rest of this room needs it, over either of two transports.

`rclpy`, where a sourced ROS 2 offers it to this Python, and `dds`: the PyPI package cyclonedds, which speaks to ROS 2
from any Python. What goes over the wire is the same, and so is everything built on `Node`.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from drivers.ros2.arguments import Arguments, Parameter
from drivers.ros2.messages import Message
from robot_rl.errors import ConfigError

__all__ = [
    "DEFAULT", "LATCHED", "NEWEST", "SENSOR_DATA", "Endpoint", "Node", "Publisher", "Qos", "mismatch",
    "open_node",
]  # fmt: skip


@dataclass(frozen=True)
class Qos:
    """Quality of service, as far as the field uses it.

    Attributes:
        reliable: Sent again until it has arrived. A subscriber who asks for it is not served by a publisher without.
        depth: Messages kept of each topic.
        transient_local: Who subscribes later still gets the last `depth` messages; matched like `reliable`.
    """

    reliable: bool = True
    depth: int = 10
    transient_local: bool = False

    def __str__(self) -> str:
        return f"{'reliable' if self.reliable else 'best effort'}, " + (
            "transient local" if self.transient_local else "volatile"
        )


DEFAULT = Qos()
SENSOR_DATA = Qos(reliable=False, depth=5)
NEWEST = Qos(depth=1)
LATCHED = Qos(depth=1, transient_local=True)


def mismatch(offered: Qos, requested: Qos) -> str:
    """Why a publisher's offer does not serve a subscriber's request, in words; empty where it does."""
    if requested.reliable and not offered.reliable:
        return "the publisher is best effort, the subscriber asks for reliable"
    if requested.transient_local and not offered.transient_local:
        return "the publisher is volatile, the subscriber asks for transient local"
    return ""


@dataclass(frozen=True)
class Endpoint:
    """Somebody who publishes or subscribes: the node's full name (or `?`), the kind of message, and how."""

    node: str
    kind: str
    qos: Qos


class Publisher(Protocol):
    """Sends messages of one kind on one topic."""

    def publish(self, content: Message) -> None:
        """Send it; never waits for a subscriber."""
        ...

    def subscribers(self) -> int:
        """How many are matched."""
        ...


class Node(Protocol):
    """Topics, services and what is known of others. Messages are those of `drivers.ros2.messages`.

    Names are resolved as ROS does: relative to the namespace, absolute, or the node's own (`~/...`). What comes is
    handed over in threads of the node's own: subscriptions one after another, every service request in its own.
    """

    name: str

    def declare(self, parameters: Sequence[Parameter]) -> dict[str, Any]:
        """Declare parameters; their values. Raises ConfigError where a given one is wrong."""
        ...

    def now(self) -> float:
        """ROS time [s since 1970]."""
        ...

    def resolve(self, name: str) -> str:
        """The absolute name of a topic or service."""
        ...

    def publisher(self, topic: str, kind: str, qos: Qos = DEFAULT) -> Publisher:
        """Somebody who sends on a topic."""
        ...

    def subscribe(self, topic: str, kind: str, take: Callable[[Message], None], qos: Qos = DEFAULT) -> None:
        """Hand what comes on a topic to `take`."""
        ...

    def serve(self, service: str, kind: str, answer: Callable[[Message], Message]) -> None:
        """Answer requests; `answer` may take its time."""
        ...

    def call(self, service: str, kind: str, request: Message, timeout_s: float) -> Message:
        """Ask, and wait for the response. Raises DeviceTimeoutError when nobody answers."""
        ...

    def publishers(self, topic: str) -> list[Endpoint]:
        """Who sends on a topic, oneself included."""
        ...

    def subscribers(self, topic: str) -> list[Endpoint]:
        """Who listens, oneself included."""
        ...

    def topics(self) -> dict[str, str]:
        """Every topic seen, and the kind of message on it."""
        ...

    def close(self) -> None:
        """Leave."""
        ...


def open_node(
    name: str, arguments: Arguments | None = None, *, transport: str = "", domain: int | None = None
) -> Node:  # fmt: skip
    """A node.

    Args:
        name: Of the node, where its arguments give none.
        arguments: What its program was started with, or `in_namespace(...)`.
        transport: `rclpy` or `dds`; empty takes rclpy where it can be imported. The environment variable
            ROBOT_RL_ROS_TRANSPORT says what empty means.
        domain: ROS_DOMAIN_ID in place of the environment's.

    Raises:
        ConfigError: Neither transport is there, or the name is none.
    """
    transport = transport or os.environ.get("ROBOT_RL_ROS_TRANSPORT", "")
    if transport not in ("", "rclpy", "dds"):
        raise ConfigError(f"ROS transport {transport!r}: rclpy or dds, or empty for the first that is there.")
    arguments = arguments or Arguments()
    name = arguments.name or name
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
        raise ConfigError(f"A ROS node cannot be called {name!r}: letters, digits and _, no digit first.")
    if transport != "dds":
        try:
            from drivers.ros2.rclpy_node import RclpyNode

            return RclpyNode(name, arguments, domain)
        except ImportError as error:  # not there, or sourced for another Python
            if transport == "rclpy":
                raise ConfigError(
                    f"transport: rclpy, but this Python cannot import it ({error}). Source ROS 2 (. "
                    "/opt/ros/jazzy/setup.sh) and use the Python it was built for, or say transport: dds."
                ) from error
    try:
        from drivers.ros2.dds import DdsNode
    except ImportError as error:
        raise ConfigError(
            f"Nothing here speaks ROS 2: neither rclpy (source ROS 2's setup.sh) nor cyclonedds ({error}; "
            "pip install 'robot-rl[ros]')."
        ) from error
    return DdsNode(name, arguments, domain)
