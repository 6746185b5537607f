"""A store's files as they lie, for the tools that check, mend and copy it; learners use `EpisodeStore`."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from robot_rl.errors import StoreError
from robot_rl.store.chunks import checksummed, chunk_file, read_rows
from robot_rl.store.commit import COMMIT, Commit, read_commit, read_instructions
from robot_rl.store.files import WholeFileStore
from robot_rl.store.layout import TABLE, StoreLayout, space_from_json

_BLOCK_BYTES = 32 * 2**20


class RawStore:
    """Arrays, header and records of the store at `path`, read-only.

    Attributes:
        path: The directory.
        header: What `zarr.json` says of the store: format, spaces, metadata.
        layout: Its columns.
        commit: What counts of it.
        instructions: Their texts.
        arrays: Array name -> zarr array: the table `steps` and one for each image.
    """

    def __init__(self, path: Path, commit: Commit | None = None, instructions: list[str] | None = None) -> None:
        """Open the store; `commit` and `instructions` take the place of files that are damaged.

        Raises:
            StoreError: It is no store, or the files that describe it are damaged.
        """
        self.path = path
        try:
            group = zarr.open_group(WholeFileStore(path, read_only=True), mode="r")
            self.header = cast("dict[str, Any]", group.attrs.asdict()["robot_rl_store"])
            self.layout = StoreLayout(
                space_from_json(self.header["observation_space"]), space_from_json(self.header["action_space"])
            )
            self.arrays = {name: cast("Any", group[name]) for name in self.layout.arrays()}
        except (FileNotFoundError, KeyError, ValueError, TypeError) as error:
            raise StoreError(
                f"{path} cannot be read as an episode store: {error}. Its zarr.json files say what the others hold; "
                "put them back from a backup, or from another store recorded with the same environment.",
                path=path,
            ) from error
        check = None
        if commit is None:
            commit, check = read_commit(path)
        self.commit = commit
        self.instructions = read_instructions(path, commit, check) if instructions is None else instructions

    @property
    def checksummed(self) -> bool:
        """Whether every array has checksums."""
        return all(checksummed(array) for array in self.arrays.values())

    @property
    def provisional(self) -> int:
        """1 when the row after the committed ones holds the last observation of an open episode, else 0."""
        return int(self.commit["open_episode"] is not None)

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Return rows of one array; the table is float64, shape (stop - start, width).

        Raises:
            StoreError: Files are damaged.
        """
        return read_rows(self.path, self.arrays[name], start, stop)

    def blocks(self, name: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield (first row, one past the last) of pieces that fit in memory and end at chunks' edges."""
        array = self.arrays[name]
        chunk = int(array.chunks[0])
        row_bytes = max(1, math.prod(array.shape[1:]) * array.dtype.itemsize)
        length = max(1, _BLOCK_BYTES // row_bytes // chunk) * chunk
        first = start
        while first < stop:
            last = min(stop, (first // chunk * chunk) + length)
            yield first, last
            first = last

    def beyond(self) -> list[Path]:
        """Return the files that hold no committed row: what a killed writer wrote and did not acknowledge."""
        return sorted(
            file
            for name, array in self.arrays.items()
            for file in (self.path / name).glob("c.*")
            if _index(file) * int(array.chunks[0]) >= self.commit["rows"] + self.provisional
        )

    def files(self, name: str) -> list[Path]:
        """Return the files of an array that hold committed rows and exist."""
        array = self.arrays[name]
        count = math.ceil((self.commit["rows"] + self.provisional) / int(array.chunks[0]))
        return [file for file in (chunk_file(self.path, array, i) for i in range(count)) if file.exists()]


def partials(path: Path) -> list[Path]:
    """Return what killed processes left half written in a store."""
    return sorted(file for file in path.rglob("*.partial") if "quarantine" not in file.relative_to(path).parts)


def episodes_directory(path: Path) -> Path:
    """Return the store that a path names: itself, or the episodes/ of a run.

    Raises:
        StoreError: There is neither.
    """
    for candidate in (path, path / "episodes"):
        if (candidate / COMMIT).is_file() or (candidate / TABLE / "zarr.json").is_file():
            return candidate
    raise StoreError(
        f"{path} is neither an episode store nor a run directory with one in episodes/: it has no {COMMIT}.", path=path
    )


def _index(file: Path) -> int:
    """Return the number of a chunk from its name, `c.<number>.0...`; -1 for another file."""
    parts = file.name.split(".")
    return int(parts[1]) if len(parts) > 1 and parts[1].isdigit() and parts[-1].isdigit() else -1


def chunk_rows(file: Path, chunk: int) -> int:
    """Return one past the last row that a chunk's file has room for; 0 for another file."""
    return (_index(file) + 1) * chunk


def all_zero(rows: NDArray[Any]) -> NDArray[np.bool_]:
    """Say of each row whether it is zero throughout."""
    return np.logical_not(rows.reshape(len(rows), -1).any(axis=1))
