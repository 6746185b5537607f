"""The learner's losses, pure functions. B samples, E critics, M target critics, A action axes."""

import math

import torch
from torch import Tensor
from torch.nn import functional


def td_target(reward: Tensor, discount: Tensor, next_values: Tensor, entropy_bonus: Tensor | None = None) -> Tensor:
    """n-step target: reward + discount * min over the target critics.

    Args:
        reward: Discounted sum of the rewards of the n steps, shape (B,).
        discount: gamma**n, or 0 where nothing is bootstrapped, shape (B,).
        next_values: Values of the next observation by the chosen target critics, shape (M, B).
        entropy_bonus: -temperature * log-probability of the next action, shape (B,), where the backup contains it.

    Returns:
        Targets, shape (B,).
    """
    value = next_values.amin(0)
    if entropy_bonus is not None:
        value = value + entropy_bonus
    return torch.addcmul(reward, discount, value)


def critic_loss(values: Tensor, target: Tensor) -> Tensor:
    """Mean squared TD error over critics and samples.

    Args:
        values: Predictions, shape (E, B).
        target: Shared targets, shape (B,).

    Returns:
        Scalar.
    """
    return (values - target).square().mean()


def actor_loss(values: Tensor, log_probability: Tensor, temperature: Tensor) -> Tensor:
    """Soft policy loss: mean of temperature * log pi(a|s) - Q(s, a); all of shape (B,), temperature a scalar."""
    return (temperature * log_probability - values).mean()


def temperature_loss(temperature: Tensor, entropy: Tensor, target_entropy: float) -> Tensor:
    """Lagrangian of entropy >= target: descent lowers the temperature while entropy exceeds the target."""
    return temperature * (entropy.detach() - target_entropy)


def imitation_mse(action: Tensor, demonstrated: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean squared distance between actions.

    Args:
        action: The policy's mean action, shape (B, A).
        demonstrated: The demonstrator's action, shape (B, A).
        weight: 1 where a sample is to be imitated, else 0, shape (B,).

    Returns:
        Scalar: mean over action axes and weighted samples; 0 where no sample has weight.
    """
    return _weighted_mean((action - demonstrated).square().mean(-1), weight)


def imitation_nll(log_probability: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of the negative log-probability of demonstrated actions, both of shape (B,)."""
    return _weighted_mean(-log_probability, weight)


def _weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp(min=1.0)


def tanh_gaussian_log_probability(pre_tanh: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Log-density of a = tanh(u), u ~ N(mean, std), by u.

    Args:
        pre_tanh: u, shape (B, A).
        mean: Shape (B, A).
        std: Shape (B, A).

    Returns:
        Log-density in action space [nats], shape (B,).

    Source: Haarnoja et al., arXiv 1812.05905, app. C; log(1 - tanh(u)^2) written so that it does not underflow.
    """
    gaussian = -0.5 * ((pre_tanh - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)
    log_slope = 2.0 * (math.log(2.0) - pre_tanh - functional.softplus(-2.0 * pre_tanh))
    return (gaussian - log_slope).sum(-1)
