"""A learned reward in place of the task's own: success is what the classifier says, and ends the episode.

A reward of K stages has a classifier for each; whenever one is reached that was not reached before, 1/K is given, so
that an episode's return is 1 with success and never more.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from robot_rl.environments import Env, make
from robot_rl.errors import ConfigError
from robot_rl.rewards.classifier import FILE
from robot_rl.rewards.conditions import parse_conditions
from robot_rl.rewards.stages import load_stages

__all__ = ["LearnedReward", "make_with_reward"]

Step = tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]


class LearnedReward(gym.Wrapper[Any, NDArray[np.float32], Any, NDArray[np.float32]]):
    """Reward and, at the last stage, the end where a classifier is sure for some steps on end and its conditions hold.

    The environment's own verdict goes unheard into `info["oracle_success"]`, where it has one (`env.reward=external`).
    A reward that is trained anew meanwhile counts from the next episode on.

    Args:
        env: Made with `reward="external"`.
        path: Of the reward (`robot-rl reward train`).
        steps: That it must be sure for, one after another: a flicker is no success.

    Attributes:
        classifiers: Of each stage; the last one's is success.

    Raises:
        ConfigError: The classifier was trained on other cameras, or a condition names what the state does not hold.
        StoreError: There is no reward, or it is damaged.
    """

    def __init__(self, env: Env, path: str | Path, steps: int = 2) -> None:
        super().__init__(env)
        self._file, self._steps = Path(path) / FILE, steps
        self._stamp = (0, 0)
        self._refresh()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self._refresh()
        self._sure, self._reached = [0] * len(self.classifiers), 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: NDArray[np.float32]) -> Step:
        """One step, judged; what a person says of it stands, and pays what is left to pay."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        before, last, probability = self._reached, len(self.classifiers), 0.0
        if "label" in info:
            return observation, float(reward) * (last - before) / last, terminated, truncated, info
        for stage, classifier in enumerate(self.classifiers, start=1):
            probability = classifier.probability(observation)
            sure = probability >= classifier.threshold and (stage < last or self._allowed(observation))
            self._sure[stage - 1] = self._sure[stage - 1] + 1 if sure else 0
            if self._sure[stage - 1] >= self._steps:
                self._reached = max(self._reached, stage)
        success = self._reached == last
        info.update(success=success, success_probability=probability, stage=self._reached)
        return observation, (self._reached - before) / last, terminated or success, truncated and not success, info

    def _allowed(self, observation: Any) -> bool:
        return all(condition.holds(observation["state"]) for condition in self._conditions)

    def _refresh(self) -> None:
        try:
            status = self._file.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
        except OSError:
            stamp = (-1, -1)  # loading says what is wrong
        if stamp == self._stamp:
            return
        self.classifiers, facts = load_stages(self._file.parent)
        self.classifiers[-1].check_fits(self.env.observation_space)
        layout: Mapping[str, Any] = getattr(self.env.unwrapped, "state_layout", {})
        self._conditions = parse_conditions(facts.get("conditions", ()), layout)
        self._stamp = stamp


def make_with_reward(task: str, options: dict[str, Any], reward: str | Path) -> Env:
    """An environment with the learned reward that lies at `reward`; with the task's own where that is empty.

    Raises:
        ConfigError: As `robot_rl.environments.make`, or the reward does not fit.
        StoreError: There is no reward, or it is damaged.
    """
    if not str(reward):
        return make(task, options)
    if options.get("reward", "external") != "external":
        raise ConfigError(
            f"env.reward={options['reward']} and a learned reward at {reward}: one of the two can say what success is."
        )
    load_stages(Path(reward))  # what is wrong with it is said before a cell is opened
    env = make(task, {**options, "reward": "external"})
    try:
        return LearnedReward(env, reward)
    except Exception:
        env.close()
        raise
