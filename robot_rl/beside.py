"""Processes that work beside training on what it writes down: an evaluator, a reward that is fitted anew."""

import os
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

from robot_rl.config import TrainConfig
from robot_rl.processes import PARENT
from robot_rl.progress import TrainingProgress
from robot_rl.run_directory import RunDirectory

__all__ = ["working_beside"]

PATIENCE_S = 20.0  # to end a step


@contextmanager
def working_beside(config: TrainConfig, run: RunDirectory, progress: TrainingProgress) -> Generator[None]:
    """While this is open, the processes that the run's settings ask for work beside, each with a log in the run."""
    with ExitStack() as stack:
        for command, wanted in (("evaluator", config.eval_every), ("refitter", config.reward_refit)):
            if wanted:
                stack.enter_context(_beside(command, run, progress))
        yield


@contextmanager
def _beside(command: str, run: RunDirectory, progress: TrainingProgress) -> Generator[None]:
    (run.path / "logs").mkdir(exist_ok=True)
    with (run.path / "logs" / f"{command}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "robot_rl.cli", command, str(run.path)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, PARENT: str(os.getpid())},
        )  # fmt: skip
        ending = threading.Event()

        def watch() -> None:
            if process.wait() and not ending.is_set():
                progress.log(f"The {command} failed; what it said: {log.name}. Training goes on without it.")

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ending.set()
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            watcher.join()
