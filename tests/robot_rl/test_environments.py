"""Environments by name: what is accepted, what is refused and how the refusal reads."""

import gymnasium as gym
import numpy as np
import pytest

from robot_rl.environments import make, return_range, task_ids
from robot_rl.errors import ConfigError


def test_tasks_by_name():
    known = task_ids()
    assert {"reach", "pick_cube", "peg_insert"} <= set(known)
    assert known["peg_insert"] == "robot_rl/PegInsert-v0"


def test_a_third_partys_tasks_are_listed(monkeypatch):
    """Whether its package was imported before or not."""
    import importlib.metadata

    class Entry:
        name = "their_package"

        def load(self):
            return lambda: gym.register("their_package/StackBowls-v0", entry_point=gym.Env)

    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [Entry()])
    gym.register("their_package/StackCups-v0", entry_point=gym.Env)
    try:
        known = task_ids()
        assert known["stack_cups"] == "their_package/StackCups-v0"
        assert known["stack_bowls"] == "their_package/StackBowls-v0"
    finally:
        for name in ("StackCups", "StackBowls"):
            del gym.registry[f"their_package/{name}-v0"]
        from robot_rl import environments

        for name in ("stack_cups", "stack_bowls"):
            environments._tasks.pop(name, None)


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        ("pick_cub", {}, "peg_insert, pick_cube, reach"),
        ("robot_rl/Nothing-v0", {}, "No task or environment"),
        ("gymnasium:Nothing-v7", {}, "No task or environment"),
        ("no_such_package:Thing-v0", {}, "No task or environment"),
        ("", {}, "No task or environment"),
        ("CartPole-v1", {}, "continuous actions"),
        ("gymnasium:CartPole-v1", {}, "continuous actions"),
        ("reach", {"colour": "red"}, "colour"),
        ("reach", {"arm": "kuka"}, "fr3"),
        ("reach", {"arm": 3}, "arm"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(task, options, said):
    with pytest.raises(ConfigError, match=said) as caught:
        make(task, options)
    assert "\n" not in str(caught.value)


class Actions(gym.Env):
    def __init__(self, space):
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = space
        self.received = None

    def step(self, action):
        self.received = np.asarray(action)
        return np.zeros(2, np.float32), 0.0, False, False, {}

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}


@pytest.fixture
def register_actions():
    gym.register("toy/Actions-v0", entry_point=Actions, disable_env_checker=True)
    yield
    del gym.registry["toy/Actions-v0"]


@pytest.mark.usefixtures("register_actions")
@pytest.mark.parametrize(
    ("space", "said"),
    [
        (gym.spaces.Box(-np.inf, np.inf, (2,), np.float32), "unbounded"),
        (gym.spaces.Box(-1.0, 1.0, (2, 2), np.float32), "one dimension"),
        (gym.spaces.MultiDiscrete([2, 2]), "continuous"),
    ],
)
def test_action_spaces_that_cannot_be_learnt_in(space, said):
    with pytest.raises(ConfigError, match=said):
        make("toy/Actions-v0", {"space": space})


@pytest.mark.usefixtures("register_actions")
def test_actions_are_scaled_from_one_to_the_environments_bounds():
    """By hand: -1, 0 and 1 become the low, the middle and the high bound."""
    env = make(
        "toy/Actions-v0", {"space": gym.spaces.Box(np.array([0.0, -2.0], np.float32), np.array([4.0, 2.0], np.float32))}
    )
    np.testing.assert_array_equal(env.action_space.low, [-1, -1])
    np.testing.assert_array_equal(env.action_space.high, [1, 1])
    env.reset()
    env.step(np.array([-1.0, 1.0], np.float32))
    np.testing.assert_allclose(env.unwrapped.received, [0.0, 2.0], atol=1e-6)
    env.step(np.array([0.0, 0.5], np.float32))
    np.testing.assert_allclose(env.unwrapped.received, [2.0, 1.0], atol=1e-6)


def test_pendulum_gets_its_torque_of_two():
    env = make("Pendulum-v1")
    env.reset(seed=0)
    env.step(np.ones(1, np.float32))
    assert env.unwrapped.last_u == pytest.approx(2.0)


def test_fetch_is_made_and_steps():
    env = make("gymnasium:FetchReach-v4")
    observation, _ = env.reset(seed=0)
    assert set(observation) == {"observation", "achieved_goal", "desired_goal"}
    before = observation["achieved_goal"].copy()
    for _ in range(5):
        observation, *_ = env.step(np.array([1, 0, 0, 0], np.float32))
    assert observation["achieved_goal"][0] - before[0] > 0.02
    env.close()


def test_return_ranges_are_the_environments_own_word():
    env = make("reach")
    assert return_range(env) == (0.0, 1.0)
    env.close()
    env = make("reach", {"reward": "dense"})
    assert return_range(env) is None
    env.close()
    assert return_range(make("Pendulum-v1")) is None
