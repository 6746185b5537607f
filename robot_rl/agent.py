"""Sample-efficient soft actor-critic: many LayerNorm critics, demonstrations in every batch, one optimiser step a call.

Follows RLPD (arXiv 2302.02948) as used by SERL (arXiv 2401.16013), with REDQ's random target subset. The optional
encoder in front (for images) learns from the critic loss alone.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from robot_rl import losses
from robot_rl.agent_config import AgentConfig
from robot_rl.agent_state import copy_into, to_cpu
from robot_rl.batch import Batch
from robot_rl.errors import ShapeError
from robot_rl.networks import Actor, Critics, softplus_inverse
from robot_rl.optimiser import Adam

__all__ = ["AgentConfig", "Batch", "SACAgent"]

Metrics = dict[str, Tensor]


class SACAgent:
    """The learner's networks, optimisers, counters and random streams.

    Args:
        observation_dim: D, width of a flat observation.
        action_dim: A.
        config: Hyper-parameters.
        seed: Fixes initial weights and both random streams. Same seed, same numbers (on the CPU whatever the threads).
        device: ``cpu`` or a CUDA device.
        encoder: Maps normalised observations (B, D) to latents (B, L); must have the attribute ``output_dim`` = L.
            None means the observation itself.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        config: AgentConfig,
        seed: int,
        device: str = "cpu",
        encoder: nn.Module | None = None,
    ) -> None:
        self.observation_dim, self.action_dim, self.config, self.device = observation_dim, action_dim, config, device
        self.encoder = encoder.to(device) if encoder is not None else None
        latent_dim = observation_dim * (1 + len(config.fine_scales))
        if encoder is not None:
            latent_dim = int(encoder.output_dim)  # pyright: ignore[reportArgumentType]
        initial = torch.Generator().manual_seed(seed)
        self.actor = Actor(latent_dim, action_dim, config, initial, device)
        self.critics = Critics(latent_dim, action_dim, config, initial, device)
        self.target_critics = Critics(latent_dim, action_dim, config, initial, device)
        self.imitation = Actor(latent_dim, action_dim, config, initial, device)
        self.target_critics.parameters.requires_grad_(False).copy_(self.critics.parameters)
        self.imitation.parameters.requires_grad_(False)
        self.has_imitation = False
        self.raw_temperature = torch.full((1,), softplus_inverse(config.temperature_init), device=device)
        self.target_entropy = action_dim * config.target_entropy_per_action
        self.observation_mean = torch.zeros(observation_dim, device=device)
        self.observation_std = torch.ones(observation_dim, device=device)

        rate = (config.learning_rate, config.warmup_steps, config.fused)
        self._actor_adam = Adam(self.actor.parameters, *rate)
        self._critic_adam = Adam(self.critics.parameters, *rate)
        self._temperature_adam = Adam(self.raw_temperature, *rate)
        self._encoder_parameters = [p for p in encoder.parameters() if p.requires_grad] if encoder is not None else []
        self._encoder_adams = [Adam(p, *rate) for p in self._encoder_parameters]
        self.updates = 0
        # Draws of the learner and of exploration are two streams, so that acting more does not change what is learnt.
        self._learning = torch.Generator().manual_seed(seed + 1)
        self._exploration = torch.Generator().manual_seed(seed + 2)

    @property
    def temperature(self) -> Tensor:
        """Weight of the entropy against the return, a scalar."""
        return functional.softplus(self.raw_temperature)[0]

    def set_observation_statistics(self, mean: NDArray[np.float32], std: NDArray[np.float32]) -> None:
        """Fix the affine normalisation (observation - mean) / std; both of shape (D,), std positive."""
        for name, value in (("mean", mean), ("std", std)):
            if np.shape(value) != (self.observation_dim,) or not np.isfinite(value).all():
                raise ShapeError(f"{name} must be finite, shape ({self.observation_dim},); got shape {np.shape(value)}")
        if np.min(std) <= 0:
            raise ShapeError(f"std must be positive; its smallest entry is {np.min(std)} at index {np.argmin(std)}")
        self.observation_mean.copy_(torch.as_tensor(mean))
        self.observation_std.copy_(torch.as_tensor(std))

    def encode(self, observation: Tensor) -> Tensor:
        """Normalise, then encode; (B, D) -> (B, L)."""
        normalised = (observation - self.observation_mean) / self.observation_std
        if self.config.observation_clip < math.inf:
            normalised = normalised.clamp(-self.config.observation_clip, self.config.observation_clip)
        if self.config.fine_scales:
            normalised = torch.cat([normalised, *(torch.tanh(k * normalised) for k in self.config.fine_scales)], -1)
        return normalised if self.encoder is None else self.encoder(normalised)

    def act(self, observation: NDArray[np.float32], deterministic: bool = False) -> NDArray[np.float32]:
        """Choose an action.

        Args:
            observation: Flat observation, shape (D,).
            deterministic: The mode instead of a sample.

        Returns:
            Action in [-1, 1], shape (A,).

        Raises:
            ShapeError: The observation has another shape or a non-finite number.
        """
        if observation.shape != (self.observation_dim,) or not np.isfinite(observation).all():
            raise ShapeError(
                f"observation must be finite, shape ({self.observation_dim},); got shape {observation.shape} with"
                f" {int((~np.isfinite(observation)).sum())} non-finite numbers"
            )
        with torch.no_grad():
            rows = torch.from_numpy(np.ascontiguousarray(observation, np.float32)).unsqueeze(0).to(self.device)
            latent = self.encode(rows)
            policy = self.actor(latent)
            action = policy.mode() if deterministic else policy.action(self._noise(1, self._exploration))
            if self.config.imitation_bootstrap and self.has_imitation:
                other = self.imitation(latent).mode()
                value, other_value = self.target_critics.values(latent.expand(2, -1), torch.cat((action, other))).mean(
                    0
                )
                action = other if other_value > value else action
            return action[0].cpu().numpy()

    def update(self, batch: Batch, update_actor: bool | None = None) -> Metrics:
        """One critic step and, every ``policy_delay`` calls, one actor and temperature step.

        Args:
            batch: B transitions, on the agent's device.
            update_actor: Overrides the schedule.

        Returns:
            Scalars as tensors; reading one (``float(metrics["critic_loss"])``) waits for the device.
        """
        self.updates += 1
        latent = self.encode(batch.observation)
        metrics = self._update_critics(batch, latent)
        due = self.updates % self.config.policy_delay == 0
        if due if update_actor is None else update_actor:
            metrics |= self._update_actor(batch, latent.detach())
        return metrics

    def _update_critics(self, batch: Batch, latent: Tensor) -> Metrics:
        with torch.no_grad():
            target = self._target(batch)
        if self.critics.can_regress and not latent.requires_grad:
            values = self.critics.regress(
                latent, batch.action, target, self._critic_adam, self.target_critics, self.config.tau
            )
            return _critic_metrics(losses.critic_loss(values, target), values, target)
        loss, values = self.critics.loss(latent, batch.action, target)
        gradient, *encoder_gradients = torch.autograd.grad(loss, [self.critics.parameters, *self._encoder_parameters])
        self._critic_adam.step(gradient, self.target_critics.parameters, self.config.tau)
        for adam, encoder_gradient in zip(self._encoder_adams, encoder_gradients, strict=True):
            adam.step(encoder_gradient)
        return _critic_metrics(loss, values, target)

    def _target(self, batch: Batch) -> Tensor:
        latent = self.encode(batch.next_observation)
        policy = self.actor(latent)
        index = self._subset()
        noise = self._noise(len(latent), self._learning)
        bonus = None
        if self.config.entropy_backup:
            action, log_probability = policy.sample(noise)
            bonus = -self.temperature * log_probability
        else:
            action = policy.action(noise)
        values = self.target_critics.subset_values(latent, action, index)
        if self.config.imitation_bootstrap and self.has_imitation:
            other = self.target_critics.subset_values(latent, self.imitation(latent).mode(), index)
            values = torch.maximum(values.amin(0), other.amin(0)).unsqueeze(0)
        target = losses.td_target(batch.reward, batch.discount, values, bonus)
        return target.clamp(self.config.return_min, self.config.return_max)

    def _update_actor(self, batch: Batch, latent: Tensor) -> Metrics:
        policy = self.actor(latent)
        action, log_probability = policy.sample(self._noise(len(latent), self._learning))
        values = self.critics.values(latent, action)
        value = values.mean(0) if self.config.actor_value == "mean" else values[self._subset()].amin(0)
        loss = losses.actor_loss(value, log_probability, self.temperature)
        metrics: Metrics = {}
        if self.config.bc_weight > 0:
            weight = batch.is_demo
            if self.config.bc_q_filter:
                with torch.no_grad():
                    weight = weight * (self.critics.values(latent, batch.action).mean(0) > values.mean(0))
            imitation = self._imitation_loss(latent, batch.action, weight)
            loss = loss + self.config.bc_weight * imitation
            metrics["imitation_loss"] = imitation.detach()
        (gradient,) = torch.autograd.grad(loss, [self.actor.parameters])
        self._actor_adam.step(gradient)

        entropy = -log_probability.detach().mean()
        raw = self.raw_temperature.requires_grad_()
        temperature_loss = losses.temperature_loss(self.temperature, entropy, self.target_entropy)
        (gradient,) = torch.autograd.grad(temperature_loss, [raw])
        self._temperature_adam.step(gradient)
        raw.requires_grad_(False)
        return metrics | {"actor_loss": loss.detach(), "entropy": entropy, "temperature": self.temperature}

    def _imitation_loss(self, latent: Tensor, action: Tensor, weight: Tensor) -> Tensor:
        policy = self.actor(latent)
        if self.config.bc_loss == "mse":
            return losses.imitation_mse(policy.mode(), action, weight)
        return losses.imitation_nll(policy.log_probability(action), weight)

    def pretrain_bc(self, batch: Batch) -> Metrics:
        """One behaviour-cloning step of the actor on the demonstration samples of a batch; nothing else moves."""
        with torch.no_grad():
            latent = self.encode(batch.observation)
        loss = self._imitation_loss(latent, batch.action, batch.is_demo)
        (gradient,) = torch.autograd.grad(loss, [self.actor.parameters])
        self._actor_adam.step(gradient)
        return {"imitation_loss": loss.detach()}

    def freeze_imitation(self) -> None:
        """Keep the actor as it is now as the imitation policy that ``imitation_bootstrap`` compares against."""
        self.imitation.parameters.copy_(self.actor.parameters.detach())
        self.has_imitation = True

    def _policy(self) -> dict[str, Tensor]:
        return {
            "actor": self.actor.parameters,
            "observation_mean": self.observation_mean,
            "observation_std": self.observation_std,
        }

    def policy_state(self) -> dict[str, Tensor]:
        """A copy, on the CPU, of what acting needs; the critics only where acting compares actions."""
        state = self._policy()
        state |= self._encoder_state()
        if self.config.imitation_bootstrap and self.has_imitation:
            state |= {"imitation": self.imitation.parameters, "target_critics": self.target_critics.parameters}
        return to_cpu(state)

    def load_policy_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `policy_state` returned in another process.

        Raises:
            ShapeError: A tensor is missing or has another shape than this agent's.
        """
        own = self._policy()
        self.has_imitation = "imitation" in state
        if self.has_imitation:
            own |= {"imitation": self.imitation.parameters, "target_critics": self.target_critics.parameters}
        copy_into(own | self._encoder_state(), state)

    def _encoder_state(self) -> dict[str, Tensor]:
        """The encoder's own tensors, not copies."""
        if self.encoder is None:
            return {}
        return {f"encoder.{name}": value for name, value in self.encoder.state_dict().items()}

    def _everything(self) -> dict[str, Tensor]:
        return self._policy() | {
            "critics": self.critics.parameters,
            "target_critics": self.target_critics.parameters,
            "imitation": self.imitation.parameters,
            "raw_temperature": self.raw_temperature,
        }

    def _adams(self) -> dict[str, Adam]:
        named = {"actor": self._actor_adam, "critics": self._critic_adam, "temperature": self._temperature_adam}
        return named | {f"encoder.{i}": adam for i, adam in enumerate(self._encoder_adams)}

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of everything: networks, targets, optimisers, counters, statistics, random streams; flat names."""
        state = to_cpu(self._everything() | self._encoder_state())
        for name, adam in self._adams().items():
            state |= {f"adam.{name}.{key}": value.cpu() for key, value in adam.state().items()}
        state["updates"] = torch.tensor(self.updates)
        state["has_imitation"] = torch.tensor(self.has_imitation)
        state["random.learning"] = self._learning.get_state()
        state["random.exploration"] = self._exploration.get_state()
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue where `state_dict` was taken: the next updates and actions are those it would have made itself.

        Raises:
            ShapeError: A tensor is missing or has another shape than this agent's.
        """
        copy_into(self._everything() | self._encoder_state(), state)
        for name, adam in self._adams().items():
            adam.load({key: state[f"adam.{name}.{key}"] for key in ("m", "v", "steps")})
        self.updates = int(state["updates"])
        self.has_imitation = bool(state["has_imitation"])
        self._learning.set_state(state["random.learning"].cpu())
        self._exploration.set_state(state["random.exploration"].cpu())

    def _subset(self) -> Tensor:
        chosen = torch.randperm(self.config.critics, generator=self._learning)[: self.config.critics_in_target]
        return chosen.to(self.device)

    def _noise(self, rows: int, generator: torch.Generator) -> Tensor:
        return torch.randn(rows, self.action_dim, generator=generator).to(self.device)


def _critic_metrics(loss: Tensor, values: Tensor, target: Tensor) -> Metrics:
    return {"critic_loss": loss.detach(), "value": values.mean(), "target_value": target.mean()}
