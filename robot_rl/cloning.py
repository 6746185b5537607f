"""Behaviour cloning from start to end: demonstrations in, a policy out, no step in the environment."""

import time

import numpy as np

from robot_rl.config import TrainConfig
from robot_rl.environments import Env, instructions_of
from robot_rl.errors import ConfigError
from robot_rl.learner import Learner
from robot_rl.metrics import MetricsWriter
from robot_rl.preparation import open_demonstrations
from robot_rl.progress import TrainingProgress
from robot_rl.recording import checkpoint_if_room
from robot_rl.rewards.learned import make_with_reward
from robot_rl.run_directory import RunDirectory
from robot_rl.training import publish

__all__ = ["Cloning"]

TOLD_EVERY = 50  # updates


class Cloning:
    """One run that clones demonstrations.

    Args:
        config: Resolved; `agent.kind` is `bc` or `flow`.
        run: Where the demonstrations, the metrics and the policy are written.
        progress: Shown to a person.

    Attributes:
        stop_requested: Set it to end after the current update; going on later gives the same numbers.
    """

    def __init__(self, config: TrainConfig, run: RunDirectory, progress: TrainingProgress) -> None:
        self.config, self.run, self.progress = config, run, progress
        self.stop_requested = False
        self._checkpoints = run.checkpoints

    def train(self) -> str:
        """Clone.

        Returns:
            Why it ended: `cloned` or `stopped`.

        Raises:
            ConfigError: There are no demonstrations.
            StoreError: The disk failed, or another process learns in this run.
        """
        env: Env = make_with_reward(self.config.task, self.config.env, self.config.reward)
        try:
            with self.run.learning():
                return self._train(env)
        finally:
            env.close()

    def _train(self, env: Env) -> str:
        demonstrations = open_demonstrations(self.config, self.run, env, self.progress, lambda: self.stop_requested)
        if self.stop_requested:
            return "stopped"
        if demonstrations is None:
            raise ConfigError(f"{self.run.path}: there are no demonstrations to clone.")
        self.progress.log("Looking through the demonstrations.")
        saved = self._checkpoints.load() if self._checkpoints.exists else None
        spaces = (env.observation_space, env.action_space)
        learner = Learner(self.config, *spaces, instructions_of(env), demonstrations, saved, self.run.seen)
        self._clone(learner, int(saved[1]["step"]) if saved else 0)
        if self.stop_requested:
            return "stopped"
        publish(self.run, learner, 0, 0)
        return "cloned"

    def _clone(self, learner: Learner, done: int) -> None:
        skills = [skill for skill in learner.skills.values() if len(skill.demos)]
        self.progress.phase("cloning", self.config.bc_updates)
        with MetricsWriter(self.run.metrics, self.config.tensorboard) as metrics:
            begun = saved_at = time.monotonic()
            first = done
            while done < self.config.bc_updates and not self.stop_requested:
                losses = [skill.agent.pretrain_bc(skill.sample())["imitation_loss"] for skill in skills]
                done += 1
                now = time.monotonic()
                if done % TOLD_EVERY == 0:
                    row = {
                        "imitation_loss": float(np.mean([float(loss) for loss in losses])),
                        "updates_per_s": (done - first) / max(now - begun, 1e-9),
                    }
                    metrics.write(step=0, update=done, **row)
                    self.progress.update(step=done, **row)
                if now - saved_at > self.config.checkpoint_every_s or self.stop_requested:
                    self._save(learner, done)
                    saved_at = now
        self._save(learner, done)

    def _save(self, learner: Learner, done: int) -> None:
        facts = {**learner.facts(), "step": done}
        checkpoint_if_room(lambda: self._checkpoints.save(learner.policy.state_dict(), facts) and None, self.progress)
