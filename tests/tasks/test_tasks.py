"""Every registered task: its expert succeeds on every arm, and success is what it says."""

from dataclasses import replace

import numpy as np
import pytest

import tasks
from robot_rl.geometry import invert, matrix_from_quat

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


@pytest.mark.parametrize("task", ["pcb_insert", "cable_route"])
def test_going_straight_down_is_no_success(task):
    """Nor may a policy succeed that does not look where the socket or the clip is."""
    env = tasks.make_env(tasks.TASKS[task], max_steps=25)
    for seed in range(3):
        env.reset(seed=seed)
        for _ in range(25):
            info = env.step(np.array([0, 0, 1, 0, 0, 0], np.float32))[4]
        assert not info["success"]
    env.close()


@pytest.mark.parametrize("task", ["pcb_insert", "cable_route"])
def test_the_same_seed_is_the_same_episode(task):
    """Also after other episodes: nothing of them stays in props, cable or arm."""
    env = tasks.make_env(tasks.TASKS[task])

    def states(seed):
        first = env.reset(seed=seed)[0]["state"]
        return np.stack([first, *(env.step(np.full(6, 0.3, np.float32))[0]["state"] for _ in range(4))])

    once, other, again = states(1), states(2), states(1)
    np.testing.assert_array_equal(once, again)
    assert np.abs(once - other).max() > 0.01
    env.close()


@pytest.mark.parametrize(
    ("position", "turn", "seated"),
    [
        ((0.0, 0.0, 0.043), 0.0, True),
        ((0.0029, -0.0029, 0.0439), 0.0, True),
        ((0.0031, 0.0, 0.043), 0.0, False),
        ((0.0, 0.0031, 0.043), 0.0, False),
        ((0.0, 0.0, 0.0441), 0.0, False),
        ((0.0, 0.0, 0.043), 0.098, True),
        ((0.0, 0.0, 0.043), 0.102, False),
        ((0.0, 0.0, 0.051), 0.0, False),
    ],
)
def test_a_board_is_in_its_socket_within_three_three_and_one_millimetres(position, turn, seated):
    """By hand: the tip is 39 mm below the tcp and stands 4 mm above the table; the last case rests on the panel."""
    env = tasks.make_env(tasks.TASKS["pcb_insert"])
    env.reset(seed=0)
    socket = np.array([0.52, 0.03, 0.0, 0.0, 0.0, np.sin(0.15), np.cos(0.15)])  # turned by 0.3 rad
    c, s = np.cos(0.3), np.sin(0.3)
    x, y, z = position
    yaw = 0.5 * (0.3 + turn)  # a tool that points down and is turned by a: (cos a/2, sin a/2, 0, 0)
    tcp = np.array([0.52 + c * x - s * y, 0.03 + s * x + c * y, z, np.cos(yaw), np.sin(yaw), 0.0, 0.0])
    world = env.unwrapped.world()
    world = replace(world, arm=replace(world.arm, tcp_pose=tcp), objects={"socket": socket})
    assert env.unwrapped.task.success(world) == seated
    env.close()


@pytest.mark.parametrize(
    ("position", "turn", "clipped"),
    [
        ((0.0, 0.0, 0.045), 0.0, True),
        ((0.006, 0.001, 0.0441), 0.2, True),
        ((0.0, 0.0, 0.050), 0.0, False),  # on the lips
        ((0.0, 0.0, 0.047), 0.0, False),  # between them
        ((0.0, 0.008, 0.045), 0.0, False),  # beside the clip
        ((0.012, 0.0, 0.045), 0.0, False),  # in front of it
        ((0.0, 0.0, 0.045), 0.5, False),  # across it
    ],
)
def test_a_cable_is_routed_when_its_sleeve_lies_under_the_lips(position, turn, clipped):
    """By hand: the slot's floor is 42 mm above the table and the cable's radius 3 mm."""
    env = tasks.make_env(tasks.TASKS["cable_route"])
    env.reset(seed=0)
    clip = np.array([0.5, 0.1, 0.0, 0.0, 0.0, np.sin(np.pi / 4), np.cos(np.pi / 4)])  # turned by 90 degrees
    x, y, z = position
    half = 0.5 * (np.pi / 2 + turn)
    sleeve = np.array([0.5 - y, 0.1 + x, z, np.cos(half), np.sin(half), 0.0, 0.0])  # upside down, as a held one is
    world = replace(env.unwrapped.world(), objects={"clip": clip, "sleeve": sleeve})
    assert env.unwrapped.task.success(world) == clipped
    env.close()


def test_the_clip_holds_the_cable_until_it_is_pulled_hard():
    """After success: a pull of 2 N leaves the sleeve where it is, the arm's 10 N take it out."""
    env = tasks.make_env(tasks.TASKS["cable_route"])
    _, info = episode(env, 0, noise=0.0)
    assert info["success"]
    task, world = env.unwrapped.task, env.unwrapped.world
    for _ in range(10):
        env.step(np.array([0, 0, -0.02, 0, 0, 0], np.float32))
    assert world().arm.wrench_tcp[2] < -1.0
    assert task.success(world())
    for _ in range(5):
        env.step(np.array([0, 0, -0.3, 0, 0, 0], np.float32))
    assert not task.success(world())
    assert world().objects["sleeve"][2] > 0.06
    env.close()


def test_a_cable_laid_on_the_clip_does_not_fall_in():
    """Held on the lips for two seconds without a push: its own weight must not be enough."""
    env = tasks.make_env(tasks.TASKS["cable_route"])
    observation, _ = env.reset(seed=0)
    expert = env.unwrapped.expert(np.random.default_rng(0), 0.0)
    task, scale = env.unwrapped.task, env.unwrapped.task.spec.action_scale[0]
    clip = env.unwrapped.world().objects["clip"]
    aside, lowest = 1.0, 1.0
    for _ in range(45):
        action = expert.act(observation)
        height = 0.0495 if aside < 0.005 else 0.075  # of the tcp; the lips' tops are 50 mm above the table
        above = env.unwrapped.world().arm.tcp_pose[2] - height
        action[2] = np.clip(above / scale, -0.5, 0.1 if above > 0.008 else 0.02)  # at last with 2 N
        observation, _, terminated, _, _ = env.step(action)
        assert not terminated
        sleeve = env.unwrapped.world().objects["sleeve"]
        aside, lowest = float(np.linalg.norm(sleeve[:2] - clip[:2])), min(lowest, sleeve[2])
    assert aside < 0.006, "it did hang over the slot"
    assert lowest < 0.052, "and it did touch the lips"
    assert not task.success(env.unwrapped.world())
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


def test_the_front_camera_sees_the_whole_area_of_pick_cube_and_little_else():
    """Its corners, where cubes lie and stand, are in the picture; the near edge takes up nearly all of its width."""
    env = tasks.make_env(tasks.TASKS["pick_cube"], observations="vision")
    env.reset(seed=0)
    camera = env.unwrapped.cell.cameras["front"]
    x, y, z = np.meshgrid([0.35, 0.65], [-0.2, 0.2], [0.0, 0.04], indexing="ij")
    corners = np.stack([x, y, z], -1).reshape(-1, 3)
    T_camera_base = invert(camera.pose_in_base())
    pixels = camera.intrinsics.project(corners @ matrix_from_quat(T_camera_base[3:]).T + T_camera_base[:3])
    assert ((pixels > 0) & (pixels < 127)).all()
    assert np.ptp(pixels[:, 0]) > 110
    env.close()
