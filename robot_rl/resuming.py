"""Going on with a run: what a checkpoint holds beside the networks, and how stored episodes become the loop's state."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_rl.environments import Env
from robot_rl.observation import ObservationLayout

__all__ = ["LoopState", "OpenEpisode", "repeat_episode"]

Step = tuple[Any, float, bool, bool, Any]
"""Action, reward, terminated, truncated, next observation: as `ReplayBuffer.add` takes it."""


@dataclass
class LoopState:
    """What the training loop knows beside networks and steps.

    Attributes:
        seed: Of the run.
        window: Episodes remembered in `successes`.
        step: Environment steps taken.
        episode: Episodes ended.
        successes: Of the latest episodes.
        random: Draws the random actions at the start.
    """

    seed: int
    window: int
    step: int = 0
    episode: int = 0
    successes: deque[bool] = field(init=False)
    random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.successes = deque(maxlen=self.window)
        self.random = np.random.default_rng([self.seed, 1])

    def episode_seed(self) -> int:
        """The environment's seed of the current episode: a function of the run's seed and the episode's number."""
        return int(np.random.SeedSequence([self.seed, 3, self.episode]).generate_state(1)[0])

    def facts(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "step": self.step,
            "episode": self.episode,
            "successes": [bool(s) for s in self.successes],
            "random": self.random.bit_generator.state,
        }

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Take over what `facts` gave. Steps and episodes are counted from the store, which may be further."""
        if "random" in facts:  # an asynchronous learner draws no actions
            self.random.bit_generator.state = facts["random"]
        self.successes.extend(facts["successes"])


@dataclass(frozen=True)
class OpenEpisode:
    """An episode brought back to where it stood: its first observation and the steps since."""

    first: Any
    steps: list[Step]

    @property
    def observations(self) -> list[Any]:
        """All of them; the last is the one to go on from."""
        return [self.first, *(step[-1] for step in self.steps)]


def repeat_episode(
    env: Env, layout: ObservationLayout, seed: int, columns: dict[str, NDArray[Any]]
) -> OpenEpisode | None:
    """Bring a deterministic environment back to where an episode stood, by repeating its actions.

    Args:
        env: Where.
        layout: Of its observations.
        seed: The episode's.
        columns: The steps taken so far, as `EpisodeStore.read` gives them.

    Returns:
        None where the environment does not repeat itself (real hardware, for one).
    """
    first, _ = env.reset(seed=seed)
    actions, rewards = columns["action"], columns["reward"]
    stored = layout.flatten_columns(columns, (len(actions),))
    observation, steps = first, list[Step]()
    for row, action in enumerate(actions):
        if not np.array_equal(layout.flatten(observation), stored[row]):
            return None
        observation, reward, terminated, truncated, _ = env.step(action)
        if terminated or truncated or np.float32(reward) != rewards[row]:
            return None
        steps.append((action, float(reward), False, False, observation))
    return OpenEpisode(first, steps)
