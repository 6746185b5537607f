"""Videos of episodes: H.264 files, grids of several episodes, and contact sheets for those without a player.

Frames are RGB, uint8, shape (H, W, 3); a video is (T, H, W, 3).
"""

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError

from robot_rl.errors import ConfigError, ShapeError, StoreError

Frames = npt.NDArray[np.uint8]
"""RGB pictures, shape (..., H, W, 3)."""

_BACKGROUND = (24, 24, 24)
_SUCCESS = (46, 160, 67)
_FAILURE = (218, 54, 51)
_CAPTION_PX = 18


class VideoWriter:
    """Write frames to an mp4 file (H.264, yuv420p, which every browser plays), one at a time.

    The file appears under its name once it is complete; until then it lies beside it as `*.partial.mp4`.
    A frame of odd height or width is padded by repeating its last row or column, as yuv420p needs even ones.

    Args:
        path: The file, ending in `.mp4`; its folder is made where missing.
        fps: Frames per second of playback.
        crf: Constant rate factor: 18 looks lossless, 28 is small.

    Raises:
        ConfigError: The name does not end in `.mp4`, or `fps` is not positive.
        StoreError: The file cannot be opened.
    """

    def __init__(self, path: str | Path, fps: float, crf: int = 20) -> None:
        self.path = Path(path)
        if self.path.suffix != ".mp4":
            raise ConfigError(f"Videos are written as .mp4, not as {self.path.name!r}.", path=self.path)
        if not (math.isfinite(fps) and fps > 0):
            raise ConfigError(f"fps of {self.path.name} is {fps}; expected a positive number.", fps=fps)
        self._fps = fps
        self._crf = crf
        self._partial = self.path.with_suffix(".partial.mp4")
        self._shape: tuple[int, ...] | None = None
        self._stream: Any = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._container: Any = av.open(str(self._partial), mode="w")
        except (OSError, FFmpegError) as error:
            raise StoreError(f"Cannot write a video to {self.path}: {error}.", path=self.path) from error

    def append(self, frame: Frames) -> None:
        """Add one frame, of the same shape as the first one.

        Raises:
            ShapeError: The frame is not (H, W, 3) uint8, or its shape differs from the first one's.
            StoreError: The disk refuses.
        """
        _check_frames("frame", frame, ndim=3)
        if self._shape is None:
            self._shape = frame.shape
            height, width = frame.shape[0] + frame.shape[0] % 2, frame.shape[1] + frame.shape[1] % 2
            self._stream = self._container.add_stream("libx264", rate=_rational(self._fps))
            self._stream.height, self._stream.width, self._stream.pix_fmt = height, width, "yuv420p"
            # One thread: a video is written beside a running control loop.
            self._stream.options = {"crf": str(self._crf), "preset": "veryfast", "threads": "1"}
        elif frame.shape != self._shape:
            raise ShapeError(
                f"A frame of {self.path.name} has shape {frame.shape}, the first one had {self._shape}.",
                shape=frame.shape,
                expected=self._shape,
            )
        padded = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
        self._encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24"))

    def close(self) -> None:
        """Finish the file and give it its name; calling it twice is fine. Without frames there is no file."""
        if self._container is None:
            return
        if self._stream is not None:
            self._encode(None)
        self._container.close()
        self._container = None
        if self._stream is None:
            self._partial.unlink(missing_ok=True)
        else:
            self._partial.replace(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Also after an error: the frames before it are what one wants to see.
        self.close()

    def _encode(self, frame: av.VideoFrame | None) -> None:
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except (OSError, FFmpegError) as error:
            raise StoreError(f"Writing {self._partial} failed: {error}.", path=self._partial) from error


def write_video(path: str | Path, frames: Iterable[Frames], fps: float) -> Path:
    """Write a whole video.

    Args:
        path: The file, ending in `.mp4`.
        frames: RGB frames, shape (T, H, W, 3), uint8, or an iterator over (H, W, 3).
        fps: Frames per second of playback.

    Returns:
        The path written.

    Raises:
        ShapeError: There is no frame, or one is not (H, W, 3) uint8 or differs in shape.
        ConfigError, StoreError: As for `VideoWriter`.
    """
    with VideoWriter(path, fps) as writer:
        empty = True
        for frame in frames:
            writer.append(frame)
            empty = False
    if empty:
        raise ShapeError(f"The video {path} has no frames.", shape=(0,))
    return Path(path)


def grid(
    videos: Sequence[Frames],
    columns: int,
    successes: Sequence[bool | None] | None = None,
    *,
    hold_frames: int = 10,
    gap_px: int = 4,
) -> Frames:
    """Tile several episodes into one video, row by row.

    A shorter episode holds its last frame; from its last frame on it wears a green or red border.

    Args:
        videos: Episodes, each (T_i, H, W, 3) uint8, of the same H and W.
        columns: Episodes side by side.
        successes: How each ended; None, for all or for one, gives no border.
        hold_frames: Frames by which even the longest episode's end is held, to be seen.
        gap_px: Dark space around the tiles [px].

    Returns:
        Frames, shape (max T_i + hold_frames, rows, columns, 3) in pixels of the whole grid.

    Raises:
        ShapeError: There are no episodes, one is empty, or their shapes or numbers differ.
        ConfigError: `columns` is below 1.
    """
    outcomes = _check_episodes(videos, successes)
    if columns < 1:
        raise ConfigError(f"A grid of {columns} columns; expected at least 1.", columns=columns)
    columns = min(columns, len(videos))
    rows = math.ceil(len(videos) / columns)
    height, width = videos[0].shape[1:3]
    length = max(len(video) for video in videos) + hold_frames
    shape = (length, rows * (height + gap_px) + gap_px, columns * (width + gap_px) + gap_px, 3)
    canvas = np.empty(shape, np.uint8)
    canvas[:] = _BACKGROUND
    for i, (video, outcome) in enumerate(zip(videos, outcomes, strict=True)):
        top, left = gap_px + i // columns * (height + gap_px), gap_px + i % columns * (width + gap_px)
        tile = canvas[:, top : top + height, left : left + width]
        tile[: len(video)] = video
        tile[len(video) - 1 :] = _with_border(video[-1], outcome)
    return canvas


def contact_sheet(
    videos: Sequence[Frames],
    path: str | Path,
    successes: Sequence[bool | None] | None = None,
    *,
    frames_per_episode: int = 6,
    captions: Sequence[str] | None = None,
) -> Path:
    """Write one picture of several episodes: a row each, evenly spaced frames from the first to the last.

    Args:
        videos: Episodes, each (T_i, H, W, 3) uint8, of the same H and W.
        path: The picture, ending in `.png`; its folder is made where missing.
        successes: How each ended; the last frame wears a green or red border.
        frames_per_episode: Frames in a row, at least 2. An episode with fewer fills its row only in part.
        captions: A line above each row, by default "episode 3: success, 42 frames".

    Returns:
        The path written.

    Raises:
        ShapeError: There are no episodes, one is empty, or their shapes or numbers differ.
        ConfigError: `frames_per_episode` is below 2, or the name does not end in `.png`.
        StoreError: The file cannot be written.
    """
    path = Path(path)
    outcomes = _check_episodes(videos, successes)
    if frames_per_episode < 2:
        raise ConfigError(f"frames_per_episode is {frames_per_episode}; expected at least 2.")
    if path.suffix != ".png":
        raise ConfigError(f"Contact sheets are written as .png, not as {path.name!r}.", path=path)
    if captions is None:
        endings = {True: "success, ", False: "failure, ", None: ""}
        captions = [
            f"episode {i}: {endings[o]}{len(v)} frames" for i, (v, o) in enumerate(zip(videos, outcomes, strict=True))
        ]
    elif len(captions) != len(videos):
        raise ShapeError(f"{len(captions)} captions for {len(videos)} episodes; expected as many.")
    gap = 4
    height, width = videos[0].shape[1:3]
    row_height = _CAPTION_PX + height + gap
    sheet = np.empty((len(videos) * row_height + gap, frames_per_episode * (width + gap) + gap, 3), np.uint8)
    sheet[:] = _BACKGROUND
    for row, (video, outcome, caption) in enumerate(zip(videos, outcomes, captions, strict=True)):
        top = row * row_height
        position = (gap, top + _CAPTION_PX - 4)
        cv2.putText(sheet, caption, position, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (225, 225, 225), 1, cv2.LINE_AA)
        shown = np.unique(np.linspace(0, len(video) - 1, frames_per_episode).round().astype(int))
        for column, index in enumerate(shown):
            left = gap + column * (width + gap)
            frame = _with_border(video[index], outcome) if index == len(video) - 1 else video[index]
            sheet[top + _CAPTION_PX : top + _CAPTION_PX + height, left : left + width] = frame
    encoded = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded.tobytes())
    except OSError as error:
        raise StoreError(f"Cannot write the contact sheet {path}: {error.strerror}.", path=path) from error
    return path


def _with_border(frame: Frames, success: bool | None) -> Frames:
    if success is None:
        return frame
    width = max(2, min(frame.shape[:2]) // 40)
    framed = np.empty_like(frame)
    framed[:] = _SUCCESS if success else _FAILURE
    framed[width:-width, width:-width] = frame[width:-width, width:-width]
    return framed


def _check_episodes(videos: Sequence[Frames], successes: Sequence[bool | None] | None) -> Sequence[bool | None]:
    if not videos:
        raise ShapeError("There are no episodes to show.", shape=(0,))
    for i, video in enumerate(videos):
        _check_frames(f"videos[{i}]", video, ndim=4)
        if video.shape[1:] != videos[0].shape[1:]:
            raise ShapeError(f"videos[{i}] has frames of {video.shape[1:]}, videos[0] of {videos[0].shape[1:]}.")
    if successes is None:
        return [None] * len(videos)
    if len(successes) != len(videos):
        raise ShapeError(f"{len(successes)} successes for {len(videos)} episodes; expected as many.")
    return successes


def _check_frames(name: str, frames: Frames, ndim: int) -> None:
    expected = "(H, W, 3)" if ndim == 3 else "(T, H, W, 3)"
    array = cast("Any", frames)
    if array.dtype != np.uint8 or array.ndim != ndim or array.shape[-1] != 3 or 0 in array.shape:
        raise ShapeError(
            f"{name} is {array.dtype} of shape {array.shape}; expected uint8 of shape {expected}, not empty.",
            shape=array.shape,
        )


def _rational(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(1001)
