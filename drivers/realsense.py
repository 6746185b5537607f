"""Intel RealSense cameras through Intel's own SDK: colour, and depth aligned to it."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from drivers.cameras import CameraIntrinsics, CameraView, Framing
from drivers.cameras_stream import CameraStream, Liveness, Shot
from drivers.interfaces import Frame
from drivers.realsense_sdk import colour_modes, colour_sensor, load_sdk, opencv_intrinsics, serials
from robot_rl.errors import ConfigError, DeviceConnectionError

__all__ = ["RealSenseCamera", "RealSenseConfig"]

RGB_EXPOSURE_UNIT_US = 100.0  # UVC's unit, which RGB sensors speak
STEREO_EXPOSURE_UNIT_US = 1.0  # of stereo sensors, which also take a D405's colour
LARGEST_RGB_EXPOSURE = 10_000.0  # of any RGB sensor, in its unit; stereo sensors go beyond
PRESENCE_S = 0.5  # silence after which the USB bus is asked whether the camera is still there [s]


@dataclass(frozen=True, kw_only=True)
class RealSenseConfig(Liveness):
    """What one camera shall do.

    Attributes:
        serial: As printed on it; None takes the only one there is.
        width, height, fps: Of the colour stream, one of the camera's modes.
        depth: Also measure depth, aligned to colour.
        depth_size: Width and height of the depth stream before it is aligned; None as colour.
        exposure_us, white_balance_k, gain: Locked to these; None leaves each to the camera (a gain is only locked with
            an exposure). A policy wants them locked: a passing shadow changes an automatic exposure, and with it
            every pixel.
        crop, image_size: What `read` gives, see `drivers.cameras.Framing`.
    """

    serial: str | None = None
    width: int = 640
    height: int = 480
    fps: int = 30
    depth: bool = False
    depth_size: tuple[int, int] | None = None
    exposure_us: float | None = None
    white_balance_k: float | None = None
    gain: float | None = None
    crop: tuple[int, int, int, int] | None = None
    image_size: int | None = None


class RealSenseCamera(CameraView):
    """A RealSense camera. It streams from construction until `close`.

    Frames are stamped on `now`: the camera's own time stamps, moved to it by the least transport delay seen
    (`drivers.cameras_stream.StampMapper`). `read` gives the newest picture, cropped and resized; `full` is the same
    camera without crop, for a tracker. An unplugged camera is looked for in the background.

    Args:
        config: What it shall do.
        context: The SDK's view of the USB bus; default its own. A virtual camera brings another.
        now: The cell's clock [s].
        before_read: Called before each read, which then waits for a picture newer than the call (a virtual camera on a
            simulated clock); None for a camera that sends at its own pace.

    Raises:
        ConfigError: The SDK is missing, several cameras and no serial, or a mode or value the camera does not have.
        DeviceConnectionError: No such camera, or another program has it.
    """

    def __init__(
        self,
        config: RealSenseConfig | None = None,
        *,
        context: Any = None,
        now: Callable[[], float] = time.monotonic,
        before_read: Callable[[], None] | None = None,
    ) -> None:
        self.config = config or RealSenseConfig()
        framing = Framing(self.config.crop, self.config.image_size)
        framing.box(self.config.width, self.config.height)
        self._device = _Pipeline(self.config, context)
        self._stream = CameraStream(self._device, self.config, now, before_read)
        whole = (self._stream.read, self.config.width, self.config.height, self._device.intrinsics)
        super().__init__(*whole, framing)
        self.full = CameraView(*whole)

    def __enter__(self) -> "RealSenseCamera":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def facts(self) -> dict[str, object]:
        """Model, firmware, mode, temperatures, settings and counters, for a person."""
        return {**self._device.facts(), "pictures": self._stream.received, "restarts": self._stream.restarts}

    def close(self) -> None:
        """Stop streaming."""
        self._stream.close()


class _Pipeline:
    """One camera in the SDK, as a source of pictures."""

    def __init__(self, config: RealSenseConfig, context: Any) -> None:
        self._rs = load_sdk()
        self._config = config
        self._context: Any = context if context is not None else self._rs.context()
        self._serial = config.serial
        self._pipeline: Any = None
        self._profile: Any = None
        self._queue: Any = None
        self._align: Any = self._rs.align(self._rs.stream.color)
        self._silent_s = 0.0
        self.label = f"RealSense {config.serial or ''}".strip()

    def open(self) -> None:
        """Find the camera, start it, and lock what is to be locked."""
        rs, config = self._rs, self._config
        self._serial = self._find()
        self.label = f"RealSense {self._serial}"
        wanted = rs.config()
        wanted.enable_device(self._serial)
        wanted.enable_stream(rs.stream.color, config.width, config.height, rs.format.rgb8, config.fps)
        if config.depth:
            size = config.depth_size or (config.width, config.height)
            wanted.enable_stream(rs.stream.depth, *size, rs.format.z16, config.fps)
        self._pipeline, self._queue = rs.pipeline(self._context), rs.frame_queue(1, True)
        try:
            self._profile = self._pipeline.start(wanted, self._queue)
        except RuntimeError as error:
            self._pipeline = None
            raise self._refusal(error) from error
        try:
            self._lock_settings()
        except (ConfigError, DeviceConnectionError):
            self.close()
            raise
        self._silent_s = 0.0

    @property
    def intrinsics(self) -> CameraIntrinsics:
        """Of the whole colour picture, as the factory measured them."""
        colour = self._profile.get_stream(self._rs.stream.color).as_video_stream_profile()
        return opencv_intrinsics(self._rs, colour.get_intrinsics())

    def grab(self, timeout_s: float) -> Shot | None:
        """The next set of frames, not yet decoded."""
        found, frames = self._queue.try_wait_for_frame(int(1e3 * timeout_s))
        if not found:
            self._silent_s += timeout_s
            if self._silent_s >= PRESENCE_S and self._serial not in serials(self._context):
                raise DeviceConnectionError(f"{self.label} was unplugged, or lost its power.")
            return None
        self._silent_s = 0.0
        frames = frames.as_frameset()
        colour = frames.get_color_frame()
        number, stamp_ms = colour.get_frame_number(), colour.get_timestamp()
        return Shot((number, stamp_ms), 1e-3 * stamp_ms, lambda: self._decode(frames))

    def _decode(self, frames: Any) -> Frame:
        depth = None
        if self._config.depth:
            frames = self._align.process(frames).as_frameset()
            measured = frames.get_depth_frame()
            depth = np.asanyarray(measured.get_data()) * np.float32(measured.get_units())
        # A copy: the SDK uses its buffers again.
        return Frame(0.0, np.array(frames.get_color_frame().get_data(), dtype=np.uint8), depth)

    def facts(self) -> dict[str, object]:
        """What the camera says of itself."""
        rs, config = self._rs, self._config
        facts: dict[str, object] = {
            "serial": self._serial, "mode": f"{config.width} x {config.height} at {config.fps} Hz",
            "depth": config.depth, "exposure": _locked(config.exposure_us, "us"),
            "white_balance": _locked(config.white_balance_k, "K"), "gain": _locked(config.gain, ""),
        }  # fmt: skip
        if self._profile is None:
            return facts
        with contextlib.suppress(RuntimeError):  # unplugged meanwhile: what was read stands
            device = self._profile.get_device()
            for key, name in (("model", "name"), ("firmware", "firmware_version"), ("usb", "usb_type_descriptor")):
                info = getattr(rs.camera_info, name)
                if device.supports(info):
                    facts[key] = device.get_info(info)
            for sensor in device.query_sensors():
                for key in ("asic_temperature", "projector_temperature"):
                    option = getattr(rs.option, key)
                    if sensor.supports(option):
                        facts[f"{key}_c"] = sensor.get_option(option)
        if str(facts.get("usb", "3")).startswith("2"):
            facts["warning"] = "on USB 2, which limits modes and rate; use a USB 3 port and cable"
        return facts

    def close(self) -> None:
        """Stop the pipeline and let the SDK forget the device."""
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            with contextlib.suppress(RuntimeError):  # already gone
                pipeline.stop()
        self._profile = self._queue = None

    def _find(self) -> str:
        present = serials(self._context)
        listed = ", ".join(f"{serial} ({name})" for serial, name in present.items()) or "none"
        check = "Check the cable and that the port is USB 3, and look at `rs-enumerate-devices` or `lsusb`."
        if self._serial in present or (self._serial is None and len(present) == 1):
            return self._serial or next(iter(present))
        if self._serial is None and present:
            raise ConfigError(
                f"Several RealSense cameras and no serial; say which (serial): {listed}.", present=present
            )
        wanted = f"RealSense {self._serial}" if self._serial else "A RealSense"
        raise DeviceConnectionError(f"{wanted} is not connected. Connected: {listed}. {check}", present=present)

    def _refusal(self, error: RuntimeError) -> ConfigError | DeviceConnectionError:
        rs, config = self._rs, self._config
        if "resolve" not in str(error):
            return DeviceConnectionError(
                f"{self.label} does not start: {error}. Another program may have it (close realsense-viewer); else "
                "unplug it and plug it in again."
            )
        modes: set[tuple[int, int, int]] = set()
        for device in self._context.query_devices():
            if device.get_info(rs.camera_info.serial_number) == self._serial:
                modes = colour_modes(rs, device)
        listed = ", ".join(f"{w} x {h} at {fps}" for w, h, fps in sorted(modes, reverse=True)) or "none"
        with_depth = " with depth of that size" if config.depth else ""
        return ConfigError(
            f"{self.label} cannot do {config.width} x {config.height} at {config.fps} Hz{with_depth} (width, height, "
            f"fps, depth_size). Its colour modes: {listed}. On a USB 2 port there are fewer.",
            modes=modes,
        )

    def _lock_settings(self) -> None:
        rs, config = self._rs, self._config
        sensor, option = colour_sensor(rs, self._profile.get_device()), rs.option
        if config.gain is not None and config.exposure_us is None:
            raise ConfigError(f"gain={config.gain} needs exposure_us as well: automatic exposure sets both.")
        unit = 1.0
        if sensor.supports(option.exposure):
            rgb = sensor.get_option_range(option.exposure).max <= LARGEST_RGB_EXPOSURE
            unit = RGB_EXPOSURE_UNIT_US if rgb else STEREO_EXPOSURE_UNIT_US
        try:  # an earlier program may have left the automatic off
            for automatic, value in (
                (option.enable_auto_exposure, config.exposure_us),
                (option.enable_auto_white_balance, config.white_balance_k),
            ):
                if sensor.supports(automatic):
                    sensor.set_option(automatic, 1.0 if value is None else 0.0)
            self._lock(sensor, "exposure_us", option.exposure, unit)
            self._lock(sensor, "gain", option.gain, 1.0)
            self._lock(sensor, "white_balance_k", option.white_balance, 1.0)
        except RuntimeError as error:
            raise DeviceConnectionError(f"{self.label} did not take its settings: {error}.") from error

    def _lock(self, sensor: Any, key: str, option: Any, unit: float) -> None:
        """Set an option to the configured value, which is in `unit`s of the option's own."""
        asked: float | None = getattr(self._config, key)
        if asked is None:
            return
        if not sensor.supports(option):
            raise ConfigError(f"{self.label} has no setting for {key}={asked}. Leave it out.", key=key)
        limits, value = sensor.get_option_range(option), asked / unit
        if not limits.min <= value <= limits.max:
            possible = f"{limits.min * unit:g} to {limits.max * unit:g}"
            raise ConfigError(f"{key}={asked} is outside what {self.label} can do: {possible}.", key=key)
        sensor.set_option(option, limits.min + round((value - limits.min) / limits.step) * limits.step)


def _locked(value: float | None, unit: str) -> str:
    return "automatic" if value is None else f"locked at {value:g} {unit}".strip()
