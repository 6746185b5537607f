"""The losses against hand calculations and other libraries."""

import math

import pytest
import torch
from scipy import integrate

from robot_rl.agents import losses
from robot_rl.agents.networks import TanhGaussian


def test_td_target_takes_the_smallest_chosen_critic():
    """1 + 0.5 min(4, 2) = 2 and 0 + 0.9 min(-1, 3) = -0.9 (by hand)."""
    target = losses.td_target(
        torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.9]), torch.tensor([[4.0, -1.0], [2.0, 3.0]])
    )
    torch.testing.assert_close(target, torch.tensor([2.0, -0.9]))


def test_a_discount_of_zero_means_no_bootstrapping():
    target = losses.td_target(torch.tensor([1.5]), torch.tensor([0.0]), torch.tensor([[1e6]]), torch.tensor([1e6]))
    assert target.item() == 1.5


def test_entropy_bonus_is_discounted_with_the_value():
    """1 + 0.5 (2 + 4) = 4 (by hand)."""
    target = losses.td_target(torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([[2.0]]), torch.tensor([4.0]))
    assert target.item() == 4.0


def test_critic_loss_is_the_mean_over_critics_and_samples():
    """Errors 1, 0 / 0, 3: (1 + 9) / 4 = 2.5 (by hand)."""
    assert losses.critic_loss(torch.tensor([[1.0, 2.0], [0.0, 5.0]]), torch.tensor([0.0, 2.0])).item() == 2.5


def test_actor_loss_by_hand():
    """mean(0.5 * 2 - 3, 0.5 * 4 - 1) = mean(-2, 1) = -0.5."""
    loss = losses.actor_loss(torch.tensor([3.0, 1.0]), torch.tensor([2.0, 4.0]), torch.tensor(0.5))
    assert loss.item() == -0.5


def test_descent_lowers_the_temperature_while_entropy_exceeds_its_target():
    temperature = torch.tensor(0.1, requires_grad=True)
    (gradient,) = torch.autograd.grad(losses.temperature_loss(temperature, torch.tensor(-1.0), -3.0), [temperature])
    assert gradient.item() == 2.0


def test_imitation_weighs_only_demonstrations():
    """Sample 1: mean(0.04, 0.16) = 0.1; sample 2 is not a demonstration."""
    loss = losses.imitation_mse(torch.tensor([[0.2, 0.4], [9.0, 9.0]]), torch.zeros(2, 2), torch.tensor([1.0, 0.0]))
    assert loss.item() == pytest.approx(0.1)


def test_imitation_without_demonstrations_is_zero_not_nan():
    assert losses.imitation_mse(torch.ones(2, 1), torch.zeros(2, 1), torch.zeros(2)).item() == 0
    assert losses.imitation_nll(torch.ones(2), torch.zeros(2)).item() == 0


def test_tanh_gaussian_density_integrates_to_one():
    policy = TanhGaussian(torch.tensor([[0.4]]), torch.tensor([[0.7]]))
    total, _ = integrate.quad(lambda a: math.exp(policy.log_probability(torch.tensor([[a]])).item()), -1, 1)
    assert total == pytest.approx(1.0, abs=1e-3)


def test_tanh_gaussian_density_matches_torch_distributions():
    mean, std, u = torch.randn(5, 3), torch.rand(5, 3) + 0.1, torch.randn(5, 3)
    base = torch.distributions.Normal(mean, std)
    theirs = torch.distributions.TransformedDistribution(base, torch.distributions.TanhTransform(cache_size=1))
    ours = losses.tanh_gaussian_log_probability(u, mean, std)
    torch.testing.assert_close(ours, theirs.log_prob(torch.tanh(u)).sum(-1), rtol=1e-3, atol=1e-3)


def test_density_and_its_gradient_are_finite_far_out():
    u = torch.tensor([[60.0, -60.0]], requires_grad=True)
    log_probability = losses.tanh_gaussian_log_probability(u, torch.zeros(1, 2), torch.ones(1, 2))
    (gradient,) = torch.autograd.grad(log_probability.sum(), [u])
    assert torch.isfinite(log_probability).all()
    assert torch.isfinite(gradient).all()
