"""What a training run is made of: every number with its meaning, the presets, and how a YAML file changes them."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from robot_rl.agent_config import AgentConfig
from robot_rl.errors import ConfigError

__all__ = ["PRESETS", "TrainConfig", "load_config", "preset"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run.

    Attributes:
        task: A task's name, or package:Id of any Gymnasium environment with continuous actions.
        env: Options for the environment, for example arm=ur5e.
        demos: Path of an episode store; a number of episodes for the environment's scripted expert to record first;
            or `none`.
        demo_noise: Action noise of the scripted expert (standard deviation, fraction of a full action).
        steps: Environment steps to train for; training also ends early, see stop_at_success.
        stop_at_success: End training early once the last 100 training episodes succeeded at this rate; above 1 means
            never.
        seed: Of everything: networks, sampling, exploration, episodes.
        agent: The learner.
        batch_size: Transitions in a batch.
        demo_fraction: Share of demonstrations in a batch.
        keep_successes: Successful training episodes count as demonstrations too.
        utd_ratio: Critic updates per environment step; enforced.
        n_step: Steps in a bootstrapped return.
        gamma: Discount factor per environment step.
        bound_returns: Clip bootstrapped values to the returns that the environment declares possible.
        bc_updates: Behaviour-cloning updates of the actor before the first step.
        learning_starts: Environment steps before the first critic update.
        actor_starts: Environment steps before the actor is first updated.
        random_steps: Environment steps with uniform random actions at the start.
        normalise: Scale observations by the mean and standard deviation of the demonstrations.
        replay_capacity: Transitions kept in memory.
        eval_episodes: Episodes of the evaluation after training.
        checkpoint_every_s: Wall time between checkpoints [s].
        tensorboard: Also write TensorBoard files.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    task: str
    env: dict[str, Any] = field(default_factory=dict[str, Any])
    demos: str = "20"
    demo_noise: float = 0.1
    steps: int = 20_000
    stop_at_success: float = 2.0
    seed: int = 0
    agent: AgentConfig = field(default_factory=AgentConfig)
    batch_size: int = 256
    demo_fraction: float = 0.5
    keep_successes: bool = False
    utd_ratio: float = 8.0
    n_step: int = 1
    gamma: float = 0.97
    bound_returns: bool = False
    bc_updates: int = 0
    learning_starts: int = 300
    actor_starts: int = 0
    random_steps: int = 300
    normalise: bool = False
    replay_capacity: int = 200_000
    eval_episodes: int = 100
    checkpoint_every_s: float = 60.0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name, low, high in (
            ("steps", 1, None), ("batch_size", 2, None), ("demo_fraction", 0, 1), ("utd_ratio", 0, None), ("n_step", 1, None),
            ("gamma", 0, 1), ("bc_updates", 0, None), ("learning_starts", 0, None), ("random_steps", 0, None),
            ("replay_capacity", 100, None), ("eval_episodes", 0, None), ("checkpoint_every_s", 0, None), ("demo_noise", 0, 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if value < low or (high is not None and value > high):
                raise ConfigError(f"{name} is {value}; it must be at least {low}" + (f" and at most {high}." if high else "."))

    def to_yaml(self) -> str:
        """Every setting spelled out."""
        return yaml.safe_dump(_plain(asdict(self)), sort_keys=False)


def preset(name: str, task: str) -> TrainConfig:
    """A named set of hyper-parameters.

    Raises:
        ConfigError: No such preset.
    """
    if name not in PRESETS:
        raise ConfigError(f"Unknown preset {name!r}. Known: {', '.join(PRESETS)}.", preset=name)
    return replace(PRESETS[name], task=task)


def load_config(path: str | Path, base: TrainConfig) -> TrainConfig:
    """A configuration file laid over `base`: it needs to name only what differs.

    Raises:
        ConfigError: The file cannot be read, is not a mapping, or has a key or value that does not fit; the message
            names file, key, value and what was expected.
    """
    path = Path(path)
    try:
        given = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(given, dict):
        raise ConfigError(f"{path} must hold settings as `key: value` lines; it holds {type(given).__name__}.")
    merged = _merge(asdict(base), given)
    merged.pop("versions", None)  # a run's own config.yaml may be used again
    try:
        return TypeAdapter(TrainConfig).validate_python(merged)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = list(asdict(base)["agent" if key.startswith("agent.") else "task"] if key.startswith("agent.") else asdict(base))
        hint = f" Known keys: {', '.join(known)}." if first["type"] == "unexpected_keyword_argument" else ""
        raise ConfigError(f"{path}: {key}: {first['input']!r}: {first['msg']}.{hint}", key=key) from error


def _merge(base: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in given.items():
        out[key] = _merge(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
    return out


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


PRESETS: dict[str, TrainConfig] = {
    "fast": TrainConfig(
        task="",
        agent=AgentConfig(
            critics=4, critics_in_target=2, policy_delay=4, std_init=0.1, std_max=0.12, target_entropy=-12.0, bc_weight=10.0,
            observation_clip=5.0,
        ),
        steps=6_000, stop_at_success=0.99, keep_successes=True, utd_ratio=4.0, n_step=3, gamma=0.95, bound_returns=True,
        bc_updates=3000, learning_starts=0, actor_starts=300, random_steps=0, normalise=True,
    ),
    "serl": TrainConfig(task="", agent=AgentConfig(critics=10, critics_in_target=2, policy_delay=8)),
    "hil_serl": TrainConfig(
        task="",
        agent=AgentConfig(critics=2, critics_in_target=2, policy_delay=2),
        utd_ratio=2.0,
        learning_starts=100,
        random_steps=0,
    ),
}  # fmt: skip
"""`fast`: ours, and the default. `serl` and `hil_serl`: the published hyper-parameters of those two systems (SERL's state
learner with UTD 8, HIL-SERL's two critics with UTD 2)."""
