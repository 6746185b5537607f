"""A scripted person: watches the policy, takes over when it goes wrong, as slowly and as roughly as a person would.

It makes interventions measurable on the twin: how much sooner does a policy succeed, and how often is a person needed?
"""

import numpy as np
from numpy.typing import NDArray

from tasks.env import RobotEnv

__all__ = ["ScriptedHand"]

Action = NDArray[np.float32]

SMOOTHING = 0.7  # of the disagreement from step to step
BADLY = 0.9  # that much disagreement, in full actions, and a person stops watching


class ScriptedHand:
    """Takes over from a policy that does not do what the task's expert would.

    Args:
        env: Whose task's expert it is.
        rng: Source of the noise.
        reaction_steps: Between seeing that it goes wrong and driving.
        drives_steps: How long it drives before it lets the policy try again.
        noise: Standard deviation of its hand, as a fraction of a full action.
        patience_steps: It watches so long at an episode's beginning, whatever it sees.
        judges: It also says success, as long after it is so as its reaction takes, and failure when time is up.
    """

    def __init__(
        self,
        env: RobotEnv,
        rng: np.random.Generator,
        *,
        reaction_steps: int = 3,
        drives_steps: int = 8,
        noise: float = 0.1,
        patience_steps: int = 5,
        judges: bool = False,
    ) -> None:
        self._env, self._judges = env, judges
        self._expert = env.expert(rng, noise)
        self._reaction, self._drives, self._patience = reaction_steps, drives_steps, patience_steps
        self.reset()

    def connect(self) -> None:
        """Nothing to open."""

    def reset(self) -> None:
        """Watch again from the beginning."""
        self._disagreement, self._step, self._acts_at, self._until, self._succeeded = 0.0, 0, -1, -1, 0

    def act(self, proposed: Action) -> tuple[Action | None, frozenset[str]]:
        """The expert's action, roughly, while it drives; it says nothing, unless it judges."""
        self._step += 1
        if self._judges:
            self._succeeded = self._succeeded + 1 if self._env.task.success(self._env.world()) else 0
            if self._succeeded > self._reaction:
                return None, frozenset({"success"})
        wanted = self._expert.act(None)
        off = float(np.linalg.norm(proposed[:6] - wanted[:6]))
        if len(wanted) > 6 and proposed[6] * wanted[6] < 0.0:
            off += 1.0
        self._disagreement = SMOOTHING * self._disagreement + (1.0 - SMOOTHING) * off
        if self._step <= self._until:
            return wanted, frozenset()
        if self._acts_at < 0 and self._step > self._patience and self._disagreement > BADLY:
            self._acts_at = self._step + self._reaction
        if 0 <= self._acts_at <= self._step:
            self._acts_at, self._until = -1, self._step + self._drives - 1
            return wanted, frozenset()
        return None, frozenset()

    def verdict(self) -> frozenset[str]:
        """What it says when it is asked."""
        return frozenset({"success" if self._env.task.success(self._env.world()) else "failure"})

    def show(self, status: object, pictures: object) -> None:
        """It sees the world itself."""

    def close(self) -> None:
        """Nothing to let go of."""
