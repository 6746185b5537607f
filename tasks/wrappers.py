"""Small wrappers; each does one thing and works around any environment of ours."""

from collections import deque
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from robot_rl.errors import ConfigError
from tasks.env import GRIPPER_THRESHOLD

__all__ = ["ActionHistory", "ActionRepeat", "GripperPenalty", "TimeLimit"]

Reset = tuple[dict[str, Any], dict[str, Any]]
Step = tuple[dict[str, Any], SupportsFloat, bool, bool, dict[str, Any]]
Env = gym.Env[dict[str, Any], NDArray[np.float32]]
Wrapper = gym.Wrapper[dict[str, Any], NDArray[np.float32], dict[str, Any], NDArray[np.float32]]


class TimeLimit(Wrapper):
    """Truncates after `max_steps`, with `info["time_limit"]`, unless the episode ends in that very step."""

    def __init__(self, env: Env, max_steps: int) -> None:
        super().__init__(env)
        self._max_steps = max_steps
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        """Begin an episode and the count."""
        self._steps = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: NDArray[np.float32]) -> Step:
        """One step, counted."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        if self._steps >= self._max_steps and not terminated:
            truncated = True
            info["time_limit"] = True
        return observation, reward, terminated, truncated, info


class GripperPenalty(Wrapper):
    """Takes `penalty` off the reward for every step that turns the gripper's command round.

    SERL took 0.1, HIL-SERL 0.02.
    """

    def __init__(self, env: Env, penalty: float) -> None:
        super().__init__(env)
        if env.action_space.shape != (7,):
            raise ConfigError(
                f"gripper_penalty needs an action with a gripper (7 numbers); this task's has {env.action_space.shape}."
            )
        self._penalty = penalty
        self._closed: bool | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        """Begin an episode; the first command is free."""
        self._closed = None
        return self.env.reset(seed=seed, options=options)

    def step(self, action: NDArray[np.float32]) -> Step:
        """One step, less the penalty where the command turned."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if abs(float(action[6])) > GRIPPER_THRESHOLD:
            closed = bool(action[6] < 0.0)
            if self._closed is not None and closed != self._closed:
                reward = float(reward) - self._penalty
            self._closed = closed
        return observation, reward, terminated, truncated, info


class ActionRepeat(Wrapper):
    """Repeats each action, adding up the rewards, until the episode ends."""

    def __init__(self, env: Env, repeat: int) -> None:
        super().__init__(env)
        if repeat < 1:
            raise ConfigError(f"action_repeat={repeat}; it must be at least 1.")
        self._repeat = repeat

    def step(self, action: NDArray[np.float32]) -> Step:
        """Up to `repeat` steps."""
        total = 0.0
        for _ in range(self._repeat - 1):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                return observation, total, terminated, truncated, info
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, total + float(reward), terminated, truncated, info


class ActionHistory(Wrapper):
    """Appends the last `length` actions to `state`, newest last, zeros at the start: what a policy under latency needs.

    `env.unwrapped.state_layout` then also has `action_history`.
    """

    def __init__(self, env: Env, length: int) -> None:
        super().__init__(env)
        if length < 1:
            raise ConfigError(f"action_history={length}; it must be at least 1.")
        shape = env.action_space.shape or (0,)
        self._actions: deque[NDArray[np.float32]] = deque(maxlen=length)
        self._zero = np.zeros(shape, np.float32)
        spaces = dict(env.observation_space.spaces)  # pyright: ignore[reportAttributeAccessIssue]
        before = spaces["state"].shape[0]
        size = before + length * shape[0]
        layout: dict[str, slice] = getattr(env.unwrapped, "state_layout", {})
        layout["action_history"] = slice(before, size)
        spaces["state"] = gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.observation_space = gym.spaces.Dict(spaces)  # pyright: ignore[reportAttributeAccessIssue]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        """Begin an episode with no history."""
        self._actions.extend([self._zero] * (self._actions.maxlen or 0))
        observation, info = self.env.reset(seed=seed, options=options)
        return self._extended(observation), info

    def step(self, action: NDArray[np.float32]) -> Step:
        """One step, remembered."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._actions.append(np.clip(np.asarray(action, np.float32), -1.0, 1.0))
        return self._extended(observation), reward, terminated, truncated, info

    def _extended(self, observation: dict[str, Any]) -> dict[str, Any]:
        return {**observation, "state": np.concatenate([observation["state"], *self._actions])}
