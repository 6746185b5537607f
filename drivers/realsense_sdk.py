"""What Intel's SDK is asked for: to be there, which cameras are on the bus, their modes and their lenses."""

import contextlib
import ctypes
import importlib
from typing import Any

import numpy as np

from drivers.cameras import CameraIntrinsics
from robot_rl.errors import ConfigError

__all__ = ["colour_modes", "colour_sensor", "load_sdk", "opencv_intrinsics", "serials"]


def load_sdk() -> Any:
    """The module `pyrealsense2`. Raises ConfigError when it is missing, or the libusb it wants."""
    name = "pyrealsense2"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError("RealSense cameras need Intel's SDK: pip install 'robot-rl[realsense]'") from error
    except ImportError as error:
        with contextlib.suppress(ImportError, OSError):  # libusb also comes as a Python package
            library = importlib.import_module("libusb_package").get_library_path()
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
            return importlib.import_module(name)
        raise ConfigError(
            f"pyrealsense2 is installed, but this system lacks a library of it: {error}. On Debian or Ubuntu: "
            "apt install libusb-1.0-0; anywhere: pip install libusb-package"
        ) from error


def serials(context: Any) -> dict[str, str]:
    """Serial number to model of every camera on the bus."""
    rs = load_sdk()
    found: dict[str, str] = {}
    for device in context.query_devices():
        with contextlib.suppress(RuntimeError):  # one that is being unplugged, or in recovery mode
            found[device.get_info(rs.camera_info.serial_number)] = device.get_info(rs.camera_info.name)
    return found


def colour_sensor(rs: Any, device: Any) -> Any:
    """The sensor that makes a device's colour pictures. Raises ConfigError when there is none."""
    for sensor in device.query_sensors():
        if any(profile.stream_type() == rs.stream.color for profile in sensor.get_stream_profiles()):
            return sensor
    raise ConfigError("This RealSense has no colour stream; policies and trackers need one.")


def colour_modes(rs: Any, device: Any) -> set[tuple[int, int, int]]:
    """Width, height and rate of every RGB mode."""
    modes: set[tuple[int, int, int]] = set()
    for profile in colour_sensor(rs, device).get_stream_profiles():
        if profile.stream_type() == rs.stream.color and profile.format() == rs.format.rgb8:
            video = profile.as_video_stream_profile()
            modes.add((video.width(), video.height(), video.fps()))
    return modes


def opencv_intrinsics(rs: Any, given: Any) -> CameraIntrinsics:
    """The SDK's intrinsics in OpenCV's lens model.

    RealSense colour cameras state the *inverse* Brown-Conrady model (distorted to ideal). OpenCV's coefficients enter
    its equations linearly, so they are the least-squares solution over rays that the SDK itself computes.
    """
    plain = CameraIntrinsics(given.fx, given.fy, given.ppx, given.ppy, given.width, given.height)
    if given.model == rs.distortion.none or not any(given.coeffs):
        return plain
    us, vs = np.meshgrid(np.linspace(0, given.width - 1, 24), np.linspace(0, given.height - 1, 18))
    pixels = np.stack([us.ravel(), vs.ravel()], axis=1)
    rays = np.array([rs.rs2_deproject_pixel_to_point(given, [float(u), float(v)], 1.0)[:2] for u, v in pixels])
    x, y = rays[:, 0], rays[:, 1]
    r2 = x * x + y * y
    shift = np.concatenate([(pixels[:, 0] - given.ppx) / given.fx - x, (pixels[:, 1] - given.ppy) / given.fy - y])
    design = np.concatenate(
        [
            np.stack([x * r2, x * r2**2, 2 * x * y, r2 + 2 * x * x, x * r2**3], axis=1),
            np.stack([y * r2, y * r2**2, r2 + 2 * y * y, 2 * x * y, y * r2**3], axis=1),
        ]
    )
    coefficients = np.linalg.lstsq(design, shift, rcond=None)[0]
    return CameraIntrinsics(
        plain.fx, plain.fy, plain.cx, plain.cy, plain.width, plain.height, tuple(float(c) for c in coefficients)
    )
