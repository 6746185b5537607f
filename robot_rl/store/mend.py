"""Putting a flipped bit right from its chunk's checksum, and rebuilding a store's small records from its rows."""

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from robot_rl.errors import StoreError
from robot_rl.store.chunks import damaged_chunks
from robot_rl.store.commit import Commit
from robot_rl.store.layout import TABLE
from robot_rl.store.raw import RawStore, all_zero, chunk_rows

_POLYNOMIAL = 0x82F63B78  # CRC-32C, reflected
_CRC_BYTES = 4


def mend_bit(data: bytes) -> bytes | None:
    """Return a chunk with its one wrong bit put right, or None when more than one is wrong.

    A CRC is linear: the difference between the stored and the computed one depends only on which bit flipped, and is
    different for each of up to 2**31 bits. Damage to several bits looks like a single flip with probability
    8 * len(data) / 2**32, about one in ten thousand for a chunk of 50 kB, and must then still decompress.

    Args:
        data: Compressed bytes followed by their CRC-32C, little-endian.

    Source: Koopman, 32-bit cyclic redundancy codes for Internet applications, DSN 2002 (the polynomial's distance).
    """
    if len(data) <= _CRC_BYTES:
        return None
    payload, stored = bytearray(data[:-_CRC_BYTES]), int.from_bytes(data[-_CRC_BYTES:], "little")
    difference = stored ^ int(google_crc32c.value(bytes(payload)))
    if difference == 0:
        return data
    if difference.bit_count() == 1:  # the checksum itself
        return bytes(payload) + (stored ^ difference).to_bytes(_CRC_BYTES, "little")
    register = _POLYNOMIAL  # of a flip in the last bit that the CRC takes in
    for back in range(8 * len(payload)):
        if register == difference:
            payload[len(payload) - 1 - back // 8] ^= 0x80 >> back % 8
            return bytes(payload) + data[-_CRC_BYTES:]
        register = (register >> 1) ^ (_POLYNOMIAL if register & 1 else 0)
    return None


def rebuild_commit(store: RawStore, instructions: int) -> Commit:
    """Return the commit record that a store's rows speak for.

    The newest rows of a table may have been written by a commit that was not acknowledged and whose pictures never
    came: the record ends before pictures that are black while those before are not.

    Args:
        store: Opened with any record.
        instructions: Number of instructions there are.
    """
    columns = store.layout.columns
    table = _readable_table(store)
    table = (
        table[: 1 + int(np.flatnonzero(~np.isnan(table[:, 0]))[-1])] if (~np.isnan(table[:, 0])).any() else table[:0]
    )
    used = (table[:, columns["time"].start] > 0) | (table[:, columns["final"].start] == 1)
    newest = int(np.flatnonzero(used)[-1]) if used.any() else -1
    newest = min([newest, *(_newest_picture(store, name, newest) for name in store.layout.images)])
    if newest < 0:
        return Commit(rows=0, episodes=0, open_episode=None, instructions=instructions)
    episode = int(table[newest, columns["episode"].start])
    if table[newest, columns["final"].start] == 1:
        return Commit(rows=newest + 1, episodes=episode + 1, open_episode=None, instructions=instructions)
    return Commit(rows=newest, episodes=episode + 1, open_episode=episode, instructions=instructions)


def _readable_table(store: RawStore) -> NDArray[np.float64]:
    """Return the table as far as there are files, NaN where they cannot be read."""
    array = store.arrays[TABLE]
    chunk = int(array.chunks[0])
    files = (store.path / TABLE).glob("c.*")
    count = max([0, *(chunk_rows(file, chunk) for file in files)])
    table = np.full((count, store.layout.width), np.nan)
    for start in range(0, count, chunk):
        try:
            table[start : start + chunk] = store.read(TABLE, start, start + chunk)
        except StoreError as error:
            damaged_chunks(error)
    return table


def _newest_picture(store: RawStore, name: str, newest: int) -> int:
    """Return the newest row up to `newest` whose picture was written; `newest` itself where that cannot be known."""
    chunk = int(store.arrays[name].chunks[0])
    first = max(0, newest // chunk - 8) * chunk
    try:
        seen = np.flatnonzero(~all_zero(store.read(name, first, newest + 1)))
    except StoreError as error:
        damaged_chunks(error)
        return newest
    return first + int(seen[-1]) if seen.size else newest
