"""Operators: whoever chooses actions. A policy, a script, a person at a device, a planner."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Operator"]


class Operator(Protocol):
    """Chooses an action from an observation and an instruction."""

    def act(self, observation: Any, instruction: str = "") -> NDArray[np.float32]:
        """Action in [-1, 1], shape (A,)."""
        ...
