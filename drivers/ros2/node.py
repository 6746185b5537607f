"""A ROS 2 node as the rest of this room needs it; `drivers/ros2/opening.py` opens one.

There are two: over rclpy, ROS 2's own library, and over DDS by the PyPI package cyclonedds, which speaks to ROS 2 from
any Python. What goes over the wire is the same, and so is everything built on `Node`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from drivers.ros2.arguments import Parameter
from drivers.ros2.messages import Message

__all__ = ["DEFAULT", "LATCHED", "NEWEST", "SENSOR_DATA", "Endpoint", "Node", "Publisher", "Qos", "mismatch"]


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
