"""A camera in ROS 2: Image or CompressedImage, and its CameraInfo."""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from drivers.cameras import CameraIntrinsics, CameraView, Framing
from drivers.cameras_stream import CameraStream, Liveness, Shot
from drivers.interfaces import Frame
from drivers.ros2.arguments import in_namespace
from drivers.ros2.arm_link import explain_silence
from drivers.ros2.images import INFO, decode_image, image_kind
from drivers.ros2.messages import seconds
from drivers.ros2.node import SENSOR_DATA, Node
from drivers.ros2.opening import open_node
from robot_rl.errors import DeviceConnectionError

__all__ = ["Ros2Camera", "Ros2CameraConfig"]

FIRST_S = 15.0  # until the first picture


@dataclass(frozen=True, kw_only=True)
class Ros2CameraConfig(Liveness):
    """What one camera shall do.

    Attributes:
        topic: Of type Image, or CompressedImage where its name ends in `compressed`.
        info: Of type CameraInfo; by default `camera_info` beside the topic. Empty where there is none.
        namespace: In front of both.
        transport: `rclpy`, `dds`, or empty for the first that is there.
        crop, image_size: What `read` gives, see `drivers.cameras.Framing`.
    """

    topic: str
    info: str | None = None
    namespace: str = "/"
    transport: str = ""
    crop: tuple[int, int, int, int] | None = None
    image_size: int | None = None


class Ros2Camera(CameraView):
    """A camera whose pictures come as messages. `full` is the same camera without crop.

    Args:
        config: What it shall do.
        intrinsics: Of the whole picture, in place of what CameraInfo says.
        now: The cell's clock [s].

    Raises:
        ConfigError: Pictures of an encoding that is not known, or a crop that does not fit.
        DeviceConnectionError: No picture comes; why, as far as it is seen.
    """

    def __init__(
        self, config: Ros2CameraConfig, *, intrinsics: CameraIntrinsics | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.config = config
        self._source = _Topic(config)
        self._stream = CameraStream(self._source, config, now, None)
        try:
            first = self._stream.read()
            height, width = first.image.shape[:2]
            known = intrinsics or self._source.intrinsics
            if known is not None and (known.width, known.height) != (width, height):
                known = None  # of another size than the pictures: a tracker then says that there are none
            whole = (self._stream.read, width, height, known)
            super().__init__(*whole, Framing(config.crop, config.image_size))
            self.full = CameraView(*whole)
        except Exception:
            self._stream.close()
            raise

    def __enter__(self) -> "Ros2Camera":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def facts(self) -> dict[str, object]:
        """Counters, for a person."""
        return {"source": self._source.label, "pictures": self._stream.received, "restarts": self._stream.restarts}

    def close(self) -> None:
        """Stop listening."""
        self._stream.close()


class _Topic:
    """A topic as a source of pictures."""

    def __init__(self, config: Ros2CameraConfig) -> None:
        self._config, self.label = config, f"ROS camera {config.topic}"
        self._kind = image_kind(config.topic)
        self._info = config.topic.rsplit("/", 1)[0] + "/camera_info" if config.info is None else config.info
        if config.info is None and config.topic.endswith("/compressed"):  # image_transport: image_raw/compressed
            self._info = config.topic.rsplit("/", 2)[0] + "/camera_info"
        self._node: Node | None = None
        self._arrived: queue.Queue[Any] = queue.Queue(2)
        self._number = 0
        self._informed = threading.Event()
        self.intrinsics: CameraIntrinsics | None = None

    def open(self) -> None:
        """Listen, and wait for a first picture."""
        namespace = self._config.namespace
        node = self._node = open_node(
            "robot_rl_camera", in_namespace(namespace),
            transport=self._config.transport,
        )  # fmt: skip
        if self._info:
            node.subscribe(self._info, INFO, self._learn, SENSOR_DATA)
        node.subscribe(self._config.topic, self._kind, self._take, SENSOR_DATA)
        end = time.monotonic() + FIRST_S
        while self._arrived.empty():
            if time.monotonic() > end:
                why = explain_silence(node, self._config.topic, self._kind, SENSOR_DATA)
                self.close()
                raise DeviceConnectionError(f"{self.label}: no picture came within {FIRST_S:g} s. {why}")
            time.sleep(0.01)
        if self._info and node.publishers(self._info):
            self._informed.wait(1.0)

    def grab(self, timeout_s: float) -> Shot | None:
        """The next picture."""
        try:
            content = self._arrived.get(timeout=timeout_s)
        except queue.Empty:
            return None
        self._number += 1
        return Shot(self._number, seconds(content.header.stamp) or None, lambda: Frame(0.0, decode_image(content)))

    def close(self) -> None:
        """Leave."""
        if self._node is not None:
            self._node.close()
            self._node = None

    def _take(self, content: Any) -> None:
        while True:
            try:
                self._arrived.put_nowait(content)
            except queue.Full:  # nobody waits for the past
                try:
                    self._arrived.get_nowait()
                except queue.Empty:
                    continue
            else:
                return

    def _learn(self, content: Any) -> None:
        k = np.asarray(content.k)
        if k[0] > 0.0:
            five = tuple(float(v) for v in (*content.d, 0.0, 0.0, 0.0, 0.0, 0.0)[:5])
            self.intrinsics = CameraIntrinsics(
                float(k[0]), float(k[4]), float(k[2]), float(k[5]), content.width, content.height, five
            )
        self._informed.set()
