"""An asynchronous run as one command: actor and learner as processes of their own, watched, shown and started anew."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from robot_rl.errors import LinkError
from robot_rl.metrics import read_metrics
from robot_rl.progress import TrainingProgress
from robot_rl.run_directory import RunDirectory

__all__ = ["PARENT", "AsyncRun"]

PARENT = "ROBOT_RL_PARENT"  # environment variable of a child: whose death ends it

ROLES = ("learner", "actor")
LOOK_EVERY_S = 0.5
RESTARTS = 5  # of each process before the run is given up
PATIENCE_S = 60.0  # to finish a step, an episode's commit and a checkpoint
USER_ERROR = 2  # exit code of a process that has said what is wrong


class AsyncRun:
    """Starts and watches the two processes of a run.

    Args:
        run: The run, resolved.
        progress: Shown to a person, fed from the run's metrics.

    Attributes:
        stop_requested: Set it (from a signal handler, say) to end both processes in order.
    """

    def __init__(self, run: RunDirectory, progress: TrainingProgress) -> None:
        self.run, self.progress = run, progress
        self.stop_requested = False
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: dict[str, IO[bytes]] = {}
        self._said_before: dict[str, int] = {}  # bytes of each log, by the run before this one
        self._restarts: dict[str, int] = dict.fromkeys(ROLES, 0)

    def log(self, role: str) -> Path:
        """Where a process's own output goes."""
        return self.run.path / "logs" / f"{role}.log"

    def watch(self, steps: int) -> bool:
        """Run to the end; returns False when `stop_requested` ended it.

        Raises:
            LinkError: A process ended with an error, or died too often; its last words are in the message.
        """
        (self.run.path / "logs").mkdir(exist_ok=True)
        self.progress.phase("training", steps)
        seen = 0
        try:
            for role in ROLES:
                self._start(role)
            while self._processes:
                time.sleep(LOOK_EVERY_S)
                seen = self._show(seen)
                for role in list(self._processes):
                    self._look_after(role)
                if self.stop_requested:
                    self._stop()
                    return False
        finally:
            self._stop()
            for log in self._logs.values():
                log.close()
        return True

    def _start(self, role: str) -> None:
        if role not in self._logs:
            self._logs[role] = self.log(role).open("ab")
            self._said_before[role] = self.log(role).stat().st_size
        self._processes[role] = subprocess.Popen(
            [sys.executable, "-m", "robot_rl.cli", role, str(self.run.path)],
            stdin=subprocess.DEVNULL, stdout=self._logs[role], stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process, which ends them in order
            env={**os.environ, PARENT: str(os.getpid())},
        )  # fmt: skip

    def _look_after(self, role: str) -> None:
        code = self._processes[role].poll()
        if code is None:
            return
        del self._processes[role]
        if code == 0:
            return
        if code == USER_ERROR or self._restarts[role] >= RESTARTS:
            raise LinkError(
                f"The {role} ended with {_spell(code)}: {self._last_words(role)} All committed steps are safe. When "
                f"that is mended, go on with: robot-rl train --resume {self.run.path} --async",
                role=role,
            )
        self._restarts[role] += 1
        self.progress.log(f"The {role} died ({_spell(code)}); starting it anew. Its output: {self.log(role)}")
        self.run.event("restarted", role=role, exit=code)
        self._start(role)

    def _last_words(self, role: str) -> str:
        said = self.log(role).read_bytes()[self._said_before[role] :]
        lines = said.decode(errors="replace").strip().splitlines()
        return next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "it said nothing.")

    def _show(self, seen: int) -> int:
        rows: list[dict[str, Any]] = []
        if self.run.metrics.is_file():
            rows = [dict(row) for row in read_metrics(self.run.metrics)]
        for row in rows[seen:]:
            scalars = {k: v for k, v in row.items() if v is not None and k not in ("wall_time", "step")}
            self.progress.update(step=int(row["step"]), **scalars)
        return max(seen, len(rows))

    def _stop(self) -> None:
        """The actor first, so that the arm holds; then the learner, which saves."""
        for role in reversed(ROLES):
            process = self._processes.pop(role, None)
            if process is None:
                continue
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.progress.log(f"The {role} did not end within {PATIENCE_S:g} s and was killed.")
                process.kill()
                process.wait()


def _spell(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
