"""Episodes of a store, one record each."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_rl.store.layout import SOURCES


@dataclass(frozen=True, slots=True)
class EpisodeRecord:
    """What happened in one episode.

    Attributes:
        index: Number of the episode in the store.
        start: Its first row.
        stop: One past its last row, the final one included.
        length: Steps taken.
        total_reward: Undiscounted sum of the rewards.
        success: It ended in success: its last step is marked as one.
        sources: Steps by whose action it was, for example {"policy": 18, "human": 2}.
        instruction: Text it began with.
        terminated: The task ended.
        truncated: Time, a person or a fault ended it.
        closed: Its final observation is stored; no row will be added.
        time: Of its first row, UNIX seconds.
    """

    index: int
    start: int
    stop: int
    length: int
    total_reward: float
    success: bool
    sources: dict[str, int]
    instruction: str
    terminated: bool
    truncated: bool
    closed: bool
    time: float

    @property
    def complete(self) -> bool:
        """It ran to its end: neither open nor abandoned."""
        return self.closed and (self.terminated or self.truncated)


def extend_records(
    columns: Mapping[str, NDArray[Any]], first_row: int, instructions: Sequence[str]
) -> list[EpisodeRecord]:
    """Return the records of consecutive rows.

    Args:
        columns: Rows as `EpisodeStore.read` gives them, beginning with an episode's first row.
        first_row: Number of the first of them.
        instructions: Text of each instruction index.
    """
    episode, final = columns["episode"], columns["final"]
    if len(episode) == 0:
        return []
    edges = [0, *(np.flatnonzero(np.diff(episode)) + 1).tolist(), len(episode)]
    records: list[EpisodeRecord] = []
    for start, stop in itertools.pairwise(edges):
        closed = bool(final[stop - 1])
        steps = slice(start, stop - int(closed))
        counts = np.bincount(columns["source"][steps], minlength=len(SOURCES)).tolist()
        records.append(
            EpisodeRecord(
                index=int(episode[start]),
                start=first_row + start,
                stop=first_row + stop,
                length=steps.stop - steps.start,
                total_reward=float(columns["reward"][steps].sum(dtype=np.float64)),
                success=bool(columns["success"][steps][-1:].any()),
                sources={name: count for name, count in zip(SOURCES, counts, strict=False) if count},
                instruction=instructions[int(columns["instruction"][start])],
                terminated=bool(columns["terminated"][steps].any()),
                truncated=bool(columns["truncated"][steps].any()),
                closed=closed,
                time=float(columns["time"][start]),
            )
        )
    return records


def row_times(times: NDArray[np.float64], steps: int) -> list[float]:
    """When each row of an episode is, [s], UNIX: the steps' own times; the last observation, which has none of its
    own, comes after the median time between steps.

    Args:
        times: The column `time` of all its rows, shape (steps + 1,).
        steps: Steps taken.
    """
    apart = float(np.median(np.diff(times[:steps]))) if steps > 1 else 0.0
    return [*times[:steps].tolist(), float(times[steps - 1]) + apart]
