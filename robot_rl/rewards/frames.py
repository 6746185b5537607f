"""Marked frames: pictures, and whether they show success, out of episode stores."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_rl.errors import ConfigError
from robot_rl.observation import ObservationLayout
from robot_rl.store import EpisodeStore
from robot_rl.store.labels import label_names

__all__ = ["MARK", "Frames", "read_frames"]

MARK = "success/frames"
"""The label that `robot-rl reward collect` writes: the stage that a frame shows to be reached, 0 for none.

With one stage, 1 is success; with several, the last is, and -1 says that it is none and nothing of those before.
"""


@dataclass(frozen=True)
class Frames:
    """N marked frames.

    Attributes:
        pictures: By camera (leaf name), uint8, shape (N, H, W, 3).
        success: Whether each shows success, shape (N,).
        episode: A number for each episode, over all stores, shape (N,): what belongs together stays together when
            frames are split.
        where: Store, episode and row of each, for people.
        stage: How far each shows it to be, 0 to K, shape (N,); -1 where it is only known to be no success.
    """

    pictures: dict[str, NDArray[np.uint8]]
    success: NDArray[np.bool_]
    episode: NDArray[np.int64]
    where: list[str]
    stage: NDArray[np.int64]

    def __len__(self) -> int:
        """N."""
        return len(self.success)

    @classmethod
    def joined(cls, parts: Sequence["Frames"]) -> "Frames":
        """Several as one; an episode of one part is none of another's."""
        before = np.cumsum([0, *(int(part.episode.max()) + 1 for part in parts)])
        return cls(
            {name: np.concatenate([part.pictures[name] for part in parts]) for name in parts[0].pictures},
            np.concatenate([part.success for part in parts]),
            np.concatenate([part.episode + first for part, first in zip(parts, before, strict=False)]),
            [place for part in parts for place in part.where],
            np.concatenate([part.stage for part in parts]),
        )

    def at(self, stage: int) -> "Frames":
        """The same frames, where success is to have reached a stage."""
        return replace(self, success=self.stage >= stage)

    def of(self, rows: NDArray[Any]) -> "Frames":
        """Some of them."""
        pictures = {name: values[rows] for name, values in self.pictures.items()}
        where = [self.where[int(i)] for i in np.arange(len(self))[rows]]
        return Frames(pictures, self.success[rows], self.episode[rows], where, self.stage[rows])


def read_frames(paths: Sequence[str | Path]) -> tuple[Frames, EpisodeStore]:
    """Frames of stores, marked as `MARK` says.

    Where a store has no such label, the frame that a successful episode ended with is a success and all others are not.

    Returns:
        The frames, and the first store (for its spaces and its task).

    Raises:
        ConfigError: There are no stores, no cameras, other cameras in one than in another, or only one kind of frame.
    """
    if not paths:
        raise ConfigError(
            "Which stores? Give one or more: robot-rl reward train demos/pick_cube --out rewards/pick_cube"
        )
    stores = [EpisodeStore.open(path) for path in paths]
    cameras = ObservationLayout(stores[0].observation_space).images
    if not cameras:
        raise ConfigError(
            f"{paths[0]} has no pictures; a success classifier sees. Record with: --set observations=vision"
        )
    told = {int(store.metadata["stages"]) for store in stores if "stages" in store.metadata}
    if len(told) > 1:
        raise ConfigError(
            f"These stores were marked for {' and '.join(map(str, sorted(told)))} stages; a reward has one number of "
            "them."
        )
    last = max(told, default=1)
    pictures: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in cameras}
    stages: list[NDArray[np.float32]] = []
    episodes: list[NDArray[np.int64]] = []
    where: list[str] = []
    for store in stores:
        if ObservationLayout(store.observation_space).images != cameras:
            raise ConfigError(f"{store.path} has other cameras than {paths[0]}; a classifier has one set of eyes.")
        marked = MARK in label_names(store.path)
        for record in store.episode_table():
            rows = store.read(record.start, record.stop, [*cameras, *([MARK] if marked else [])])
            shown = np.full(record.stop - record.start, 0.0 if last == 1 else -1.0, np.float32)
            if marked:
                shown = rows[MARK]
            elif record.success:
                shown[-1] = last
            known = ~np.isnan(shown)
            for name in cameras:
                pictures[name].append(rows[name][known])
            stages.append(shown[known])
            episodes.append(np.full(int(known.sum()), len(episodes), np.int64))
            where += [f"{store.path.name} episode {record.index} row {i}" for i in np.flatnonzero(known)]
    if not stages:
        raise ConfigError(f"{', '.join(str(path) for path in paths)}: there are no episodes to look at.")
    stage = np.concatenate(stages).astype(np.int64)
    frames = Frames(
        {name: np.concatenate(parts) for name, parts in pictures.items()}, stage >= last, np.concatenate(episodes),
        where, stage,
    )  # fmt: skip
    if not frames.success.any() or frames.success.all():
        raise ConfigError(
            f"{len(frames)} frames, {int(frames.success.sum())} of success: a classifier needs both kinds. Collect "
            "some with: robot-rl reward collect TASK"
        )
    return frames, stores[0]
