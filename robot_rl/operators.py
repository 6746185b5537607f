"""Operators: whoever chooses actions. A policy, a script, a person at a device, a planner."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robot_rl.agent import SACAgent
from robot_rl.observation import ObservationLayout

__all__ = ["AgentOperator", "Operator"]


class Operator(Protocol):
    """Chooses an action from an observation and an instruction."""

    def act(self, observation: Any, instruction: str = "") -> NDArray[np.float32]:
        """Action in [-1, 1], shape (A,)."""
        ...


class AgentOperator:
    """A learnt policy as an operator.

    Args:
        agent: The policy.
        layout: How observations become the agent's vector.
        deterministic: Act by the mode instead of a sample.
    """

    def __init__(self, agent: SACAgent, layout: ObservationLayout, *, deterministic: bool = True) -> None:
        self._agent, self._layout, self._deterministic = agent, layout, deterministic

    def act(self, observation: Any, instruction: str = "") -> NDArray[np.float32]:
        """The policy's action."""
        del instruction
        return self._agent.act(self._layout.flatten(observation), self._deterministic)
