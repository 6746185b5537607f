"""Collecting marked frames: play about the goal, and say which frames show success."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_rl.demonstrations import scripted_expert
from robot_rl.environments import Env, make, store_metadata
from robot_rl.errors import ConfigError
from robot_rl.rewards.frames import MARK
from robot_rl.store import EpisodeStore

__all__ = ["collect_frames"]

LINGER_STEPS = 10  # that a scripted person goes on after a success: stays there, or wanders off
DOUBTFUL_STEPS = 1  # on both sides of where success begins or ends a scripted person marks nothing
NOISES = (0.05, 0.2, 0.5)  # of the scripted person's hand, one after another: near the goal as well as far from it
CLUMSY = 0.25  # share of its episodes in which it never works the gripper


class _ScriptedPerson:
    """Plays about the goal by the task's script, now well, now badly, and knows success by the environment's oracle."""

    def __init__(self, env: Env, rng: np.random.Generator) -> None:
        self._env, self._rng, self._episode = env, rng, 0
        if scripted_expert(env, rng, 0.0) is None:
            raise ConfigError("This task has no script to play by. Collect by hand: --device spacemouse, pad, page.")

    def begin(self) -> None:
        self._expert = scripted_expert(self._env, self._rng, NOISES[self._episode % len(NOISES)])
        self._clumsy = self._rng.random() < CLUMSY
        self._wanders = self._rng.random() < 0.5
        self._left, self._episode = LINGER_STEPS, self._episode + 1

    def act(self, observation: Any, succeeded: bool) -> NDArray[np.float32]:
        assert self._expert is not None
        action = self._expert.act(observation, str(getattr(self._env.unwrapped, "instruction", "")))
        if succeeded or self._left < LINGER_STEPS:
            self._left -= 1
            if self._wanders:
                action = self._rng.uniform(-1.0, 1.0, action.shape).astype(np.float32)
        if self._clumsy and len(action) > 6:
            action[6] = 1.0
        return action

    @property
    def done(self) -> bool:
        return self._left <= 0


def collect_frames(  # noqa: PLR0913 (each by keyword)
    task: str,
    path: str | Path,
    *,
    episodes: int,
    device: str = "script",
    stages: int = 1,
    options: dict[str, Any] | None = None,
    seed: int = 0,
    on_episode: Callable[[int, int], None] = lambda _episodes, _success: None,
    stop: Callable[[], bool] = lambda: False,
) -> EpisodeStore:
    """Record episodes in which every frame is marked, into a new store.

    Args:
        task: Where.
        path: The store to make.
        episodes: How many.
        device: Of the person who drives; pressing success begins and ends a stretch of frames that show it. `script`
            plays by the task's script instead and marks by its oracle: a person for the twin.
        stages: How many the task has; the last is success.
        options: Of the environment.
        seed: Of the first episode and of the script.
        on_episode: Called after each with the episodes and the frames of success so far.
        stop: Asked before each episode.

    Returns:
        The store, open for writing.

    Raises:
        ConfigError: The task has no cameras or no script, or the device is not known.
        StoreError: The path exists, or the disk fails.
    """
    rng = np.random.default_rng(seed)
    hand = {} if device == "script" else {"teleop": {"device": device, "ends": False}, "real_time": True}
    options = {"observations": "vision", **(options or {})}
    env = make(task, {**options, **hand, "reward": "external"})
    known = int(getattr(getattr(env.unwrapped, "task", None), "stages", 1))
    if device == "script" and stages not in (1, known):
        env.close()
        raise ConfigError(
            f"--stages {stages}: the oracle of {task} tells {known}. Mark others by hand (--device page)."
        )
    script = _ScriptedPerson(env, rng) if device == "script" else None
    store = EpisodeStore.create(
        path,
        observation_space=env.observation_space,
        action_space=env.action_space,
        metadata={**store_metadata(env, task, options), "stages": stages},
    )
    shown = 0
    try:
        for episode in range(episodes):
            if stop():
                break
            shown += _episode(env, store, script, stages, seed + episode)
            on_episode(episode + 1, shown)
    except Exception:
        store.close()
        raise
    finally:
        env.close()
    return store


def _episode(env: Env, store: EpisodeStore, script: _ScriptedPerson | None, stages: int, seed: int) -> int:
    """One episode, marked; the number of its frames that show success."""
    observation, _ = env.reset(seed=seed, options={"place_objects": True})
    if script is not None:
        script.begin()
    start = store.rows
    store.begin_episode(observation, instruction=str(getattr(env.unwrapped, "instruction", "")))
    marks, pressed, over = [0], 0, False
    idle = np.zeros(env.action_space.shape or (0,), np.float32)
    hand: Any = env.get_wrapper_attr("hand") if script is None else None
    while not over:
        action = idle if script is None else script.act(observation, marks[-1] == stages)
        observation, reward, terminated, truncated, info = env.step(action)
        if "success" in info.get("said", ()):
            pressed = (pressed + 1) % (stages + 1)
        marks.append(_told_by_oracle(info, stages) if script is not None else pressed)
        if hand is not None:
            reached = "success" if pressed == stages else f"stage {pressed} of {stages}" if pressed else "no success"
            hint = "success: begin or end a marked stretch. failure or stop: end this episode."
            marked = sum(mark == stages for mark in marks)
            hand.show({"state": f"marking {reached}", "hint": hint, "marked": marked}, observation["images"])
        ended = (script is not None and script.done) or bool({"failure", "stop"} & set(info.get("said", ())))
        over = terminated or truncated or ended
        store.append(
            action=info.get("executed_action", action), reward=float(reward), terminated=terminated,
            truncated=over and not terminated, next_observation=observation, source=info.get("source", "script"),
        )  # fmt: skip
    store.commit()
    values = np.array(marks, np.float32)
    if script is not None:
        for change in np.flatnonzero(np.diff(marks)):
            values[max(0, change + 1 - DOUBTFUL_STEPS) : change + 1 + DOUBTFUL_STEPS] = np.nan
    store.write_label(MARK, np.arange(start, store.rows), values)
    return int((values == stages).sum())


def _told_by_oracle(info: dict[str, Any], stages: int) -> int:
    return int(info["oracle_success"]) if stages == 1 else int(info["oracle_stage"])
