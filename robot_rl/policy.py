"""What acts: eyes, and one actor for each instruction that the environment gives."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robot_rl.agents.flow import FlowAgent
from robot_rl.agents.sac import SACAgent
from robot_rl.config import TrainConfig
from robot_rl.environments import Env, instructions_of
from robot_rl.errors import ConfigError, ShapeError
from robot_rl.observation import ObservationLayout
from robot_rl.vision.perception import Perception

__all__ = ["Policy", "check_device"]


def check_device(device: str) -> None:
    """Whether there is such a device here.

    Raises:
        ConfigError: There is none.
    """
    if device != "cpu" and not torch.cuda.is_available():
        raise ConfigError(f"device: {device} asked for, but torch finds no CUDA device here. Say device=cpu.")
    if ":" in device and int(device.split(":")[1]) >= torch.cuda.device_count():
        raise ConfigError(f"device: {device} asked for, but there are {torch.cuda.device_count()} CUDA devices here.")


class Policy:
    """An operator made of learnt actors.

    Args:
        config: Of the run.
        observation_space: Of its environment.
        action_space: Of its environment.
        instructions: One actor is kept for each.
        tensors: What `policy_state` gave, or a checkpoint; None for a fresh policy.
        typical: Pictures by camera that a fresh policy's projection is fitted on.

    Raises:
        ConfigError: The device asked for is not there.

    Attributes:
        agents: By instruction.
        layout: Of the observations.
        perception: None where there are no cameras.
        history: Observations that the actors see: the newest of the running episode.
        deterministic: Act by the mode instead of a sample.
    """

    def __init__(
        self,
        config: TrainConfig,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        instructions: Sequence[str] = ("",),
        tensors: Mapping[str, Tensor] | None = None,
        typical: Mapping[str, NDArray[np.uint8]] | None = None,
    ) -> None:
        # The kernels bring threads of their own; torch's would only spin beside them, at a cost where cores are few.
        torch.set_num_threads(1)
        check_device(config.device)
        if config.device != "cpu":
            torch.set_float32_matmul_precision("high")  # TF32: ten bits of mantissa are enough for these networks
        self.deterministic = False
        self.layout = ObservationLayout(observation_space)
        self.history = config.history
        self._recent: deque[tuple[NDArray[np.float32], dict[str, Tensor]]] = deque(maxlen=self.history)
        self.perception = (
            Perception(config.vision, self.layout, config.seed, config.device, self.history)
            if self.layout.images
            else None
        )
        if self.perception is not None and tensors is not None:
            self.perception.load(tensors)
        elif self.perception is not None and typical is not None:
            self.perception.fit(typical)
        encoder = self.perception.encoder if self.perception is not None else None
        (actions,) = action_space.shape or (0,)
        self.agents = {
            instruction: (FlowAgent if config.agent.kind == "flow" else SACAgent)(
                self.history * self.layout.size, actions, config.agent, config.seed + 10_000 * i, config.device, encoder
            )
            for i, instruction in enumerate(instructions)
        }

    @classmethod
    def load(cls, config: TrainConfig, env: Env, tensors: Mapping[str, Tensor]) -> "Policy":
        """A published policy, deterministic.

        Raises:
            ShapeError: It was trained on other observations or actions.
        """
        policy = cls(config, env.observation_space, env.action_space, instructions_of(env), tensors)
        policy.load_policy_state(tensors)
        policy.deterministic = True
        return policy

    def begin_episode(self, seen: Sequence[Any] = ()) -> None:
        """Forget what was planned and seen in the last episode.

        Args:
            seen: Observations of this one so far, where one that was interrupted goes on.
        """
        for agent in self.agents.values():
            if isinstance(agent, FlowAgent):
                agent.begin_episode()
        self._recent.clear()
        for observation in seen[max(0, len(seen) + 1 - self.history) :]:
            self.see(observation)

    def see(self, observation: Any) -> None:
        """Keep an observation for the history of those to come; `act` does so itself."""
        leaves, images = self.layout.split(observation), dict[str, Tensor]()
        if self.perception is not None:
            for name in self.perception.cameras:
                images[name] = torch.from_numpy(self.perception.look_newest(name, leaves[name])[:, 0])
        self._recent.append((self.layout.flatten_columns(leaves, ()), images))

    def act(self, observation: Any, instruction: str = "") -> NDArray[np.float32]:
        """The action of the instruction's actor, in [-1, 1], shape (A,)."""
        agent = self.agent(instruction)
        self.see(observation)
        vector, images = self._recent[-1]
        if self.history > 1:
            recent = [self._recent[0]] * (self.history - len(self._recent)) + list(self._recent)
            vector = np.concatenate([vector for vector, _ in recent])
            images = {name: torch.cat([images[name] for _, images in recent], 1) for name in images}
        return agent.act(vector, self.deterministic, images)

    def agent(self, instruction: str) -> SACAgent | FlowAgent:
        """The agent of an instruction; with one agent, that one whatever is said.

        Raises:
            ConfigError: Several, and none for this instruction.
        """
        if len(self.agents) == 1:
            return next(iter(self.agents.values()))
        if instruction not in self.agents:
            raise ConfigError(f"No policy for the instruction {instruction!r}; there are {list(self.agents)}.")
        return self.agents[instruction]

    def policy_state(self) -> dict[str, Tensor]:
        """A copy, on the CPU, of what acting needs."""
        return self._seen() | named({i: a.policy_state() for i, a in enumerate(self.agents.values())})

    def load_policy_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `policy_state` gave. The projection must be the one this policy was made with.

        Raises:
            ShapeError: It is of other observations, actions or settings.
        """
        self._check_history(tensors)
        for agent, own in zip(self.agents.values(), unnamed(tensors, len(self.agents)), strict=True):
            agent.load_policy_state(own)

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of everything that learns, on the CPU."""
        return self._seen() | named({i: a.state_dict() for i, a in enumerate(self.agents.values())})

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            ShapeError: It is of other observations, actions or settings.
        """
        self._check_history(tensors)
        for agent, own in zip(self.agents.values(), unnamed(tensors, len(self.agents)), strict=True):
            agent.load_state_dict(own)

    def _seen(self) -> dict[str, Tensor]:
        history = {"history": torch.tensor(self.history)} if self.history > 1 else {}
        return history | ({} if self.perception is None else self.perception.state())

    def _check_history(self, tensors: Mapping[str, Tensor]) -> None:
        saved = int(tensors["history"]) if "history" in tensors else 1
        if saved != self.history:
            raise ShapeError(
                f"The saved policy was trained with history={saved}, and here history is {self.history}. "
                f"Set history={saved}, or train anew.",
                saved=saved,
                history=self.history,
            )


def named(states: Mapping[int, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of several agents under one roof: those of the second begin with `1/`, and so on."""
    return {f"{i}/{name}" if i else name: value for i, state in states.items() for name, value in state.items()}


def unnamed(tensors: Mapping[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    """What `named` put together, apart again."""
    first = {name: value for name, value in tensors.items() if "/" not in name.split("vision.")[0]}
    rest = ({n.removeprefix(f"{i}/"): v for n, v in tensors.items() if n.startswith(f"{i}/")} for i in range(1, count))
    return [first, *rest]
