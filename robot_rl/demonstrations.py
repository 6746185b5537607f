"""Demonstrations: episodes of a competent operator, recorded before training."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np

from robot_rl.environments import Env, instructions_of, store_metadata
from robot_rl.errors import ConfigError, StoreError
from robot_rl.operators import Operator, begin_episode
from robot_rl.store import EpisodeStore

__all__ = ["record", "scripted_expert", "succeeded"]

ATTEMPTS_PER_EPISODE = 5


def succeeded(info: dict[str, Any]) -> bool:
    """Whether an environment's `info` reports success (`success`, or `is_success` as gymnasium-robotics has it)."""
    return bool(info.get("success", info.get("is_success", False)))


def scripted_expert(env: Env, rng: np.random.Generator, noise: float) -> Operator | None:
    """The environment's own expert (`env.unwrapped.expert`), or None where it offers none."""
    make_expert = cast(
        "Callable[[np.random.Generator, float], Operator] | None", getattr(env.unwrapped, "expert", None)
    )
    return None if make_expert is None else make_expert(rng, noise)


def record(  # noqa: PLR0913 (each by keyword)
    env: Env,
    operator: Operator,
    path: str | Path,
    *,
    episodes: int,
    seed: int,
    task: str,
    options: dict[str, Any] | None = None,
    source: str = "script",
    on_episode: Callable[[int, int], None] = lambda _kept, _tried: None,
    stop: Callable[[], bool] = lambda: False,
) -> EpisodeStore:
    """Record successful episodes into a new store; failed ones are not kept.

    Args:
        env: Where.
        operator: Who acts.
        path: The store to make.
        episodes: How many successes to record, of each instruction that the environment gives.
        seed: Of the first episode; each further one takes the next.
        task: Written into the store, so that it is not taken for another's.
        options: Of the environment, written beside it.
        source: `script` or `human`.
        on_episode: Called after each attempt with the episodes kept and tried so far.
        stop: Asked before each attempt; True ends the recording there.

    Returns:
        The store, open for writing.

    Raises:
        StoreError: The path exists, or the disk fails.
        ConfigError: No episodes are asked for, or the operator succeeds too rarely (fewer than one in five attempts).
    """
    if episodes < 1:
        raise ConfigError(f"{episodes} demonstrations were asked for; record at least 1.", episodes=episodes)
    store = EpisodeStore.create(
        path,
        observation_space=env.observation_space,
        action_space=env.action_space,
        metadata=store_metadata(env, task, options),
    )
    try:
        _record_into(store, env, operator, episodes, seed, source, on_episode, stop)
    except Exception:
        with suppress(StoreError):
            store.close()
        raise
    return store


def _record_into(
    store: EpisodeStore,
    env: Env,
    operator: Operator,
    episodes: int,
    seed: int,
    source: str,
    on_episode: Callable[[int, int], None],
    stop: Callable[[], bool],
) -> None:
    kept = tried = 0
    of_each = dict.fromkeys(instructions_of(env), 0)
    wanted = episodes * len(of_each)
    while kept < wanted and not stop():
        if tried >= ATTEMPTS_PER_EPISODE * wanted:
            raise ConfigError(
                f"Only {kept} of {tried} attempts succeeded; {wanted} demonstrations were asked for. "
                f"What succeeded lies in {store.path}. Lower the script's noise, or mend the script."
            )
        first, _ = env.reset(seed=seed + tried, options={"place_objects": True})
        begin_episode(operator)
        instruction = str(getattr(env.unwrapped, "instruction", ""))
        steps: list[dict[str, Any]] = []
        observation, over, info = first, False, {}
        while not over:
            action = operator.act(observation, instruction)
            observation, reward, terminated, truncated, info = env.step(action)
            steps.append(
                {
                    "action": info.get("executed_action", action),
                    "reward": float(reward),
                    "terminated": terminated,
                    "truncated": truncated,
                    "next_observation": observation,
                    "success": succeeded(info),
                    "source": info.get("source", source),
                    "time": time.time(),
                }
            )
            over = terminated or truncated
        tried += 1
        if succeeded(info) and of_each.setdefault(instruction, 0) < episodes:
            of_each[instruction] += 1
            store.begin_episode(first, instruction=instruction)
            for step in steps:
                store.append(**step)
            store.commit()
            kept += 1
        on_episode(kept, tried)
