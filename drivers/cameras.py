"""What every camera shares: how its pixels map to rays, and the crop and size in which a policy sees them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from drivers.interfaces import Frame
from robot_rl.errors import ConfigError

__all__ = ["CameraIntrinsics", "CameraView", "Framing"]

Array = NDArray[np.float64]
NO_DISTORTION = (0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class CameraIntrinsics:
    """A pinhole camera with OpenCV's lens model.

    The camera's frame is OpenCV's: x right, y down, z along the view. Pixel (0, 0) is the *centre* of the first pixel.

    Attributes:
        fx, fy: Focal lengths [pixels].
        cx, cy: Principal point [pixels].
        width, height: Of the picture these hold for [pixels].
        distortion: k1, k2, p1, p2, k3, as `cv2.projectPoints` takes them.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    distortion: tuple[float, ...] = NO_DISTORTION

    @classmethod
    def from_fovy(cls, fovy_deg: float, width: int, height: int) -> "CameraIntrinsics":
        """Of an ideal camera with square pixels and a vertical field of view [deg], such as MuJoCo's."""
        focal = 0.5 * height / float(np.tan(0.5 * np.radians(fovy_deg)))
        return cls(focal, focal, 0.5 * (width - 1), 0.5 * (height - 1), width, height)

    @property
    def matrix(self) -> Array:
        """The camera matrix, shape (3, 3)."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    def cropped(self, x: int, y: int, width: int, height: int) -> "CameraIntrinsics":
        """Of the part of the picture that begins at pixel (x, y)."""
        return replace(self, cx=self.cx - x, cy=self.cy - y, width=width, height=height)

    def resized(self, width: int, height: int) -> "CameraIntrinsics":
        """Of the whole picture, scaled. Outer edges, not pixel centres, stay where they are."""
        across, down = width / self.width, height / self.height
        return replace(
            self, fx=self.fx * across, fy=self.fy * down, width=width, height=height,
            cx=(self.cx + 0.5) * across - 0.5, cy=(self.cy + 0.5) * down - 0.5,
        )  # fmt: skip

    def project(self, points_camera: Array) -> Array:
        """Pixels, shape (n, 2), of points in the camera's frame [m], shape (n, 3)."""
        pixels, _ = cv2.projectPoints(
            points_camera.reshape(-1, 1, 3), np.zeros(3), np.zeros(3), self.matrix, np.array(self.distortion)
        )
        return pixels.reshape(-1, 2).astype(np.float64)


@dataclass(frozen=True)
class Framing:
    """The part of a picture that is kept, and its size afterwards.

    Attributes:
        crop: x, y, width, height [pixels] of the part; None keeps all, or the central square where a size is given.
        image_size: Height and width afterwards [pixels]; None leaves the size alone.
    """

    crop: tuple[int, int, int, int] | None = None
    image_size: int | None = None

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """x, y, width, height [pixels] of what is kept of a picture.

        Raises:
            ConfigError: The crop is not inside the picture, or is to become square and is not.
        """
        if self.crop is None:
            if self.image_size is None:
                return 0, 0, width, height
            side = min(width, height)
            return (width - side) // 2, (height - side) // 2, side, side
        x, y, w, h = self.crop
        if min(x, y) < 0 or min(w, h) < 1 or x + w > width or y + h > height:
            raise ConfigError(
                f"crop={self.crop} (x, y, width, height) is not inside the {width} x {height} picture.", crop=self.crop
            )
        if self.image_size is not None and w != h:
            raise ConfigError(
                f"crop={self.crop} is {w} x {h}, but image_size={self.image_size} makes it square, which would squeeze "
                f"it. Use a square crop, for example {(x, y, min(w, h), min(w, h))}.",
                crop=self.crop,
            )
        return x, y, w, h

    def intrinsics(self, full: CameraIntrinsics) -> CameraIntrinsics:
        """Of the picture as it is afterwards."""
        part = full.cropped(*self.box(full.width, full.height))
        return part if self.image_size is None else part.resized(self.image_size, self.image_size)

    def apply(self, frame: Frame) -> Frame:
        """Crop and resize a frame; depth is taken from the nearest pixel, since a mean of two surfaces is neither."""
        if self.crop is None and self.image_size is None:
            return frame
        x, y, w, h = self.box(frame.image.shape[1], frame.image.shape[0])
        image = frame.image[y : y + h, x : x + w]
        depth = None if frame.depth is None else frame.depth[y : y + h, x : x + w]
        if self.image_size is not None and self.image_size != w:
            size = (self.image_size, self.image_size)
            area = cv2.INTER_AREA if self.image_size < w else cv2.INTER_LINEAR
            image = cv2.resize(image, size, interpolation=area).astype(np.uint8, copy=False)
            if depth is not None:
                depth = cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST_EXACT).astype(np.float32, copy=False)
        return Frame(frame.time_s, np.ascontiguousarray(image), None if depth is None else np.ascontiguousarray(depth))


class CameraView:
    """A way of looking at a device: a policy sees 128 x 128 pixels of what a tag tracker needs whole.

    Args:
        read_whole: Gives the device's newest picture.
        width, height: Of that whole picture [pixels].
        intrinsics: Of that whole picture; None from a camera that nobody calibrated.
        framing: What this view keeps of it.

    Attributes:
        height, width: Of this view's pictures [pixels].

    Raises:
        ConfigError: The crop does not fit the picture, or the intrinsics are for another size.
    """

    def __init__(
        self,
        read_whole: Callable[[], Frame],
        width: int,
        height: int,
        intrinsics: CameraIntrinsics | None = None,
        framing: Framing | None = None,
    ) -> None:
        self._read_whole, self._framing = read_whole, framing or Framing()
        if intrinsics is not None and (intrinsics.width, intrinsics.height) != (width, height):
            raise ConfigError(
                f"The intrinsics are for {intrinsics.width} x {intrinsics.height} pictures, the camera gives "
                f"{width} x {height}. Calibrate at the size that is used."
            )
        _, _, kept_width, kept_height = self._framing.box(width, height)
        self.width, self.height = self._framing.image_size or kept_width, self._framing.image_size or kept_height
        self._intrinsics = None if intrinsics is None else self._framing.intrinsics(intrinsics)

    @property
    def intrinsics(self) -> CameraIntrinsics:
        """Of this view's pictures. Raises ConfigError when the camera was never calibrated."""
        if self._intrinsics is None:
            raise ConfigError("This camera's intrinsics are not known; a tracker needs them. Calibrate it first.")
        return self._intrinsics

    def read(self) -> Frame:
        """The newest picture. Raises DeviceTimeoutError, StaleStateError, DeviceConnectionError."""
        return self._framing.apply(self._read_whole())

    def close(self) -> None:
        """Nothing: the device is not this view's."""
