"""The hybrid gripper of HIL-SERL: a small discrete critic chooses open, stay or close; the actor moves the arm.

A gripper's command is a decision, and a Gaussian between two extremes is a poor way to make one. Double deep
Q-learning on the critics' own latent, with a large-margin term on demonstrations (DQfD, arXiv 1704.03732) where actions
are imitated.
"""

import torch
from torch import Tensor

from robot_rl.agents.batch import Batch
from robot_rl.agents.config import AgentConfig
from robot_rl.agents.ensemble import EnsembleMLP, MLPShape
from robot_rl.agents.optimiser import Adam

__all__ = ["CHOICES", "GripperCritic"]

CHOICES = (-1.0, 0.0, 1.0)
"""The gripper's action of each choice: close, stay, open."""
MARGIN = 0.1  # [return] by which a demonstrated choice should lead the others


class GripperCritic:
    """Values of the three choices.

    Args:
        latent_dim: L.
        config: Widths and rates.
        generator: Source of the initial weights.
        device: Where it lives.
    """

    def __init__(self, latent_dim: int, config: AgentConfig, generator: torch.Generator, device: str) -> None:
        self._config = config
        shape = MLPShape((latent_dim, *config.hidden_sizes, len(CHOICES)), config.activation)
        self.mlp = EnsembleMLP(1, shape, generator, output_gain=0.1, device=device, fused=config.fused)
        self.target = EnsembleMLP(1, shape, generator, device=device, fused=config.fused)
        self.target.parameters.requires_grad_(False).copy_(self.mlp.parameters)
        self.adam = Adam(self.mlp.parameters, config.learning_rate, config.warmup_steps, config.fused)
        self._actions = torch.tensor(CHOICES, device=device)

    def choose(self, latent: Tensor) -> Tensor:
        """The best choice's action, shape (B, 1), for latents (B, L)."""
        with torch.no_grad():
            return self._actions[self.mlp(latent, train=False)[0].argmax(-1)].unsqueeze(-1)

    def update(self, batch: Batch, latent: Tensor, next_latent: Tensor) -> Tensor:
        """One step of double Q-learning; returns the mean squared TD error.

        Args:
            batch: Its actions' last number is the gripper's.
            latent: Of its observations, shape (B, L); no gradient reaches it.
            next_latent: Of its next observations.
        """
        with torch.no_grad():
            best = self.mlp(next_latent, train=False)[0].argmax(-1, keepdim=True)
            value = self.target(next_latent, train=False)[0].gather(-1, best)[:, 0]
            target = (batch.reward + batch.discount * value).clamp(self._config.return_min, self._config.return_max)
        values = self.mlp(latent.detach())[0]
        chosen = (batch.action[:, -1:] - self._actions).abs().argmin(-1, keepdim=True)
        taken = values.gather(-1, chosen)[:, 0]
        error = (taken - target).square().mean()
        loss = error + self._config.bc_weight * self._margin_loss(values, chosen, taken, batch.is_demo)
        (gradient,) = torch.autograd.grad(loss, [self.mlp.parameters])
        self.adam.step(gradient, self.target.parameters, self._config.tau)
        return error.detach()

    def imitate(self, batch: Batch, latent: Tensor) -> Tensor:
        """One step that makes demonstrated choices the best ones."""
        values = self.mlp(latent.detach())[0]
        chosen = (batch.action[:, -1:] - self._actions).abs().argmin(-1, keepdim=True)
        loss = self._margin_loss(values, chosen, values.gather(-1, chosen)[:, 0], batch.is_demo)
        (gradient,) = torch.autograd.grad(loss, [self.mlp.parameters])
        self.adam.step(gradient, self.target.parameters, self._config.tau)
        return loss.detach()

    @staticmethod
    def _margin_loss(values: Tensor, chosen: Tensor, taken: Tensor, weight: Tensor) -> Tensor:
        """How far a demonstrated choice falls short of leading every other by the margin; mean over demonstrations."""
        rivals = values + MARGIN
        rivals = rivals.scatter(-1, chosen, taken.unsqueeze(-1))
        return ((rivals.amax(-1) - taken) * weight).sum() / weight.sum().clamp(min=1.0)
