"""Tasks on a cell in ROS 2: the twin lives in another process, real DDS on loopback between, as `--cell ros:twin`."""

import numpy as np
import pytest

import tasks
from robot_rl.errors import ConfigError, RobotRLError
from tests.drivers.ros2.emulated import address, emulated

pytestmark = pytest.mark.realtime

HOST = address(52)


def play(env, episodes):
    """Successes of the scripted expert, without noise."""
    won = []
    for seed in range(episodes):
        observation, _ = env.reset(seed=seed)
        expert = env.unwrapped.expert(np.random.default_rng(seed))
        over, info = False, {}
        while not over:
            observation, _, terminated, truncated, info = env.step(expert.act(observation))
            over = terminated or truncated
        won.append(bool(info.get("success")))
    return won


@pytest.mark.parametrize(("task", "domain", "episodes"), [("reach", 23, 3), ("peg_insert", 24, 3)])
def test_the_expert_succeeds_as_on_the_plain_twin(task, domain, episodes):
    target = tasks.TASKS[task]
    plain = tasks.make_env(target)
    on_twin = play(plain, episodes)
    plain.close()
    with emulated(task, domain, HOST):
        env = tasks.make_env(target, cell="ros:twin", rehearse=HOST)
        try:
            assert play(env, episodes) == on_twin == [True] * episodes
        finally:
            env.close()


def test_pictures_are_observed_over_ros():
    with emulated("reach", 25, HOST):
        env = tasks.make_env(tasks.TASKS["reach"], cell="ros:twin", rehearse=HOST, observations="vision")
        try:
            observation, _ = env.reset(seed=0)
            plain = tasks.make_env(tasks.TASKS["reach"], observations="vision")
            seen, _ = plain.reset(seed=0)
            plain.close()
            for name, image in observation["images"].items():
                assert image.shape == (128, 128, 3)
                # the same scene through 640 x 480 pixels and a crop: alike, not equal
                assert np.corrcoef(image.ravel(), seen["images"][name].ravel())[0, 1] > 0.7
        finally:
            env.close()


def test_a_cell_that_is_none():
    with pytest.raises(ConfigError, match=r"ros:twin and ros:PATH"):
        tasks.make_env(tasks.TASKS["reach"], cell="ros")
    with pytest.raises(RobotRLError, match=r"There is no cell file nowhere\.yaml"):
        tasks.make_env(tasks.TASKS["reach"], cell="ros:nowhere.yaml")
