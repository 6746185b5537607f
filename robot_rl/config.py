"""What a training run is made of: every number with its meaning, the presets, and how a YAML file changes them."""

import math
import re
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

import yaml
from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from robot_rl.agents.config import AgentConfig
from robot_rl.errors import ConfigError
from robot_rl.vision.config import VisionConfig

__all__ = ["PRESETS", "TrainConfig", "cloned", "load_config", "overlay", "preset"]


_RANGES: dict[str, tuple[float, float]] = {
    "steps": (1, math.inf),
    "seed": (0, math.inf),
    "batch_size": (2, math.inf),
    "demo_fraction": (0, 1),
    "demo_noise": (0, 1),
    "keep_successes": (0, math.inf),
    "utd_ratio": (0, 1000),
    "stop_at_success": (0, math.inf),
    "n_step": (1, math.inf),
    "history": (1, math.inf),
    "gamma": (0, 1),
    "bc_updates": (0, math.inf),
    "learning_starts": (0, math.inf),
    "actor_starts": (0, math.inf),
    "random_steps": (0, math.inf),
    "replay_capacity": (100, math.inf),
    "eval_episodes": (0, math.inf),
    "eval_every": (0, math.inf),
    "reward_refit": (0, math.inf),
    "checkpoint_every_s": (0, math.inf),
}


CLONED_DEMOS, CLONED_UPDATES = "100", 5_000

_DEVICE = re.compile(r"cpu|cuda(:\d+)?")


def _count_as_text(value: Any) -> Any:
    return str(value) if type(value) is int else value


def _true_as_all(value: Any) -> Any:
    return math.inf if value is True else value  # as older runs have it


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run.

    Attributes:
        task: A task's name, or package:Id of any Gymnasium environment with continuous actions.
        env: Options for the environment, for example arm=ur5e.
        init: A run whose policy the learner begins with, in place of cloning; empty for none.
        reward: A learned reward's directory (robot-rl reward train) in place of the task's own; empty for none.
        reward_refit: Training episodes after which the learned reward is fitted anew, in a process beside; 0 for never.
        reward_teacher: Who says what of those episodes: `known` (the oracle, a person at the device), or `policy`:
            nobody, and whatever the newest episodes show is taken for no success, as VICE does.
        demos: Path of an episode store; a number of episodes for the environment's scripted expert to record first;
            or `none`.
        demo_noise: Action noise of the scripted expert (standard deviation, fraction of a full action).
        steps: Environment steps to train for; training also ends early, see stop_at_success.
        stop_at_success: End training early once the last 100 training episodes succeeded at this rate; above 1 means
            never.
        seed: Of everything: networks, sampling, exploration, episodes.
        agent: The learner.
        vision: How camera pictures are seen.
        device: Of the learner: cpu, or a CUDA device.
        batch_size: Transitions in a batch.
        demo_fraction: Share of demonstrations in a batch.
        keep_successes: Training episodes that succeed count as demonstrations too, where they took at most this many
            times the steps of the longest of those; 0 for none, .inf for all. What took longer shows mostly how to
            dither (then 1 is better: bin_relocate); but where a peg has to find its hole, also how to search.
        utd_ratio: Critic updates per environment step.
        utd: `enforced`: exactly that many, and an asynchronous actor waits between episodes where the learner is
            behind; `free`: an asynchronous learner updates as often as it can and the actor waits for nothing.
        n_step: Steps in a bootstrapped return.
        history: Observations that a network sees: the present one and so many less one before it.
        gamma: Discount factor per environment step.
        bound_returns: Clip bootstrapped values to the returns that the environment declares possible.
        bc_updates: Behaviour-cloning updates of the actor before the first step.
        learning_starts: Environment steps before the first critic update.
        actor_starts: Environment steps before the actor is first updated.
        random_steps: Environment steps with uniform random actions at the start.
        normalise: Scale observations by the mean and standard deviation of the demonstrations.
        replay_capacity: Transitions kept in memory.
        eval_episodes: Episodes of the evaluation after training.
        eval_every: Environment steps between evaluations in a process beside training, on a twin; 0 for none.
        checkpoint_every_s: Wall time between checkpoints [s].
        tensorboard: Also write TensorBoard files.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    task: str
    env: dict[str, Any] = field(default_factory=dict[str, Any])
    init: str = ""
    reward: str = ""
    reward_refit: int = 0
    reward_teacher: str = "known"
    demos: Annotated[str, BeforeValidator(_count_as_text)] = "20"
    demo_noise: float = 0.06
    steps: int = 20_000
    stop_at_success: float = 2.0
    seed: int = 0
    agent: AgentConfig = field(default_factory=AgentConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)
    device: str = "cpu"
    batch_size: int = 256
    demo_fraction: float = 0.5
    keep_successes: Annotated[float, BeforeValidator(_true_as_all)] = 0.0
    utd_ratio: float = 8.0
    utd: str = "enforced"
    n_step: int = 1
    history: int = 1
    gamma: float = 0.97
    bound_returns: bool = False
    bc_updates: int = 0
    learning_starts: int = 300
    actor_starts: int = 0
    random_steps: int = 300
    normalise: bool = False
    replay_capacity: int = 200_000
    eval_episodes: int = 100
    eval_every: int = 0
    checkpoint_every_s: float = 60.0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if _DEVICE.fullmatch(self.device) is None:
            raise ConfigError(f"device is {self.device!r}; it is cpu, cuda or cuda:N.")
        if self.demos.lstrip("-").isdigit() and int(self.demos) < 0:
            raise ConfigError(f"demos is {self.demos}; a number of demonstrations is at least 0.")
        if self.reward_teacher not in ("known", "policy"):
            raise ConfigError(f"reward_teacher is {self.reward_teacher!r}; it is known or policy.")
        if self.reward_refit and not self.reward:
            raise ConfigError("reward_refit fits a learned reward anew, and there is none. Give --reward REWARD.")
        if self.utd not in ("enforced", "free"):
            raise ConfigError(f"utd is {self.utd!r}; it is enforced or free.")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:  # so written that it refuses NaN too
                most = "" if high == math.inf else f" and at most {high:g}"
                raise ConfigError(f"{name} is {value}; it must be at least {low:g}{most}.")

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


def cloned(config: TrainConfig, kind: str) -> TrainConfig:
    """What a preset becomes where demonstrations are only cloned: `kind` is `bc` or `flow`.

    Raises:
        ConfigError: No such kind.
    """
    if kind not in ("bc", "flow"):
        raise ConfigError(f"--agent is {kind!r}; it is sac, bc (Gaussian) or flow (chunks by flow matching).")
    return replace(config, agent=replace(config.agent, kind=kind), demos=CLONED_DEMOS, bc_updates=CLONED_UPDATES)


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
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(given, dict):
        raise ConfigError(f"{path} must hold settings as `key: value` lines; it holds {type(given).__name__}.")
    return overlay(base, cast("dict[str, Any]", given), str(path))


def overlay(base: TrainConfig, given: dict[str, Any], where: str) -> TrainConfig:
    """Settings laid over `base`.

    Args:
        base: What holds where nothing is given.
        given: Nested as in config.yaml.
        where: The file or flag they come from, for the message.

    Raises:
        ConfigError: A key or value does not fit; the message names `where`, key, value and what was expected.
    """
    plain = asdict(base)
    merged = _merge(plain, given)
    merged.pop("versions", None)  # a run's own config.yaml may be used again
    for prefix, level, known in (
        ("", merged, plain), *((f"{name}.", merged[name], plain[name]) for name in ("agent", "vision"))
    ):  # fmt: skip
        unknown = [key for key in level if key not in known] if isinstance(level, dict) else []
        if unknown:
            key = f"{prefix}{unknown[0]}"
            near = get_close_matches(str(unknown[0]), known, 1)
            meant = f" Did you mean {prefix}{near[0]}?" if near else ""
            raise ConfigError(f"{where}: there is no setting {key!r}.{meant} Known: {', '.join(known)}.", key=key)
    try:
        return TypeAdapter(TrainConfig).validate_python(merged)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{where}: {key}: {first['input']!r}: {first['msg']}.", key=key) from error
    except ConfigError as error:  # a value out of its range
        raise ConfigError(f"{where}: {error}", **error.fields) from error


def _merge(base: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in given.items():
        out[key] = _merge(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
    return out


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


_FAST = TrainConfig(
    task="",
    agent=AgentConfig(
        critics=2,
        policy_delay=16,
        std_init=0.08,
        std_max=0.1,
        target_entropy_per_action=-1.7,
        bc_weight=30.0,
        critic_weight_decay=10.0,
        observation_clip=5.0,
    ),
    steps=6_000,
    stop_at_success=0.98,
    keep_successes=math.inf,
    utd_ratio=4.0,
    n_step=3,
    gamma=0.95,
    bound_returns=True,
    bc_updates=1000,
    learning_starts=0,
    actor_starts=300,
    random_steps=0,
    normalise=True,
)

PRESETS: dict[str, TrainConfig] = {
    "fast": _FAST,
    "pixels": replace(
        _FAST, env={"observations": "vision"}, steps=20_000, keep_successes=1.0,
        agent=replace(_FAST.agent, policy_delay=4, critic_weight_decay=0.0),
    ),
    "scratch": TrainConfig(
        task="",
        demos="none",
        agent=AgentConfig(critics=2, policy_delay=2, observation_clip=5.0),
        utd_ratio=4.0,
        n_step=3,
        gamma=0.97,
        bound_returns=True,
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
"""`fast`: ours, and the default: the actor is cloned from the demonstrations and then improved close to them, with
little noise. `pixels`: the same from cameras, with more actor updates and more steps. `scratch`: what `fast` becomes
where there are no demonstrations. `serl` and `hil_serl`: the published hyper-parameters of those two systems (SERL's
state learner with UTD 8, HIL-SERL's two critics with UTD 2)."""
