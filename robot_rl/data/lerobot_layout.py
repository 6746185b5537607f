"""LeRobotDataset v3.0 on disk: where things lie and what they are called.

    meta/info.json                               features, counts, frame rate
    meta/stats.json                              of every feature, over everything
    meta/tasks.parquet                           instruction (the index) to task_index
    meta/episodes/chunk-000/file-000.parquet     a row an episode: length, where it lies, its statistics
    data/chunk-000/file-000.parquet              a row a frame
    videos/<camera>/chunk-000/file-000.mp4       episodes one after another
    meta/robot_rl.parquet                        ours, which others pass over: the last observation of each episode

What is asked for may change within an episode. Then `task_index` is that of the text in force at each frame, and the
frame where another one begins has an `interjection` of the user's in the column `language_events`, which only
`lerobot` 0.6 and newer read; a dataset where nothing changes has no such column.

A frame is an observation and the action taken there; an episode of T steps has T frames. What the last action led to
has no place in the format, so it lies in a file of its own.
Source: the format's description and huggingface/lerobot: 0.4 `datasets/utils.py`, 0.6 `datasets/language.py`.
Their own `LeRobotDataset` (0.4.4 without pictures, 0.6.1 with) was seen to load it, number for number.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

VERSION = "v3.0"
INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
PLACE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
EPISODES = f"meta/episodes/{PLACE}.parquet"
DATA = f"data/{PLACE}.parquet"
VIDEO = f"videos/{{video_key}}/{PLACE}.mp4"
OURS = "meta/robot_rl.parquet"
CHUNK_FILES, DATA_MB, VIDEO_MB = 1000, 100, 200

STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."
SCALARS = {
    "next.reward": "float32",
    "next.done": "bool",
    "next.success": "bool",
    "source": "int64",
    "policy_version": "int64",
}
"""Columns of ours beside the format's own: the last two are unknown to others, and passed over."""

INDICES = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}

EVENTS = "language_events"
EVENTS_TYPE = pa.list_(
    pa.struct(
        [pa.field(name, pa.string()) for name in ("role", "content", "style", "camera")]
        + [pa.field("tool_calls", pa.list_(pa.string()))]
    )
)


def interjection(text: str) -> dict[str, Any]:
    """The event that a person asks for something else."""
    return {"role": "user", "content": text, "style": "interjection", "camera": None, "tool_calls": None}


def place(root: Path, pattern: str, file_index: int, **names: str) -> Path:
    """The path of the n-th file of a kind."""
    chunk, number = divmod(file_index, CHUNK_FILES)
    return root / pattern.format(chunk_index=chunk, file_index=number, **names)


def statistics(values: NDArray[Any]) -> dict[str, list[Any]]:
    """Of one feature over frames, shape (N, ...): min, max, mean, std and count, as the format spells them.

    Pictures, uint8, (N, H, W, 3), are taken as [0, 1] and by colour channel: lists of shape (3, 1, 1).
    """
    if values.dtype == np.uint8 and values.ndim == 4:
        sample = values[:: max(1, len(values) // 50)].astype(np.float64) / 255.0
        parts = {f: getattr(sample, f)((0, 1, 2))[:, None, None].tolist() for f in ("min", "max", "mean", "std")}
        return {**parts, "count": [len(sample)]}
    flat = values.reshape(len(values), -1).astype(np.float64)
    return {**{f: getattr(flat, f)(0).tolist() for f in ("min", "max", "mean", "std")}, "count": [len(flat)]}


def together(parts: list[dict[str, list[Any]]]) -> dict[str, list[Any]]:
    """Statistics of several sets of frames as of one."""
    counts = np.array([p["count"][0] for p in parts], np.float64)
    mean, std = (np.array([p[f] for p in parts]) for f in ("mean", "std"))
    weight = (counts / counts.sum()).reshape(-1, *[1] * (mean.ndim - 1))
    whole = (weight * mean).sum(0)
    variance = (weight * (std**2 + (mean - whole) ** 2)).sum(0)
    return {
        "min": np.min([p["min"] for p in parts], axis=0).tolist(),
        "max": np.max([p["max"] for p in parts], axis=0).tolist(),
        "mean": whole.tolist(),
        "std": np.sqrt(variance).tolist(),
        "count": [int(counts.sum())],
    }
