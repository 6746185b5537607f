"""The scalars of a run, one JSON object a line: `metrics.jsonl`.

Every row has `wall_time` (seconds since the epoch), `step` (environment steps so far) and `update` (critic
updates so far). The scalars beside them have plain names. These are the ones plots and progress know:

    episode_success, episode_return, episode_length     one row at each training episode's end
    eval_success_rate, eval_episodes                    one row at each evaluation
    critic_loss, actor_loss, temperature, entropy       the agent's
    utd_ratio, env_steps_per_s, updates_per_s           the loop's
"""

import importlib
import json
import math
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, SupportsFloat, cast

from robot_rl.errors import ConfigError, StoreError
from robot_rl.store.files import disk_full

MetricsRow = dict[str, float | None]
"""One line of `metrics.jsonl`; None stands for a value that was not finite."""

_ALWAYS = ("wall_time", "step", "update")


class _ScalarBoard(Protocol):
    def add_scalar(self, tag: str, scalar_value: float, global_step: int, walltime: float) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


def read_metrics(path: str | Path) -> list[MetricsRow]:
    """Read a run's metrics, while it is being written or after it died.

    Args:
        path: The `metrics.jsonl` of a run.

    Returns:
        The rows in the order written. A last line that a crash left incomplete is left out.

    Raises:
        StoreError: The file is missing, or a line before the last one is damaged.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise StoreError(f"Cannot read the metrics at {path}: {error.strerror}.", path=path) from error
    rows: list[MetricsRow] = []
    # A complete line ends in a newline, so what follows the last newline is nothing or a torn line.
    for number, line in enumerate(lines[:-1], start=1):
        try:
            row: Any = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise StoreError(
                f"Line {number} of {path} is not a metrics row: {line[:80]!r}. Only the last line of a run that died "
                "may be incomplete; remove this one to read the rest.",
                path=path,
                line=number,
            )
        rows.append(cast("MetricsRow", row))
    return rows


class MetricsWriter:
    """Append the scalars of a run to `metrics.jsonl`, and to TensorBoard if asked to.

    Each row reaches the operating system as one line at once, so the dashboard sees it and a killed process loses
    nothing. Opening an existing file continues it: a line torn by a crash is dropped.

    Args:
        path: The file; its folder is made where missing.
        tensorboard: Write TensorBoard event files too, into `tensorboard/` beside the file.
        resume_step: Environment step of the checkpoint that training continues from. Rows after it are dropped,
            since those steps are about to be taken again.

    Raises:
        ConfigError: TensorBoard was asked for and is not installed.
        StoreError: The existing file is damaged, or the disk refuses.
    """

    def __init__(self, path: str | Path, tensorboard: bool = False, resume_step: int | None = None) -> None:
        self.path = Path(path)
        self._pending = b""
        self._board = _open_tensorboard(self.path.parent / "tensorboard", resume_step) if tensorboard else None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                if not self.path.is_file():  # a device or a pipe may have no end to read to
                    raise StoreError(f"Cannot write metrics to {self.path}: it is not a regular file.", path=self.path)
                self._repair(resume_step)
            # Closed in close(): the writer lives as long as the run.
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise StoreError(f"Cannot write metrics to {self.path}: {error.strerror}.", path=self.path) from error

    def write(self, *, step: int, update: int, **scalars: SupportsFloat) -> None:
        """Append one row.

        Args:
            step: Environment steps so far.
            update: Critic updates so far.
            **scalars: Numbers, NumPy scalars or tensors of one element. What is not finite is stored as null.

        Raises:
            StoreError: The disk refuses.
        """
        wall_time = time.time()
        row: MetricsRow = {"wall_time": round(wall_time, 3), "step": int(step), "update": int(update)}
        row.update((name, _finite(value)) for name, value in scalars.items() if name not in _ALWAYS)
        self._pending += json.dumps(row, allow_nan=False).encode() + b"\n"
        self.flush()
        if self._board is not None:
            for name, value in row.items():
                if name not in _ALWAYS and value is not None:
                    self._board.add_scalar(name, value, step, wall_time)

    def flush(self) -> None:
        """Hand everything to the operating system. What a full disk does not take is kept for the next time."""
        try:
            size = os.fstat(self._file.fileno()).st_size
            if self._file.write(self._pending) == len(self._pending):
                self._pending = b""
            else:
                os.ftruncate(self._file.fileno(), size)  # no half line is left
        except OSError as error:
            if not disk_full(error):
                raise self._refused(error) from error
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        """Close the files; calling it twice is fine."""
        if self._board is not None:
            self._board.close()
        if self._file.closed:
            return
        self.flush()
        try:
            self._file.close()
        except OSError as error:
            raise self._refused(error) from error
        if self._pending:
            rows = self._pending.count(b"\n")
            raise StoreError(f"The disk is full: the last {rows} rows of {self.path} were not written.", path=self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _refused(self, error: OSError) -> StoreError:
        message = f"Cannot append to {self.path}: {error.strerror}. Free the disk and resume the run."
        return StoreError(message, path=self.path)

    def _repair(self, resume_step: int | None) -> None:
        rows = read_metrics(self.path)
        if resume_step is not None:
            rows = [row for row in rows if (row.get("step") or 0) <= resume_step]
        partial = self.path.with_name(self.path.name + ".partial")
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path)


def _finite(value: SupportsFloat) -> float | None:
    if isinstance(value, int):
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else None


def _open_tensorboard(folder: Path, resume_step: int | None) -> _ScalarBoard:
    try:
        board: Any = importlib.import_module("torch.utils.tensorboard")
    except ImportError as error:
        raise ConfigError(
            "TensorBoard was asked for but is not installed. Run: pip install 'robot-rl[log]', or leave it off: "
            "metrics.jsonl has the same numbers.",
            extra="log",
        ) from error
    # TensorBoard hides what an earlier, longer life of this run wrote from purge_step on.
    return board.SummaryWriter(log_dir=str(folder), purge_step=None if resume_step is None else resume_step + 1)
