"""Cameras of ours as ROS 2 cameras: what camera_node does, whatever carries the messages."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from drivers.cameras import CameraIntrinsics
from drivers.emulators.stage import Stage
from drivers.interfaces import Camera, Frame
from drivers.ros2.images import COMPRESSED, IMAGE, INFO, camera_info, compressed_image, raw_image
from drivers.ros2.node import SENSOR_DATA, Node, Publisher
from robot_rl.errors import ConfigError, DeviceConnectionError, DeviceError

__all__ = ["CameraPublisher", "StageCamera"]

log = logging.getLogger("robot_rl.ros2")
LEAVE_S = 10.0
IDLE_S = 0.05  # between looks for somebody who wants pictures
REOPEN_S = 1.0  # between attempts to get a lost camera back


class StageCamera:
    """A `Camera` of an emulated cell: pictures of the scene beside an emulator.

    Args:
        host: Where the emulator's stage listens.
        name: Of the camera in the scene.
        width, height: Of its pictures [pixels].
    """

    def __init__(self, host: str, name: str, width: int = 640, height: int = 480) -> None:
        self._stage, self._name, self.width, self.height = Stage(host), name, width, height
        self.intrinsics = CameraIntrinsics.from_fovy(self._stage.camera(name)[0], width, height)

    def read(self) -> Frame:
        """What it sees now."""
        _, image, _ = self._stage.picture(self._name, self.height, self.width, depth=False)
        return Frame(time.monotonic(), image)

    def close(self) -> None:
        """Let go of the emulator."""
        self._stage.close()


class CameraPublisher:
    """Sends a camera's pictures to who wants them: NAME/image_raw, NAME/image_raw/compressed and NAME/camera_info.

    Without a subscriber nothing is read, and nothing is compressed.

    Args:
        node: Over which.
        name: In front of the topics.
        open_camera: Opens the camera; called in the publisher's thread, and again when the camera was lost.
        fps: Pictures a second, at most.
        frame: Of the pictures, by default NAME_optical_frame.
        now: The clock that pictures are stamped by.
    """

    def __init__(
        self, node: Node, name: str, open_camera: Callable[[], Camera], *, fps: float = 30.0, frame: str = "",
        now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        if not 0.1 <= fps <= 240.0:
            raise ConfigError(f"fps is {fps:g}; it lies between 0.1 and 240 pictures a second.")
        self._node, self.name, self._open, self._now = node, name, open_camera, now
        self._period_s, self._frame = 1.0 / fps, frame or f"{name}_optical_frame"
        self._raw: Publisher = node.publisher(f"{name}/image_raw", IMAGE, SENSOR_DATA)
        self._small: Publisher = node.publisher(f"{name}/image_raw/compressed", COMPRESSED, SENSOR_DATA)
        self._info: Publisher = node.publisher(f"{name}/camera_info", INFO, SENSOR_DATA)
        self.sent, self.trouble = 0, ""
        self._told: type[DeviceError | None] = type(None)
        self._last: float | None = None

    def run(self, ended: threading.Event) -> None:
        """Until ended, and nobody looks any more, 10 s at most: who acts on the pictures can end in order.

        Raises:
            ConfigError: The camera cannot be what it is configured to be.
        """
        camera: Camera | None = None
        due, left = time.monotonic(), float("inf")
        try:
            while not ended.is_set() or (camera and time.monotonic() < left and self.wanted()):
                left = min(left, time.monotonic() + LEAVE_S) if ended.is_set() else left
                wanted = False
                try:
                    camera = camera or self._open()
                    wanted = self.wanted()
                    if wanted:
                        self.send(camera)
                    self._say(None)
                except DeviceError as error:
                    self._say(error)
                    if isinstance(error, DeviceConnectionError):  # gone, not only late
                        if camera is not None:
                            camera.close()
                        camera = None
                        ended.wait(REOPEN_S)
                due = max(due + (self._period_s if wanted else IDLE_S), time.monotonic() - self._period_s)
                time.sleep(max(0.0, due - time.monotonic()))
        finally:
            if camera is not None:
                camera.close()

    def _say(self, error: DeviceError | None) -> None:
        """Tell what is wrong once, though its words change: they hold how long it has been so."""
        if error is not None and type(error) is not self._told:
            log.error("Camera %s: %s", self.name, error)
        self._told, self.trouble = type(error), str(error or "")

    def wanted(self) -> bool:
        """Whether anybody listens."""
        return any(one.subscribers() for one in (self._raw, self._small, self._info))

    def send(self, camera: Camera) -> None:
        """The newest picture, once."""
        frame = camera.read()
        if frame.time_s == self._last:
            return
        self._last = frame.time_s
        stamp = self._node.now() - max(0.0, self._now() - frame.time_s)
        if self._raw.subscribers():
            self._raw.publish(raw_image(stamp, self._frame, frame.image))
        if self._small.subscribers():
            self._small.publish(compressed_image(stamp, self._frame, frame.image))
        intrinsics = _intrinsics(camera)
        if intrinsics is not None:
            self._info.publish(camera_info(stamp, self._frame, intrinsics))
        self.sent += 1


def _intrinsics(camera: Any) -> CameraIntrinsics | None:
    try:
        return getattr(camera, "intrinsics", None)
    except ConfigError:  # nobody calibrated it
        return None
