"""`commit.json`, which says how much of a store counts, and `instructions.json`; both checksummed.

A record is {rows, episodes, open_episode, instructions} with `instructions_crc32` of the texts it counts and `crc32`
of itself. Stores written before checksums have the first four alone.
"""

import json
import zlib
from pathlib import Path
from typing import TypedDict

from robot_rl.errors import StoreError
from robot_rl.store.files import sync_directory, to_json, write_whole

COMMIT = "commit.json"
INSTRUCTIONS = "instructions.json"
_PLAIN = {"rows", "episodes", "open_episode", "instructions"}
_CHECKED = _PLAIN | {"instructions_crc32", "crc32"}


class Commit(TypedDict):
    """What counts in a store.

    Attributes:
        rows: Committed rows.
        episodes: Episodes with committed rows.
        open_episode: Index of the one to be continued, or None.
        instructions: Texts in instructions.json that count.
    """

    rows: int
    episodes: int
    open_episode: int | None
    instructions: int


def _crc(value: object) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def read_commit(path: Path) -> tuple[Commit, int | None]:
    """Return the commit record of the store at `path` and the checksum of its instructions (None: written before).

    Raises:
        StoreError: It is missing or damaged.
    """
    try:
        record = json.loads((path / COMMIT).read_bytes())
        if not isinstance(record, dict) or set(record) not in (_PLAIN, _CHECKED):
            raise ValueError("it does not hold what a commit record holds")
        texts = record.pop("instructions_crc32", None)
        check = record.pop("crc32", None)
        if check is not None and check != _crc([record, texts]):
            raise ValueError("its checksum does not match")
        return Commit(**record), texts
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StoreError(
            f"{path / COMMIT} is damaged: {reason}. The steps themselves are not in it. "
            f"Rebuild it from them with: robot-rl store repair {path}",
            path=path / COMMIT,
        ) from error


def read_instructions(path: Path, commit: Commit, check: int | None) -> list[str]:
    """Return the texts that count.

    Raises:
        StoreError: The file is missing or damaged.
    """
    try:
        texts = json.loads((path / INSTRUCTIONS).read_bytes())[: commit["instructions"]]
        if len(texts) < commit["instructions"] or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{commit['instructions']} texts should be in it")
        if check is not None and check != _crc(texts):
            raise ValueError("its checksum does not match")
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StoreError(
            f"{path / INSTRUCTIONS} is damaged: {reason}. The steps are not in it, only the instructions' texts. "
            f"Repair it with: robot-rl store repair {path}",
            path=path / INSTRUCTIONS,
        ) from error
    return texts


def write_instructions(path: Path, texts: list[str], *, sync: bool) -> None:
    """Replace the texts; to be followed by `write_commit`."""
    write_whole(path / INSTRUCTIONS, to_json(texts), sync=sync)
    if sync:
        sync_directory(path)


def write_commit(path: Path, commit: Commit, instructions_crc32: int, *, sync: bool) -> None:
    """Replace the record, checksummed; `instructions_crc32` is that of the texts it counts."""
    record = {**commit, "instructions_crc32": instructions_crc32, "crc32": _crc([commit, instructions_crc32])}
    write_whole(path / COMMIT, to_json(record), sync=sync)
    if sync:
        sync_directory(path)


def instructions_checksum(texts: list[str]) -> int:
    """Return what `write_commit` takes."""
    return _crc(texts)
