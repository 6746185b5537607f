"""A RealSense that is not there: the twin's pictures, pushed through Intel's own SDK.

The driver and the SDK between them run as with a camera on the bus: modes, pipeline, alignment, settings, errors.

    bus = VirtualBus()
    virtual = VirtualRealSense(*twin_pictures(twin, "front"), bus=bus, serial="front01")
    with RealSenseCamera(virtual.config(), context=bus.context, before_read=virtual.push, now=clock.now) as camera:
        camera.read()  # the twin as it is at this very moment

or, for a camera that sends at its own pace, `with virtual.running(): ...` and no `before_read`.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from drivers.cameras import CameraIntrinsics
from drivers.emulators.realsense_bus import VirtualBus
from drivers.realsense import RealSenseConfig
from drivers.realsense_sdk import load_sdk
from drivers.twin.devices import TwinCamera
from drivers.twin.twin import Twin
from robot_rl.errors import ConfigError

__all__ = ["Pictures", "VirtualBus", "VirtualRealSense", "twin_pictures"]

Pictures = Callable[[], tuple[float, NDArray[np.uint8], NDArray[np.float32]]]
"""Asked for a picture: its time [s], RGB (H, W, 3), and depth [m] along the view (H, W), 0 where there is none."""

DEPTH_UNIT = 0.001  # [m] of one step of a 16-bit depth picture, the D400's default
NOISY_PIXELS = 1 / 1024  # share of values whose last bit flips: no two pictures of a real sensor are the same
BUFFERS_KEPT = 16  # pushed pictures that the SDK may still be looking at


class VirtualRealSense:
    """One camera with a colour and a depth stream, both seen from the same point.

    Args:
        pictures: Where its pictures come from.
        intrinsics: Of these pictures; an ideal lens.
        bus: What it is plugged into.
        serial: Its serial number.
        fps: Its only rate [Hz].
        depth_divisor: The depth sensor has one pixel for so many of colour, each way, as sensors differ in size.
        noise: Flip the last bit of some values, so that no two pictures are the same.
    """

    def __init__(
        self,
        pictures: Pictures,
        intrinsics: CameraIntrinsics,
        *,
        bus: VirtualBus,
        serial: str = "virtual01",
        fps: int = 30,
        depth_divisor: int = 1,
        noise: bool = True,
    ) -> None:
        self._rs = load_sdk()
        self._pictures, self._intrinsics, self._bus = pictures, intrinsics, bus
        self.serial, self.fps, self._divisor, self._noise = serial, fps, depth_divisor, noise
        self._plugged = True
        self._frozen: str | None = None
        self._last: tuple[float, NDArray[np.uint8], NDArray[np.float32]] | None = None
        self._kept: deque[Any] = deque(maxlen=BUFFERS_KEPT)
        self._number = 0
        self._lock = threading.Lock()
        self._device: Any = self._make()
        bus.add(serial, self._device)

    def config(self, **changes: Any) -> RealSenseConfig:
        """Settings of a driver that fit this camera."""
        size = (self._intrinsics.width // self._divisor, self._intrinsics.height // self._divisor)
        fitting = RealSenseConfig(
            serial=self.serial, width=self._intrinsics.width, height=self._intrinsics.height, fps=self.fps,
            depth_size=size,
        )  # fmt: skip
        return replace(fitting, **changes)

    def push(self) -> None:
        """Take a picture now and send it, unless the camera is unplugged or silent."""
        self._push(None)

    @contextlib.contextmanager
    def running(self) -> Generator["VirtualRealSense"]:
        """Send pictures at `fps`, from a thread of its own, in which `pictures` is called.

        They are stamped by the camera's own clock, which runs whether or not a simulated one does.
        """
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(stop,), name=f"virtual camera {self.serial}", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join()

    def freeze(self, how: Literal["silent", "repeat", "picture"] = "silent") -> None:
        """Hang: send nothing, the last frame again and again, or its picture under ever new time stamps."""
        self._frozen = how

    def thaw(self) -> None:
        """Work again."""
        self._frozen = None

    def unplug(self) -> None:
        """Pull the cable."""
        self._bus.unplug(self.serial)
        self._plugged = False

    def replug(self) -> None:
        """Put the cable back."""
        self._bus.replug(self.serial)
        self._plugged = True

    def _push(self, stamp_s: float | None) -> None:
        """As `push`, with a time stamp of the camera's own clock instead of the picture's time."""
        with self._lock:
            if not self._plugged or self._frozen == "silent":
                return
            if self._frozen is None or self._last is None:
                time_s, image, depth = self._take()
                self._last = (time_s if stamp_s is None else stamp_s, image, depth)
            elif self._frozen == "picture":
                time_s, image, depth = self._last
                self._last = (time_s + 1.0 / self.fps, image, depth)
                self._number += 1
            self._send(*self._last)

    def _run(self, stop: threading.Event) -> None:
        due = time.monotonic()
        while not stop.wait(max(0.0, due - time.monotonic())):
            self._push(time.monotonic())
            due = max(due + 1.0 / self.fps, time.monotonic())  # pictures that took too long are not made up for

    def _take(self) -> tuple[float, NDArray[np.uint8], NDArray[np.float32]]:
        time_s, image, depth = self._pictures()
        self._number += 1
        if self._noise:
            image = image.copy()
            count = int(image.size * NOISY_PIXELS)
            image.reshape(-1)[np.random.default_rng(self._number).integers(0, image.size, count)] ^= 1
        return time_s, image, depth

    def _send(self, time_s: float, image: NDArray[np.uint8], depth: NDArray[np.float32]) -> None:
        steps = np.rint(depth[:: self._divisor, :: self._divisor] / DEPTH_UNIT)
        steps = np.where(steps > np.iinfo(np.uint16).max, 0.0, steps).astype(np.uint16)  # too far: not measured
        self._inject(*self._depth, np.ascontiguousarray(steps), time_s)
        self._inject(*self._colour, np.ascontiguousarray(image), time_s)

    def _inject(self, sensor: Any, profile: Any, pixels: NDArray[Any], time_s: float) -> None:
        frame = self._rs.software_video_frame()
        frame.pixels, frame.bpp = pixels, pixels[0, 0].nbytes
        frame.stride = frame.bpp * pixels.shape[1]
        frame.timestamp, frame.domain = 1e3 * time_s, self._rs.timestamp_domain.hardware_clock
        frame.frame_number, frame.profile = self._number, profile.as_video_stream_profile()
        frame.depth_units = DEPTH_UNIT
        self._kept.append(pixels)
        sensor.on_video_frame(frame)

    def _make(self) -> Any:
        rs = self._rs
        device = rs.software_device()
        device.register_info(rs.camera_info.serial_number, self.serial)
        device.register_info(rs.camera_info.name, "Virtual RealSense")
        device.register_info(rs.camera_info.firmware_version, "0.0.0.0")
        device.register_info(rs.camera_info.usb_type_descriptor, "3.2")
        stereo, rgb = device.add_sensor("Stereo Module"), device.add_sensor("RGB Camera")
        small = self._intrinsics
        # Every n-th pixel is kept, the first included, so the grid's origin stays and its step grows.
        small = CameraIntrinsics(
            small.fx / self._divisor, small.fy / self._divisor, small.cx / self._divisor, small.cy / self._divisor,
            small.width // self._divisor, small.height // self._divisor,
        )  # fmt: skip
        depth = stereo.add_video_stream(self._stream(rs.stream.depth, rs.format.z16, 2, small), True)
        colour = rgb.add_video_stream(self._stream(rs.stream.color, rs.format.rgb8, 3, self._intrinsics), True)
        same_place = rs.extrinsics()
        same_place.rotation, same_place.translation = [1, 0, 0, 0, 1, 0, 0, 0, 1], [0, 0, 0]
        depth.register_extrinsics_to(colour, same_place)
        colour.register_extrinsics_to(depth, same_place)
        stereo.add_read_only_option(rs.option.depth_units, DEPTH_UNIT)
        stereo.add_read_only_option(rs.option.asic_temperature, 36.0)
        for option, low, high, step, usual in (
            (rs.option.exposure, 1, 10000, 1, 156),
            (rs.option.enable_auto_exposure, 0, 1, 1, 1),
            (rs.option.gain, 0, 128, 1, 64),
            (rs.option.white_balance, 2800, 6500, 10, 4600),
            (rs.option.enable_auto_white_balance, 0, 1, 1, 1),
        ):
            limits = rs.option_range()
            limits.min, limits.max, limits.step, limits.default = low, high, step, usual
            rgb.add_option(option, limits, True)
        device.create_matcher(rs.matchers.default)
        self._depth, self._colour = (stereo, depth), (rgb, colour)
        return device

    def _stream(self, kind: Any, pixel_format: Any, bytes_per_pixel: int, lens: CameraIntrinsics) -> Any:
        rs = self._rs
        stream = rs.video_stream()
        stream.type, stream.index, stream.uid, stream.fmt = kind, 0, int(kind), pixel_format
        stream.width, stream.height, stream.fps, stream.bpp = lens.width, lens.height, self.fps, bytes_per_pixel
        intrinsics = rs.intrinsics()
        intrinsics.width, intrinsics.height, intrinsics.fx, intrinsics.fy = lens.width, lens.height, lens.fx, lens.fy
        intrinsics.ppx, intrinsics.ppy, intrinsics.coeffs = lens.cx, lens.cy, [0.0] * 5
        intrinsics.model = rs.distortion.none
        stream.intrinsics = intrinsics
        return stream


def twin_pictures(
    twin: Twin,
    camera: str,
    *,
    width: int = 640,
    height: int = 480,
    lock: contextlib.AbstractContextManager[Any] | None = None,
) -> tuple[Pictures, CameraIntrinsics]:
    """Pictures of a twin's camera, and their intrinsics.

    Call them from one thread only, which then owns the renderer.

    Args:
        twin: Whose.
        camera: `front` or `wrist`.
        width: Of the pictures [pixels].
        height: Of the pictures [pixels].
        lock: Held while rendering, where another thread moves the twin.
    """
    rendered = TwinCamera(twin, camera, height, width, depth=True)

    def pictures() -> tuple[float, NDArray[np.uint8], NDArray[np.float32]]:
        with lock or contextlib.nullcontext():
            frame = rendered.read()
        if frame.depth is None:
            raise ConfigError(f"Camera {camera!r} of the twin renders no depth.")
        return frame.time_s, frame.image, frame.depth

    return pictures, rendered.intrinsics
