"""What is to be learnt: one folder a task, and the environment that turns a cell and a task into Gymnasium's."""

import importlib
from typing import Any

import gymnasium as gym

from robot_rl.errors import ConfigError

__all__ = ["TASKS", "make_env", "register", "task_class"]

TASKS: dict[str, str] = {
    "reach": "tasks.reach:Reach",
    "pick_cube": "tasks.pick_cube:PickCube",
    "peg_insert": "tasks.peg_insert:PegInsert",
    "pcb_insert": "tasks.pcb_insert:PcbInsert",
    "cable_route": "tasks.cable_route:CableRoute",
    "bin_relocate": "tasks.bin_relocate:BinRelocate",
}
"""Built-in tasks: name on the command line to class."""


def register() -> None:
    """Register every task as `robot_rl/<Name>-v0`. Importing `tasks` does; so does the entry point `gymnasium.envs`."""
    for target in TASKS.values():
        name = f"robot_rl/{target.split(':')[1]}-v0"
        if name in gym.registry:
            continue
        gym.register(
            id=name,
            entry_point="tasks:make_env",
            kwargs={"task": target},
            disable_env_checker=True,
        )


def task_class(name: str) -> Any:
    """A built-in task by name. Raises ConfigError when there is none."""
    if name not in TASKS:
        raise ConfigError(f"Unknown task {name!r}. Known: {', '.join(TASKS)}.")
    module, _, cls = TASKS[name].partition(":")
    return getattr(importlib.import_module(module), cls)


def make_env(  # noqa: PLR0913 (an environment's options)
    task: str,
    *,
    cell: str = "twin",
    rehearse: str | bool = False,
    arm: str = "fr3",
    observations: str = "state",
    reward: str = "sparse",
    frame: str = "start",
    randomise: bool = False,
    reset_free: bool | None = None,
    image_size: int = 128,
    real_time: bool = False,
    gripper_penalty: float = 0.0,
    action_repeat: int = 1,
    action_history: int = 0,
    max_steps: int | None = None,
    render_mode: str | None = None,
    teleop: str | dict[str, Any] = "",
) -> gym.Env[Any, Any]:
    """Build a task's environment with its wrappers.

    Args:
        task: `module:Class` of a `Task`.
        cell: Where it runs: `twin`, or the path of a cell file.
        rehearse: True when emulators on this machine stand in for the cell file's devices (robot-rl emulate), or
            their address.
        arm: The twin's arm: `fr3`, `ur5e` or the path of an MJCF file.
        observations: `state`, or `vision` for cameras in place of object poses.
        reward: `sparse`, `dense`, `external` where somebody else tells success, or `human` where the person at `teleop`
            does: whenever it is so, and at the latest when time is up.
        frame: What poses are relative to: the episode's `start` pose or the arm's `base`.
        randomise: Vary the twin between episodes as the task declares.
        reset_free: Whether a reset leaves the objects where the last episode left them; as the task does by default.
        image_size: Height and width of camera pictures [pixels].
        real_time: Pace the twin to the wall clock.
        gripper_penalty: Taken off the reward whenever the gripper's command turns round.
        action_repeat: Environment steps a policy's action lasts.
        action_history: How many past actions the state also holds.
        max_steps: Time limit; the task's own by default.
        render_mode: `rgb_array` to render the front camera.
        teleop: Who may take over while a policy acts: a device of `drivers.teleop`, several joined by `+`, or `script`
            for a scripted person; or a mapping with `device` and its options.

    Raises:
        ConfigError: A value is not known, or the arm cannot reach the task.
    """
    _check_numbers(
        image_size=(image_size, 16), action_repeat=(action_repeat, 1), action_history=(action_history, 0),
        max_steps=(1 if max_steps is None else max_steps, 1),
    )  # fmt: skip
    if isinstance(gripper_penalty, str | bool) or not 0.0 <= gripper_penalty <= 1.0:
        raise ConfigError(f"gripper_penalty={gripper_penalty!r}; it must be a number from 0 to 1.")
    if reward == "human" and not teleop:
        raise ConfigError(
            "reward=human: a person says what success is, and nobody is there. Give --teleop spacemouse, gamepad, "
            "keyboard or page; or script for a scripted person on the twin."
        )
    for flag, value in (("randomise", randomise), ("real_time", real_time), ("reset_free", reset_free or False)):
        if not isinstance(value, bool):
            raise ConfigError(f"{flag}={value!r}; it is true or false.")

    from drivers.cell import SceneRequest, open_cell
    from tasks.env import RobotEnv
    from tasks.spec import Task
    from tasks.wrappers import ActionHistory, ActionRepeat, GripperPenalty, TimeLimit

    module, _, name = task.partition(":")
    definition: Task = getattr(importlib.import_module(module), name)()
    cameras = ("front", "wrist") if observations == "vision" or render_mode else ()
    request = SceneRequest(
        arm=arm, build=definition.build, objects=definition.spec.objects, tags=definition.spec.tags,
        held=definition.spec.start_opening, cameras=cameras, image_size=image_size, real_time=real_time,
    )  # fmt: skip
    opened = open_cell(cell, request, rehearse="127.0.0.1" if rehearse is True else rehearse or "")
    limit = definition.spec.max_steps if max_steps is None else max_steps
    try:
        robot = RobotEnv(
            definition,
            opened,
            observations=observations,
            reward=reward,
            frame=frame,
            randomise=randomise,
            reset_free=reset_free,
            render_mode=render_mode,
        )
    except Exception:
        opened.close()
        raise
    env: gym.Env[Any, Any] = robot
    if gripper_penalty:
        robot.return_range = robot.return_range and (-gripper_penalty * limit, 1.0)
        env = GripperPenalty(env, gripper_penalty)
    env = TimeLimit(env, limit)
    if action_repeat != 1:
        env = ActionRepeat(env, action_repeat)
    if action_history:
        env = ActionHistory(env, action_history)
    return _with_hand(env, robot, teleop, asks=reward == "human") if teleop else env


def _with_hand(env: gym.Env[Any, Any], robot: Any, teleop: str | dict[str, Any], asks: bool) -> gym.Env[Any, Any]:
    import numpy as np

    from drivers.teleop import TeleopSet, open_teleop
    from tasks.intervention import DeviceHand, Intervention
    from tasks.scripted_hand import ScriptedHand

    given: dict[str, Any] = {"device": teleop} if isinstance(teleop, str) else dict(teleop)
    try:
        device = str(given.pop("device", ""))
        if device == "script":
            rng = np.random.default_rng(given.pop("seed", 0))
            return Intervention(env, ScriptedHand(robot, rng, judges=asks, **given), asks=asks)
        ends = bool(given.pop("ends", True))
        devices = [open_teleop(name, **given) for name in device.split("+")]
        screen = next((each.source for each in devices if hasattr(each.source, "show")), None)
        hand = DeviceHand(robot, devices[0] if len(devices) == 1 else TeleopSet(devices), screen)
        return Intervention(env, hand, ends=ends, asks=asks)
    except TypeError as error:
        raise ConfigError(f"teleop: {teleop}: {error}") from error
    except Exception:
        env.close()
        raise


def _check_numbers(**options: tuple[object, int]) -> None:
    for name, (value, least) in options.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(f"{name}={value!r}; it must be a whole number, at least {least}.")


register()
