"""What the trunk saw of each picture, on disk, so that a run that goes on need not look at all of them again.

One append-only file a camera, of records of equal size: a digest of the picture, then its features. It is a mere copy:
where it is torn, missing or cannot be written, pictures are looked at again, and it may be deleted at any time.
"""

import os
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["SeenLog"]

DIGEST = 16  # bytes


class SeenLog:
    """Features by what a picture shows.

    Args:
        path: The file; made with its folder by the first `put`.
        shape: Of one picture's features, uint8.
        salt: Of the digest: whatever else the features depend on.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], salt: bytes) -> None:
        self._path, self._shape, self._salt = path, shape, salt
        self._size = DIGEST + int(np.prod(shape))
        self._stored: NDArray[np.uint8] = np.zeros((0, self._size), np.uint8)
        if path.is_file() and path.stat().st_size >= self._size:
            records = path.stat().st_size // self._size
            self._stored = np.memmap(path, np.uint8, "r", shape=(records, self._size))
        self._row = {bytes(row[:DIGEST]): number for number, row in enumerate(self._stored)}
        self._file = -1
        self._broken = False

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)

    def get(self, picture: NDArray[np.uint8], number: int = 0) -> NDArray[np.uint8] | None:
        """Features of a picture seen before this process began, shifted by what `number` says; or None."""
        row = self._row.get(self._digest(picture, number)) if self._row else None
        return None if row is None else np.asarray(self._stored[row, DIGEST:]).reshape(self._shape)

    def put(self, picture: NDArray[np.uint8], number: int, features: NDArray[np.uint8]) -> None:
        """Keep features for the next start; a disk that refuses is no error."""
        if self._broken:
            return
        try:
            if self._file < 0:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
                os.ftruncate(self._file, len(self._stored) * self._size)  # what a crash tore
            record = self._digest(picture, number) + features.tobytes()
            self._broken = os.write(self._file, record) < len(record)
        except OSError:
            self._broken = True

    def _digest(self, picture: NDArray[np.uint8], number: int) -> bytes:
        digest = blake2b(np.ascontiguousarray(picture).data, digest_size=DIGEST, key=self._salt)
        digest.update(number.to_bytes(8, "little"))
        return digest.digest()
