"""Who else is there: DDS's own discovery, and the topic in which ROS 2 says which node has which endpoint."""

import threading
from typing import Any

from cyclonedds.builtin import (
    BuiltinDataReader,
    BuiltinTopicDcpsPublication,
    BuiltinTopicDcpsSubscription,
)  # fmt: skip
from cyclonedds.core import InstanceState, ReadCondition, SampleState, ViewState
from cyclonedds.core import Policy as P  # noqa: N817 (as cyclonedds's own examples have it)
from cyclonedds.core import Qos as DdsQos
from cyclonedds.domain import DomainParticipant
from cyclonedds.internal import InvalidSample
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from cyclonedds.util import duration

from drivers.ros2.messages import message, type_hash
from drivers.ros2.node import Endpoint, Qos
from drivers.ros2.wire import wire_class

__all__ = ["Graph"]

INFO = "rmw_dds_common/msg/ParticipantEntitiesInfo"
ALL = 10_000  # more endpoints than any graph has


class Graph:
    """What is known of a domain, and what it knows of one node.

    Args:
        participant: The node's.
        name, namespace: Of the node.
    """

    def __init__(self, participant: DomainParticipant, name: str, namespace: str) -> None:
        self._participant, self._name, self._namespace = participant, name, namespace
        self._lock = threading.Lock()
        self._mine: tuple[list[Any], list[Any]] = ([], [])  # ids of readers and of writers
        self._nodes: dict[bytes, str] = {}  # full name by an endpoint's id
        self._found = [
            BuiltinDataReader(participant, topic)
            for topic in (BuiltinTopicDcpsSubscription, BuiltinTopicDcpsPublication)
        ]
        wire = wire_class(INFO)
        topic = Topic(participant, "ros_discovery_info", wire)
        kept = (
            P.Reliability.Reliable(duration(milliseconds=100)), P.Durability.TransientLocal,
            P.Userdata(f"typehash={type_hash(INFO)};".encode()),
        )  # fmt: skip
        self._wire = wire
        self._writer = DataWriter(participant, topic, qos=DdsQos(*kept, P.History.KeepLast(1)))
        self._reader = DataReader(participant, topic, qos=DdsQos(*kept, P.History.KeepAll))
        self._tell()

    def add(self, *, reader: Any = None, writer: Any = None) -> None:
        """A new endpoint of the node's."""
        with self._lock:
            for known, entity in zip(self._mine, (reader, writer), strict=True):
                if entity is not None:
                    known.append(_gid(entity.get_guid().bytes))
            self._tell()

    def endpoints(self, name: str, *, publishing: bool) -> list[Endpoint]:
        """Who publishes, or subscribes to, a DDS topic."""
        with self._lock:
            self._learn()
            return [
                Endpoint(self._nodes.get(e.key.bytes, "?"), _kind(e.type_name), _qos(e.qos))
                for e in self._alive(publishing)
                if e.topic_name == name
            ]

    def topics(self) -> dict[str, str]:
        """Every ROS topic seen, and its kind."""
        with self._lock:
            return {
                e.topic_name[2:]: _kind(e.type_name)
                for publishing in (True, False)
                for e in self._alive(publishing)
                if e.topic_name.startswith("rt/")
            }

    def _alive(self, publishing: bool) -> list[Any]:
        reader = self._found[publishing]
        alive = ReadCondition(reader, SampleState.Any | ViewState.Any | InstanceState.Alive)
        return [e for e in reader.read(N=ALL, condition=alive) if not isinstance(e, InvalidSample)]

    def _learn(self) -> None:
        for sample in self._reader.take(N=ALL):
            if isinstance(sample, InvalidSample):
                continue
            for node in sample.content.node_entities_info_seq:
                whole = f"{node.node_namespace.rstrip('/')}/{node.node_name}"
                for gid in (*node.reader_gid_seq, *node.writer_gid_seq):
                    self._nodes[bytes(gid.data)] = whole

    def _tell(self) -> None:
        node = message(
            "rmw_dds_common/msg/NodeEntitiesInfo", node_namespace=self._namespace, node_name=self._name,
            reader_gid_seq=self._mine[0], writer_gid_seq=self._mine[1],
        )  # fmt: skip
        self._writer.write(
            self._wire(message(INFO, gid=_gid(self._participant.get_guid().bytes), node_entities_info_seq=[node]))
        )


def _gid(raw: bytes) -> Any:
    import numpy as np

    return message("rmw_dds_common/msg/Gid", data=np.frombuffer(raw, np.uint8))


def _kind(dds_type: str) -> str:
    """`geometry_msgs/msg/Pose` of `geometry_msgs::msg::dds_::Pose_`."""
    return dds_type.replace("::dds_::", "::").replace("::", "/").rstrip("_")


def _qos(qos: Any) -> Qos:
    reliability, durability = qos[P.Reliability], qos[P.Durability]
    return Qos(
        reliable=isinstance(reliability, P.Reliability.Reliable),
        transient_local=durability == P.Durability.TransientLocal,
    )
