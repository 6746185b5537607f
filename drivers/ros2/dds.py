"""A ROS 2 node over the PyPI package cyclonedds: in any Python, with no ROS installed.

Names, types, services and discovery follow rmw_cyclonedds_cpp of ROS 2 Jazzy, so that ROS's own tools see this node.
"""

import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cyclonedds.core import DDSException, GuardCondition, InstanceState, ReadCondition, SampleState, ViewState, WaitSet
from cyclonedds.core import Policy as P  # noqa: N817 (as cyclonedds's own examples have it)
from cyclonedds.core import Qos as DdsQos
from cyclonedds.domain import Domain, DomainParticipant
from cyclonedds.internal import InvalidSample
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from cyclonedds.util import duration

from drivers.ros2.arguments import Arguments, Parameter, checked, domain_of
from drivers.ros2.dds_graph import Graph
from drivers.ros2.messages import Message, type_hash
from drivers.ros2.node import DEFAULT, Endpoint, Qos
from drivers.ros2.wire import ORIGIN_BYTES, wire_class
from robot_rl.errors import DeviceConnectionError, DeviceTimeoutError, LinkError

__all__ = ["DdsNode"]

log = logging.getLogger("robot_rl.ros2")

MAX_BLOCKING_S = 0.1  # a reliable publisher waits so long for room at a slow subscriber
WAKE_S = 0.5
REQUESTS = 8  # answered at the same time
LOOPBACK = """<CycloneDDS><Domain id="any"><General><AllowMulticast>false</AllowMulticast><Interfaces>
<NetworkInterface address="127.0.0.1"/></Interfaces><MaxMessageSize>65500B</MaxMessageSize>
<FragmentSize>63000B</FragmentSize></General><Discovery><ParticipantIndex>auto</ParticipantIndex>
<MaxAutoParticipantIndex>64</MaxAutoParticipantIndex><Peers><Peer address="127.0.0.1"/></Peers></Discovery><Internal>
<SocketReceiveBufferSize min="1MiB" max="8MiB"/></Internal></Domain></CycloneDDS>"""

_domains: dict[int, Domain] = {}  # configured once in a process
_domains_lock = threading.Lock()


class DdsNode:
    """A `drivers.ros2.node.Node`.

    Args:
        name: Of the node.
        arguments: What the program was started with: where names lead, and parameters.
        domain: ROS_DOMAIN_ID in place of the environment's.

    Raises:
        ConfigError: A domain out of range.
        DeviceConnectionError: The network cannot be had.
    """

    def __init__(self, name: str, arguments: Arguments, domain: int | None = None) -> None:
        self.name, self._remapping, self._given = name, arguments.remapping, arguments.parameters
        self._participant = _participant(domain_of(domain))
        self._graph = Graph(self._participant, name, self._remapping.namespace)
        self._topics: dict[tuple[str, str], Topic[Any]] = {}
        self._readers: list[tuple[DataReader[Any], ReadCondition, Callable[[Any], None]]] = []
        self._clients: dict[str, _Client] = {}
        self._writers: list[DataWriter[Any]] = []  # which the package deletes when nobody holds them
        self._lock = threading.RLock()
        self._servants = ThreadPoolExecutor(REQUESTS, thread_name_prefix=f"ros {name}")
        self._waiting = WaitSet(self._participant)
        self._wake = GuardCondition(self._participant)
        self._waiting.attach(self._wake)
        self._closing = False
        self._thread = threading.Thread(target=self._listen, name=f"ros {name}", daemon=True)
        self._thread.start()

    def declare(self, parameters: Sequence[Parameter]) -> dict[str, Any]:
        """The values of parameters. Raises ConfigError where a given one is wrong."""
        return checked(parameters, self._given)

    def now(self) -> float:
        """ROS time [s since 1970]."""
        return time.time()

    def resolve(self, name: str) -> str:
        """The absolute name of a topic or service."""
        return self._remapping.resolve(name, self.name)

    def publisher(self, topic: str, kind: str, qos: Qos = DEFAULT) -> "_Publisher":
        """Somebody who sends on a topic."""
        wire = wire_class(kind)
        writer = DataWriter(self._participant, self._topic("rt" + self.resolve(topic), wire), qos=_qos(qos, kind))
        self._keep(writer)
        return _Publisher(writer, wire)

    def subscribe(self, topic: str, kind: str, take: Callable[[Message], None], qos: Qos = DEFAULT) -> None:
        """Hand what comes on a topic to `take`, in this node's thread."""
        reader = DataReader(
            self._participant, self._topic("rt" + self.resolve(topic), wire_class(kind)), qos=_qos(qos, kind)
        )
        self._hear(reader, lambda sample: take(sample.content))

    def serve(self, service: str, kind: str, answer: Callable[[Message], Message]) -> None:
        """Answer requests, each in a thread."""
        asked, answered, _, response = self._service(service, kind)
        writer = DataWriter(self._participant, answered, qos=_qos(DEFAULT, f"{kind}_Response"))
        self._keep(writer)

        def respond(sample: Any) -> None:
            try:
                writer.write(response(answer(sample.content), sample.origin))
            except Exception:
                log.exception("%s could not be answered.", service)

        def take(sample: Any) -> None:
            self._servants.submit(respond, sample)

        self._hear(DataReader(self._participant, asked, qos=_qos(DEFAULT, f"{kind}_Request")), take)

    def call(self, service: str, kind: str, request: Message, timeout_s: float) -> Message:
        """Ask, and wait for the response; not from within a subscription's `take`."""
        whole = self.resolve(service)
        with self._lock:
            client = self._clients.get(whole)
            if client is None:
                asked, answered, sent, _ = self._service(service, kind)
                writer = DataWriter(self._participant, asked, qos=_qos(DEFAULT, f"{kind}_Request"))
                reader = DataReader(self._participant, answered, qos=_qos(DEFAULT, f"{kind}_Response"))
                client = self._clients[whole] = _Client(whole, writer, reader, sent)
                self._keep(writer)
                self._hear(reader, client.take)
        return client.ask(request, timeout_s)

    def publishers(self, topic: str) -> list[Endpoint]:
        """Who sends on a topic, oneself included."""
        return self._graph.endpoints("rt" + self.resolve(topic), publishing=True)

    def subscribers(self, topic: str) -> list[Endpoint]:
        """Who listens, oneself included."""
        return self._graph.endpoints("rt" + self.resolve(topic), publishing=False)

    def topics(self) -> dict[str, str]:
        """Every topic seen, and the kind of message on it."""
        return self._graph.topics()

    def close(self) -> None:
        """Leave: others see it at once."""
        if self._closing:
            return
        self._closing = True
        self._wake.set(True)
        if threading.current_thread() is not self._thread:
            self._thread.join(5.0)
        self._servants.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._participant.__del__()  # the package has no other way to delete an entity and all within

    # Listening

    def _keep(self, writer: DataWriter[Any]) -> None:
        with self._lock:
            self._writers.append(writer)
        self._graph.add(writer=writer)

    def _hear(self, reader: DataReader[Any], take: Callable[[Any], None]) -> None:
        condition = ReadCondition(reader, SampleState.Any | ViewState.Any | InstanceState.Any)
        with self._lock:
            self._readers.append((reader, condition, take))
            self._waiting.attach(condition)
        self._graph.add(reader=reader)
        self._wake.set(True)

    def _listen(self) -> None:
        while not self._closing:
            try:
                self._waiting.wait(duration(seconds=WAKE_S))
            except DDSException:
                if self._closing:
                    return
                raise
            self._wake.set(False)
            with self._lock:
                readers = list(self._readers)
            for reader, condition, take in readers:
                if self._closing:
                    return
                if condition.triggered:
                    self._take(reader, take)

    def _take(self, reader: DataReader[Any], take: Callable[[Any], None]) -> None:
        while True:
            try:
                samples = reader.take(N=16)
            except LinkError as error:  # what was broken has been taken out all the same
                log.warning("%s", error)
                continue
            for sample in samples:
                if not isinstance(sample, InvalidSample):  # those say that a publisher has left
                    try:
                        take(sample)
                    except Exception:
                        log.exception("A message could not be dealt with.")
            if len(samples) < 16:
                return

    def _topic(self, name: str, wire: Any) -> Topic[Any]:
        with self._lock:
            key = (name, wire.__idl_typename__)
            if key not in self._topics:
                self._topics[key] = Topic(self._participant, name, wire)
            return self._topics[key]

    def _service(self, service: str, kind: str) -> tuple[Topic[Any], Topic[Any], Any, Any]:
        whole = self.resolve(service)
        request, response = (wire_class(f"{kind}_{part}", service=True) for part in ("Request", "Response"))
        return (
            self._topic(f"rq{whole}Request", request), self._topic(f"rr{whole}Reply", response), request, response
        )  # fmt: skip


class _Publisher:
    def __init__(self, writer: DataWriter[Any], wire: Any) -> None:
        self._writer, self._wire = writer, wire

    def publish(self, content: Message) -> None:
        """Send it."""
        try:
            self._writer.write(self._wire(content))
        except DDSException as error:
            if error.code != DDSException.DDS_RETCODE_TIMEOUT:  # a subscriber too slow for a reliable topic
                raise DeviceConnectionError(f"ROS 2: nothing can be sent any more ({error}).") from error
            log.warning("A subscriber is too slow for a reliable topic; a message was dropped.")

    def subscribers(self) -> int:
        """How many are matched."""
        return len(self._writer.get_matched_subscriptions())


class _Client:
    """Asks one service, and sorts the responses: all clients of a service hear all of them."""

    def __init__(self, name: str, writer: DataWriter[Any], reader: DataReader[Any], request: Any) -> None:
        self._name, self._writer, self._reader, self._request = name, writer, reader, request
        self._id, self._numbers = os.urandom(8), itertools.count(1)
        self._changed = threading.Condition()
        self._answers: dict[bytes, Message] = {}
        self._waiting: set[bytes] = set()

    def take(self, sample: Any) -> None:
        """A response, maybe ours."""
        with self._changed:
            if sample.origin in self._waiting:
                self._answers[sample.origin] = sample.content
                self._changed.notify_all()

    def ask(self, request: Message, timeout_s: float) -> Message:
        """Send a request and wait."""
        end = time.monotonic() + timeout_s
        while not (self._writer.get_matched_subscriptions() and self._reader.get_matched_publications()):
            if time.monotonic() > end:
                raise DeviceTimeoutError(
                    f"Nobody offers the ROS service {self._name} ({timeout_s:g} s). See: ros2 service list",
                    timeout_s=timeout_s,
                )
            time.sleep(0.005)
        origin = self._id + next(self._numbers).to_bytes(ORIGIN_BYTES - len(self._id), "little")
        with self._changed:
            self._waiting.add(origin)
            self._writer.write(self._request(request, origin))
            came = self._changed.wait_for(lambda: origin in self._answers, max(0.0, end - time.monotonic()))
            self._waiting.discard(origin)
            if not came:
                raise DeviceTimeoutError(
                    f"The ROS service {self._name} took the request and has not answered within {timeout_s:g} s.",
                    timeout_s=timeout_s,
                )
            return self._answers.pop(origin)


def _participant(domain: int) -> DomainParticipant:
    try:
        with _domains_lock:
            if _local_only() and not os.environ.get("CYCLONEDDS_URI") and domain not in _domains:
                _domains[domain] = Domain(domain, LOOPBACK)
            return DomainParticipant(domain)
    except DDSException as error:
        raise DeviceConnectionError(
            f"No DDS on domain {domain} ({error}). Check that a network is up and, where CYCLONEDDS_URI is set, that "
            "the interface it names exists; ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST keeps to this machine."
        ) from error


def _local_only() -> bool:
    return (
        os.environ.get("ROS_LOCALHOST_ONLY", "0") == "1"
        or os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "").upper() == "LOCALHOST"
    )


def _qos(qos: Qos, kind: str) -> DdsQos:
    return DdsQos(
        P.Reliability.Reliable(duration(seconds=MAX_BLOCKING_S)) if qos.reliable else P.Reliability.BestEffort,
        P.Durability.TransientLocal if qos.transient_local else P.Durability.Volatile,
        P.History.KeepLast(qos.depth),
        P.Userdata(f"typehash={type_hash(kind)};".encode()),  # by which ROS tells versions of a message apart
    )
