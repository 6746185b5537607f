"""Evaluation beside training: a process of its own that scores each policy as it is published, on a twin of its own."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_rl.arguments import twin_only
from robot_rl.config import TrainConfig
from robot_rl.environments import make
from robot_rl.errors import ConfigError
from robot_rl.evaluation import evaluate
from robot_rl.metrics import MetricsWriter, read_metrics
from robot_rl.policy import Policy
from robot_rl.progress import TrainingProgress
from robot_rl.run_directory import RunDirectory, load_tensors
from robot_rl.store.files import WriterLock

__all__ = ["EPISODES", "Evaluator", "check_place"]

EPISODES = 20  # of each evaluation: training is what the cores are for
LOOK_EVERY_S = 1.0


def check_place(config: TrainConfig) -> None:
    """Whether evaluation may run beside this training.

    Raises:
        ConfigError: Training has the only arm.
    """
    if config.eval_every and config.env.get("cell", "twin") != "twin":
        raise ConfigError(
            "--eval-every evaluates on a twin beside training, never with an arm in use. Train without it, and "
            "evaluate afterwards with: robot-rl eval RUN --cell CELL.yaml"
        )


class Evaluator:
    """Scores the run's policy every `eval_every` environment steps.

    Args:
        config: Of the run, resolved.
        run: The run; evaluations are appended to its `evaluations.jsonl`.
        progress: Shown to a person.

    Attributes:
        stop_requested: Set it (from a signal handler, say) to end; an evaluation under way is dropped.
        evaluated: Environment steps of the policy that was evaluated last.
    """

    def __init__(self, config: TrainConfig, run: RunDirectory, progress: TrainingProgress) -> None:
        check_place(config)
        self.config, self.run, self.progress = config, run, progress
        self.stop_requested = False
        rows = read_metrics(run.evaluations) if run.evaluations.is_file() else []
        self.evaluated = int(rows[-1]["step"] or 0) if rows else -max(config.eval_every, 1)

    def watch(self) -> None:
        """Evaluate until `stop_requested`, or until the policy of the run's last step is evaluated.

        Raises:
            RobotRLError: The environment, the disk or the policy's file failed.
        """
        every = max(self.config.eval_every, 1)
        lock = WriterLock(self.run.path / "evaluations.lock")
        env = make(self.config.task, twin_only(self.config.env))
        try:
            with MetricsWriter(self.run.evaluations) as evaluations:
                while not self.stop_requested and self.evaluated < self.config.steps:
                    if not self.run.policy.is_file():
                        time.sleep(LOOK_EVERY_S)
                        continue
                    tensors, facts = load_tensors(self.run.policy)
                    if facts["step"] // every <= self.evaluated // every:
                        time.sleep(LOOK_EVERY_S)
                        continue
                    operator = _Stoppable(Policy.load(self.config, env, tensors), lambda: self.stop_requested)
                    try:
                        result = evaluate(env, operator, EPISODES)
                    except _Stopped:
                        return
                    rate, self.evaluated = float(np.mean(result.successes)), int(facts["step"])
                    evaluations.write(
                        step=self.evaluated, update=facts["update"], eval_success_rate=rate, eval_episodes=EPISODES
                    )
                    self.progress.log(f"Step {self.evaluated}: {sum(result.successes)}/{EPISODES} episodes succeeded.")
        finally:
            env.close()
            lock.release()


class _Stopped(Exception):  # noqa: N818 (no error: a wish)
    pass


class _Stoppable:
    """A policy that can be interrupted between two steps."""

    def __init__(self, policy: Policy, stopping: Callable[[], bool]) -> None:
        self._policy, self._stopping = policy, stopping

    def begin_episode(self) -> None:
        self._policy.begin_episode()

    def act(self, observation: Any, instruction: str = "") -> NDArray[np.float32]:
        if self._stopping():
            raise _Stopped
        return self._policy.act(observation, instruction)
