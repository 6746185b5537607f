"""How fast the learner learns and acts, beside a plain implementation of the same update in the same run."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from robot_rl.agents.sac import AgentConfig, Batch, SACAgent
from robot_rl.blas import prepare_blas

OBSERVATION_DIM, ACTION_DIM, BATCH, ROWS = 25, 7, 256, 50_000
REFERENCE = "eager torch: batched baddbmm, all target critics evaluated, torch.optim.Adam, foreach Polyak averaging"


class PlainSAC:
    """The same update as a textbook writes it in torch: no flat parameters, no fused kernels, no skipped critics."""

    def __init__(self, critics: int, policy_delay: int = 8, hidden: int = 256) -> None:
        self.critics, self.policy_delay, self.updates = critics, policy_delay, 0
        self.actor = self._network(1, OBSERVATION_DIM, hidden, 2 * ACTION_DIM)
        self.critic = self._network(critics, OBSERVATION_DIM + ACTION_DIM, hidden, 1)
        self.target = [parameter.detach().clone() for parameter in self.critic]
        self.raw_temperature = torch.tensor(-4.6, requires_grad=True)
        self.critic_adam = torch.optim.Adam(self.critic, lr=3e-4)
        self.actor_adam = torch.optim.Adam(self.actor, lr=3e-4)
        self.temperature_adam = torch.optim.Adam([self.raw_temperature], lr=3e-4)

    @staticmethod
    def _network(networks: int, inputs: int, hidden: int, outputs: int) -> list[Tensor]:
        parameters: list[Tensor] = []
        for k, n in ((inputs, hidden), (hidden, hidden), (hidden, outputs)):
            parameters += [torch.randn(networks, k, n) / k**0.5, torch.zeros(networks, 1, n)]
            if n == hidden:
                parameters += [torch.ones(networks, 1, n), torch.zeros(networks, 1, n)]
        return [parameter.requires_grad_() for parameter in parameters]

    @staticmethod
    def _forward(parameters: list[Tensor], x: Tensor) -> Tensor:
        h = x.expand(parameters[0].shape[0], *x.shape)
        for i in (0, 4):
            weight, bias, gain, shift = parameters[i : i + 4]
            z = torch.baddbmm(bias, h, weight)
            h = torch.tanh(functional.layer_norm(z, (z.shape[-1],)) * gain + shift)
        return torch.baddbmm(parameters[9], h, parameters[8])

    def _sample(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self._forward(self.actor, observation)[0].chunk(2, -1)
        normal = torch.distributions.Normal(mean, log_std.exp().clamp(1e-5, 5.0))
        u = normal.rsample()
        slope = 2 * (np.log(2.0) - u - functional.softplus(-2 * u))
        return torch.tanh(u), (normal.log_prob(u) - slope).sum(-1)

    def update(self, batch: Batch) -> None:
        """One critic step; every `policy_delay` calls also one of actor and temperature."""
        self.updates += 1
        with torch.no_grad():
            action, _ = self._sample(batch.next_observation)
            values = self._forward(self.target, torch.cat((batch.next_observation, action), -1))[..., 0]
            y = batch.reward + batch.discount * values[torch.randperm(self.critics)[:2]].amin(0)
        values = self._forward(self.critic, torch.cat((batch.observation, batch.action), -1))[..., 0]
        self._step(self.critic_adam, (values - y).square().mean())
        with torch.no_grad():
            torch._foreach_lerp_(self.target, self.critic, 0.005)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        if self.updates % self.policy_delay:
            return
        temperature = functional.softplus(self.raw_temperature)
        action, log_probability = self._sample(batch.observation)
        values = self._forward(
            [parameter.detach() for parameter in self.critic], torch.cat((batch.observation, action), -1)
        )
        self._step(self.actor_adam, (temperature.detach() * log_probability - values[..., 0].mean(0)).mean())
        self._step(self.temperature_adam, temperature * (-log_probability.detach().mean() + ACTION_DIM / 2))

    @staticmethod
    def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        optimiser.step()  # pyright: ignore[reportUnknownMemberType]


def _sampler() -> Callable[[], Batch]:
    """Uniform random rows gathered from arrays that lie in memory, as replay does."""
    g = torch.Generator().manual_seed(0)
    wide = [torch.randn(ROWS, n, generator=g) for n in (OBSERVATION_DIM, ACTION_DIM, OBSERVATION_DIM)]
    flat = [torch.rand(ROWS, generator=g) for _ in range(3)]

    def sample() -> Batch:
        rows = torch.randint(0, ROWS, (BATCH,), generator=g)
        observation, action, following = (column.index_select(0, rows) for column in wide)
        reward, discount, is_demo = (column.index_select(0, rows) for column in flat)
        return Batch(observation, action.tanh(), reward, discount, following, is_demo)

    return sample


def _seconds(work: Callable[[], object], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - start) / times


SERL_CRITICS = 10


def critic_updates_per_s(critics: int = 10, policy_delay: int = 8, rounds: int = 9) -> list[dict[str, Any]]:
    """Critic updates per second, sampling and the share of actor updates included.

    Args:
        critics: E; 256 x 256 LayerNorm networks, batch 256, observation 25, action 7, float32.
        policy_delay: Critic updates per actor update.
        rounds: Alternating blocks of ours and the reference; the median block of each counts.

    Returns:
        One row {name, value, unit, reference, reference_value}.
    """
    sample = _sampler()
    agent = SACAgent(OBSERVATION_DIM, ACTION_DIM, AgentConfig(critics=critics, policy_delay=policy_delay), seed=0)
    plain = PlainSAC(critics, policy_delay)
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds + 1):
        ours.append(_seconds(lambda: agent.update(sample()), 2 * policy_delay))
        theirs.append(_seconds(lambda: plain.update(sample()), 2 * policy_delay))
    return [
        {
            "name": "critic_updates_per_s" if critics == SERL_CRITICS else f"critic_updates_per_s_{critics}_critics",
            "value": 1 / float(np.median(ours[1:])),
            "unit": f"1/s ({critics} critics, sampling included; OpenBLAS for {prepare_blas()}, 2 threads)",
            "reference": REFERENCE,
            "reference_value": 1 / float(np.median(theirs[1:])),
        }
    ]


def act_ms(calls: int = 300) -> list[dict[str, Any]]:
    """Median time of one stochastic action [ms], beside the same network as torch modules."""
    agent = SACAgent(OBSERVATION_DIM, ACTION_DIM, AgentConfig(), seed=0)
    plain = PlainSAC(2)
    observation = np.zeros(OBSERVATION_DIM, np.float32)

    def reference() -> object:
        with torch.no_grad():
            return plain._sample(torch.from_numpy(observation).unsqueeze(0))[0][0].numpy()  # pyright: ignore[reportPrivateUsage]

    agent.act(observation)
    return [
        {
            "name": "act_ms",
            "value": 1e3 * float(np.median([_seconds(lambda: agent.act(observation), 1) for _ in range(calls)])),
            "unit": "ms",
            "reference": "eager torch, the same network",
            "reference_value": 1e3 * float(np.median([_seconds(reference, 1) for _ in range(calls)])),
        }
    ]


def learner_benchmarks() -> list[dict[str, Any]]:
    """All rows: the SERL-sized ensemble, the two-critic preset, and acting."""
    return critic_updates_per_s(SERL_CRITICS) + critic_updates_per_s(2) + act_ms()
