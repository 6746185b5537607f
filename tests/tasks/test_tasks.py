"""Every registered task: its expert succeeds on every arm, and success is what it says."""

import numpy as np
import pytest

import tasks

SEEDS = range(5)


def episode(env, seed, noise=0.1):
    """One episode of the scripted expert; returns the rewards and the last info."""
    observation, _ = env.reset(seed=seed)
    expert = env.unwrapped.expert(np.random.default_rng(seed), noise)
    rewards, over, info = [], False, {}
    while not over:
        action = expert.act(observation)
        assert action.dtype == np.float32
        assert env.action_space.contains(action)
        observation, reward, terminated, truncated, info = env.step(action)
        assert env.observation_space.contains(observation)
        rewards.append(float(reward))
        over = terminated or truncated
        assert terminated == info["success"] or not info["success"]
    return rewards, info


@pytest.mark.parametrize("arm", ["fr3", "ur5e"])
@pytest.mark.parametrize("task", list(tasks.TASKS))
def test_the_expert_succeeds(task, arm):
    env = tasks.make_env(tasks.TASKS[task], arm=arm)
    outcomes = []
    for seed in SEEDS:
        rewards, info = episode(env, seed)
        outcomes.append(info["success"])
        # Sparse: nothing until success, then one.
        assert rewards[:-1] == [0.0] * (len(rewards) - 1)
        assert rewards[-1] == float(info["success"])
    assert sum(outcomes) >= len(outcomes) - 1, f"{task} on {arm}: {outcomes}"
    env.close()


@pytest.mark.parametrize("task", list(tasks.TASKS))
def test_the_dense_reward_rises_to_success(task):
    env = tasks.make_env(tasks.TASKS[task], reward="dense")
    rewards, info = episode(env, 0)
    assert info["success"]
    assert all(0.0 <= r < 1.0 for r in rewards[:-1])
    assert rewards[-1] == 1.0
    assert np.mean(rewards[-5:-1]) > rewards[0]
    env.close()


@pytest.mark.parametrize("task", list(tasks.TASKS))
def test_doing_nothing_is_no_success(task):
    """Ten seeds, by the clock: a policy that stands still must not be rewarded."""
    env = tasks.make_env(tasks.TASKS[task], max_steps=3)
    lucky = 0
    for seed in range(10):
        env.reset(seed=seed)
        for _ in range(3):
            info = env.step(np.zeros(env.action_space.shape, np.float32))[4]
        lucky += info["success"]
    assert lucky == 0 or task == "reach", "a marker may appear where the tool already is"
    assert lucky <= 1
    env.close()


def test_a_cube_off_the_table_ends_the_episode_in_failure():
    env = tasks.make_env(tasks.TASKS["pick_cube"])
    env.reset(seed=0)
    env.unwrapped.cell.twin.place("cube", np.array([0.5, 0.0, -0.5, 0.0, 0.0, 0.0, 1.0]))
    _, reward, terminated, truncated, info = env.step(np.zeros(7, np.float32))
    assert terminated
    assert not truncated
    assert (float(reward), info["success"]) == (0.0, False)
    env.close()


def test_a_cube_thrown_high_is_not_picked_up():
    """Success asks that the fingers hold it, not only that it is up."""
    env = tasks.make_env(tasks.TASKS["pick_cube"])
    env.reset(seed=0)
    env.unwrapped.cell.twin.place("cube", np.array([0.5, 0.2, 0.4, 0.0, 0.0, 0.0, 1.0]))
    assert not env.unwrapped.task.success(env.unwrapped.world())
    env.close()


def test_the_gripper_opens_closes_and_keeps():
    env = tasks.make_env(tasks.TASKS["pick_cube"])
    env.reset(seed=0)

    def opening(command, steps):
        for _ in range(steps):
            env.step(np.array([0, 0, 0, 0, 0, 0, command], np.float32))
        return env.unwrapped.world().opening

    assert opening(0.0, 3) == pytest.approx(0.08, abs=2e-3)
    assert opening(-1.0, 8) < 0.005
    assert opening(0.3, 3) < 0.005
    assert opening(1.0, 8) == pytest.approx(0.08, abs=2e-3)
    env.close()


def test_tasks_lists_what_exists(capsys):
    from tasks.commands import tasks as command

    assert command() == 0
    out = capsys.readouterr().out
    assert all(name in out for name in tasks.TASKS)
