"""A node over rclpy, ROS 2's own client library: only what differs from DDS is here, and no logic.

Messages travel as the bytes of `drivers.ros2.messages`, which rclpy takes and gives as they are; services, for which it
has no such way, are turned into its classes by its own serialisation.
"""

import contextlib
import importlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import rclpy  # pyright: ignore[reportMissingImports]
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor  # pyright: ignore[reportMissingImports]
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup  # pyright: ignore[reportMissingImports]
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor  # pyright: ignore[reportMissingImports]
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy  # pyright: ignore[reportMissingImports]
from rclpy.serialization import deserialize_message, serialize_message  # pyright: ignore[reportMissingImports]
from rclpy.signals import SignalHandlerOptions  # pyright: ignore[reportMissingImports]

from drivers.ros2.arguments import Arguments, Parameter, checked, domain_of
from drivers.ros2.messages import Message, decode, encode
from drivers.ros2.node import DEFAULT, Endpoint, Qos
from robot_rl.errors import ConfigError, DeviceTimeoutError

__all__ = ["RclpyNode"]

THREADS = 8


class RclpyNode:
    """A `drivers.ros2.node.Node`.

    Args:
        name: Of the node.
        arguments: What the program was started with; its names lead where that says.
        domain: ROS_DOMAIN_ID in place of the environment's.

    Raises:
        ConfigError: A domain out of range, or a name that is none.
    """

    def __init__(self, name: str, arguments: Arguments, domain: int | None = None) -> None:
        number = domain_of(domain)
        self._context = rclpy.Context()
        try:
            rclpy.init(context=self._context, domain_id=number, signal_handler_options=SignalHandlerOptions.NO)
            self._node = rclpy.create_node(
                name, context=self._context, cli_args=_command_line(arguments), use_global_arguments=False
            )
        except RuntimeError as error:  # a namespace that is none, for example
            self._context.try_shutdown()
            raise ConfigError(f"ROS 2 takes no node as {name} was started: {str(error).split(', at /')[0]}") from error
        self.name = self._node.get_name()
        self._one, self._many = MutuallyExclusiveCallbackGroup(), ReentrantCallbackGroup()
        self._clients: dict[str, Any] = {}
        self._executor = MultiThreadedExecutor(THREADS, context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name=f"ros {name}", daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def declare(self, parameters: Sequence[Parameter]) -> dict[str, Any]:
        """Declare parameters, with their ranges; their values. Raises ConfigError where one is wrong."""
        given: dict[str, Any] = {}
        for one in parameters:
            descriptor = ParameterDescriptor(
                description=one.description, additional_constraints=", ".join(one.choices), read_only=True
            )  # read once, here
            if one.low is not None and one.high is not None and isinstance(one.default, float):
                descriptor.floating_point_range = [
                    FloatingPointRange(from_value=float(one.low), to_value=float(one.high))
                ]
            elif one.low is not None and one.high is not None:
                descriptor.integer_range = [IntegerRange(from_value=int(one.low), to_value=int(one.high))]
            try:
                self._node.declare_parameter(one.name, one.default, descriptor)
            except rclpy.exceptions.ParameterException as error:
                raise ConfigError(f"The parameter {one.name}: {error}") from error
            given[one.name] = self._node.get_parameter(one.name).value
        return checked(
            parameters,
            {k: list(v) if isinstance(v, Sequence) and not isinstance(v, str) else v for k, v in given.items()},
        )

    def now(self) -> float:
        """ROS time [s since 1970]."""
        return self._node.get_clock().now().nanoseconds * 1e-9

    def resolve(self, name: str) -> str:
        """The absolute name of a topic or service."""
        return self._node.resolve_topic_name(name)

    def publisher(self, topic: str, kind: str, qos: Qos = DEFAULT) -> "_Publisher":
        """Somebody who sends on a topic."""
        return _Publisher(self._node.create_publisher(_class(kind), topic, _profile(qos)), kind)

    def subscribe(self, topic: str, kind: str, take: Callable[[Message], None], qos: Qos = DEFAULT) -> None:
        """Hand what comes on a topic to `take`."""
        self._node.create_subscription(
            _class(kind), topic, lambda raw: take(decode(kind, raw)), _profile(qos), raw=True, callback_group=self._one
        )

    def serve(self, service: str, kind: str, answer: Callable[[Message], Message]) -> None:
        """Answer requests, several at a time."""
        made = _class(kind)

        def respond(request: Any, _: Any) -> Any:
            asked = decode(f"{kind}_Request", serialize_message(request))
            return deserialize_message(encode(f"{kind}_Response", answer(asked)), made.Response)

        self._node.create_service(made, service, respond, callback_group=self._many)

    def call(self, service: str, kind: str, request: Message, timeout_s: float) -> Message:
        """Ask, and wait for the response."""
        made = _class(kind)
        if service not in self._clients:
            self._clients[service] = self._node.create_client(made, service, callback_group=self._many)
        client = self._clients[service]
        if not client.wait_for_service(timeout_s):
            raise DeviceTimeoutError(
                f"Nobody offers the ROS service {self.resolve(service)} ({timeout_s:g} s). See: ros2 service list",
                timeout_s=timeout_s,
            )
        answered = threading.Event()
        future = client.call_async(deserialize_message(encode(f"{kind}_Request", request), made.Request))
        future.add_done_callback(lambda _: answered.set())
        if not answered.wait(timeout_s):
            client.remove_pending_request(future)
            raise DeviceTimeoutError(
                f"The ROS service {self.resolve(service)} has not answered within {timeout_s:g} s.",
                timeout_s=timeout_s,
            )
        return decode(f"{kind}_Response", serialize_message(future.result()))

    def publishers(self, topic: str) -> list[Endpoint]:
        """Who sends on a topic, oneself included."""
        return [_endpoint(one) for one in self._node.get_publishers_info_by_topic(self.resolve(topic))]

    def subscribers(self, topic: str) -> list[Endpoint]:
        """Who listens, oneself included."""
        return [_endpoint(one) for one in self._node.get_subscriptions_info_by_topic(self.resolve(topic))]

    def topics(self) -> dict[str, str]:
        """Every topic seen, and the kind of message on it."""
        return {name: kinds[0] for name, kinds in self._node.get_topic_names_and_types()}

    def close(self) -> None:
        """Leave."""
        if self._context.ok():
            rclpy.shutdown(context=self._context)
            self._thread.join(5.0)
            self._executor.shutdown(1.0)
            self._node.destroy_node()


class _Publisher:
    def __init__(self, publisher: Any, kind: str) -> None:
        self._publisher, self._kind = publisher, kind

    def publish(self, content: Message) -> None:
        """Send it."""
        self._publisher.publish(encode(self._kind, content))

    def subscribers(self) -> int:
        """How many are matched."""
        return int(self._publisher.get_subscription_count())


def _class(kind: str) -> Any:
    """Rclpy's class of a message or service; of an action's parts those inside it."""
    package, group, name = kind.split("/")
    module = importlib.import_module(f"{package}.{group}")
    if group != "action":
        return getattr(module, name)
    action, _, part = name.partition("_")
    inner = getattr(module, action).Impl
    return getattr(inner, part if part == "FeedbackMessage" else f"{part}Service")


def _command_line(arguments: Arguments) -> list[str]:
    """What it was started with; or the same said anew, of a node that a program makes by itself."""
    if arguments.raw:
        return list(arguments.raw)
    rules = [("__ns", arguments.remapping.namespace), *arguments.remapping.names]
    return ["--ros-args", *(word for a, b in rules for word in ("-r", f"{a}:={b}"))]


def _profile(qos: Qos) -> Any:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=qos.depth,
        reliability=ReliabilityPolicy.RELIABLE if qos.reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if qos.transient_local else DurabilityPolicy.VOLATILE,
    )  # fmt: skip


def _endpoint(info: Any) -> Endpoint:
    qos = info.qos_profile
    return Endpoint(
        f"{info.node_namespace.rstrip('/')}/{info.node_name}", info.topic_type,
        Qos(
            reliable=qos.reliability != ReliabilityPolicy.BEST_EFFORT,
            transient_local=qos.durability == DurabilityPolicy.TRANSIENT_LOCAL,
        ),
    )  # fmt: skip
