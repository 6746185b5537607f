"""Operators: whoever chooses actions. A policy, a script, a person at a device, a planner."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Operator", "begin_episode"]


class Operator(Protocol):
    """Chooses an action from an observation and an instruction.

    One that plans more than a step ahead also has a method `begin_episode()`, so that no plan outlives its episode.
    """

    def act(self, observation: Any, instruction: str = "") -> NDArray[np.float32]:
        """Action in [-1, 1], shape (A,)."""
        ...


def begin_episode(operator: Operator) -> None:
    """Say to an operator that an episode begins, if it wants to know."""
    begin = getattr(operator, "begin_episode", None)
    if begin is not None:
        begin()
