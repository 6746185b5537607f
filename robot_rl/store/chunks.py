"""Chunks of a store's arrays: how they are packed, and what is said of one that is damaged.

A chunk is compressed and then given a CRC-32C, so a flipped bit, a torn file and a bad sector are all met as a
`StoreError` that names the file and its rows. Arrays with checksums have a file for every committed chunk, black
frames included, so a lost file is noticed as well. Stores written before checksums are read as they are: there a
missing file means zeros, and only what fails to decompress is noticed.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from robot_rl.errors import StoreError

MISSING = "the file is missing"


@dataclass(frozen=True)
class DamagedChunk:
    """A chunk that cannot be read.

    Attributes:
        file: Where it lies, or should.
        start: Its first row.
        stop: One past its last row.
        reason: What is wrong with it.
    """

    file: Path
    start: int
    stop: int
    reason: str


def codecs(*, table: bool, level: int = 1) -> tuple[Any, Any]:
    """Return how a chunk is compressed and checksummed.

    Args:
        table: For numbers, whose bytes are shuffled, rather than for images. Images use one zstd window a chunk, so
            that what stands still in a camera's picture is stored once for the frames of a chunk.
        level: Of zstd; 1 is as fast as lz4, 9 about a fifth smaller and six times slower to write.
    """
    packing = BloscCodec(cname="zstd", clevel=level, shuffle="shuffle") if table else ZstdCodec(level=level)
    return packing, Crc32cCodec()


def checksummed(array: Any) -> bool:
    """Say whether an array's chunks have checksums."""
    return any(isinstance(codec, Crc32cCodec) for codec in array.metadata.codecs)


def chunk_file(root: Path, array: Any, index: int) -> Path:
    """Return the file of the chunk that begins at row `index` * rows in a chunk; `root` is the zarr store's."""
    key = array.metadata.encode_chunk_key((index, *(0 for _ in array.shape[1:])))
    return root / array.path / key


def read_rows(root: Path, array: Any, start: int, stop: int) -> NDArray[Any]:
    """Return rows of a zarr array.

    Args:
        root: Directory of the zarr store the array lies in.
        array: The array.
        start: First row.
        stop: One past the last row.

    Raises:
        StoreError: Chunks are damaged; `damaged` holds a DamagedChunk for each.
    """
    if checksummed(array) and array.metadata.fill_value == array.metadata.fill_value:  # labels (NaN) are sparse
        missing = [chunk for chunk in _chunks(root, array, start, stop) if not chunk.file.exists()]
        if missing:
            raise _damage(missing)
    try:
        return array[start:stop]
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        damaged = [chunk for chunk in (_try(array, c) for c in _chunks(root, array, start, stop)) if chunk.reason]
        if not damaged:  # it was one thing then and is another now: a writer that is not ours, or a failing disk
            raise StoreError(f"Cannot read rows {start} to {stop} of {root / array.path}: {error}.") from error
        raise _damage(damaged) from error


def _chunks(root: Path, array: Any, start: int, stop: int) -> list[DamagedChunk]:
    size = int(array.chunks[0])
    indices = range(start // size, math.ceil(stop / size)) if stop > start else range(0)
    return [DamagedChunk(chunk_file(root, array, i), i * size, (i + 1) * size, MISSING) for i in indices]


def _try(array: Any, chunk: DamagedChunk) -> DamagedChunk:
    """Read a chunk for what is wrong with it; an empty reason when nothing is."""
    reason = ""
    try:
        array[chunk.start : chunk.start + 1]
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        size = f" ({chunk.file.stat().st_size} bytes)" if chunk.file.exists() else ""
        known = "its checksum does not match" if "checksum" in str(error) else f"it cannot be decoded: {error}"
        reason = known + size
    return DamagedChunk(chunk.file, chunk.start, chunk.stop, reason)


def _damage(damaged: list[DamagedChunk]) -> StoreError:
    first = damaged[0]
    store = store_of(first.file)
    others = f" {len(damaged) - 1} more files are damaged too." if len(damaged) > 1 else ""
    return StoreError(
        f"{first.file} (rows {first.start} to {first.stop - 1}) is damaged: {first.reason}.{others} What it says is "
        f"lost, the rest of the store is not. See: robot-rl store check {store}; then: robot-rl store repair {store}",
        path=first.file,
        damaged=damaged,
    )


def damaged_chunks(error: StoreError) -> list[DamagedChunk]:
    """Return the chunks that `read_rows` raised `error` for; raises it again when that was something else."""
    found = cast("list[DamagedChunk] | None", error.fields.get("damaged"))
    if found is None:
        raise error
    return found


def store_of(file: Path) -> Path:
    """Return the episode store that a file of it lies in."""
    for parent in file.parents:
        if (parent / "commit.json").exists() or (parent / "steps").is_dir():
            return parent
    return file.parent
