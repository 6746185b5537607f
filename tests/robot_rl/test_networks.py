"""The fused kernels against torch's own operations, autograd and optimiser."""

import numpy as np
import pytest
import torch

from robot_rl.agents import kernels
from robot_rl.agents.config import AgentConfig
from robot_rl.agents.ensemble import EnsembleMLP, MLPShape
from robot_rl.agents.networks import Actor, softplus_inverse
from robot_rl.agents.optimiser import Adam


def pair(networks: int, activation: str, outputs: int = 1) -> tuple[EnsembleMLP, EnsembleMLP]:
    """A fused ensemble and a plain one with the same, arbitrary parameters."""
    generator = torch.Generator().manual_seed(0)
    shape = MLPShape((5, 24, 16, outputs), activation)
    fused, plain = (EnsembleMLP(networks, shape, generator, fused=choice) for choice in (True, False))
    with torch.no_grad():
        fused.parameters += 0.1 * torch.randn(fused.parameters.shape, generator=generator)
        plain.parameters.copy_(fused.parameters)
    return fused, plain


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize(("networks", "outputs"), [(1, 4), (2, 1), (3, 2), (10, 1)])
@pytest.mark.parametrize("batch", [1, 7, 130])
def test_fused_ensemble_matches_torch_autograd(activation: str, networks: int, outputs: int, batch: int):
    fused, plain = pair(networks, activation, outputs)
    x = torch.randn(batch, 5).requires_grad_()
    weight = torch.randn(networks, batch, outputs)
    gradients = []
    for mlp in (fused, plain):
        out = mlp(x)
        gradients.append((out.detach(), *torch.autograd.grad((out * weight).sum(), [x, mlp.parameters])))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_plain_ensemble_is_a_stack_of_torch_modules():
    _, plain = pair(3, "tanh")
    x = torch.randn(9, 5)
    for network in range(3):
        row = plain.parameters[network].detach()
        layers = [torch.nn.Linear(5, 24), torch.nn.LayerNorm(24), torch.nn.Linear(24, 16), torch.nn.LayerNorm(16)]
        layers.append(torch.nn.Linear(16, 1))
        for layer in layers:
            for parameter in layer.parameters():
                piece, row = row[: parameter.numel()], row[parameter.numel() :]
                if parameter.ndim == 2:
                    piece = piece.view(parameter.T.shape).T
                parameter.data.copy_(piece)
        assert row.numel() == 0
        tanh = torch.nn.Tanh()
        module = torch.nn.Sequential(*layers[:2], tanh, *layers[2:4], tanh, layers[4])
        torch.testing.assert_close(plain(x)[network], module(x), rtol=1e-4, atol=1e-5)


def test_input_gradients_do_not_need_parameter_gradients():
    fused, plain = pair(4, "tanh")
    x = torch.randn(8, 5).requires_grad_()
    ours, theirs = (torch.autograd.grad(mlp(x, train=False).sum(), [x])[0] for mlp in (fused, plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_second_backward_pass_is_refused():
    fused, _ = pair(2, "tanh")
    loss = fused(torch.randn(4, 5)).sum()
    torch.autograd.grad(loss, [fused.parameters], retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        torch.autograd.grad(loss, [fused.parameters])


def test_two_forward_passes_before_their_backward_passes_do_not_share_memory():
    fused, plain = pair(2, "tanh")
    x, y = torch.randn(8, 5), torch.randn(8, 5)
    ours, theirs = (
        torch.autograd.grad(mlp(x).square().sum() + mlp(y).sum(), [mlp.parameters])[0].clone() for mlp in (fused, plain)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_subset_is_the_chosen_rows_of_the_whole():
    for mlp in pair(5, "tanh"):
        x = torch.randn(6, 5)
        chosen = torch.tensor([3, 0])
        torch.testing.assert_close(mlp.evaluate_subset(x, chosen), mlp(x).detach()[chosen])


@pytest.mark.parametrize("decay", [0.0, 2.0])
@pytest.mark.parametrize("fused", [True, False])
def test_adam_matches_torch_adam_and_averages(fused: bool, decay: float):
    parameter = torch.randn(6000)
    theirs = parameter.clone().requires_grad_()
    target, expected_target = torch.zeros(6000), torch.zeros(6000)
    ours = Adam(parameter, 1e-2, fused=fused, weight_decay=decay)
    reference = torch.optim.AdamW([theirs], lr=1e-2, weight_decay=decay)
    for step in range(20):
        gradient = torch.randn(6000) * (step + 1)
        ours.step(gradient, target, 0.1)
        theirs.grad = gradient.clone()
        reference.step()
        expected_target = 0.9 * expected_target + 0.1 * theirs.detach()
    torch.testing.assert_close(parameter, theirs.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(target, expected_target, rtol=1e-4, atol=1e-5)


def test_warm_up_scales_the_first_steps():
    """Adam's first step has the length of its rate: 1/10 and, on the second like gradient, 2/10 of 0.5 (by hand)."""
    parameter = torch.zeros(1)
    adam = Adam(parameter, 0.5, warmup_steps=10)
    adam.step(torch.ones(1))
    assert parameter.item() == pytest.approx(-0.05, rel=1e-4)
    adam.step(torch.ones(1))
    assert parameter.item() == pytest.approx(-0.15, rel=1e-4)


@pytest.mark.parametrize("networks", [2, 3])
def test_the_fused_regression_step_is_loss_autograd_and_torch_adam(networks: int):
    fused, plain = pair(networks, "tanh")
    x, y = torch.randn(70, 5), torch.randn(70)
    adam, averaged = Adam(fused.parameters, 1e-3, weight_decay=3.0), torch.zeros_like(fused.parameters).detach()
    reference = torch.optim.AdamW([plain.parameters], lr=1e-3, weight_decay=3.0)
    expected_average = torch.zeros_like(averaged)
    for _ in range(5):
        values, d_x = fused.regress(x, y, adam, averaged, 0.5, want_x=True)
        x.requires_grad_().grad = None
        loss = torch.nn.functional.mse_loss(plain(x)[..., 0], y.expand(networks, -1))
        torch.testing.assert_close((values - y).square().mean(), loss.detach(), rtol=1e-4, atol=1e-6)
        reference.zero_grad()
        loss.backward()
        torch.testing.assert_close(d_x, x.grad, rtol=1e-3, atol=1e-6)
        reference.step()
        expected_average = 0.5 * expected_average + 0.5 * plain.parameters.detach()
    torch.testing.assert_close(fused.parameters, plain.parameters, rtol=1e-3, atol=2e-5)
    torch.testing.assert_close(averaged, expected_average, rtol=1e-3, atol=2e-5)


def test_kernel_tanh_is_tanh_to_float32_rounding():
    x = np.concatenate([np.linspace(-12, 12, 100_001), np.logspace(-20, 0, 1000)]).astype(np.float32)
    out = np.empty_like(x)
    kernels.tanh(x, out)
    np.testing.assert_allclose(out, np.tanh(x.astype(np.float64)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_diverged_network_does_not_look_healthy(bad: float):
    fused, _ = pair(2, "tanh")
    with torch.no_grad():
        fused.parameters[0, 3] = bad
    assert torch.isnan(fused(torch.ones(4, 5))[0]).all()
    assert torch.isfinite(fused(torch.ones(4, 5))[1]).all()


def test_a_fresh_actor_explores_as_much_as_configured():
    """The output layer begins close to zero, so the standard deviation begins close to `std_init`."""
    actor = Actor(3, 2, AgentConfig(std_init=0.1, hidden_sizes=(8,)), torch.Generator().manual_seed(0))
    torch.testing.assert_close(actor(torch.randn(50, 3)).std, torch.full((50, 2), 0.1), rtol=0.1, atol=0)


def test_standard_deviation_stays_within_its_limits():
    config = AgentConfig(hidden_sizes=(8,))
    actor = Actor(3, 2, config, torch.Generator().manual_seed(0))
    for bias, expected in ((40.0, 5.0), (-40.0, 1e-5)):
        with torch.no_grad():
            actor.parameters[:, -2:] = bias
            std = actor(torch.zeros(1, 3)).std
        torch.testing.assert_close(std, torch.full((1, 2), expected))


def test_softplus_inverse():
    assert torch.nn.functional.softplus(torch.tensor(softplus_inverse(0.01))).item() == pytest.approx(0.01, rel=1e-5)
