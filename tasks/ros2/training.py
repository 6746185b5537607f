"""A training session as training_node runs it: the processes of a run, and what its directory says meanwhile.

Everything that happens lies in the run's directory; from there the newest steps, metrics and policy are read.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from robot_rl.errors import ConfigError, LinkError, StoreError
from robot_rl.store import EpisodeStore
from robot_rl.store.layout import SOURCES

__all__ = ["Progress", "RunReader", "Session", "SessionOptions"]

PATIENCE_S = 90.0  # to finish an episode's commit and a checkpoint
ROWS_AT_ONCE = 500


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """What is trained, and how; as of `robot-rl train`.

    Attributes:
        task: Its name.
        cell: Cell file of the arm in ROS.
        run: The run's directory; one that is there is gone on with.
        rehearse: Address of the emulator that stands in for the cell; empty on metal.
        demos, reward, preset, teleop, steps, settings: As the command's options; empty, or 0, for its own defaults.
    """

    task: str
    cell: str
    run: Path
    rehearse: str = ""
    demos: str = ""
    reward: str = ""
    preset: str = ""
    teleop: str = ""
    steps: int = 0
    settings: tuple[str, ...] = ()

    def command(self) -> list[str]:
        """The command line that begins the session, or goes on with it."""
        start = [sys.executable, "-m", "robot_rl.cli", "train"]
        if (self.run / "config.yaml").is_file():
            more = ["--steps", str(self.steps)] if self.steps and self.steps != _steps_configured(self.run) else []
            return [*start, "--resume", str(self.run), "--async", *more]
        named = {
            "--demos": self.demos, "--reward": self.reward, "--preset": self.preset, "--teleop": self.teleop,
            "--steps": str(self.steps or ""),
        }  # fmt: skip
        options = [word for flag, value in named.items() if value for word in (flag, value)]
        settings = [*self.settings, *([f"env.rehearse={self.rehearse}"] if self.rehearse else [])]
        options += ["--set", *settings] if settings else []
        return [*start, self.task, "--async", "--cell", self.cell, "--run", str(self.run), *options]


def _steps_configured(run: Path) -> int:
    import yaml

    return int((yaml.safe_load((run / "config.yaml").read_text()) or {}).get("steps", 0))


class Session:
    """Starts a run's processes, ends them in order and knows why they ended.

    Args:
        options: What is trained.
        command: In place of the options' own.
    """

    def __init__(self, options: SessionOptions, command: Callable[[], list[str]] | None = None) -> None:
        self.options = options
        self._command = command or options.command
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._begins = 0  # in the log, of the last start

    @property
    def log(self) -> Path:
        """Where the processes' own output goes."""
        return self.options.run.parent / f"{self.options.run.name}.log"

    @property
    def running(self) -> bool:
        """Whether they run."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Begin, or go on.

        Raises:
            ConfigError: The log cannot be written.
        """
        if self.running:
            return
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            self._log = self.log.open("ab")
            self._begins = self._log.tell()
        except OSError as error:
            raise ConfigError(f"Cannot write {self.log}: {error.strerror}.") from error
        self._process = subprocess.Popen(
            self._command(), stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT,
            start_new_session=True, env={**os.environ, "ROBOT_RL_PARENT": str(os.getpid())},
        )  # fmt: skip

    def stop(self) -> None:
        """End: the actor first, which holds the arm; then the learner, which saves."""
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._process = None
        if self._log is not None:
            self._log.close()
            self._log = None

    def check(self) -> bool:
        """Whether it has come to its end.

        Raises:
            LinkError: It ended with an error; its last words are in the message.
        """
        code = None if self._process is None else self._process.poll()
        if code is None:
            return False
        if code != 0:
            raise LinkError(f"Training ended with exit code {code}: {self._last_words()} All of it: {self.log}")
        return True

    def _last_words(self) -> str:
        lines = self.log.read_bytes()[self._begins :].decode(errors="replace").strip().splitlines()
        return next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "it said nothing.")


@dataclass(frozen=True)
class Progress:
    """What is new in a run.

    Attributes:
        steps: (reward, whether a person acted, policy version) of each new step.
        metrics: New rows of metrics.jsonl.
    """

    steps: list[tuple[float, bool, int]]
    metrics: list[dict[str, Any]]


class RunReader:
    """Follows a run's directory while others write it. What is there when this begins is no news.

    Args:
        run: The directory.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._store: EpisodeStore | None = None
        self._row = self._rows() or 0
        metrics = run / "metrics.jsonl"
        self._at = metrics.stat().st_size if metrics.is_file() else 0

    def news(self) -> Progress:
        """What has come since the last call; nothing while there is no run."""
        return Progress(self._steps(), self._metrics())

    def say(self, kind: str, **fields: Any) -> None:
        """Append to events.jsonl who said what, as everything about a run is kept. Raises StoreError."""
        path = self._run / "events.jsonl"
        try:
            with path.open("a") as file:
                file.write(json.dumps({"time": time.time(), "event": kind, **fields}) + "\n")
        except OSError as error:
            raise StoreError(f"Cannot write to {path}: {error.strerror}. Has the run begun?") from error

    def _rows(self) -> int | None:
        """How many rows the store has now; None where there is none."""
        try:
            self._store = self._store or EpisodeStore.open(self._run / "episodes")
            self._store.refresh()
        except StoreError:  # not there yet, or another in its place
            self._store = None
            return None
        return self._store.rows

    def _steps(self) -> list[tuple[float, bool, int]]:
        there = self._rows()
        if self._store is None or there is None:
            return []
        self._row = self._row if self._row <= there else 0  # fewer than there were: a new one
        stop = min(there, self._row + ROWS_AT_ONCE)
        try:
            rows = self._store.read(self._row, stop, ["reward", "source", "policy_version", "final"])
        except StoreError:
            return []
        self._row = stop
        taken = [i for i in range(len(rows["reward"])) if not rows["final"][i]]
        human = SOURCES.index("human")
        return [
            (float(rows["reward"][i]), int(rows["source"][i]) == human, int(rows["policy_version"][i])) for i in taken
        ]

    def _metrics(self) -> list[dict[str, Any]]:
        try:
            with (self._run / "metrics.jsonl").open("rb") as file:
                file.seek(self._at)
                whole, newline, _ = file.read().rpartition(b"\n")
        except OSError:
            return []
        self._at += len(whole) + len(newline)
        return [json.loads(line) for line in whole.splitlines() if line]
