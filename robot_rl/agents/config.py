"""Every hyper-parameter of the learner, with its unit and its origin."""

import math
from dataclasses import dataclass, fields

from robot_rl.errors import ConfigError

_CHOICES = {
    "kind": ("sac", "bc", "flow"),
    "activation": ("tanh", "relu"),
    "actor_value": ("mean", "min"),
    "bc_loss": ("mse", "nll"),
    "gripper": ("continuous", "discrete"),
}

_RANGES: dict[str, tuple[float, float]] = {
    "observation_clip": (0.1, math.inf),
    "std_init": (1e-6, 100.0),
    "std_min": (1e-9, 100.0),
    "std_max": (1e-9, 1e3),
    "learning_rate": (1e-9, 1.0),
    "warmup_steps": (0, 10**9),
    "critic_weight_decay": (0.0, 1e3),
    "tau": (1e-6, 1.0),
    "policy_delay": (1, 10**6),
    "temperature_init": (1e-9, 1e3),
    "target_entropy_per_action": (-100.0, 100.0),
    "bc_weight": (0.0, 1e6),
    "chunk": (1, 1000),
    "flow_steps": (1, 1000),
}


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """Hyper-parameters of `robot_rl.agents.sac.SACAgent`; the defaults are SERL's for state observations.

    Attributes:
        kind: `sac` learns by itself from rewards; `bc` and `flow` clone the demonstrations and stop there: a Gaussian
            actor, or chunks of actions by flow matching (`robot_rl.agents.flow`).
        hidden_sizes: Widths of the hidden layers of actor and critics.
        activation: ``tanh`` or ``relu``, after each LayerNorm.
        observation_clip: Largest magnitude of a normalised observation entry; keeps a rare contact force from drowning
            the rest.
        critics: Number of critics, E.
        critics_in_target: M target critics, drawn anew for each update, whose minimum is bootstrapped from (REDQ).
        return_min, return_max: Bounds every bootstrapped target is clipped to, where the task bounds its return (0 and
            1 for a sparse reward that ends the episode). It is what keeps values of unseen actions from running away
            while data are few.
        actor_value: What the actor ascends: ``mean`` of all critics, or ``min`` of a random subset of M.
        std_init: Standard deviation of a fresh actor before the tanh [action units].
        std_min: Smallest standard deviation before the tanh [action units].
        std_max: Largest standard deviation before the tanh [action units].
        learning_rate: Adam's step size for actor, critics and temperature.
        warmup_steps: Optimiser steps over which the step size rises linearly from zero.
        critic_weight_decay: Share of the learning rate by which the critics' parameters shrink at every step (AdamW).
            Critics that have seen a few dozen episodes know them by heart; this keeps their values smooth between them.
        tau: Share by which target critics move towards the critics at every update.
        policy_delay: Critic updates per actor update.
        temperature_init: Initial entropy temperature.
        target_entropy_per_action: Entropy the temperature is steered to, per action dimension [nats].
        entropy_backup: Whether the bootstrapped value contains the entropy term.
        bc_weight: Weight of the imitation term in the actor loss, on demonstration samples; 0 switches it off.
        bc_loss: Imitation term: ``mse`` to the mean action, or ``nll`` of the demonstrated one.
        gripper: How the action's last number is chosen where it is a gripper's: ``continuous``, as the rest; or
            ``discrete``: open, stay or close by a critic of its own, as HIL-SERL does (see env.gripper_penalty too).
        chunk: Actions that `flow` plans at once.
        chunk_executed: Of these, how many are executed before it looks again.
        flow_steps: Steps in which its noise becomes a chunk.
        fused: Use the fused CPU kernels (ignored on other devices); the plain torch path gives the same numbers up
            to float32 rounding.
        cuda_graphs: Record updates on a CUDA device and replay them; not with vision.dropout or the encoder `conv`.
    """

    kind: str = "sac"
    hidden_sizes: tuple[int, ...] = (256, 256)
    activation: str = "tanh"
    observation_clip: float = math.inf
    critics: int = 10
    critics_in_target: int = 2
    return_min: float = -math.inf
    return_max: float = math.inf
    actor_value: str = "mean"
    std_init: float = 1.0
    std_min: float = 1e-5
    std_max: float = 5.0
    learning_rate: float = 3e-4
    warmup_steps: int = 0
    critic_weight_decay: float = 0.0
    tau: float = 0.005
    policy_delay: int = 8
    temperature_init: float = 0.01
    target_entropy_per_action: float = -0.5
    entropy_backup: bool = False
    bc_weight: float = 0.0
    bc_loss: str = "mse"
    gripper: str = "continuous"
    chunk: int = 8
    chunk_executed: int = 4
    flow_steps: int = 8
    fused: bool = True
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(f"agent.{name} is {getattr(self, name)!r}; choose one of {', '.join(choices)}")
        if not 1 <= self.critics_in_target <= self.critics:
            raise ConfigError(
                f"agent.critics_in_target is {self.critics_in_target}; it must lie between 1 and agent.critics"
                f" ({self.critics})",
                limit=self.critics,
            )
        if not 1 <= self.chunk_executed <= self.chunk:
            raise ConfigError(
                f"agent.chunk_executed is {self.chunk_executed}; it must lie between 1 and agent.chunk ({self.chunk})",
                limit=self.chunk,
            )
        if not self.hidden_sizes or min(self.hidden_sizes) < 1:
            raise ConfigError(f"agent.hidden_sizes is {self.hidden_sizes}; it needs at least one positive width")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:  # so written that it refuses NaN too
                raise ConfigError(f"agent.{name} is {value}; it must lie between {low:g} and {high:g}")
        for low, high in (("std_min", "std_max"), ("return_min", "return_max")):
            if not getattr(self, low) < getattr(self, high):
                raise ConfigError(
                    f"agent.{low} ({getattr(self, low)}) must be below agent.{high} ({getattr(self, high)})"
                )

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of all hyper-parameters, in order."""
        return tuple(field.name for field in fields(cls))
