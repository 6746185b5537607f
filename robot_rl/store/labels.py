"""Labels added to a store's steps later: `reward/<labeller>`, `success/<labeller>`, float32, NaN where unset.

They lie beside the steps and never overwrite them. A labeller is a process of its own: it needs no writer's lock,
only the lock of its own column. Each chunk is replaced whole, so readers see a label or NaN and nothing between.
"""

import math
import re
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from robot_rl.errors import ShapeError, StoreError
from robot_rl.store.chunks import codecs, read_rows
from robot_rl.store.files import WholeFileStore, WriterLock, disk_error
from robot_rl.store.layout import TABLE_CHUNK

_NAME = re.compile(r"(reward|success)/[A-Za-z0-9_-]+")


def is_label(name: str) -> bool:
    """Say whether a column name is one a labeller may have."""
    return _NAME.fullmatch(name) is not None


def label_names(path: Path) -> list[str]:
    """Return the label columns that a store has."""
    return sorted(str(file.parent.relative_to(path / "labels")) for file in path.glob("labels/*/*/zarr.json"))


def write_label(path: Path, name: str, rows: NDArray[np.int64], values: NDArray[np.float32], committed: int) -> None:
    """Set a label on rows of the store at `path`, of which `committed` count. See `EpisodeStore.write_label`."""
    if not is_label(name):
        raise StoreError(f"{name!r} cannot name a label; use reward/<labeller> or success/<labeller>.", name=name)
    if rows.ndim != 1 or rows.shape != values.shape:
        raise ShapeError(f"Label {name!r}: rows of shape {rows.shape} and values of shape {values.shape} must be (N,).")
    if rows.size == 0:
        return
    if rows.min() < 0 or rows.max() >= committed:
        raise StoreError(f"Label {name!r} on rows {rows.min()} to {rows.max()}: {committed} are committed in {path}.")
    try:
        (path / "labels" / name).mkdir(parents=True, exist_ok=True)
        lock = WriterLock(path / "labels" / name / "writer.lock")
        try:
            array = _array(path, name, write=True)
            length = math.ceil(committed / TABLE_CHUNK) * TABLE_CHUNK
            if array.shape[0] < length:
                array.resize((length,))
            start, stop = int(rows.min()) // TABLE_CHUNK * TABLE_CHUNK, int(rows.max()) + 1
            block = read_rows(path / "labels" / name, array, start, stop)
            block[rows - start] = values
            array[start:stop] = block
        finally:
            lock.release()
    except OSError as error:
        raise disk_error(path, error, f"Cannot write label {name!r} to") from error


def read_label(path: Path, name: str, start: int, stop: int) -> NDArray[np.float32]:
    """Return a label on rows, shape (stop - start,), NaN where unset."""
    values = np.full(stop - start, np.nan, np.float32)
    array = _array(path, name, write=False)
    stored = read_rows(path / "labels" / name, array, start, min(stop, max(start, array.shape[0])))
    values[: len(stored)] = stored
    return values


def _array(path: Path, name: str, *, write: bool) -> Any:
    store = WholeFileStore(path / "labels" / name, read_only=not write, sync=write)
    if write and not (path / "labels" / name / "zarr.json").is_file():
        array = zarr.create_array(
            store,
            shape=(0,),
            chunks=(TABLE_CHUNK,),
            dtype="float32",
            fill_value=np.nan,
            compressors=codecs(table=True),
        )
        return cast("Any", array)
    return cast("Any", zarr.open_array(store, mode="r+" if write else "r"))
