"""How fast the learner learns from two cameras, beside the same learner from state, in the same run."""

import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from robot_rl.agents.batch import Batch
from robot_rl.agents.sac import AgentConfig, SACAgent
from robot_rl.config import TrainConfig
from robot_rl.policy import Policy
from robot_rl.replay.buffer import ReplayBuffer

__all__ = ["image_benchmarks"]

BATCH, STATE, WITH_OBJECT, ACTIONS, SIDE, ROWS = 256, 19, 28, 7, 128, 2_000
CAMERAS = ("front", "wrist")
DELAY = 8  # critic updates per actor update
ROUNDS = 7


def image_benchmarks() -> list[dict[str, Any]]:
    """Image critic updates a second, with and without cached features; sampling; memory; acting from two pictures.

    Two 128x128 cameras, batch 256, ten critics of 256 x 256, the default frozen encoder. Sampling is part of an update.
    Pictures are noise: what they show changes no time.
    """
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    pictures = gym.spaces.Dict({name: gym.spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8) for name in CAMERAS})
    space = gym.spaces.Dict({"state": gym.spaces.Box(-9, 9, (STATE,), np.float32), "images": pictures})
    actions = gym.spaces.Box(-1, 1, (ACTIONS,), np.float32)
    config = TrainConfig(task="", agent=AgentConfig(critics=10, policy_delay=DELAY))
    policy = Policy(config, space, actions)
    seeing = policy.agent("")
    assert isinstance(seeing, SACAgent)
    assert policy.perception is not None
    cached, raw = ReplayBuffer(space, actions, ROWS, policy.perception), ReplayBuffer(space, actions, ROWS)
    for buffer, rows in ((cached, 64), (raw, ROWS)):
        _fill(buffer, rows, rng)
    cached_batch, raw_batch = cached.empty_batch(BATCH), raw.empty_batch(BATCH)
    blind = SACAgent(WITH_OBJECT, ACTIONS, config.agent, 0)
    from_state = ReplayBuffer(gym.spaces.Box(-9, 9, (WITH_OBJECT,), np.float32), actions, ROWS)
    _fill(from_state, ROWS, rng)
    state_batch = from_state.empty_batch(BATCH)

    images: list[float] = []
    states: list[float] = []
    for _ in range(ROUNDS + 1):
        states.append(_seconds(lambda: blind.update(from_state.sample(BATCH, rng, out=state_batch)), 2 * DELAY))
        images.append(_seconds(lambda: seeing.update(cached.sample(BATCH, rng, out=cached_batch)), 2 * DELAY))
    state_rate, image_rate = 1 / float(np.median(states[1:])), 1 / float(np.median(images[1:]))

    def uncached() -> None:
        seeing.update(_seen(policy, raw.sample(BATCH, rng, out=raw_batch)))

    sampled = float(np.median([_seconds(lambda: raw.sample(BATCH, rng, out=raw_batch), 1) for _ in range(30)]))
    kept = float(np.median([_seconds(lambda: cached.sample(BATCH, rng, out=cached_batch), 1) for _ in range(30)]))
    frames = ROWS * len(CAMERAS) * SIDE * SIDE * 3
    observation: dict[str, Any] = space.sample()

    def act() -> object:
        fresh = {name: rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for name in CAMERAS}
        return policy.act({**observation, "images": fresh})

    acting = float(np.median([_seconds(act, 1) for _ in range(40)]))
    rows = (
        ("image_critic_updates_per_s", image_rate, "1/s, cached features", "the state learner", state_rate),
        (
            "image_critic_updates_per_s_uncached",
            1 / _seconds(uncached, 1),
            "1/s, every frame anew",
            "cached",
            image_rate,
        ),
        ("image_replay_sample_ms", 1e3 * sampled, "ms, raw frames, batch 256", "of cached features", 1e3 * kept),
        ("image_replay_bytes", float(raw.nbytes), "bytes, raw frames", "the frames themselves", float(frames)),
        ("image_act_ms", 1e3 * acting, "ms, one core", "target", 30.0),
    )
    keys = ("name", "value", "unit", "reference", "reference_value")
    return [dict(zip(keys, row, strict=True)) for row in rows]


def _fill(buffer: ReplayBuffer, rows: int, rng: np.random.Generator) -> None:
    def draw() -> Any:
        flat = rng.standard_normal(STATE if buffer.layout.images else WITH_OBJECT).astype(np.float32).clip(-9, 9)
        if not buffer.layout.images:
            return flat
        shown = {name: rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for name in CAMERAS}
        return {"state": flat, "images": shown}

    buffer.begin_episode(draw())
    for row in range(rows - 1):
        action = rng.uniform(-1, 1, ACTIONS).astype(np.float32)
        buffer.add(action, 0.0, False, row == rows - 2, draw())


def _seen(policy: Policy, batch: Batch) -> Batch:
    """A batch of raw frames with every frame passed through the trunk."""
    eyes = policy.perception
    assert eyes is not None

    def look(images: dict[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
        return {n: torch.from_numpy(eyes.look(n, frames.numpy())[:, 0]) for n, frames in (images or {}).items()}

    return batch._replace(images=look(batch.images), next_images=look(batch.next_images))


def _seconds(work: Callable[[], object], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - start) / times
