"""Files of a store that are whole or absent, whatever dies when, and the lock of its one writer.

With `sync`, a file's content is flushed to the disk before the rename that makes it visible, so a power cut
leaves the old file or the new one. Without it the same holds for a killed process, not for a power cut.
"""

import asyncio
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterable
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

from robot_rl.errors import StoreError

PARTIAL = ".partial"


class WholeFiles:
    """Files that are replaced together: gathered in memory, written, flushed at once, then renamed.

    A disk flushes several files in little more time than one. A crash between the renames leaves some files new and
    others old, each of them whole.
    """

    def __init__(self) -> None:
        self._contents: dict[Path, Any] = {}

    def add(self, path: Path, data: Any) -> None:
        """Take a file's new content; nothing is written yet, so it cannot fail in a thread of zarr's."""
        self._contents[path] = data

    def replace(self, *, sync: bool, flusher: Executor) -> None:
        """Put the new files in the old ones' places; with `sync`, content before names, and then the names.

        A disk that is full leaves the old files and no debris.
        """
        partials = {path: _partial(path) for path in self._contents}
        try:
            for path, data in self._contents.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                with partials[path].open("wb") as file:
                    file.write(data)
            if sync:
                for _ in flusher.map(sync_file, partials.values()):
                    pass
            for path, partial in partials.items():
                partial.replace(path)
        except BaseException:
            for partial in partials.values():
                with suppress(OSError):
                    partial.unlink(missing_ok=True)
            raise
        if sync:
            for _ in flusher.map(sync_directory, {path.parent for path in partials}):
                pass


def write_whole(path: Path, data: Any, *, sync: bool) -> None:
    """Replace a file in one step. A disk that is full leaves the old file and no debris.

    Args:
        path: The file; its directory is created.
        data: Anything with the buffer protocol.
        sync: Flush the content to the disk before the rename. The rename itself is durable after
            `sync_directory(path.parent)`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")


def sync_directory(path: Path) -> None:
    """Make the renames inside a directory survive a power cut."""
    sync_file(path, os.O_DIRECTORY)


def sync_file(path: Path, flags: int = 0) -> None:
    """Make a file's content survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partials(directories: Iterable[Path]) -> None:
    """Remove what a killed writer left half written in directories. The caller holds the writer's lock."""
    for directory in directories:
        for partial in directory.glob(f"*{PARTIAL}"):
            partial.unlink(missing_ok=True)


class WholeFileStore(LocalStore):
    """A zarr LocalStore whose chunks reach the disk before they become visible, where `sync` asks for it."""

    def __init__(self, root: Path, *, read_only: bool = False, sync: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        self._sync = sync
        self.together: WholeFiles | None = None
        """Where the writer's files are gathered while it commits."""

    def with_read_only(self, read_only: bool = False) -> "WholeFileStore":
        return WholeFileStore(self.root, read_only=read_only, sync=self._sync)

    def set_sync(self, key: str, value: Buffer) -> None:
        self._check_writable()
        if self.together is not None:
            self.together.add(self.root / key, value.as_buffer_like())
            return
        write_whole(self.root / key, value.as_buffer_like(), sync=self._sync)

    async def set(self, key: str, value: Buffer) -> None:
        await asyncio.to_thread(self.set_sync, key, value)


def disk_full(error: OSError) -> bool:
    """Say whether an error means that there is no room: on the disk, in the quota, under the file size limit."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def disk_error(path: Path, error: OSError, what: str) -> StoreError:
    """Turn an OSError met while writing into the one message a user reads; `disk_full` and `errno` are its fields."""
    full = disk_full(error)
    reason = "the disk is full" if full else (error.strerror or str(error))
    return StoreError(
        f"{what} {path}: {reason}. Committed rows are intact and the newer ones are kept in memory; "
        "free some space and commit again.",
        path=path,
        errno=error.errno,
        disk_full=full,
    )


class WriterLock:
    """Held by the one process that appends. The kernel drops it when that process ends, however it ends.

    It is an flock: a child forked (not spawned) by the holder shares it until both are gone.
    """

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            StoreError: Another writer, here or in another process, holds it.
        """
        self._file = path.open("a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read().decode(errors="replace").strip() or "another process"
            self._file.close()
            raise StoreError(
                f"{path.parent} is being written by {holder}. A store has one writer; stop that one, or open this "
                "store for reading.",
                path=path.parent,
                holder=holder,
            ) from error
        with suppress(OSError):  # a full disk must not keep a writer from opening what it will free
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    def release(self) -> None:
        """Let the next writer in. Harmless when repeated."""
        self._file.close()


def to_json(value: object) -> bytes:
    """Return strict JSON, with NumPy scalars and arrays as numbers and lists."""

    def plain(item: Any) -> object:
        if isinstance(item, np.generic | np.ndarray):
            return item.tolist()
        raise TypeError(f"{type(item).__name__} is not JSON")

    return json.dumps(value, indent=1, allow_nan=False, default=plain).encode()
