"""The learner on a CUDA device beside the same learner on this machine's CPU."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from robot_rl.agents.batch import Batch
from robot_rl.agents.config import AgentConfig
from robot_rl.agents.sac import SACAgent
from robot_rl.policy import check_device

__all__ = ["gpu_benchmarks"]

BATCH, OBSERVATION, ACTIONS, DELAY, ROUNDS, WARM_UPS = 256, 25, 7, 8, 9, 5


def gpu_benchmarks() -> list[dict[str, Any]]:
    """Critic updates a second from state, two and ten critics: on the GPU, launched one kernel at a time and recorded
    as CUDA graphs, and on the CPU's fused kernels.

    Raises:
        ConfigError: There is no CUDA device.
    """
    check_device("cuda")
    torch.set_float32_matmul_precision("high")
    return [row for critics in (2, 10) for row in _rows(critics)]


def _rows(critics: int) -> list[dict[str, Any]]:
    name, reference = f"gpu_critic_updates_per_s_{critics}_critics", _rate("cpu", critics)
    return [
        {
            "name": name + ("_recorded" if graphs else ""),
            "value": _rate("cuda", critics, graphs),
            "unit": f"1/s on {torch.cuda.get_device_name()}, TF32",
            "reference": f"the fused kernels on {torch.get_num_threads()} CPU threads",
            "reference_value": reference,
        }
        for graphs in (False, True)
    ]


def _rate(device: str, critics: int, graphs: bool = False) -> float:
    """Critic updates a second."""
    config = AgentConfig(critics=critics, policy_delay=DELAY, cuda_graphs=graphs)
    agent, batch = SACAgent(OBSERVATION, ACTIONS, config, 0, device), _batch(device)
    for _ in range(WARM_UPS * DELAY):
        agent.update(batch)
    return 1 / float(np.median([_seconds(lambda: agent.update(batch)) for _ in range(ROUNDS)]))


def _batch(device: str) -> Batch:
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random).to(device)

    zeros = torch.zeros(BATCH, device=device)
    return Batch(draw(BATCH, OBSERVATION), torch.tanh(draw(BATCH, ACTIONS)), zeros, zeros + 0.95,
                 draw(BATCH, OBSERVATION), zeros)  # fmt: skip


def _seconds(update: Callable[[], Any]) -> float:
    """Of one update, as a mean over a cycle of critic and actor updates."""
    start = time.perf_counter()
    losses = [update()["critic_loss"] for _ in range(2 * DELAY)]
    float(losses[-1])  # waits for the device
    return (time.perf_counter() - start) / (2 * DELAY)
