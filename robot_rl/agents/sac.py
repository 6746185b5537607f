"""Sample-efficient soft actor-critic: many LayerNorm critics, demonstrations in every batch, one optimiser step a call.

Follows RLPD (arXiv 2302.02948) as used by SERL (arXiv 2401.16013), with REDQ's random target subset. Where there are
pictures, actor and critics each have an encoder, trained by their own loss, and the target critics an averaged one.
SERL shares one, trained by the critic loss; then the cloned actor's eyes would move under it while only the critics
learn.
"""

import copy
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from robot_rl.agents import losses
from robot_rl.agents.batch import Batch
from robot_rl.agents.config import AgentConfig
from robot_rl.agents.draws import Draw, Draws, draw
from robot_rl.agents.gripper_critic import GripperCritic
from robot_rl.agents.networks import Actor, Critics, TanhGaussian, softplus_inverse
from robot_rl.agents.optimiser import Adam
from robot_rl.agents.recorded import Record, RecordedUpdate, record_cuda_graph
from robot_rl.agents.scaling import ObservationScale
from robot_rl.errors import ConfigError
from robot_rl.tensor_state import copy_into, to_cpu
from robot_rl.vision.encoders import Encoder

__all__ = ["AgentConfig", "Batch", "SACAgent"]

Metrics = dict[str, Tensor]
Images = Mapping[str, Tensor]


class SACAgent:
    """The learner's networks, optimisers, counters and random streams.

    Args:
        observation_dim: D, width of a flat observation.
        action_dim: A.
        config: Hyper-parameters.
        seed: Fixes initial weights and both random streams. Same seed, same numbers (on the CPU whatever the threads).
        device: ``cpu`` or a CUDA device.
        encoder: Makes an encoder from the width of the normalised vector, a random generator, and whether it is the
            actor's, who needs to see where things are; None where there are no pictures.
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
        self.observation_dim, self.action_dim, self.config, self.device = observation_dim, action_dim, config, device
        initial = torch.Generator().manual_seed(seed)
        latent_dim = critic_dim = observation_dim
        self.encoders: dict[str, Encoder] = {}
        if encoder is not None:
            for name in ("actor", "critics"):
                self.encoders[name] = encoder(observation_dim, initial, name == "actor").to(device)
            self.encoders["target_critics"] = copy.deepcopy(self.encoders["critics"]).requires_grad_(False).eval()
            latent_dim, critic_dim = self.encoders["actor"].output_dim, self.encoders["critics"].output_dim
        self.gripper = None
        if config.gripper == "discrete":
            self.gripper = GripperCritic(latent_dim, config, initial, device)
        self.moved_dim = action_dim - (self.gripper is not None)  # of the actor and its critics
        self.actor = Actor(latent_dim, self.moved_dim, config, initial, device)
        self.critics = Critics(critic_dim, self.moved_dim, config, initial, device)
        self.target_critics = Critics(critic_dim, self.moved_dim, config, initial, device)
        self.target_critics.parameters.requires_grad_(False).copy_(self.critics.parameters)
        self.raw_temperature = torch.full((1,), softplus_inverse(config.temperature_init), device=device)
        self.target_entropy = self.moved_dim * config.target_entropy_per_action
        self.scale = ObservationScale(observation_dim, config.observation_clip, device)

        rate, decay = (config.learning_rate, config.warmup_steps, config.fused), config.critic_weight_decay
        self._actor_adam = Adam(self.actor.parameters, *rate)
        self._critic_adam = Adam(self.critics.parameters, *rate, decay)
        self._temperature_adam = Adam(self.raw_temperature, *rate)
        self._encoder_adams = {
            name: [Adam(p, *rate) for p in self._trained(name)] for name in ("actor", "critics") if self.encoders
        }
        self._recorded: RecordedUpdate | None = None
        if config.cuda_graphs and torch.device(device).type == "cuda":
            self.record(record_cuda_graph)
        self.updates = 0
        # Draws of the learner and of exploration are two streams, so that acting more does not change what is learnt.
        self._learning = torch.Generator().manual_seed(seed + 1)
        self._exploration = torch.Generator().manual_seed(seed + 2)

    @property
    def temperature(self) -> Tensor:
        """Weight of the entropy against the return, a scalar."""
        return functional.softplus(self.raw_temperature)[0]

    def encode(
        self, observation: Tensor, images: Images | None = None, reader: str = "actor", train: bool = False
    ) -> Tensor:
        """What a network sees of an observation.

        Args:
            observation: Flat vectors, shape (B, D).
            images: Pictures of each camera as replay remembers them, less the axis of shifts.
            reader: Whose encoder: actor, critics or target_critics.
            train: With dropout and, of raw pictures, random shifts.

        Returns:
            Latents, shape (B, L): normalised, then encoded where there are pictures.
        """
        vector = self.scale(observation)
        if not self.encoders:
            return vector
        return self.encoders[reader](vector, images or {}, self._learning if train else None)

    def _trained(self, reader: str) -> list[Tensor]:
        return list(self.encoders[reader].parameters()) if self.encoders else []

    def act(
        self, observation: NDArray[np.float32], deterministic: bool = False, images: Images | None = None
    ) -> NDArray[np.float32]:
        """Choose an action.

        Args:
            observation: Flat observation, shape (D,).
            deterministic: The mode instead of a sample.
            images: As `encode` takes them, with B = 1.

        Returns:
            Action in [-1, 1], shape (A,).

        Raises:
            ShapeError: The observation has another shape or a non-finite number.
        """
        with torch.no_grad():
            rows = self.scale.row(observation)
            seen = {name: value.to(self.device) for name, value in (images or {}).items()}
            latent = self.encode(rows, seen)
            policy = self.actor(latent)
            action = (
                policy.mode()
                if deterministic
                else policy.action(draw(self._exploration, (1, self.moved_dim), None, self.device).noise)
            )
            if self.gripper is not None:
                action = torch.cat((action, self.gripper.choose(latent)), -1)
            return action[0].cpu().numpy()

    def reseed_exploration(self, seed: int) -> None:
        """Begin another stream of exploration noise, as an actor does that was started again."""
        self._exploration.manual_seed(seed)

    def update(self, batch: Batch, update_actor: bool | None = None) -> Metrics:
        """One critic step and, every ``policy_delay`` calls, one actor and temperature step.

        Args:
            batch: B transitions, on the agent's device.
            update_actor: Overrides the schedule.

        Returns:
            Scalars as tensors; reading one (``float(metrics["critic_loss"])``) waits for the device. Where updates are
            recorded, the next one overwrites them.
        """
        self.updates += 1
        due = self.updates % self.config.policy_delay == 0 if update_actor is None else update_actor
        draws = self.draw(len(batch.reward), due)
        if self._recorded is not None:
            return self._recorded.update(batch, draws)
        return self.learn(batch, draws)

    def draw(self, rows: int, actor: bool) -> Draws:
        """All that an update of so many rows draws, with an actor step or without."""
        cfg, noise, subset = self.config, (rows, self.moved_dim), (self.config.critics_in_target, self.config.critics)
        target = draw(self._learning, noise, subset, self.device)
        if not actor:
            return Draws(target, None)
        return Draws(target, draw(self._learning, noise, None if cfg.actor_value == "mean" else subset, self.device))

    def record(self, record: Record) -> None:
        """From now on record updates and replay them (`robot_rl.agents.recorded`).

        Raises:
            ConfigError: The encoders draw anew in every update.
        """
        if any(encoder.draws for encoder in self.encoders.values()):
            raise ConfigError(
                "agent.cuda_graphs records what an update does; vision.dropout and vision.encoder=conv draw anew in "
                "each. Leave it off, or see with a frozen encoder and without dropout."
            )
        adams: dict[bool, list[Adam]] = {False: [], True: []}
        for name, adam in self._adams().items():
            adams[name.startswith(("actor", "temperature", "encoder.actor"))].append(adam)
        self._recorded = RecordedUpdate(self.learn, adams, record, self.device)

    def learn(self, batch: Batch, draws: Draws) -> Metrics:
        """The tensor work of `update`: nothing is drawn on the CPU but what an encoder draws, nothing read back."""
        metrics: Metrics = {}
        with torch.no_grad():
            following = self.encode(batch.next_observation, batch.next_images)
        if self.gripper is not None:
            with torch.no_grad():
                seen = self.encode(batch.observation, batch.images)
            metrics["gripper_loss"] = self.gripper.update(batch, seen, following)
            batch = self._without_gripper(batch)
        more, latent = self._update_critics(batch, following, draws)
        metrics |= more
        if draws.actor is not None:
            metrics |= self._update_actor(batch, latent.detach(), draws.actor)
        return metrics

    def _update_critics(self, batch: Batch, following: Tensor, draws: Draws) -> tuple[Metrics, Tensor]:
        with torch.no_grad():
            target = self._target(batch, following, draws.target)
        latent = self.encode(batch.observation, batch.images, "critics", train=True)
        adam, averaged = self._critic_adam, self.target_critics
        if self.critics.can_regress:
            values = self.critics.regress(latent, batch.action, target, adam, averaged, self.config.tau)
            loss = losses.critic_loss(values, target)
            rest = [parameter.grad for parameter in self._trained("critics")]
        else:
            loss, values = self.critics.loss(latent, batch.action, target)
            gradient, *rest = torch.autograd.grad(loss, [self.critics.parameters, *self._trained("critics")])
            adam.step(gradient, averaged.parameters, self.config.tau)
        for parameter, its_gradient, its_adam, its_average in zip(
            self._trained("critics"), rest, self._encoder_adams.get("critics", []), self._trained("target_critics"),
            strict=True,
        ):  # fmt: skip
            assert its_gradient is not None
            its_adam.step(its_gradient, its_average, self.config.tau)
            parameter.grad = None
        return _critic_metrics(loss, values, target), latent

    def _target(self, batch: Batch, following: Tensor, drawn: Draw) -> Tensor:
        """Bootstrapped returns; `following` is what the actor sees of the next observation."""
        policy = self.actor(following)
        noise, subset = drawn
        assert subset is not None
        bonus = None
        if self.config.entropy_backup:
            action, log_probability = policy.sample(noise)
            bonus = -self.temperature * log_probability
        else:
            action = policy.action(noise)
        if self.encoders:
            following = self.encode(batch.next_observation, batch.next_images, "target_critics")
        values = self.target_critics.subset_values(following, action, subset)
        target = losses.td_target(batch.reward, batch.discount, values, bonus)
        return target.clamp(self.config.return_min, self.config.return_max)

    def _update_actor(self, batch: Batch, critic_latent: Tensor, drawn: Draw) -> Metrics:
        noise, subset = drawn
        policy = self.actor(
            self.encode(batch.observation, batch.images, train=True) if self.encoders else critic_latent
        )
        action, log_probability = policy.sample(noise)
        values = self.critics.values(critic_latent, action)
        value = values.mean(0) if subset is None else values[subset].amin(0)
        loss = losses.actor_loss(value, log_probability, self.temperature)
        metrics: Metrics = {}
        if self.config.bc_weight > 0:
            imitation = self._imitation_loss(policy, batch)
            loss = loss + self.config.bc_weight * imitation
            metrics["imitation_loss"] = imitation.detach()
        self._step_actor(loss)

        entropy = -log_probability.detach().mean()
        raw = self.raw_temperature.requires_grad_()
        temperature_loss = losses.temperature_loss(self.temperature, entropy, self.target_entropy)
        (gradient,) = torch.autograd.grad(temperature_loss, [raw])
        self._temperature_adam.step(gradient)
        raw.requires_grad_(False)
        return metrics | {"actor_loss": loss.detach(), "entropy": entropy, "temperature": self.temperature}

    def _step_actor(self, loss: Tensor) -> None:
        gradient, *rest = torch.autograd.grad(loss, [self.actor.parameters, *self._trained("actor")])
        self._actor_adam.step(gradient)
        for adam, its_gradient in zip(self._encoder_adams.get("actor", []), rest, strict=True):
            adam.step(its_gradient)

    def _imitation_loss(self, policy: TanhGaussian, batch: Batch) -> Tensor:
        if self.config.bc_loss == "mse":
            return losses.imitation_mse(policy.mode(), batch.action, batch.is_demo)
        return losses.imitation_nll(policy.log_probability(batch.action), batch.is_demo)

    def pretrain_bc(self, batch: Batch) -> Metrics:
        """One behaviour-cloning step of the actor on the demonstration samples of a batch; nothing else moves."""
        latent = self.encode(batch.observation, batch.images, train=True)
        if self.gripper is not None:
            self.gripper.imitate(batch, latent)
            batch = self._without_gripper(batch)
        loss = self._imitation_loss(self.actor(latent), batch)
        self._step_actor(loss)
        return {"imitation_loss": loss.detach()}

    def _without_gripper(self, batch: Batch) -> Batch:
        return batch._replace(action=batch.action[:, : self.moved_dim].contiguous())

    def _policy(self) -> dict[str, Tensor]:
        policy = {
            "actor": self.actor.parameters,
            "observation_mean": self.scale.mean,
            "observation_std": self.scale.std,
        }
        return policy if self.gripper is None else policy | {"gripper": self.gripper.mlp.parameters}

    def policy_state(self) -> dict[str, Tensor]:
        """A copy, on the CPU, of what acting needs."""
        return to_cpu(self._policy() | self._encoder_state("actor"))

    def load_policy_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `policy_state` returned in another process.

        Raises:
            ShapeError: A tensor is missing or has another shape than this agent's.
        """
        copy_into(self._policy() | self._encoder_state("actor"), state)

    def _encoder_state(self, *readers: str) -> dict[str, Tensor]:
        """The encoders' own tensors, not copies."""
        names = [reader for reader in readers if reader in self.encoders]
        return {
            f"encoder.{reader}.{name}": value
            for reader in names
            for name, value in self.encoders[reader].state_dict().items()
        }

    def _everything(self) -> dict[str, Tensor]:
        own = {
            "critics": self.critics.parameters,
            "target_critics": self.target_critics.parameters,
            "raw_temperature": self.raw_temperature,
        }
        if self.gripper is not None:
            own["target_gripper"] = self.gripper.target.parameters
        return self._policy() | own | self._encoder_state("actor", "critics", "target_critics")

    def _adams(self) -> dict[str, Adam]:
        named = {"actor": self._actor_adam, "critics": self._critic_adam, "temperature": self._temperature_adam}
        if self.gripper is not None:
            named["gripper"] = self.gripper.adam
        for reader, adams in self._encoder_adams.items():
            named |= {f"encoder.{reader}.{i}": adam for i, adam in enumerate(adams)}
        return named

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of everything: networks, targets, optimisers, counters, statistics, random streams; flat names."""
        state = to_cpu(self._everything())
        for name, adam in self._adams().items():
            state |= {f"adam.{name}.{key}": value.cpu() for key, value in adam.state().items()}
        state["updates"] = torch.tensor(self.updates)
        state["random.learning"] = self._learning.get_state()
        state["random.exploration"] = self._exploration.get_state()
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue where `state_dict` was taken: the next updates and actions are those it would have made itself.

        Raises:
            ShapeError: A tensor is missing or has another shape than this agent's.
        """
        copy_into(self._everything(), state)
        for name, adam in self._adams().items():
            adam.load({key: state[f"adam.{name}.{key}"] for key in ("m", "v", "steps")})
        self.updates = int(state["updates"])
        self._learning.set_state(state["random.learning"].cpu())
        self._exploration.set_state(state["random.exploration"].cpu())


def _critic_metrics(loss: Tensor, values: Tensor, target: Tensor) -> Metrics:
    return {"critic_loss": loss.detach(), "value": values.mean(), "target_value": target.mean()}
