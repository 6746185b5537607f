"""USB cameras, video files and folders of pictures, through OpenCV."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2

from drivers.cameras import CameraIntrinsics, CameraView, Framing
from drivers.cameras_film import Film, rgb_from_bgr
from drivers.cameras_stream import CameraStream, Liveness, Shot
from drivers.interfaces import Frame
from robot_rl.errors import ConfigError, DeviceConnectionError

__all__ = ["OpenCvCamera", "OpenCvConfig"]

EXPOSURE_UNIT_US = 100.0  # V4L2's exposure_absolute
V4L2_MANUAL, V4L2_AUTOMATIC = 1.0, 3.0  # values of V4L2's exposure_auto


@dataclass(frozen=True, kw_only=True)
class OpenCvConfig(Liveness):
    """What one camera shall do.

    Attributes:
        source: A device (`/dev/video0`, or its number), a video file, or a folder of pictures, taken in order of name.
        width, height: Of a device's pictures; a file has its own.
        fps: A device's rate, and that at which a file is played; None as the file says (a folder: 30).
        exposure_us, white_balance_k, gain: Of a device, locked to these; None leaves each to the camera.
        crop, image_size: What `read` gives, see `drivers.cameras.Framing`.
        loop: Begin a file again at its end. Otherwise the camera counts as unplugged then.
        paced: Play a file at its rate. Otherwise each read gives the next picture.
    """

    source: str | int | Path
    width: int = 640
    height: int = 480
    fps: float | None = None
    exposure_us: float | None = None
    white_balance_k: float | None = None
    gain: float | None = None
    crop: tuple[int, int, int, int] | None = None
    image_size: int | None = None
    loop: bool = True
    paced: bool = True


class OpenCvCamera(CameraView):
    """A camera that OpenCV can read. It streams from construction until `close`.

    `read` gives the newest picture, cropped and resized; `full` is the same camera without crop. A device's own time
    stamps are moved to `now` (see `drivers.cameras_stream.StampMapper`); pictures of a file are stamped when played.

    Args:
        config: What it shall do.
        intrinsics: Of the whole picture, as calibrated; without, no tracker can use it.
        now: The cell's clock [s].

    Raises:
        ConfigError: No such file, or a value the camera does not take.
        DeviceConnectionError: No such device, or another program has it.
    """

    def __init__(
        self,
        config: OpenCvConfig,
        *,
        intrinsics: CameraIntrinsics | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        number = _device_number(config.source)
        if number is None:
            # A film may well stand still.
            source = Film(Path(str(config.source)), fps=config.fps, loop=config.loop, paced=config.paced)
            liveness: Liveness = replace(config, frozen_after_s=None)
            ask = None if config.paced else source.ask
        else:
            source, liveness, ask = _Usb(config, number), config, None
        self._device = source
        self._stream = CameraStream(source, liveness, now, ask)
        try:
            whole = (self._stream.read, source.width, source.height, intrinsics)
            super().__init__(*whole, Framing(config.crop, config.image_size))
            self.full = CameraView(*whole)
        except ConfigError:
            self._stream.close()
            raise

    def __enter__(self) -> "OpenCvCamera":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def facts(self) -> dict[str, object]:
        """Mode and counters, for a person."""
        source = self._device
        return {
            "source": source.label, "mode": f"{source.width} x {source.height} at {source.fps:g} Hz",
            "pictures": self._stream.received, "restarts": self._stream.restarts,
        }  # fmt: skip

    def close(self) -> None:
        """Stop streaming."""
        self._stream.close()


class _Usb:
    """A device of the system, as a source of pictures."""

    def __init__(self, config: OpenCvConfig, number: int) -> None:
        self._config, self._device = config, number
        self._capture: cv2.VideoCapture | None = None
        self._number = 0
        self.label = f"camera /dev/video{number}"
        self.width, self.height, self.fps = config.width, config.height, config.fps or 30.0

    def open(self) -> None:
        """Open the device, choose its mode and lock its settings."""
        capture = cv2.VideoCapture(self._device)
        if not capture.isOpened():
            present = ", ".join(str(path) for path in sorted(Path("/dev").glob("video*"))) or "none"
            raise DeviceConnectionError(
                f"{self.label} does not open. Devices: {present}. Check its plug, that no other program has it, and "
                "that you may read it (group `video`).",
                present=present,
            )
        self._capture = capture
        try:
            self._set_mode(capture)
            self._lock(capture)
        except ConfigError:
            self.close()
            raise

    def grab(self, timeout_s: float) -> Shot | None:
        """The next picture; the driver below has its own time-out."""
        if self._capture is None or not self._capture.grab():
            raise DeviceConnectionError(f"{self.label} was unplugged, or stopped sending.")
        stamp_ms = self._capture.get(cv2.CAP_PROP_POS_MSEC)
        there, image = self._capture.retrieve()
        if not there:
            return None
        self._number += 1
        # It is decoded here already: the next grab overwrites it.
        return Shot(self._number, 1e-3 * stamp_ms if stamp_ms > 0.0 else None, lambda: Frame(0.0, rgb_from_bgr(image)))

    def close(self) -> None:
        """Let go of the device."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _set_mode(self, capture: cv2.VideoCapture) -> None:
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))  # raw pictures do not fit through USB 2
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, self._config.width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, self._config.height)
        capture.set(cv2.CAP_PROP_FPS, self.fps)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        got = (round(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), round(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
        if got != (self.width, self.height):
            raise ConfigError(
                f"{self.label} cannot do {self.width} x {self.height}, the nearest is {got[0]} x {got[1]} (width, "
                "height). `v4l2-ctl --list-formats-ext` lists its modes.",
                got=got,
            )

    def _lock(self, capture: cv2.VideoCapture) -> None:
        config = self._config
        manual = config.exposure_us is not None
        capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, V4L2_MANUAL if manual else V4L2_AUTOMATIC)
        capture.set(cv2.CAP_PROP_AUTO_WB, 0.0 if config.white_balance_k is not None else 1.0)
        exposure = None if config.exposure_us is None else round(config.exposure_us / EXPOSURE_UNIT_US)
        for key, prop, value in (
            ("exposure_us", cv2.CAP_PROP_EXPOSURE, exposure),
            ("white_balance_k", cv2.CAP_PROP_WB_TEMPERATURE, config.white_balance_k),
            ("gain", cv2.CAP_PROP_GAIN, config.gain),
        ):
            if value is not None and not capture.set(prop, value):
                raise ConfigError(
                    f"{self.label} does not take {key}={getattr(config, key)}. `v4l2-ctl --list-ctrls` lists what it "
                    "takes; or leave it out.",
                    key=key,
                )


def _device_number(source: str | int | Path) -> int | None:
    """2 of 2, "2" and "/dev/video2"; None of a file."""
    digits = str(source).removeprefix("/dev/video")
    return int(digits) if digits.isdecimal() else None
