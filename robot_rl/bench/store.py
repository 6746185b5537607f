"""Speed of the episode store with two cameras: committing every step, and reading with checksums."""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import google_crc32c
import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from robot_rl.store import EpisodeStore

__all__ = ["store_benchmarks"]

_STEPS = 100
_CAMERAS = ("front", "wrist")
_SIDE = 128


def store_benchmarks() -> list[dict[str, Any]]:
    """Commit time a step, commits at every step beside one in ten; and read time beside the checksums' share of it.

    Two cameras of 128x128 with sensor noise of 3 grey levels, a 19-D state, and fsync as on a robot. The time of
    a commit is mostly the disk's: five flushes, three of them in parallel, whatever they hold.
    """
    space = gym.spaces.Dict(
        {
            "state": gym.spaces.Box(-np.inf, np.inf, (19,), np.float32),
            "images": gym.spaces.Dict({n: gym.spaces.Box(0, 255, (_SIDE, _SIDE, 3), np.uint8) for n in _CAMERAS}),
        }
    )
    rng = np.random.default_rng(0)
    frames = {name: _frames(rng) for name in _CAMERAS}
    folder = Path(tempfile.mkdtemp(prefix="robot_rl_bench_"))
    try:
        every_step = _record(folder / "each", space, frames, 1)
        every_tenth = _record(folder / "tenth", space, frames, 10)
        store = EpisodeStore.open(folder / "each")
        begin = time.perf_counter()
        store.read()
        read_s = (time.perf_counter() - begin) / store.rows
        chunks = [file.read_bytes() for file in (folder / "each").rglob("c.*")]
        begin = time.perf_counter()
        for chunk in chunks:
            google_crc32c.value(chunk)
        check_s = (time.perf_counter() - begin) / store.rows
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return [
        {
            "name": "store_commit_every_step",
            "value": every_step * 1e3,
            "unit": "ms/step",
            "reference": "one commit in ten steps, same run",
            "reference_value": every_tenth * 1e3,
        },
        {
            "name": "store_read",
            "value": read_s * 1e6,
            "unit": "us/row",
            "reference": "the checksums alone, same files",
            "reference_value": check_s * 1e6,
        },
    ]


def _frames(rng: np.random.Generator) -> NDArray[np.uint8]:
    """A still, smooth scene with a square that moves and a sensor's noise, shape (_STEPS + 1, side, side, 3)."""
    x = np.linspace(0, 200, _SIDE)
    scene = np.repeat(((x[:, None] + x[None]) / 2)[..., None], 3, axis=2)
    frames = np.empty((_STEPS + 1, _SIDE, _SIDE, 3), np.uint8)
    for i, frame in enumerate(frames):
        picture = scene.copy()
        picture[40:60, i % 100 : i % 100 + 20] = 255
        frame[:] = np.clip(picture + rng.normal(0, 3, picture.shape), 0, 255)
    return frames


def _record(path: Path, space: gym.Space[Any], frames: dict[str, NDArray[np.uint8]], every: int) -> float:
    """Record steps; returns the seconds a step took, commits included."""

    def observation(i: int) -> dict[str, Any]:
        return {"state": np.full(19, i, np.float32), "images": {name: frames[name][i] for name in _CAMERAS}}

    actions = gym.spaces.Box(-1, 1, (7,), np.float32)
    with EpisodeStore.create(path, observation_space=space, action_space=actions) as store:
        store.begin_episode(observation(0))
        begin = time.perf_counter()
        for i in range(_STEPS):
            last = i == _STEPS - 1
            store.append(
                action=np.zeros(7), reward=0.0, terminated=last, truncated=False, next_observation=observation(i + 1)
            )
            if i % every == every - 1:
                store.commit()
        return (time.perf_counter() - begin) / _STEPS
