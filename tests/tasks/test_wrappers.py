"""The wrappers, on an environment of four lines."""

import gymnasium as gym
import numpy as np
import pytest

import tasks
from robot_rl.errors import ConfigError
from tasks.wrappers import ActionHistory, ActionRepeat, GripperPenalty, TimeLimit


class Counter(gym.Env):
    """Rewards 1 a step; succeeds in step `success_at`."""

    def __init__(self, success_at=100, actions=2):
        self.observation_space = gym.spaces.Dict({"state": gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)})
        self.action_space = gym.spaces.Box(-1.0, 1.0, (actions,), np.float32)
        self.success_at, self.count = success_at, 0

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return {"state": np.zeros(1, np.float32)}, {}

    def step(self, action):
        self.count += 1
        success = self.count == self.success_at
        return {"state": np.full(1, self.count, np.float32)}, 1.0, success, False, {"success": success}


def act(*values):
    return np.array(values, np.float32)


def test_time_limit_truncates_and_says_so():
    env = TimeLimit(Counter(), 3)
    env.reset()
    flags = [env.step(act(0, 0))[2:] for _ in range(3)]
    assert [f[:2] for f in flags] == [(False, False), (False, False), (False, True)]
    assert [f[2].get("time_limit", False) for f in flags] == [False, False, True]
    env.reset()
    assert env.step(act(0, 0))[3] is False, "the count begins again"


def test_success_in_the_last_step_is_no_time_out():
    env = TimeLimit(Counter(success_at=3), 3)
    env.reset()
    for _ in range(3):
        _, _, terminated, truncated, info = env.step(act(0, 0))
    assert (terminated, truncated) == (True, False)
    assert "time_limit" not in info


def test_gripper_penalty_counts_turns_only():
    env = GripperPenalty(Counter(actions=7), 0.25)
    env.reset()
    commands = [0.9, 0.0, 0.9, -0.9, -0.2, -0.9, 0.9]
    rewards = [env.step(act(0, 0, 0, 0, 0, 0, c))[1] for c in commands]
    assert rewards == [1.0, 1.0, 1.0, 0.75, 1.0, 1.0, 0.75]
    env.reset()
    assert env.step(act(0, 0, 0, 0, 0, 0, -0.9))[1] == 1.0, "the first command of an episode is free"


def test_gripper_penalty_needs_a_gripper():
    with pytest.raises(ConfigError, match="7 numbers"):
        GripperPenalty(Counter(), 0.1)


def test_action_repeat_adds_up_and_stops_at_the_end():
    env = ActionRepeat(Counter(success_at=5), 3)
    env.reset()
    observation, reward, terminated, *_ = env.step(act(0, 0))
    assert (observation["state"][0], reward, terminated) == (3, 3.0, False)
    observation, reward, terminated, *_ = env.step(act(0, 0))
    assert (observation["state"][0], reward, terminated) == (5, 2.0, True)


def test_action_history_is_newest_last_and_forgotten_at_reset():
    env = ActionHistory(Counter(), 2)
    assert env.observation_space["state"].shape == (5,)
    observation, _ = env.reset()
    np.testing.assert_array_equal(observation["state"], [0, 0, 0, 0, 0])
    env.step(act(0.1, 0.2))
    observation, *_ = env.step(act(0.3, 7.0))
    np.testing.assert_allclose(observation["state"], [2, 0.1, 0.2, 0.3, 1.0], rtol=1e-6)
    assert not env.reset()[0]["state"].any()


def test_wrappers_together_on_a_task():
    env = tasks.make_env(
        tasks.TASKS["pick_cube"], gripper_penalty=0.02, action_repeat=2, action_history=3, max_steps=10
    )
    layout = env.unwrapped.state_layout
    assert layout["action_history"] == slice(28, 28 + 21)
    assert env.observation_space["state"].shape == (49,)
    assert env.unwrapped.return_range == (-0.2, 1.0)
    env.reset(seed=0)
    steps, over, info = 0, False, {}
    while not over:
        observation, _, terminated, truncated, info = env.step(np.zeros(7, np.float32))
        assert env.observation_space.contains(observation)
        steps, over = steps + 1, terminated or truncated
    assert steps == 5
    assert info["time_limit"]
    env.close()
