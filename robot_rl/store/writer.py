"""The writing half of an episode store: rows in memory, then chunks, then the commit record."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from robot_rl.errors import ConfigError, ShapeError, StoreError
from robot_rl.observation import ROOT, ObservationLayout, check_array
from robot_rl.store.chunks import codecs, read_rows
from robot_rl.store.commit import (
    COMMIT,
    Commit,
    instructions_checksum,
    read_commit,
    read_instructions,
    write_commit,
    write_instructions,
)
from robot_rl.store.files import (
    WholeFiles,
    WholeFileStore,
    WriterLock,
    disk_error,
    remove_partials,
    sync_directory,
    to_json,
)
from robot_rl.store.layout import SOURCES, TABLE, StoreLayout, space_from_json

__all__ = ["COMMIT", "StoreWriter", "create_arrays"]

LOCK = "writer.lock"
GROWTH = 4096  # rows that arrays grow by: a resize rewrites metadata, so seldom


def create_arrays(path: Path, header: dict[str, Any], layout: StoreLayout, *, sync: bool, level: int = 1) -> None:
    """Make the files of an empty store; `commit.json` comes last, so a directory that has it is whole.

    `level` is that of the compression (`robot_rl.store.chunks.codecs`).
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        columns = {name: vars(column) for name, column in layout.columns.items()}
        attributes: dict[str, Any] = {"robot_rl_store": header, "columns": json.loads(to_json(columns))}
        store = WholeFileStore(path, sync=sync)
        group = zarr.open_group(store, mode="w", zarr_format=3, attributes=attributes)
        for name, (shape, dtype, chunk) in layout.arrays().items():
            group.create_array(
                name,
                shape=(0, *shape),
                chunks=(chunk, *shape),
                dtype=dtype,
                compressors=codecs(table=name == TABLE, level=level),
                chunk_key_encoding={"name": "default", "separator": "."},
            )
        write_instructions(path, [], sync=sync)
        empty = Commit(rows=0, episodes=0, open_episode=None, instructions=0)
        write_commit(path, empty, instructions_checksum([]), sync=sync)
        if sync:
            for directory in [*(path / name for name in layout.arrays()), path, path.parent]:
                sync_directory(directory)
            for parent in {
                parent for name in layout.images for parent in (path / name).parents if path in parent.parents
            }:
                sync_directory(parent)
    except OSError as error:
        raise disk_error(path, error, "Cannot create the store") from error


class _Tail:
    """Rows of one array from a chunk's edge on: what the next commit writes, in whole chunks."""

    def __init__(self, root: Path, array: Any) -> None:
        self.root = root
        self.array = array.with_config({"write_empty_chunks": True})  # a lost file shall not pass for a black frame
        self.chunk = int(array.chunks[0])
        self.base = 0
        self.data: NDArray[Any] = np.zeros((self.chunk, *array.shape[1:]), array.dtype)

    def load(self, rows: int, provisional: int) -> None:
        """Take the last, partly filled chunk back from the disk; what lies beyond is dropped."""
        self.base = rows // self.chunk * self.chunk
        stop = rows + provisional
        self.data[: stop - self.base] = read_rows(self.root, self.array, self.base, stop)

    def row(self, index: int) -> NDArray[Any]:
        """Return a view of one row, growing as needed."""
        offset = index - self.base
        if offset >= len(self.data):
            self.data = np.concatenate([self.data, np.zeros_like(self.data)])
        return self.data[offset]

    def write(self, rows: int) -> None:
        """Write the chunks that hold rows up to `rows`."""
        if rows > self.array.shape[0]:
            self.array.resize((math.ceil(rows / GROWTH) * GROWTH, *self.array.shape[1:]))
        stop = math.ceil((rows - self.base) / self.chunk) * self.chunk
        self.row(self.base + stop - 1)  # the last chunk is written padded: no chunk is read back
        self.array[self.base : self.base + stop] = self.data[:stop]

    def forget(self, rows: int) -> None:
        """Drop the chunks that are full with committed rows."""
        whole = (rows - self.base) // self.chunk * self.chunk
        if whole:
            rest = self.data[whole:]
            length = max(self.chunk, math.ceil(len(rest) / self.chunk) * self.chunk)
            self.data = np.zeros((length, *rest.shape[1:]), rest.dtype)
            self.data[: len(rest)] = rest
            self.base += whole


class StoreWriter:
    """Appends to a store. The current observation lies, provisionally, in the row after the last one that counts."""

    def __init__(self, path: Path, group: zarr.Group, layout: StoreLayout, *, sync: bool) -> None:
        self._path, self._layout, self._sync = path, layout, sync
        self._store = cast("WholeFileStore", group.store)
        self._flusher = ThreadPoolExecutor(max_workers=8, thread_name_prefix="store-flush")  # threads begin when used
        try:
            self._lock = WriterLock(path / LOCK)
        except OSError as error:
            raise disk_error(path, error, "Cannot lock the store") from error
        try:
            self._load(group)
        except BaseException:
            self._lock.release()
            raise

    def _load(self, group: zarr.Group) -> None:
        path, layout = self._path, self._layout
        remove_partials([path, *(path / name for name in layout.arrays())])
        header = cast("dict[str, Any]", group.attrs.asdict()["robot_rl_store"])
        self._observations = ObservationLayout(space_from_json(header["observation_space"]))
        commit, check = read_commit(path)
        self._rows = commit["rows"]
        self.open_episode = commit["open_episode"]
        self._next_episode = commit["episodes"]  # the open one's index + 1 once it has a step
        self._instructions = read_instructions(path, commit, check)
        self._instructions_written = len(self._instructions)
        self._instructions_crc32 = instructions_checksum(self._instructions)
        self._tails = {name: _Tail(path, cast("Any", group[name])) for name in layout.arrays()}
        for tail in self._tails.values():
            tail.load(self._rows, int(self.open_episode is not None))
        if self.open_episode is not None:
            self._clean_current()
        self._dirty = False

    def _clean_current(self) -> None:
        """Take from the current row what a commit that was never acknowledged may have written there."""
        row, columns = self._tails[TABLE].row(self._rows), self._layout.columns
        carried = row.copy()
        if self.open_episode is not None and self.open_episode < self._next_episode:  # it has a step, just before
            table = self._tails[TABLE]
            carried = read_rows(self._path, table.array, self._rows - 1, self._rows)[0]
        elif row[columns["instruction"].start] >= len(self._instructions):
            self.open_episode = None
            return
        for name, column in columns.items():
            if column.in_table and name in ("episode", "instruction", "time"):
                row[column.start : column.stop] = carried[column.start : column.stop]
            elif column.in_table and not name.startswith(ROOT):
                row[column.start : column.stop] = 0

    def _put(self, index: int, values: dict[str, Any]) -> None:
        row = self._tails[TABLE].row(index)
        for name, value in values.items():
            if self._layout.columns[name].in_table:
                self._layout.put(row, name, value)
            else:
                self._tails[name].row(index)[...] = value

    def begin_episode(self, observation: object, instruction: str) -> int:
        """See `EpisodeStore.begin_episode`."""
        values = self._observations.split(observation)
        if self.open_episode is not None and self.open_episode < self._next_episode:
            self._finish()
        if self.open_episode is None:
            self.open_episode = self._next_episode
        index = self._instruction_index(instruction)
        self._tails[TABLE].row(self._rows)[:] = 0
        self._put(self._rows, {**values, "episode": self.open_episode, "instruction": index})
        return self.open_episode

    def _instruction_index(self, text: str) -> int:
        if text not in self._instructions:
            self._instructions.append(text)
        return self._instructions.index(text)

    def append(self, action: object, step: dict[str, Any], next_observation: object) -> None:
        """See `EpisodeStore.append`."""
        if self.open_episode is None:
            raise StoreError(f"{self._path}: no episode is open. Call begin_episode first.", path=self._path)
        if step["source"] not in SOURCES:
            raise ConfigError(f"Source {step['source']!r} of a step is not one of {list(SOURCES)}.")
        step = {**step, "source": SOURCES.index(step["source"])}
        column = self._layout.columns["action"]
        step["action"] = check_array("action", action, column.shape, np.dtype(np.float32))
        if not (math.isfinite(step["reward"]) and math.isfinite(step["time"])):
            raise ShapeError(f"Reward {step['reward']} at time {step['time']} s: both must be finite.")
        values = self._observations.split(next_observation)
        instruction = step.pop("instruction")
        if instruction is not None:
            step["instruction"] = self._instruction_index(instruction)
        self._put(self._rows, step)
        table = self._tails[TABLE]
        current = table.row(self._rows)
        carried = {name: self._layout.take(current[None], name)[0] for name in ("episode", "instruction", "time")}
        self._rows += 1
        self._next_episode = int(carried["episode"]) + 1
        table.row(self._rows)[:] = 0
        self._put(self._rows, {**values, **carried})
        self._dirty = True
        if step["terminated"] or step["truncated"]:
            self._finish()

    def _finish(self) -> None:
        """Make the current observation the final row of its episode."""
        self._put(self._rows, {"final": True})
        self._rows += 1
        self.open_episode = None
        self._dirty = True

    def commit(self) -> None:
        """See `EpisodeStore.commit`."""
        if not self._dirty:
            return
        rows = self._rows + (self.open_episode is not None)
        try:
            self._write_arrays(rows)
            if len(self._instructions) > self._instructions_written:
                write_instructions(self._path, self._instructions, sync=self._sync)
                self._instructions_crc32 = instructions_checksum(self._instructions)
            commit = Commit(
                rows=self._rows,
                episodes=self._next_episode,
                open_episode=self.open_episode,
                instructions=len(self._instructions),
            )
            write_commit(self._path, commit, self._instructions_crc32, sync=self._sync)
        except OSError as error:
            raise disk_error(self._path, error, "Cannot commit to") from error
        self._dirty = False
        self._instructions_written = len(self._instructions)
        for tail in self._tails.values():
            tail.forget(self._rows)

    def _write_arrays(self, rows: int) -> None:
        """Write every array's chunks up to `rows`, and make them durable, before `commit.json` counts them."""
        store = self._store
        store.together = WholeFiles()
        try:
            for tail in self._tails.values():
                tail.write(rows)
            store.together.replace(sync=self._sync, flusher=self._flusher)
        finally:
            store.together = None

    def close(self) -> None:
        """Commit and release the lock."""
        self.commit()
        self._flusher.shutdown()
        self._lock.release()
