"""Tensors and JSON facts in one safetensors file with a checksum over every byte of it."""

import hashlib
import json
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from robot_rl.errors import StoreError
from robot_rl.store.files import disk_full, sync_directory, write_whole

__all__ = ["load_tensors", "save_tensors"]

_DIGEST_BYTES = 16
_PLACE = "0" * 2 * _DIGEST_BYTES
"""What stands in the header where the checksum goes, while it is computed."""


def save_tensors(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and JSON facts as one safetensors file; readers see the old file or the new one, never a torn one.

    Raises:
        StoreError: The disk failed or is full (`disk_full`); the old file is still there.
    """
    metadata = {"facts": json.dumps(facts), "checksum": _PLACE}
    data = bytearray(save({name: t.contiguous() for name, t in tensors.items()}, metadata=metadata))
    where = _checksum_at(data)
    data[where : where + len(_PLACE)] = _digest(data).encode()
    try:
        write_whole(path, data, sync=True)
        sync_directory(path.parent)
    except OSError as error:
        raise StoreError(
            f"Cannot write {path}: {error.strerror}. The previous file is intact. Free space, then: "
            f"robot-rl train --resume {path.parent.parent}",
            path=path,
            errno=error.errno,
            disk_full=disk_full(error),
        ) from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote. Files written before checksums are read as they are.

    Raises:
        StoreError: The file is missing or damaged.
    """
    try:
        data = bytearray(path.read_bytes())
        tensors = load(bytes(data))  # first, for it checks the header
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = cast("dict[str, str]", header.get("__metadata__", {}))
        if not set(metadata) <= {"facts", "checksum"}:
            raise ValueError(f"its header has {sorted(metadata)}")
        stored = metadata.get("checksum")
        if stored is not None:
            where = data.index(stored.encode(), 8)
            data[where : where + len(stored)] = _PLACE.encode()
            if _digest(data) != stored:
                raise ValueError("its checksum does not match, so it was damaged after it was written")
        facts = json.loads(metadata.get("facts", "{}"))
    except (OSError, SafetensorError, ValueError, KeyError, OverflowError, AttributeError) as error:
        raise StoreError(f"Cannot read {path}: {error}. Is it whole, and the right directory?", path=path) from error
    return tensors, facts


def _checksum_at(data: bytearray) -> int:
    """Return where in the file the checksum stands: the only run of zeros in quotes after its key."""
    key = b'"checksum":"'
    return data.index(key + _PLACE.encode(), 8) + len(key)


def _digest(data: bytearray) -> str:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()
