"""Live ROS topics into a rosbag2 bag (MCAP, zstd), over either transport: `ros2 bag record` where there is no ROS.

A message is stored with the ROS time at which it came, in the encoding it came in. A topic's `offered_qos_profiles` are
those of its publishers when it was found, so that `ros2 bag play` offers them again, /tf_static latched.

A bag is whole, its metadata.yaml written, when the recorder ends: told to (SIGINT, SIGTERM), because the disk runs low
or because the bag is as large as it may be. After SIGKILL there is NAME.mcap without its index and no metadata.yaml.
What came is handed to the kernel once a second, so that the last second is missing at most; after a power cut, also
what the kernel had not written. `mcap recover NAME.mcap -o mended/NAME_0.mcap` (the mcap command line tool) makes the
index anew, and `ros2 bag reindex -s mcap mended` the metadata; it wants that `_0`.
"""

import contextlib
import itertools
import logging
import shutil
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rosbags.interfaces import Qos as BagQos
from rosbags.interfaces import QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer, WriterError

from drivers.ros2.messages import Message, definition, encode, type_hash
from drivers.ros2.node import Node, Qos, mismatch
from robot_rl.errors import ConfigError, StoreError

__all__ = ["BagRecorder", "recorded_by_default"]

log = logging.getLogger("robot_rl.ros2")

GIB = 2**30
MIN_FREE_GIB = 1.0  # what is left of the disk for others, and for the bag's index
LOOK_S = 1.0
DEPTH = 100  # messages of a topic that wait while a chunk is compressed
FOREVER = QosTime(9223372036, 854775807)  # as ROS writes it
PICTURES = "sensor_msgs/msg/Image"


def recorded_by_default(seen: Mapping[str, str]) -> set[str]:
    """What is recorded where no topics are named: all but logs, parameters, hidden topics and doubled pictures.

    Args:
        seen: Kinds by topic. Pictures are left out where the same are there compressed (`image_raw/compressed`).
    """
    return {
        topic
        for topic, kind in seen.items()
        if topic not in ("/rosout", "/parameter_events")
        and "/_" not in topic
        and not (kind == PICTURES and f"{topic}/compressed" in seen)
    }


class BagRecorder:
    """Records topics until it is told to end. Topics that appear later are picked up within a second.

    A topic is subscribed to as its publishers offer: reliably, or with what was said before, where all of them do.

    Args:
        node: Over which.
        out: The bag's directory, not there yet.
        topics: What to record; `recorded_by_default` where none are named.
        max_gib: Recording ends when the bag is so large.
    """

    def __init__(self, node: Node, out: Path, *, topics: Sequence[str] = (), max_gib: float = 100.0) -> None:
        self.path, self._node, self._max_gib = out, node, max_gib
        self._named = {node.resolve(topic) for topic in topics}
        self._requested: dict[str, Qos] = {}
        self._turns = itertools.count()
        self._done_with = set[str]()  # topics of which something was said that is said once
        self._lock = threading.Lock()
        self._connections: dict[str, Any] = {}
        self._failure: OSError | None = None
        self._file = out / f"{out.name}.mcap"
        try:
            self._writer: Any = Writer(out, version=9, storage_plugin=StoragePlugin.MCAP)
        except WriterError as error:
            raise ConfigError(f"{out} is there already; nothing in it was touched. Give another out.") from error
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)

    @property
    def topics(self) -> dict[str, int]:
        """The messages so far of each topic that is recorded."""
        with self._lock:
            return {each.topic: self._writer.counts[each.id] for each in self._writer.connections}

    def run(self, ended: threading.Event) -> None:
        """Record until ended.

        Raises:
            StoreError: The disk is low or failing, or the bag as large as it may be. What is there is closed first.
        """
        try:
            self._writer.open()
        except OSError as error:
            raise StoreError(f"Cannot write {self.path}: {error.strerror}.", path=self.path) from error
        log.info("Recording to %s", self.path)
        full = ""
        try:
            while not (full or self._failure or ended.wait(LOOK_S)):
                self._look()
                self._flush()
                full = self._full()
        except OSError as error:
            self._failure = error
        finally:
            self._close()
        if self._failure:
            raise StoreError(
                f"The disk of {self.path} failed ({self._failure.strerror}) and recording ended. The bag lacks its "
                f"index: mcap recover {self._file} -o mended/{self.path.name}_0.mcap",
                path=self.path,
            ) from self._failure
        if full:
            raise StoreError(f"Recording ended: {full}. {self.path} is whole up to here.", path=self.path)

    def _look(self) -> None:
        """Subscribe to what is new; and, one topic a look as it takes time, say which publishers are not heard."""
        seen = self._node.topics()
        wanted = self._named & seen.keys() if self._named else recorded_by_default(seen)
        for topic in sorted(wanted - self._requested.keys() - self._done_with):
            if offers := [one.qos for one in self._node.publishers(topic) if one.kind == seen[topic]]:
                self._record(topic, seen[topic], offers)
        if known := sorted(self._requested.keys() - self._done_with):
            topic = known[next(self._turns) % len(known)]
            reasons = {mismatch(one.qos, self._requested[topic]) for one in self._node.publishers(topic)} - {""}
            if reasons:
                log.warning("%s has a later publisher that is not recorded: %s. Record anew.", topic, reasons.pop())
                self._done_with.add(topic)

    def _record(self, topic: str, kind: str, offers: list[Qos]) -> None:
        qos = Qos(all(each.reliable for each in offers), DEPTH, all(each.transient_local for each in offers))
        try:
            text, version = definition(kind), type_hash(kind)
            with self._lock:  # what comes at once waits for its connection
                self._node.subscribe(topic, kind, partial(self._take, topic, kind), qos)
                self._connections[topic] = self._writer.add_connection(
                    topic, kind, msgdef=text, rihs01=version, offered_qos_profiles=[_profile(each) for each in offers]
                )
        except (ConfigError, ImportError, AttributeError) as error:  # the latter two: rclpy has no such package
            log.warning("%s is not recorded: %s", topic, error)
            self._done_with.add(topic)
            return
        self._requested[topic] = qos
        log.info("%s (%s, %s)", topic, kind, qos)

    def _take(self, topic: str, kind: str, content: Message) -> None:
        stamp_ns = round(self._node.now() * 1e9)
        raw = encode(kind, content)
        with self._lock:
            if topic in self._connections:
                self._guarded(partial(self._writer.write, self._connections[topic], stamp_ns, raw))

    def _flush(self) -> None:
        """Everything so far to the disk, as a chunk of its own: all that is left after SIGKILL."""
        with self._lock:
            storage = self._writer.storage
            if storage.chunk.msgs:
                self._guarded(storage.close_chunk)
            self._guarded(storage.bio.flush)

    def _guarded(self, write: Any) -> None:
        """Write; when the disk fails, nothing more is."""
        try:
            if self._failure is None:
                write()
        except OSError as error:
            self._failure = error

    def _full(self) -> str:
        """Why there is no room for more, if so."""
        free = shutil.disk_usage(self.path).free / GIB
        if free < MIN_FREE_GIB:
            return f"the disk has {free:.2f} GiB left, limit {MIN_FREE_GIB:g} GiB; make room"
        size = self._file.stat().st_size / GIB
        return f"the bag has {size:.3g} GiB, limit {self._max_gib:g} GiB (max_gib)" if size > self._max_gib else ""

    def _close(self) -> None:
        with self._lock:
            self._connections.clear()  # what comes now comes too late
            if self._failure is None:
                self._guarded(self._writer.close)
            if self._failure is not None:
                with contextlib.suppress(OSError):
                    self._writer.abort()
                return
        counts = self.topics
        log.info("%s: %d messages on %d topics", self.path, sum(counts.values()), len(counts))
        if silent := sorted(self._named - {topic for topic, count in counts.items() if count}):
            log.warning("Nothing came on %s", ", ".join(silent))


def _profile(offer: Qos) -> BagQos:
    return BagQos(
        QosHistory.KEEP_LAST, offer.depth,
        QosReliability.RELIABLE if offer.reliable else QosReliability.BEST_EFFORT,
        QosDurability.TRANSIENT_LOCAL if offer.transient_local else QosDurability.VOLATILE,
        FOREVER, FOREVER, QosLiveliness.AUTOMATIC, FOREVER, avoid_ros_namespace_conventions=False,
    )  # fmt: skip
