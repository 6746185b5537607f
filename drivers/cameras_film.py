"""Pictures of the past: a video file or a folder, played as if a camera saw them now."""

import threading
import time
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from drivers.cameras_stream import Shot
from drivers.interfaces import Frame
from robot_rl.errors import ConfigError, DeviceConnectionError

__all__ = ["Film", "rgb_from_bgr"]

PICTURES = (".png", ".jpg", ".jpeg", ".bmp")

Image = NDArray[np.uint8]


def rgb_from_bgr(image: NDArray[np.generic]) -> Image:
    """OpenCV's order of colours in ours."""
    return np.asarray(cv2.cvtColor(np.asarray(image, dtype=np.uint8), cv2.COLOR_BGR2RGB), dtype=np.uint8)


class _Pictures(Protocol):
    """What plays pictures in order: a film's decoder or a folder."""

    def next(self) -> Image | None:
        """RGB, or None at the end."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class Film:
    """A video file or a folder of pictures in order of name, as a source of pictures.

    Args:
        path: The file or folder.
        fps: Rate at which it is played [Hz]; None as the file says (a folder: 30).
        loop: Begin again at its end.
        paced: Play it at its rate. Otherwise each picture waits to be asked for.
    """

    def __init__(self, path: Path, *, fps: float | None = None, loop: bool = True, paced: bool = True) -> None:
        self._path, self._fps, self._loop, self._paced = path, fps, loop, paced
        self._asked = threading.Semaphore(0)
        self._number, self._due, self._ended = 0, 0.0, False
        self._pictures: _Pictures | None = None
        self.label = str(self._path)
        self.width = self.height = 0
        self.fps = fps or 30.0

    def open(self) -> None:
        """Begin at the first picture."""
        if self._ended:
            raise DeviceConnectionError(f"{self.label} has ended. Set loop to play it again and again.")
        self._pictures = self._begin()
        first = self._pictures.next()
        if first is None:
            raise ConfigError(
                f"{self.label} holds no picture that OpenCV can read ({', '.join(PICTURES)}, or a video)."
            )
        self.height, self.width = first.shape[:2]
        self._pictures.close()
        self._pictures = self._begin()
        self._due = time.monotonic()

    def ask(self) -> None:
        """Let the next picture through."""
        self._asked.release()

    def grab(self, timeout_s: float) -> Shot | None:
        """The next picture, when it is due."""
        if self._paced:
            wait = self._due - time.monotonic()
            time.sleep(min(max(wait, 0.0), timeout_s))
            if wait > timeout_s:
                return None
            self._due = max(self._due + 1.0 / self.fps, time.monotonic() - 1.0)
        elif not self._asked.acquire(timeout=timeout_s):
            return None
        image = self._next()
        self._number += 1
        return Shot(self._number, None, lambda: Frame(0.0, image))

    def close(self) -> None:
        """Close the file."""
        if self._pictures is not None:
            self._pictures.close()
            self._pictures = None

    def _begin(self) -> _Pictures:
        if self._path.is_dir():
            return _Folder(self._path)
        if not self._path.is_file():
            raise ConfigError(f"No device, video file or folder {self.label!r} (source).")
        capture = cv2.VideoCapture(str(self._path))
        self.fps = self._fps or capture.get(cv2.CAP_PROP_FPS) or self.fps
        return _Video(capture)

    def _next(self) -> Image:
        image = None if self._pictures is None else self._pictures.next()
        if image is None and self._loop:
            self.close()
            self._pictures = self._begin()
            image = self._pictures.next()
        if image is None:
            self._ended = True
            raise DeviceConnectionError(f"{self.label} has ended (loop is off).")
        return image


class _Video:
    def __init__(self, capture: cv2.VideoCapture) -> None:
        self._capture = capture

    def next(self) -> Image | None:
        there, image = self._capture.read()
        return rgb_from_bgr(image) if there else None

    def close(self) -> None:
        self._capture.release()


class _Folder:
    def __init__(self, path: Path) -> None:
        self._files = iter(sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURES))

    def next(self) -> Image | None:
        file = next(self._files, None)
        if file is None:
            return None
        image = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if image is None:
            raise ConfigError(f"{file} is not a picture OpenCV can read.")
        return rgb_from_bgr(image)

    def close(self) -> None:
        pass
