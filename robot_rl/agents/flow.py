"""A chunk of actions at a time, drawn by flow matching: a cloned policy that can hold several ways to do a thing.

A velocity field carries noise to the demonstrated chunk along straight lines: at time t the point t * chunk +
(1 - t) * noise moves with velocity chunk - noise. Sources: Lipman et al., arXiv 2210.02747 (flow matching); Chi et al.,
arXiv 2303.04137 (executing part of a chunk, averaged weights).
"""

import copy
import math
from collections import deque
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robot_rl.agents.batch import Batch
from robot_rl.agents.config import AgentConfig
from robot_rl.agents.scaling import ObservationScale
from robot_rl.tensor_state import copy_into, to_cpu
from robot_rl.vision.encoders import Encoder

__all__ = ["FlowAgent"]

WIDTH, LAYERS = 256, 3
TIME_FEATURES = 16
AVERAGING = 0.995  # of the weights that act


class _Field(nn.Module):
    """Velocity of a noisy chunk, (B, H * A), at time t, (B, 1), given what is seen, (B, L)."""

    def __init__(self, latent_dim: int, chunk_dim: int) -> None:
        super().__init__()
        self.enter = nn.Linear(latent_dim + chunk_dim + TIME_FEATURES, WIDTH)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
            for _ in range(LAYERS)
        )
        self.leave = nn.Linear(WIDTH, chunk_dim)

    def forward(self, latent: Tensor, chunk: Tensor, t: Tensor) -> Tensor:
        turns = t * (math.pi * 2.0 ** torch.arange(TIME_FEATURES // 2, device=t.device))
        x = self.enter(torch.cat((latent, chunk, turns.sin(), turns.cos()), -1))
        for block in self.blocks:
            x = x + block(x)
        return self.leave(x)


class FlowAgent:
    """Clones demonstrations; `robot_rl.agents.sac.SACAgent` is what improves on them.

    Args:
        observation_dim: D, width of a flat observation.
        action_dim: A.
        config: Hyper-parameters; of them `chunk`, `chunk_executed`, `flow_steps`, `learning_rate`, `observation_clip`.
        seed: Fixes initial weights and random streams.
        device: ``cpu`` or a CUDA device.
        encoder: As for `SACAgent`.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        config: AgentConfig,
        seed: int,
        device: str = "cpu",
        encoder: Callable[[int, torch.Generator, bool], Encoder] | None = None,
    ) -> None:
        self.config, self.device, self.action_dim = config, device, action_dim
        self.scale = ObservationScale(observation_dim, config.observation_clip, device)
        latent_dim = observation_dim
        networks: dict[str, nn.Module] = {}
        if encoder is not None:
            eyes = encoder(observation_dim, torch.Generator().manual_seed(seed), True)
            networks["encoder"], latent_dim = eyes, eyes.output_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            networks["field"] = _Field(latent_dim, config.chunk * action_dim)
        self.networks = nn.ModuleDict(networks).to(device)
        self.averaged = copy.deepcopy(self.networks).requires_grad_(False).eval()
        self._adam = torch.optim.AdamW(self.networks.parameters(), lr=config.learning_rate)
        self._learning = torch.Generator().manual_seed(seed + 1)
        self._exploration = torch.Generator().manual_seed(seed + 2)
        self._planned: deque[NDArray[np.float32]] = deque()
        self.updates = 0

    def _latent(
        self, networks: nn.ModuleDict, observation: Tensor, images: Mapping[str, Tensor] | None, train: bool
    ) -> Tensor:
        vector = self.scale(observation)
        if "encoder" not in networks:
            return vector
        return networks["encoder"](vector, images or {}, self._learning if train else None)

    def begin_episode(self) -> None:
        """What was planned in the last episode is of no use in this one."""
        self._planned.clear()

    def act(
        self, observation: NDArray[np.float32], deterministic: bool = False, images: Mapping[str, Tensor] | None = None
    ) -> NDArray[np.float32]:
        """The next action of the chunk under way; a new chunk where that one is used up.

        Args:
            observation: Flat observation, shape (D,).
            deterministic: Begin from zero instead of noise.
            images: Pictures of each camera, with B = 1.

        Returns:
            Action in [-1, 1], shape (A,).

        Raises:
            ShapeError: The observation has another shape or a non-finite number.
        """
        rows = self.scale.row(observation)
        if not self._planned:
            self._planned.extend(self._plan(rows, images, deterministic)[: self.config.chunk_executed])
        return self._planned.popleft()

    def _plan(self, rows: Tensor, images: Mapping[str, Tensor] | None, deterministic: bool) -> NDArray[np.float32]:
        """A whole chunk, shape (H, A)."""
        shape = (1, self.config.chunk * self.action_dim)
        steps = self.config.flow_steps
        with torch.no_grad():
            seen = {name: value.to(self.device) for name, value in (images or {}).items()}
            latent = self._latent(self.averaged, rows, seen, train=False)
            noise = torch.zeros(shape) if deterministic else torch.randn(shape, generator=self._exploration)
            chunk = noise.to(self.device)
            for i in range(steps):
                t = torch.full((1, 1), i / steps, device=self.device)
                chunk = chunk + self.averaged["field"](latent, chunk, t) / steps
        return chunk.clamp(-1.0, 1.0).view(self.config.chunk, self.action_dim).cpu().numpy()

    def pretrain_bc(self, batch: Batch) -> dict[str, Tensor]:
        """One step towards the demonstrated chunks of a batch; where their episode was over, nothing is learnt.

        Returns:
            `imitation_loss`: mean squared error of the velocity.
        """
        assert batch.chunks is not None
        assert batch.chunks_there is not None
        chunks = batch.chunks
        size, wanted = len(chunks), chunks.flatten(1)
        noise = torch.randn(wanted.shape, generator=self._learning).to(self.device)
        t = torch.rand((size, 1), generator=self._learning).to(self.device)
        latent = self._latent(self.networks, batch.observation, batch.images, train=True)
        velocity = self.networks["field"](latent, t * wanted + (1.0 - t) * noise, t)
        error = (velocity - (wanted - noise)).square().view(chunks.shape).mean(-1)
        loss = (error * batch.chunks_there).sum() / batch.chunks_there.sum()
        self._adam.zero_grad()
        loss.backward()
        self._adam.step()
        self.updates += 1
        keep = min(AVERAGING, self.updates / (self.updates + 10.0))
        for mean, now in zip(self.averaged.parameters(), self.networks.parameters(), strict=True):
            mean.lerp_(now.detach(), 1.0 - keep)
        return {"imitation_loss": loss.detach()}

    def _policy(self) -> dict[str, Tensor]:
        named = {f"flow.{name}": value for name, value in self.averaged.state_dict().items()}
        return {**named, "observation_mean": self.scale.mean, "observation_std": self.scale.std}

    def policy_state(self) -> dict[str, Tensor]:
        """A copy, on the CPU, of what acting needs."""
        return to_cpu(self._policy())

    def load_policy_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `policy_state` returned, also to learn on from.

        Raises:
            ShapeError: A tensor is missing or has another shape than this agent's.
        """
        copy_into(self._policy(), state)
        self.networks.load_state_dict(self.averaged.state_dict())
        self._planned.clear()

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of everything: weights, their average, optimiser, counter, statistics, random streams; flat names."""
        state = self.policy_state() | to_cpu(self._learnt())
        state |= {"updates": torch.tensor(self.updates), "random.learning": self._learning.get_state()}
        return state | {"random.exploration": self._exploration.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue where `state_dict` was taken, with the same numbers.

        Raises:
            ShapeError: A tensor is missing or has another shape than this agent's.
        """
        copy_into(self._policy() | self._learnt(), state)
        self.updates = int(state["updates"])
        self._learning.set_state(state["random.learning"].cpu())
        self._exploration.set_state(state["random.exploration"].cpu())
        self._planned.clear()

    def _learnt(self) -> dict[str, Tensor]:
        """The optimiser's own tensors, and what it moves."""
        named: dict[str, Tensor] = {}
        for name, parameter in self.networks.named_parameters():
            moments = self._adam.state[parameter]
            for part in ("exp_avg", "exp_avg_sq"):
                named[f"adam.{name}.{part}"] = moments.setdefault(part, torch.zeros_like(parameter))
            named[f"adam.{name}.step"] = moments.setdefault("step", torch.zeros(()))
            named[f"learning.{name}"] = parameter
        return named

    def reseed_exploration(self, seed: int) -> None:
        """Begin another stream of exploration noise."""
        self._exploration.manual_seed(seed)
