"""The episode store: a directory with every step ever taken, appended by one process and read by many.

An episode of T steps is T + 1 consecutive rows. Row i holds the observation and what was done there; the last row
holds the final observation alone (`final` is set, action and reward are zero). The next observation of row i is
always row i + 1 of the same episode, and rows that lack one (`final`, or the newest row of an open episode) are not
transitions. An episode that was interrupted is continued by the next writer's `append`, or, when it begins another
one instead, closed with the last observation seen: then no step is lost, and its record says `complete=False`.

`commit` writes the arrays and then, in one rename, `commit.json` with the number of rows that count. Readers believe
that file alone. What is committed survives the death of any process; with `sync` (the default) also a power cut,
as far as the disk honours fsync. Every file of steps has a checksum: one that is damaged is named, never read as
something else. Files: zarr.json, steps/, observation/..., commit.json, instructions.json, writer.lock, and labels/
once someone labels.
"""

import json
import time as clock
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self, cast

import gymnasium as gym
import numpy as np
import zarr
from numpy.typing import NDArray

from robot_rl.errors import ConfigError, StoreError
from robot_rl.store.chunks import read_rows
from robot_rl.store.commit import COMMIT, read_commit, read_instructions
from robot_rl.store.files import WholeFileStore, to_json
from robot_rl.store.labels import is_label, label_names, read_label, write_label
from robot_rl.store.layout import (
    SOURCES,
    TABLE,
    StoreLayout,
    check_same_spaces,
    space_from_json,
    space_to_json,
)
from robot_rl.store.records import EpisodeRecord, extend_records
from robot_rl.store.writer import StoreWriter, create_arrays

FORMAT = 1


class EpisodeStore:
    """Every step of a run, on disk. Not thread-safe; made by `create` or `open`.

    Attributes:
        path: The directory.
        observation_space: Space of the stored observations.
        action_space: Space of the stored actions.
        metadata: What `create` was given, and `created` (UNIX seconds) and `package_version`.
        instructions: Text of each instruction index.
        rows: Number of committed rows. A reader's grows with `refresh`.
        episodes: Number of episodes with committed rows, the open one included.
    """

    def __init__(self, path: Path, *, write: bool, sync: bool) -> None:
        self.path = path
        self._group = _open_group(path, write=write, sync=sync)
        header = cast("dict[str, Any]", self._group.attrs.asdict()["robot_rl_store"])
        if header["format"] > FORMAT:
            raise StoreError(
                f"{path} has store format {header['format']}, this robot_rl reads up to {FORMAT}. Update robot_rl "
                f"(written by {header['metadata'].get('package_version')}).",
                path=path,
            )
        self.metadata: dict[str, Any] = header["metadata"]
        self.observation_space = space_from_json(header["observation_space"])
        self.action_space = space_from_json(header["action_space"])
        self.layout = StoreLayout(self.observation_space, self.action_space)
        self.rows = 0
        self.episodes = 0
        self.instructions: list[str] = []
        self._arrays: dict[str, Any] = {}
        self._records: list[EpisodeRecord] = []
        self._writer = StoreWriter(path, self._group, self.layout, sync=sync) if write else None
        self.refresh()

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        metadata: dict[str, object] | None = None,
        sync: bool = True,
    ) -> Self:
        """Make an empty store and open it for writing.

        Args:
            path: A directory that does not exist or is empty.
            observation_space: Box, or Dict of Box and Dict.
            action_space: Box of one dimension, shape (A,).
            metadata: JSON values for people and tools: env_id, task, control_period_s.
            sync: Make every commit survive a power cut (about 1 ms more a commit on an SSD).

        Raises:
            StoreError: The directory is not empty, or cannot be written.
            ConfigError: A space or the metadata cannot be stored.
        """
        path = Path(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise StoreError(f"{path} exists and is not empty. Open it, or choose another directory.", path=path)
        try:
            package_version = version("robot-rl")
        except PackageNotFoundError:
            package_version = "unknown"
        header: dict[str, object] = {
            "format": FORMAT,
            "observation_space": space_to_json(observation_space),
            "action_space": space_to_json(action_space),
            "sources": SOURCES,
            "metadata": {**(metadata or {}), "created": clock.time(), "package_version": package_version},
        }
        layout = StoreLayout(observation_space, action_space)
        try:
            header = json.loads(to_json(header))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"The metadata of a store is JSON; {metadata} is not: {error}.") from error
        create_arrays(path, header, layout, sync=sync)
        return cls(path, write=True, sync=sync)

    @classmethod
    def open(cls, path: str | Path, *, write: bool = False, sync: bool = True) -> Self:
        """Open an existing store.

        Args:
            path: Its directory.
            write: Append to it, after what is committed. An episode that was open is continued by `append`.
            sync: As for `create`.

        Raises:
            StoreError: Not a store, of a newer format, or another writer has it.
        """
        path = Path(path)
        if not (path / COMMIT).is_file():
            raise StoreError(
                f"{path} is not an episode store: it has no {COMMIT}. Give the episodes/ directory of a run, or make "
                "one with EpisodeStore.create or `robot-rl demo`.",
                path=path,
            )
        return cls(path, write=write, sync=sync)

    def refresh(self) -> None:
        """Pick up what the writer has committed since.

        Raises:
            StoreError: The commit record or the instructions are damaged, or the store was replaced.
        """
        commit, check = read_commit(self.path)
        if commit["rows"] < self.rows:
            raise StoreError(
                f"{self.path} went from {self.rows} rows to {commit['rows']}: it was replaced. Open it anew."
            )
        if len(self.instructions) < commit["instructions"]:
            self.instructions = read_instructions(self.path, commit, check)
        self.rows, self.episodes = commit["rows"], commit["episodes"]

    def _array(self, name: str, rows: int) -> Any:
        """Return a zarr array that knows of `rows` rows: the writer grows them under a reader."""
        array = self._arrays.get(name)
        if array is None or array.shape[0] < rows:
            array = self._arrays[name] = cast("Any", self._group[name])
        return array

    def read(
        self, start: int = 0, stop: int | None = None, columns: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Return committed rows.

        Args:
            start: First row.
            stop: One past the last row; all committed ones when None.
            columns: Names in `layout.columns`, or labels; all but the labels when None.

        Returns:
            Column name -> array of shape (stop - start, *shape of the column).

        Raises:
            StoreError: Rows that are not committed, a column that does not exist, or files that are damaged, named
                with their rows.
        """
        stop = self.rows if stop is None else stop
        if not 0 <= start <= stop <= self.rows:
            raise StoreError(
                f"Rows {start} to {stop} of {self.path}: {self.rows} are committed (refresh() looks again)."
            )
        names = list(self.layout.columns) if columns is None else list(columns)
        labels = label_names(self.path) if any(is_label(name) for name in names) else []
        unknown = [name for name in names if name not in self.layout.columns and name not in labels]
        if unknown:
            raise StoreError(f"{self.path} has no column {unknown[0]!r}; it has {[*self.layout.columns, *labels]}.")
        out: dict[str, NDArray[Any]] = {}
        table: NDArray[np.float64] | None = None
        for name in names:
            if name in labels:
                out[name] = read_label(self.path, name, start, stop)
            elif self.layout.columns[name].in_table:
                if table is None:
                    table = read_rows(self.path, self._array(TABLE, stop), start, stop)
                out[name] = self.layout.take(table, name)
            else:
                out[name] = read_rows(self.path, self._array(name, stop), start, stop)
        return out

    def write_label(self, name: str, rows: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        """Label committed steps, beside what is stored of them. Allowed while another process appends.

        Args:
            name: `reward/<labeller>` or `success/<labeller>`; `read` returns it, NaN where unset.
            rows: Rows to label, shape (N,).
            values: Their labels, shape (N,).

        Raises:
            StoreError: Another name, rows that are not committed, another process writing this label, or the disk.
            ShapeError: Shapes that differ.
        """
        write_label(self.path, name, np.asarray(rows, np.int64), np.asarray(values, np.float32), self.rows)

    def episode_table(self) -> list[EpisodeRecord]:
        """Return one record per episode, oldest first. Only rows newer than the last call's are read."""
        closed = [record for record in self._records if record.closed]
        start = closed[-1].stop if closed else 0
        columns = ["episode", "final", "reward", "terminated", "truncated", "success", "source", "instruction", "time"]
        self._records = closed + extend_records(self.read(start, None, columns), start, self.instructions)
        return list(self._records)

    def check_spaces(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        """Check that the steps fit an environment.

        Raises:
            ConfigError: They do not; both shapes are named per key.
        """
        stored = (self.observation_space, self.action_space)
        check_same_spaces(stored, (observation_space, action_space), str(self.path))

    def _writing(self) -> StoreWriter:
        if self._writer is None:
            raise StoreError(f"{self.path} is open for reading. Open it with write=True.", path=self.path)
        return self._writer

    @property
    def open_episode(self) -> int | None:
        """Index of the episode that `append` continues; None between episodes."""
        return self._writing().open_episode

    def begin_episode(self, observation: object, *, instruction: str = "") -> int:
        """Begin an episode with its first observation and return its index.

        An episode still open is closed as it is: its last observation becomes its final row.

        Raises:
            ShapeError: The observation does not fit the space.
        """
        return self._writing().begin_episode(observation, instruction)

    def append(  # noqa: PLR0913 - a step has this many parts, each by keyword
        self,
        *,
        action: object,
        reward: float,
        terminated: bool,
        truncated: bool,
        next_observation: object,
        success: bool = False,
        source: str = "policy",
        policy_version: int = 0,
        instruction: str | None = None,
        time: float | None = None,
    ) -> None:
        """Add the step taken from the current observation, in memory. `terminated` or `truncated` closes the episode.

        Args:
            action: As executed, policy frame, shape (A,).
            reward: Reward of the step.
            terminated: The task ended there.
            truncated: Time, a person or a fault ended the episode there.
            next_observation: What the step led to; the current observation of the next `append`.
            success: The task was achieved by this step.
            source: Whose action it was: policy, human or script.
            policy_version: Of the policy that acted.
            instruction: Changes the episode's instruction from this step on; None keeps it.
            time: When, UNIX seconds; now when None.

        Raises:
            ShapeError: An array of the wrong shape or type or not finite. Nothing is added.
            StoreError: No episode is open.
        """
        step = {
            "reward": reward,
            "terminated": terminated,
            "truncated": truncated,
            "success": success,
            "source": source,
            "policy_version": policy_version,
            "instruction": instruction,
            "time": clock.time() if time is None else time,
        }
        self._writing().append(action, step, next_observation)

    def commit(self) -> None:
        """Write what was added since, so that readers see it and no crash undoes it.

        Raises:
            StoreError: The disk is full or failing. What was committed stands; the rest stays in memory for the
                next `commit`.
        """
        self._writing().commit()
        self.refresh()

    def close(self) -> None:
        """Commit, and let another writer in; an open episode stays open for it.

        Raises:
            StoreError: The commit failed. The store stays open with its rows; `close` can be called again.
        """
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self.refresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open_group(path: Path, *, write: bool, sync: bool) -> zarr.Group:
    try:
        return zarr.open_group(WholeFileStore(path, read_only=not write, sync=sync), mode="r+" if write else "r")
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise StoreError(f"{path} cannot be read as an episode store: {error}", path=path) from error
