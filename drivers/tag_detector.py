"""Corners of tags in a picture, to a tenth of a pixel."""

import cv2
import numpy as np
from numpy.typing import NDArray

from drivers.tag_layout import markers

__all__ = ["CORNERS", "TagDetector"]

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

CORNERS = 4  # of a tag
MARGIN = 0.35  # around a tag in its close-up, as a share of its size
FINE_PX = 120.0  # edge of a tag in its close-up
LARGEST_SCALE = 5
EDGE_ORIGIN_PX = 0.5  # OpenCV's AprilTag refinement counts from a pixel's edge, everything else from its centre
CONTRAST = 20  # between black and white; less is noise


class TagDetector:
    """Finds tags twice: quickly in the whole picture, then exactly in an enlarged close-up of each.

    OpenCV's AprilTag refinement fits lines to a tag's edges. On rendered tags 25 pixels wide it is exact to 0.1 pixel
    rms where corner refinement reaches 0.25 at best, and in a close-up to 0.03. Whole pictures would take too long.

    Args:
        dictionary: One of `cv2.aruco`'s.
        upsample: Enlarge the whole picture so many times first: finds smaller tags, in more time.
    """

    def __init__(self, dictionary: str, upsample: int) -> None:
        found = markers(dictionary)
        quick, exact = cv2.aruco.DetectorParameters(), cv2.aruco.DetectorParameters()
        exact.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_APRILTAG
        exact.aprilTagMinWhiteBlackDiff = CONTRAST
        self._quick, self._exact = cv2.aruco.ArucoDetector(found, quick), cv2.aruco.ArucoDetector(found, exact)
        self._upsample = upsample

    def __call__(self, image: Image) -> dict[int, Array]:
        """Number to corners [pixels], shape (4, 2), of every tag in an RGB picture; (0, 0) is a pixel's centre."""
        grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
        found: dict[int, Array] = {}
        for number, rough in _detect(self._quick, _enlarged(grey, self._upsample)).items():
            corners = self._close_up(grey, number, rough / self._upsample)
            if corners is not None:
                found[number] = corners
        return found

    def _close_up(self, grey: Image, number: int, rough: Array) -> Array | None:
        low, high = rough.min(axis=0), rough.max(axis=0)
        size = float((high - low).max())
        border = MARGIN * size + 2.0
        x0, y0 = np.maximum(low - border, 0.0).astype(int).tolist()
        x1, y1 = np.minimum(high + border + 1.0, grey.shape[::-1]).astype(int).tolist()
        scale = int(np.clip(np.ceil(FINE_PX / size), 1, LARGEST_SCALE))
        corners = _detect(self._exact, _enlarged(np.ascontiguousarray(grey[y0:y1, x0:x1]), scale)).get(number)
        return None if corners is None else corners / scale - EDGE_ORIGIN_PX + np.array([x0, y0])


def _detect(detector: cv2.aruco.ArucoDetector, grey: Image) -> dict[int, Array]:
    corners, numbers, _ = detector.detectMarkers(grey)
    if not corners:
        return {}
    listed: list[int] = np.array(numbers, dtype=int).ravel().tolist()
    return {n: np.array(c, dtype=np.float64).reshape(CORNERS, 2) for n, c in zip(listed, corners, strict=True)}


def _enlarged(grey: Image, scale: int) -> Image:
    if scale == 1:
        return grey
    return np.asarray(cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
