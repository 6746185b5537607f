"""AdamW on flat tensors: one pass over memory for moments, parameters and their Polyak average."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robot_rl.agents import kernels
from robot_rl.parallel import run_in_parallel

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
_NO_AVERAGE: NDArray[np.float32] = np.zeros(0, np.float32)


class Adam:
    """Adam on one flat tensor: decoupled weight decay, linear warm-up and, in the same pass, a Polyak-averaged target.

    Args:
        parameter: The tensor that is moved, of any shape.
        learning_rate: Step size after warm-up.
        warmup_steps: Steps over which the rate rises linearly from zero; 0 means none.
        fused: Use the CPU kernel.
        weight_decay: Share of the learning rate that every parameter shrinks by at a step (AdamW, arXiv 1711.05101).

    Attributes:
        steps: Taken so far.
        rates: Where set, `step` takes what `count` gives from this tensor, shape (3,), and whoever set it counts: then
            a step is tensor work alone and may be recorded and replayed.
    """

    def __init__(
        self,
        parameter: Tensor,
        learning_rate: float,
        warmup_steps: int = 0,
        fused: bool = True,
        weight_decay: float = 0.0,
    ) -> None:
        self.parameter = parameter.detach()
        self.learning_rate = learning_rate
        self.warmup_steps, self.weight_decay = warmup_steps, weight_decay
        self.fused = fused and parameter.device.type == "cpu"
        self.m = torch.zeros_like(self.parameter)
        self.v = torch.zeros_like(self.parameter)
        self.steps = 0
        self.rates: Tensor | None = None

    def count(self) -> tuple[float, float, float]:
        """Count one step; returns its bias-corrected rate, epsilon, and the share of every parameter that is kept."""
        self.steps += 1
        rate = self.learning_rate * (min(1.0, self.steps / self.warmup_steps) if self.warmup_steps else 1.0)
        root = math.sqrt(1 - BETA2**self.steps)
        return rate * root / (1 - BETA1**self.steps), EPSILON * root, 1.0 - rate * self.weight_decay

    def advance(self, tau: float = 0.0) -> tuple[np.float32, ...]:
        """Count one step; returns the last six arguments of `kernels.adam` for it."""
        rate, epsilon, keep = self.count()
        return tuple(np.float32(number) for number in (rate, BETA1, BETA2, epsilon, tau, keep))

    def step(self, gradient: Tensor, target: Tensor | None = None, tau: float = 0.0) -> None:
        """One step along ``gradient``; then ``target += tau (parameter - target)``."""
        if self.fused:
            numbers = self.advance(tau)
            p, g, m, v = (t.detach().view(-1).numpy() for t in (self.parameter, gradient.contiguous(), self.m, self.v))
            averaged = _NO_AVERAGE if target is None else target.detach().view(-1).numpy()
            size = p.size
            if size < 4096:
                kernels.adam(0, size, p, g, m, v, averaged, *numbers)
                return
            shares = 64  # fixed, so that the thread count changes nothing
            run_in_parallel(
                lambda _, first, last: kernels.adam(
                    size * first // shares, size * last // shares, p, g, m, v, averaged, *numbers
                ),
                shares,
            )
            return
        rate, epsilon, keep = self.count() if self.rates is None else self.rates
        self.m.lerp_(gradient, 1 - BETA1)
        self.v.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        self.parameter.mul_(keep).sub_(self.m * rate / self.v.sqrt().add_(epsilon))
        if target is not None:
            target.detach().lerp_(self.parameter, tau)

    def state(self) -> dict[str, Tensor]:
        """A copy of moments and step count."""
        return {"m": self.m.clone(), "v": self.v.clone(), "steps": torch.tensor(self.steps)}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` returned."""
        self.m.copy_(state["m"])
        self.v.copy_(state["v"])
        self.steps = int(state["steps"])
