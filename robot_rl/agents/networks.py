"""Actor and critics: what the flat ensembles of `robot_rl.agents.ensemble` mean."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from robot_rl.agents import losses
from robot_rl.agents.config import AgentConfig
from robot_rl.agents.ensemble import EnsembleMLP, MLPShape
from robot_rl.agents.optimiser import Adam

# Actions this close to the border have no finite inverse tanh in float32.
ACTION_LIMIT = 1.0 - 1e-5


class TanhGaussian(NamedTuple):
    """Distribution of a = tanh(u), u ~ N(mean, std); both of shape (B, A)."""

    mean: Tensor
    std: Tensor

    def mode(self) -> Tensor:
        return torch.tanh(self.mean)

    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Reparameterised sample.

        Args:
            noise: Standard normal, shape (B, A).

        Returns:
            Action in (-1, 1), shape (B, A), and its log-density [nats], shape (B,).
        """
        pre_tanh = torch.addcmul(self.mean, self.std, noise)
        return torch.tanh(pre_tanh), losses.tanh_gaussian_log_probability(pre_tanh, self.mean, self.std)

    def action(self, noise: Tensor) -> Tensor:
        """A sample without its density, shape (B, A)."""
        return torch.tanh(torch.addcmul(self.mean, self.std, noise))

    def log_probability(self, action: Tensor) -> Tensor:
        """Log-density of given actions [nats], shape (B,); actions on the border count as just inside."""
        pre_tanh = torch.atanh(action.clamp(-ACTION_LIMIT, ACTION_LIMIT))
        return losses.tanh_gaussian_log_probability(pre_tanh, self.mean, self.std)


class Actor:
    """Tanh-Gaussian policy on an encoded observation, shape (B, L).

    Args:
        latent_dim: L.
        action_dim: A.
        config: Widths, activation, standard-deviation limits.
        generator: Source of the initial weights.
        device: Where it lives.
    """

    def __init__(
        self, latent_dim: int, action_dim: int, config: AgentConfig, generator: torch.Generator, device: str = "cpu"
    ) -> None:
        shape = MLPShape((latent_dim, *config.hidden_sizes, 2 * action_dim), config.activation)
        self.mlp = EnsembleMLP(1, shape, generator, output_gain=0.01, device=device, fused=config.fused)
        self._config = config

    @property
    def parameters(self) -> Tensor:
        return self.mlp.parameters

    def __call__(self, latent: Tensor) -> TanhGaussian:
        mean, raw = self.mlp(latent)[0].chunk(2, dim=-1)
        std = self._config.std_init * raw.exp()
        return TanhGaussian(mean, std.clamp(self._config.std_min, self._config.std_max))


class Critics:
    """E action-value functions on (encoded observation, action).

    Args:
        latent_dim: L.
        action_dim: A.
        config: Number of critics, widths.
        generator: Source of the initial weights.
        device: Where they live.
    """

    def __init__(
        self, latent_dim: int, action_dim: int, config: AgentConfig, generator: torch.Generator, device: str = "cpu"
    ) -> None:
        shape = MLPShape((latent_dim + action_dim, *config.hidden_sizes, 1), config.activation)
        self.mlp = EnsembleMLP(config.critics, shape, generator, device=device, fused=config.fused)

    @property
    def parameters(self) -> Tensor:
        return self.mlp.parameters

    def values(self, latent: Tensor, action: Tensor, train: bool = False) -> Tensor:
        """Q of every critic, shape (E, B); gradients reach latent and action, and with ``train`` the critics."""
        return self.mlp(torch.cat((latent, action), -1), train).squeeze(-1)

    def subset_values(self, latent: Tensor, action: Tensor, index: Tensor) -> Tensor:
        """Q of the critics named by ``index``, shape (M, B), without gradients; the others are not evaluated."""
        return self.mlp.evaluate_subset(torch.cat((latent, action), -1), index).squeeze(-1)

    def loss(self, latent: Tensor, action: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of all critics against shared targets (B,), and the detached values (E, B)."""
        values = self.mlp(torch.cat((latent, action), -1)).squeeze(-1)
        return losses.critic_loss(values, target), values.detach()

    @property
    def can_regress(self) -> bool:
        """Whether `regress` may stand for `loss` and its optimiser step: on the fused kernels."""
        return self.mlp.fused

    def regress(
        self, latent: Tensor, action: Tensor, target: Tensor, adam: Adam, averaged: "Critics", tau: float
    ) -> Tensor:
        """One optimiser step towards the targets, one Polyak step of ``averaged``; returns the values (E, B).

        Where the latent came from an encoder, the loss is propagated back into it: its parameters' ``grad`` is set.
        """
        x, back = torch.cat((latent, action), -1), latent.requires_grad
        values, d_x = self.mlp.regress(x.detach(), target, adam, averaged.parameters, tau, back)
        if back:
            latent.backward(d_x[:, : latent.shape[1]])
        return values


def softplus_inverse(value: float) -> float:
    """Solve softplus(x) = value: log(1 + e^x) = value, for value > 0."""
    return value + math.log(-math.expm1(-value))
