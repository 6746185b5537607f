"""Copying whole episodes of stores into a new one, array by array in blocks, so memory stays bounded."""

import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from robot_rl.errors import ConfigError, StoreError
from robot_rl.store.check import OnProgress, check_store
from robot_rl.store.commit import Commit, instructions_checksum, write_commit, write_instructions
from robot_rl.store.files import WholeFileStore, disk_full
from robot_rl.store.labels import label_names, read_label, write_label
from robot_rl.store.layout import TABLE, check_same_spaces, space_from_json
from robot_rl.store.raw import RawStore
from robot_rl.store.writer import GROWTH, create_arrays

MERGE_LEVEL = 9
_LABEL_ROWS = 65536


@dataclass(frozen=True)
class Segment:
    """Whole episodes of a store that follow one another.

    Attributes:
        store: Where they lie.
        start: Their first row.
        stop: One past their last row.
        tail: The row at `stop` too, which holds the last observation of an open episode.
    """

    store: RawStore
    start: int
    stop: int
    tail: bool = False

    @property
    def rows(self) -> int:
        return self.stop - self.start + self.tail


def merge_stores(out: Path, sources: Sequence[Path], on_progress: OnProgress | None = None) -> Commit:
    """Write the episodes of stores, in their order, into a new store, and check what was written.

    Instructions, sources, policy versions, times and labels are kept; episodes are numbered anew. An open episode is
    closed with its last observation. Chunks are compressed harder than a live store's. `metadata["merged"]` says
    which rows and episodes came from where, with that store's metadata.

    Args:
        out: A directory that does not exist or is empty.
        sources: Stores; none may be written to meanwhile beyond what it has now.
        on_progress: Called with rows done and their whole.

    Raises:
        ConfigError: The spaces of two stores differ, or there is nothing to merge.
        StoreError: A source is damaged, `out` is not empty, or the disk is full; `out` is then not made.
    """
    if not sources:
        raise ConfigError("merge needs at least one store to take episodes from: robot-rl store merge OUT STORE...")
    stores = [RawStore(path) for path in sources]
    spaces = [tuple(space_from_json(s.header[side]) for side in ("observation_space", "action_space")) for s in stores]
    for path, theirs in zip(sources[1:], spaces[1:], strict=True):
        check_same_spaces(cast("Any", theirs), cast("Any", spaces[0]), f"{path}, to be merged with {sources[0]},")
    segments = [Segment(store, 0, store.commit["rows"], _has_open_rows(store)) for store in stores]
    shared = {
        key: value
        for key, value in stores[0].header["metadata"].items()
        if key != "created" and all(s.header["metadata"].get(key) == value for s in stores)
    }
    merged: list[dict[str, Any]] = []
    row = episode = 0
    for segment in segments:
        own = {"path": str(segment.store.path), "first_row": row, "first_episode": episode}
        merged.append({**own, "metadata": segment.store.header["metadata"]})
        row, episode = row + segment.rows, episode + segment.store.commit["episodes"]
    metadata = {**shared, "created": time.time(), "merged": merged}
    return copy_segments(out, segments, metadata, level=MERGE_LEVEL, close=True, on_progress=on_progress)


def _has_open_rows(store: RawStore) -> bool:
    """Say whether the store's last committed row belongs to an episode without its final row."""
    commit = store.commit
    return commit["open_episode"] is not None and commit["open_episode"] < commit["episodes"]


def copy_segments(
    out: Path,
    segments: Sequence[Segment],
    metadata: dict[str, Any],
    *,
    level: int,
    close: bool,
    on_progress: OnProgress | None = None,
) -> Commit:
    """Write segments into a new store at `out`, which appears there whole or not at all.

    Args:
        out: A directory that does not exist or is empty.
        segments: What to copy; those after the first have the same spaces.
        metadata: Of the new store.
        level: Compression, `robot_rl.store.chunks.codecs`.
        close: Close open episodes with their last observation; otherwise the last segment's stays open.
        on_progress: Called with rows done and their whole.

    Raises:
        StoreError: See `merge_stores`.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StoreError(f"{out} exists and is not empty; nothing in it was touched. Choose another.", path=out)
    building = out.with_name(f".{out.name}.{os.getpid()}.partial")
    shutil.rmtree(building, ignore_errors=True)  # of an earlier process that had our number
    try:
        copy = _Copy(building, segments, metadata, level=level, close=close, on_progress=on_progress)
        copy.run()
        report = check_store(building, copy.checked)
        if not report.ok:
            raise StoreError(
                f"The copy at {out} did not read back as it was written: {report.problems[0]}. It was removed and the "
                "sources are untouched. Check this machine's disk and memory.",
                path=out,
            )
        os.sync()
        building.replace(out)
    except OSError as error:
        full = disk_full(error)
        reason = "the disk is full" if full else (error.strerror or str(error))
        raise StoreError(
            f"Cannot write {out}: {reason}. The unfinished copy was removed; its sources are untouched.",
            path=out,
            errno=error.errno,
            disk_full=full,
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return copy.commit


class _Copy:
    """One copy being made."""

    def __init__(
        self,
        path: Path,
        segments: Sequence[Segment],
        metadata: dict[str, Any],
        *,
        level: int,
        close: bool,
        on_progress: OnProgress | None,
    ) -> None:
        self.path, self.segments, self.close = path, segments, close
        self._on_progress = on_progress
        first = segments[0].store
        self.layout = first.layout
        create_arrays(path, {**first.header, "metadata": metadata}, self.layout, sync=False, level=level)
        group = zarr.open_group(WholeFileStore(path), mode="r+")
        self.arrays = {
            name: cast("Any", group[name]).with_config({"write_empty_chunks": True}) for name in self.layout.arrays()
        }
        self.instructions: list[str] = []
        self.rows = sum(segment.rows for segment in segments)
        self.done = 0
        self.total = 2 * self.rows * len(self.arrays)  # written, then read back
        self._source_episode = -1.0  # of the row copied last, as its store numbers it
        self.commit = Commit(rows=0, episodes=0, open_episode=None, instructions=0)

    def run(self) -> None:
        """Copy it all."""
        for name, array in self.arrays.items():
            if self.rows:
                array.resize((math.ceil(self.rows / GROWTH) * GROWTH, *array.shape[1:]))
            self._copy_array(name, array)
        for name in sorted({label for segment in self.segments for label in label_names(segment.store.path)}):
            self._copy_label(name)
        write_instructions(self.path, self.instructions, sync=False)
        write_commit(self.path, self.commit, instructions_checksum(self.instructions), sync=False)

    def checked(self, done: int, total: int) -> None:
        """Count what is read back."""
        self._advance(self.total // 2 + (done * self.total // (2 * total) if total else 0))

    def _advance(self, done: int) -> None:
        if self._on_progress is not None:
            self._on_progress(done, self.total)

    def _copy_array(self, name: str, array: Any) -> None:
        chunk = int(array.chunks[0])
        written = 0
        pending: list[NDArray[Any]] = []
        held = 0

        def flush(last: bool) -> None:
            nonlocal written, pending, held
            if held == 0:
                return
            rows = np.concatenate(pending)
            count = held if last else held // chunk * chunk
            padding = -count % chunk
            block = np.concatenate([rows[:count], np.zeros((padding, *rows.shape[1:]), rows.dtype)])
            array[written : written + len(block)] = block
            written += count
            pending, held = [rows[count:]], held - count

        for segment in self.segments:
            for first, last in segment.store.blocks(name, segment.start, segment.start + segment.rows):
                rows = segment.store.read(name, first, last)
                pending.append(self._renumber(segment, first, rows) if name == TABLE else rows)
                held += len(rows)
                if held >= chunk:
                    flush(last=False)
                self.done += len(rows)
                self._advance(self.done)
        flush(last=True)

    def _renumber(self, segment: Segment, first: int, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give rows of the table the episode and instruction numbers they have in the copy, and count them."""
        columns, commit = self.layout.columns, self.commit
        episode, instruction = columns["episode"].start, columns["instruction"].start
        rows = rows.copy()
        old = rows[:, episode].copy()
        begins = np.concatenate([[first == segment.start or old[0] != self._source_episode], old[1:] != old[:-1]])
        rows[:, episode] = commit["episodes"] - 1 + np.cumsum(begins)
        self._source_episode = old[-1]
        for text in np.unique(rows[:, instruction]):
            if segment.store.instructions[int(text)] not in self.instructions:
                self.instructions.append(segment.store.instructions[int(text)])
        texts = [self.instructions.index(segment.store.instructions[int(i)]) for i in rows[:, instruction]]
        rows[:, instruction] = texts
        counted = len(rows)
        last = int(rows[-1, episode])
        self.commit["open_episode"] = None
        if segment.tail and first + len(rows) == segment.stop + 1:
            if self.close:
                rows[-1, columns["final"].start] = 1
            else:
                counted -= 1
                self.commit["open_episode"] = last
        self.commit["rows"] += counted
        self.commit["episodes"] = last + 1
        self.commit["instructions"] = len(self.instructions)
        return rows

    def _copy_label(self, name: str) -> None:
        offset = 0
        for segment in self.segments:
            if name in label_names(segment.store.path):
                for first in range(segment.start, segment.stop, _LABEL_ROWS):
                    values = read_label(segment.store.path, name, first, min(first + _LABEL_ROWS, segment.stop))
                    rows = np.flatnonzero(np.isfinite(values))
                    write_label(self.path, name, offset + first - segment.start + rows, values[rows], self.rows)
            offset += segment.rows
