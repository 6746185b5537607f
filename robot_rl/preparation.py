"""What comes before the first step: settings filled in from the environment, demonstrations."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from robot_rl.config import TrainConfig
from robot_rl.demonstrations import record, scripted_expert
from robot_rl.environments import Env, instructions_of, return_range
from robot_rl.errors import ConfigError
from robot_rl.observation import ObservationLayout
from robot_rl.operators import Operator
from robot_rl.policy import check_device
from robot_rl.progress import TrainingProgress
from robot_rl.rewards.learned import make_with_reward
from robot_rl.run_directory import RunDirectory
from robot_rl.store import EpisodeStore
from robot_rl.vision.perception import Perception

__all__ = ["open_demonstrations", "resolve"]

MOTIONS = 6  # numbers of an action before the gripper's
DEMONSTRATION_SEED = 1_000_000


def resolve(config: TrainConfig) -> TrainConfig:
    """The configuration with everything filled in that depends on the environment.

    Raises:
        ConfigError: The environment cannot be made or learnt in, or the demonstrations are of another one.
    """
    check_device(config.device)
    _check_beginning(config)
    env = make_with_reward(config.task, config.env, config.reward)
    try:
        layout = ObservationLayout(env.observation_space)
        if layout.images:
            Perception(config.vision, layout, config.seed)  # an encoder that cannot be loaded is found now
        if config.agent.gripper == "discrete" and (env.action_space.shape or (0,))[0] < MOTIONS + 1:
            raise ConfigError(
                f"agent.gripper=discrete: the action of {config.task} has {env.action_space.shape} numbers and no "
                "gripper among them. Leave it continuous."
            )
        bounds = return_range(env)
        if config.bound_returns and bounds is not None:
            config = replace(config, agent=replace(config.agent, return_min=bounds[0], return_max=bounds[1]))
        if config.demos.isdigit():
            missing = scripted_expert(env, np.random.default_rng(0), 0.0) is None
            config = replace(config, demos="none") if missing or int(config.demos) == 0 else config
        elif config.demos != "none":
            demonstrations = EpisodeStore.open(config.demos)
            demonstrations.check_spaces(env.observation_space, env.action_space)
            _check_origin(config, demonstrations)
            if demonstrations.rows == 0:
                raise ConfigError(f"{config.demos} holds no steps. Record some with: robot-rl demo {config.task}")
            config = replace(config, demos=str(Path(config.demos).resolve()))
    finally:
        env.close()
    return config


def _check_beginning(config: TrainConfig) -> None:
    """Whether learning may begin with the policy of the run that `init` names."""
    if not config.init:
        return
    run, other = RunDirectory.open(config.init)
    flow = (config.agent.kind == "flow", other.agent.kind == "flow")
    for what, mine, theirs in (
        ("task", config.task, other.task),
        ("env.observations", config.env.get("observations", "state"), other.env.get("observations", "state")),
        ("chunks of actions (agent.kind=flow)", *flow),
    ):
        if mine != theirs:
            raise ConfigError(f"--init {config.init}: its {what} is {theirs}, this run's {mine}; no policy for both.")
    if not run.policy.is_file():
        raise ConfigError(f"--init {config.init}: that run has published no policy yet.")


def _check_origin(config: TrainConfig, demonstrations: EpisodeStore) -> None:
    """Demonstrations of another task may have the same shapes and still mean other motions; so may another arm's."""
    task, options = demonstrations.metadata.get("task"), demonstrations.metadata.get("env", {})
    path = config.demos
    if task is not None and task != config.task:
        raise ConfigError(
            f"{path} holds demonstrations of {task}, not of {config.task}. Record some: robot-rl demo {config.task}"
        )
    for name in ("arm", "frame", "action_repeat", "action_history"):
        recorded, used = options.get(name), config.env.get(name)
        if recorded != used:
            raise ConfigError(
                f"{path} was recorded with {name}={recorded or 'default'}, this run has {name}={used or 'default'}. "
                f"Set env.{name} as recorded, or record to --out OTHER with: robot-rl demo {config.task} --set ..."
            )


def open_demonstrations(
    config: TrainConfig, run: RunDirectory, env: Env, progress: TrainingProgress, stop: Callable[[], bool]
) -> EpisodeStore | None:
    """The demonstrations named in the configuration, recorded first where it names a number.

    Args:
        config: Resolved.
        run: Where recorded ones lie.
        env: Where they are recorded.
        progress: Shown to a person.
        stop: Whether to end after the episode being recorded; what was recorded is then recorded anew next time.

    Returns:
        None without demonstrations, and when stopped.
    """
    path = run.demonstrations
    if config.demos == "none":
        return None
    if not config.demos.isdigit():
        return EpisodeStore.open(config.demos)
    if path.is_dir():
        return EpisodeStore.open(path)
    unfinished = path.with_name(path.name + ".partial")
    if unfinished.is_dir():
        shutil.rmtree(unfinished)  # an earlier start was cut short; the same seed records the same again
    progress.phase(
        f"recording {config.demos} demonstrations by the task's script", int(config.demos) * len(instructions_of(env))
    )
    expert = scripted_expert(env, np.random.default_rng([config.seed, 4]), config.demo_noise)
    if expert is None:
        raise ConfigError(f"{config.task} has no scripted expert; give --demos PATH or --demos none.")
    told = f" (Success is what the reward {config.reward} says: it may be too strict.)" if config.reward else ""
    try:
        _record(config, env, expert, unfinished, progress, stop)
    except ConfigError as error:
        raise ConfigError(f"{error}{told}", **error.fields) from error
    if stop():
        return None
    unfinished.rename(path)
    return EpisodeStore.open(path)


def _record(
    config: TrainConfig, env: Env, expert: Operator, path: Path, progress: TrainingProgress, stop: Callable[[], bool]
) -> None:
    record(
        env, expert, path, episodes=int(config.demos), seed=DEMONSTRATION_SEED + 10_000 * config.seed,
        task=config.task, options=config.env, on_episode=lambda kept, _: progress.update(step=kept), stop=stop,
    ).close()  # fmt: skip
