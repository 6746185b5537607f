"""A learned reward in place of the task's own: success is what the classifier says, and ends the episode."""

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from robot_rl.environments import Env, make
from robot_rl.rewards.classifier import SuccessClassifier

__all__ = ["LearnedReward", "make_with_reward"]

Step = tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]


class LearnedReward(gym.Wrapper[Any, NDArray[np.float32], Any, NDArray[np.float32]]):
    """Reward 1 and the end where the classifier is sure for some steps on end.

    The environment's own verdict goes unheard into `info["oracle_success"]`, where it has one (`env.reward=external`).

    Args:
        env: Made with `reward="external"`.
        classifier: Who judges.
        steps: That it must be sure for, one after another: a flicker is no success.

    Raises:
        ConfigError: The classifier was trained on other cameras.
    """

    def __init__(self, env: Env, classifier: SuccessClassifier, steps: int = 2) -> None:
        super().__init__(env)
        classifier.check_fits(env.observation_space)
        self._classifier, self._steps, self._sure = classifier, steps, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self._sure = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: NDArray[np.float32]) -> Step:
        """One step, judged."""
        observation, _, terminated, truncated, info = self.env.step(action)
        probability = self._classifier.probability(observation)
        self._sure = self._sure + 1 if probability >= self._classifier.threshold else 0
        success = self._sure >= self._steps
        info.update(success=success, success_probability=probability)
        return observation, float(success), terminated or success, truncated and not success, info


def make_with_reward(task: str, options: dict[str, Any], reward: str) -> Env:
    """An environment with the learned reward that lies at `reward`; with the task's own where that is empty.

    Raises:
        ConfigError: As `robot_rl.environments.make`, or the reward does not fit.
        StoreError: There is no reward, or it is damaged.
    """
    if not reward:
        return make(task, options)
    classifier, _ = SuccessClassifier.load(reward)
    env = make(task, {**options, "reward": "external"})
    try:
        return LearnedReward(env, classifier)
    except Exception:
        env.close()
        raise
