"""Which fiducial tags an object wears, and where on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from robot_rl.errors import ConfigError
from robot_rl.geometry import quat_rotate

__all__ = ["DICTIONARY", "Tag", "TagLayout", "markers"]

DICTIONARY = "DICT_APRILTAG_36h11"
"""Of OpenCV's names; print its tags with `cv2.aruco.generateImageMarker`, whose corners these poses mean."""


@dataclass(frozen=True)
class Tag:
    """One tag on an object.

    Attributes:
        id: Its number in the dictionary.
        size_m: Edge of its black square [m], without the white margin around it.
        pose: Of the tag in the object, position [m] and quat_xyzw, seven numbers: origin in its middle, x to the right
            and y up as one reads it, z out of it.
    """

    id: int
    size_m: float
    pose: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)

    def corners_in_object(self) -> NDArray[np.float64]:
        """Its corners in the object's frame [m], shape (4, 3), in OpenCV's order: from top left, clockwise."""
        half, pose = 0.5 * self.size_m, np.array(self.pose)
        signs = ((-1.0, 1.0), (1.0, 1.0), (1.0, -1.0), (-1.0, -1.0))
        return np.array([pose[:3] + quat_rotate(pose[3:], np.array([sx * half, sy * half, 0.0])) for sx, sy in signs])


TagLayout = Mapping[str, Sequence[Tag]]
"""Object to its tags."""


def markers(dictionary: str) -> cv2.aruco.Dictionary:
    """A dictionary of OpenCV's by name. Raises ConfigError when there is none."""
    number = getattr(cv2.aruco, dictionary, None)
    if not isinstance(number, int) or not dictionary.startswith("DICT_"):
        known = sorted(name for name in dir(cv2.aruco) if name.startswith("DICT_"))
        raise ConfigError(f"No tag dictionary {dictionary!r}; OpenCV has {', '.join(known)}.")
    return cv2.aruco.getPredefinedDictionary(number)
