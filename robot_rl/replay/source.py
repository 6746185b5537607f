"""Rows of an episode store, in blocks that fit in memory, for replay."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robot_rl.errors import ShapeError
from robot_rl.observation import ObservationLayout

if TYPE_CHECKING:
    from robot_rl.store import EpisodeStore

_BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class StoreBlock:
    """Consecutive rows of a store.

    Attributes:
        rows: Column name -> values, each of length N.
        follows: (store, row, episode) that the row before must have ended on for the first row to continue it.
        newest: The same for the row after the last; None when an episode ended there.
        inner: Whether each row but the first continues the row before it, shape (N - 1,).
    """

    rows: dict[str, NDArray[Any]]
    follows: tuple[object, ...]
    newest: tuple[object, ...] | None
    inner: NDArray[np.bool_]

    def continues(self, newest: tuple[object, ...] | None) -> NDArray[np.bool_]:
        """Say of each row whether it continues the row before it, where `newest` says what lies before the first."""
        return np.concatenate([[newest == self.follows], self.inner])


def store_blocks(
    store: "EpisodeStore", layout: ObservationLayout, start: int, stop: int, *, reward: str, longest: int
) -> Iterator[StoreBlock]:
    """Yield the rows of a store from `start` to `stop`, at most `longest` a block.

    Raises:
        StoreError: The rows are not committed.
        ShapeError: A step's reward, from column `reward`, is not finite.
    """
    names = list(dict.fromkeys([*layout.leaves, "action", reward, "terminated", "final", "episode"]))
    row_bytes = 256 + sum(int(np.prod(box.shape)) * np.dtype(box.dtype).itemsize for box in layout.leaves.values())
    block = min(longest, max(16, _BLOCK_BYTES // row_bytes // 16 * 16))
    for first in range(start, stop, block):
        last = min(first + block, stop)
        rows = store.read(first, last, names)
        episode, final = rows["episode"], rows["final"]
        rows["reward"] = np.where(final, np.float32(0), rows[reward])
        if not np.isfinite(rows["reward"]).all():
            bad = first + int(np.flatnonzero(~np.isfinite(rows["reward"]))[0])
            raise ShapeError(f"Column {reward!r} of {store.path} has no finite value at row {bad}.", row=bad)
        yield StoreBlock(
            rows=rows,
            follows=(str(store.path), first, int(episode[0])),
            newest=None if final[-1] else (str(store.path), last, int(episode[-1])),
            inner=(episode[1:] == episode[:-1]) & ~final[:-1],
        )
