"""Shared memory between the process that drives an arm and the one that decides where it goes.

Each record has one writer and is guarded by a seqlock: the writer makes a counter odd, writes, makes it even; a reader
copies and tries again when the counter was odd or has moved. Nobody ever waits for the other side, and a process that
dies in the midst of writing is noticed by its reader. (Source: Linux kernel documentation, locking/seqlock. The order
of stores that it needs is x86's own and is kept on ARM by the interpreter's locks around each statement.)
"""

import contextlib
import mmap
import os
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drivers.interfaces import ArmState
from robot_rl.errors import LinkError

__all__ = ["MAX_JOINTS", "Mailbox", "Mode", "percentile_us", "running"]

MAX_JOINTS = 8
TEXT = 1000  # bytes of a message
BINS = 20_000  # of 1 us; the last holds everything longer
TRIES = 3
PATIENCE_S = 1.0  # for a writer that the system has put aside
SHARED_MEMORY = Path("/dev/shm")

_TARGET = [("sequence", "u8"), ("count", "u8"), ("pose", "f8", 7), ("sent_s", "f8")]
_STATE = [
    ("sequence", "u8"), ("time_s", "f8"), ("published_s", "f8"), ("joints", "i8"), ("q", "f8", MAX_JOINTS),
    ("qd", "f8", MAX_JOINTS), ("torque", "f8", MAX_JOINTS), ("tcp_pose", "f8", 7), ("twist_tcp", "f8", 6),
    ("wrench_tcp", "f8", 6), ("mode", "i8"), ("refused", "u8"), ("kind", "S40"),
    ("message", f"S{TEXT}"),
]  # fmt: skip
_LOOP = [
    ("counters", "u8", 2), ("period_us", "u8", BINS), ("law_us", "u8", BINS),
]  # fmt: skip
_LAYOUT = np.dtype([("target", _TARGET), ("state", _STATE), ("loop", _LOOP)])


def running() -> list[Path]:
    """The mailboxes on this machine whose makers live."""
    return sorted(path for path in _folder().glob("robot_rl_*_*") if _maker_lives(path))


def _folder() -> Path:
    return SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())


def _maker_lives(path: Path) -> bool:
    pid = path.name.split("_")[2]
    return pid.isdigit() and Path(f"/proc/{pid}").exists()


def _remove_abandoned() -> None:
    """Mailboxes of processes that were killed; a driver process that still holds one goes on with it unseen."""
    for path in _folder().glob("robot_rl_*_*"):
        if not _maker_lives(path):
            path.unlink(missing_ok=True)


class Mode:
    """What the driver process is doing with the arm."""

    HOLDING = 0  # as asked: after connecting, after a motion, after stop()
    FOLLOWING = 1  # targets, with the watchdog awake
    MOVING = 2  # a motion of move_to_*
    WATCHDOG = 3  # no command came in time: holds the measured pose
    STOPPED = 4  # none came for much longer: control was given back to the vendor's own stand-still
    FAULT = 5  # the arm reported a fault


class Mailbox:
    """Targets one way, states and loop statistics the other.

    Args:
        path: An existing mailbox's file; a new one is made by default.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._owner = path is None
        if path is None:
            _remove_abandoned()
            with tempfile.NamedTemporaryFile(prefix=f"robot_rl_{os.getpid()}_", dir=_folder(), delete=False) as file:
                file.truncate(_LAYOUT.itemsize)
                path = Path(file.name)
        self.path = path
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _LAYOUT.itemsize)
        self._record: Any = np.frombuffer(self._map, dtype=_LAYOUT, count=1)[0]
        self.target, self.status, self.loop = (self._record[name] for name in ("target", "state", "loop"))
        self._counters, self._periods, self._laws = (self.loop[name] for name in ("counters", "period_us", "law_us"))

    def send_target(self, pose: NDArray[np.float64], now_s: float) -> int:
        """Ask for a target pose in `base`, shape (7,), at monotonic time `now_s`. Returns its number."""
        count = int(self.target["count"]) + 1
        with _Writing(self.target):
            self.target["count"], self.target["pose"], self.target["sent_s"] = count, pose, now_s
        return count

    def read_target(self) -> tuple[int, NDArray[np.float64]] | None:
        """The newest target's number (0 when there was none) and pose; None while it is being written.

        A control loop cannot wait: it looks again in its next cycle. Where the writer died in the midst, no new target
        ever comes, which is the watchdog's business.
        """
        newest = _try(self.target)
        return None if newest is None else (int(newest["count"]), newest["pose"].copy())

    def publish(self, state: ArmState, *, now_s: float) -> None:
        """Show a reading, taken at monotonic time `now_s`, to the other side."""
        record, n = self.status, len(state.q)
        with _Writing(record):
            record["time_s"], record["published_s"], record["joints"] = state.time_s, now_s, n
            record["q"][:n], record["qd"][:n], record["torque"][:n] = state.q, state.qd, state.torque
            record["tcp_pose"], record["twist_tcp"], record["wrench_tcp"] = (
                state.tcp_pose, state.twist_tcp, state.wrench_tcp,
            )  # fmt: skip

    def count_tick(self, period_s: float, law_s: float, nominal_s: float) -> None:
        """Note a cycle of the loop: the time since the last one, and the law's own."""
        _count(self._counters, self._periods, self._laws, period_s, law_s, nominal_s)

    def forget_ticks(self) -> None:
        """Begin the statistics anew."""
        for counts in (self._counters, self._periods, self._laws):
            counts[:] = 0

    def say(self, mode: int, kind: str = "", message: str = "", refused: int = 0) -> None:
        """Show what is being done with the arm and, where something is wrong, which error and why."""
        with _Writing(self.status):
            self.status["mode"], self.status["refused"] = mode, refused
            self.status["kind"], self.status["message"] = kind.encode(), message.encode()[:TEXT]

    def read_state(self) -> tuple[ArmState, Any]:
        """The newest reading, and the whole record beside it (`mode`, `kind`, `message`, `refused`, `published_s`).

        Raises:
            LinkError: The driver process died while writing it.
        """
        deadline = time.monotonic() + PATIENCE_S
        while (record := _try(self.status)) is None:
            if time.monotonic() > deadline:
                raise LinkError(
                    "The shared memory of the arm stays half written: the driver process died in the midst."
                )
            time.sleep(1e-4)
        n = int(record["joints"])
        state = ArmState(
            time_s=float(record["time_s"]), q=record["q"][:n], qd=record["qd"][:n], torque=record["torque"][:n],
            tcp_pose=record["tcp_pose"], twist_tcp=record["twist_tcp"], wrench_tcp=record["wrench_tcp"],
        )  # fmt: skip
        return state, record

    def close(self) -> None:
        """Let go; the side that made the mailbox removes it."""
        if self._owner:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()


@njit(cache=True)
def _count(
    counters: NDArray[np.uint64], periods: NDArray[np.uint64], laws: NDArray[np.uint64],
    period_s: float, law_s: float, nominal_s: float,
) -> None:  # fmt: skip
    counters[0] += 1
    periods[min(int(period_s * 1e6), BINS - 1)] += 1
    laws[min(int(law_s * 1e6), BINS - 1)] += 1
    if period_s > 1.5 * nominal_s:
        counters[1] += round(period_s / nominal_s) - 1


class _Writing:
    """Between entering and leaving, readers of the record wait."""

    def __init__(self, record: Any) -> None:
        self._record = record

    def __enter__(self) -> None:
        self._record["sequence"] += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._record["sequence"] += 1


def _try(record: Any) -> Any:
    """A copy of a record that was whole at one moment; None when it is being written."""
    for _ in range(TRIES):
        before = int(record["sequence"])
        copy = record.copy()
        if before % 2 == 0 and int(record["sequence"]) == before:
            return copy
    return None


def percentile_us(histogram: NDArray[np.uint64], percent: float) -> float:
    """Percentile of a histogram of 1 us bins [us]; NaN when it is empty."""
    total = histogram.sum()
    if not total:
        return float("nan")
    return float(np.searchsorted(np.cumsum(histogram), np.ceil(total * percent / 100.0)))
