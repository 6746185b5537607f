"""Environments by name: ours, a third party's, or any of Gymnasium's. The learner knows no other way to a robot."""

import importlib.metadata
import re
from types import ModuleType, SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np

from robot_rl.errors import ConfigError, RobotRLError

__all__ = ["Env", "instructions_of", "make", "return_range", "store_metadata", "task_ids"]

Env = gym.Env[Any, np.ndarray]


def instructions_of(env: Env) -> tuple[str, ...]:
    """Every instruction an episode may come with; an environment of one task has one, or names none."""
    own = env.unwrapped
    return tuple(getattr(own, "instructions", (getattr(own, "instruction", ""),)))


def store_metadata(env: Env, task: str, options: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a store of an environment's episodes says of itself: task, options, what the state is made of."""
    layout: dict[str, slice] = getattr(env.unwrapped, "state_layout", {})
    spec = getattr(getattr(env.unwrapped, "task", None), "spec", None)
    return {
        "task": task,
        "env": options or {},
        "instructions": list(instructions_of(env)),
        "state_layout": {name: [part.start, part.stop] for name, part in layout.items()},
        "control_period_s": getattr(spec, "control_period_s", None),
    }


def task_ids() -> dict[str, str]:
    """Tasks installed on this machine: name on the command line to Gymnasium id, for example pick_cube to
    robot_rl/PickCube-v0. They come by the entry point `gymnasium.envs`, ours and third parties' alike.
    """
    for entry in importlib.metadata.entry_points(group="gymnasium.envs"):
        before = set(gym.registry)
        entry.load()()
        # Its package may have been imported before; then its environments are known by its name.
        named = {name for name, spec in gym.registry.items() if spec.namespace == entry.name}
        _tasks.update({_snake_case(gym.registry[name].name): name for name in set(gym.registry) - before | named})
    return dict(sorted(_tasks.items()))


_tasks: dict[str, str] = {}


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def make(task: str, options: dict[str, Any] | None = None) -> Env:
    """Build an environment whose actions lie in [-1, 1].

    Args:
        task: A task's name (`pick_cube`), or any Gymnasium id with its package (`gymnasium:FetchReach-v4`,
            `my_package:My/Env-v0`).
        options: Keyword arguments for the environment (`arm`, `observations`, `render_mode` ...).

    Raises:
        ConfigError: Unknown name or option, an action space that is not a bounded Box, or observations that are not
            vectors.
    """
    options = options or {}
    known = task_ids()
    name = known.get(task, task)
    if name not in gym.registry and ":" in name and name.split(":")[0] == "gymnasium":
        _register_gymnasium_robotics()
        name = name.split(":", 1)[1]
    try:
        env: Env = gym.make(name, **options)
    except RobotRLError:
        raise
    except (gym.error.Error, ModuleNotFoundError) as error:
        raise ConfigError(
            f"No task or environment {task!r} ({_one_line(error)}). Tasks: {', '.join(known)}. Others by package and "
            "id, for example gymnasium:FetchReach-v4 (which needs: pip install 'robot-rl[fetch]').",
            task=task,
        ) from error
    except TypeError as error:
        raise ConfigError(
            f"{task} does not take these options: {options} ({_one_line(error)}). See: robot-rl tasks."
        ) from error
    return _checked(task, env)


def return_range(env: Env) -> tuple[float, float] | None:
    """Smallest and largest possible return of an episode, where the environment declares it (`env.return_range`)."""
    return getattr(env.unwrapped, "return_range", None)


def _checked(task: str, env: Env) -> Env:
    space = env.action_space
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        raise ConfigError(
            f"{task} has the action space {space}; the learner needs continuous actions: a Box of one dimension.",
            task=task,
        )
    if not np.isfinite(space.low).all() or not np.isfinite(space.high).all():
        raise ConfigError(f"{task} has unbounded actions ({space}); wrap it so that every action has finite bounds.")
    if (space.low != -1.0).any() or (space.high != 1.0).any():
        env = gym.wrappers.RescaleAction(env, np.float32(-1.0), np.float32(1.0))
    return env


def _register_gymnasium_robotics() -> None:
    try:
        import gymnasium_robotics
        from gymnasium_robotics.utils import mujoco_utils
    except ModuleNotFoundError:
        return
    gym.register_envs(gymnasium_robotics)
    _compare_joint_types_as_numbers(mujoco_utils)


def _compare_joint_types_as_numbers(module: Any) -> None:
    """Give gymnasium-robotics the joint types as plain integers.

    Version 1.4.2 asks `joint_type in (mjJNT_HINGE, mjJNT_SLIDE)` of a NumPy integer, which is always false since MuJoCo
    3.12 (pybind11 3.1: `mjJNT_HINGE == np.int32(3)` is false, the other way round true): no Fetch could be made.
    """
    mujoco = module.mujoco
    if not isinstance(mujoco, ModuleType):  # done before
        return
    types = {name: int(value) for name, value in mujoco.mjtJoint.__members__.items()}
    if mujoco.mjtJoint.mjJNT_HINGE != np.int32(types["mjJNT_HINGE"]):
        module.mujoco = SimpleNamespace(**{**vars(mujoco), "mjtJoint": SimpleNamespace(**types)})


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
