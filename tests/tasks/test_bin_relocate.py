"""Bin relocate: episodes that follow on one another, and what is asked for in each."""

import numpy as np
import pytest

import tasks
from robot_rl.errors import ConfigError
from tasks.bin_relocate import LEFT, RIGHT, BinRelocate

STILL = np.zeros(7, np.float32)
FLAT = [0.0, 0.0, 0.0, 1.0]
IN_LEFT, IN_RIGHT = np.array([0.5, 0.11, 0.0255, *FLAT]), np.array([0.5, -0.11, 0.0255, *FLAT])
ON_THE_TABLE = np.array([0.7, 0.0, 0.025, *FLAT])


def make(**options):
    return tasks.make_env(tasks.TASKS["bin_relocate"], **options)


def where(env):
    return env.unwrapped.cell.twin.body_pose("object")


def put(env, pose):
    env.unwrapped.cell.twin.place("object", np.asarray(pose))


def relocate(env, seed):
    """An episode of the script after its reset; returns the last info."""
    expert = env.unwrapped.expert(np.random.default_rng(seed), 0.06)
    over, info = False, {}
    while not over:
        _, _, terminated, truncated, info = env.step(expert.act(None))
        over = terminated or truncated
    return info


@pytest.fixture
def env():
    env = make()
    yield env
    env.close()


@pytest.mark.parametrize("arm", ["fr3", "ur5e"])
def test_a_chain_of_episodes_goes_there_and_back_with_nobody_to_reset_the_scene(arm):
    env = make(arm=arm)
    asked, placed = [], []
    for seed in range(6):
        _, info = env.reset(seed=seed)
        asked.append(env.unwrapped.instruction)
        placed.append(info["object_placed"])
        assert relocate(env, seed)["success"]
    assert placed == [True] + [False] * 5
    assert {asked[0], asked[1]} == {LEFT, RIGHT}
    assert asked == asked[:2] * 3
    env.close()


def test_what_an_episode_asks_for_follows_from_where_the_object_is(env):
    assert env.unwrapped.instructions == (RIGHT, LEFT)
    env.reset(seed=0)
    for pose, expected in ((IN_LEFT, RIGHT), (IN_RIGHT, LEFT), (IN_RIGHT, LEFT), (IN_LEFT, RIGHT)):
        put(env, pose)
        env.reset()
        assert env.unwrapped.instruction == expected
        assert env.unwrapped.world().instruction == expected


def test_other_tasks_have_one_instruction():
    env = tasks.make_env(tasks.TASKS["reach"])
    assert env.unwrapped.instructions == (env.unwrapped.instruction,) == (env.unwrapped.task.spec.instruction,)
    assert "object_placed" not in env.reset(seed=0)[1]
    env.close()


def test_a_reset_moves_the_arm_and_not_the_object(env):
    env.reset(seed=0)
    start = env.unwrapped.world().arm.tcp_pose
    lying = [0.53, 0.1, 0.0255, 0.0, 0.0, np.sin(0.2), np.cos(0.2)]
    put(env, lying)
    before = env.unwrapped.cell.twin.data.time
    for seed in (1, None):
        for _ in range(8):
            env.step(np.array([0.3, 0.5, -1.0, 0, 0, 0, -1.0], np.float32))
        env.reset(seed=seed)
        world = env.unwrapped.world()
        np.testing.assert_allclose(where(env), lying, atol=1e-3)
        np.testing.assert_allclose(world.arm.tcp_pose, start, atol=1e-4)
        np.testing.assert_array_equal(world.arm.qd, 0.0)
        assert world.opening == pytest.approx(0.08)
    assert env.unwrapped.cell.twin.data.time > before + 1.6, "time goes on"


def test_after_three_episodes_without_success_the_object_is_placed_anew(env):
    """Placed in the first reset; then three episodes in which nothing is moved; and again after the next three."""
    placed = []
    for seed in range(8):
        _, info = env.reset(seed=seed)
        placed.append(info["object_placed"])
        env.step(np.zeros(7, np.float32))
    assert placed == [True, False, False, True, False, False, True, False]


def test_demonstrations_ask_for_a_fresh_place(env):
    env.reset(seed=0)
    before = where(env)
    _, info = env.reset(seed=1, options={"place_objects": True})
    assert info["object_placed"]
    assert np.abs(where(env) - before).max() > 0.01


def test_an_object_still_held_is_let_down_into_the_bin_below(env):
    env.reset(seed=0)
    expert = env.unwrapped.expert(np.random.default_rng(0), 0.0)
    while where(env)[2] < 0.07:
        env.step(expert.act(None))
    held = where(env)
    _, info = env.reset()
    assert not info["object_placed"]
    left = where(env)
    assert left[2] == pytest.approx(0.0255, abs=1e-3)
    assert np.linalg.norm(left[:2] - held[:2]) < 0.04
    env.step(STILL)
    np.testing.assert_allclose(where(env)[:3], left[:3], atol=1e-4)


@pytest.mark.parametrize("y", [-0.03, -0.005, 0.005, 0.03])
def test_an_object_dropped_on_the_ridge_slides_into_a_bin(env, y):
    """Whose 45 degrees are steeper than the friction cone of 0.3, 17 degrees."""
    env.reset(seed=0)
    put(env, [0.52, y, 0.09, *FLAT])
    for _ in range(12):
        env.step(STILL)
    assert where(env)[2] == pytest.approx(0.0255, abs=1e-3)
    assert 0.05 + 0.02 < abs(where(env)[1]) < 0.17


@pytest.mark.parametrize("tilt", [-0.7, -0.6, -0.5, -0.4])
def test_an_object_dropped_askew_beside_the_ridge_does_not_stay_leaning_there(env, tilt):
    """There no finger has room: on a floor with a friction of 0.3 all of these stay, a centimetre too high."""
    env.reset(seed=0)
    put(env, [0.5, 0.068, 0.05, np.sin(tilt / 2), 0.0, 0.0, np.cos(tilt / 2)])
    for _ in range(20):
        env.step(STILL)
    assert where(env)[2] == pytest.approx(0.0255, abs=1e-3)


@pytest.mark.parametrize("x", [0.425, 0.575])
@pytest.mark.parametrize("y", [0.09, 0.145])
def test_an_object_in_a_corner_can_be_got_at(env, x, y):
    """Touching the wall, whose inside is 0.1 m from the middle."""
    env.reset(seed=0)
    put(env, [x, y, 0.0255, *FLAT])
    env.reset()
    assert env.unwrapped.instruction == RIGHT
    assert relocate(env, 0)["success"]


def test_a_lost_object_ends_the_episode_and_is_placed_anew(env):
    env.reset(seed=0)
    put(env, ON_THE_TABLE)
    _, reward, terminated, truncated, info = env.step(STILL)
    assert (float(reward), terminated, truncated, info["success"]) == (0.0, True, False, False)
    _, info = env.reset(seed=3)
    assert info["object_placed"]
    assert not env.unwrapped.task.failure(env.unwrapped.world())
    assert not env.reset(seed=4)[1]["object_placed"]


def test_ruined_physics_are_put_right_by_the_next_reset(env):
    env.reset(seed=0)
    env.unwrapped.cell.twin.data.qvel[:] = np.nan
    assert "not finite" in env.step(STILL)[4]["fault"]
    _, info = env.reset(seed=1)
    assert info["object_placed"]
    assert np.isfinite(where(env)).all()


def test_all_that_is_random_comes_from_the_seed():
    """Placed every time: the seed decides the episode. Left lying: the seeds so far decide it."""
    states = []
    for before in (1, 2):
        env = make(reset_free=False)
        env.reset(seed=before)
        relocate(env, before)
        observation, info = env.reset(seed=7)
        assert "object_placed" not in info
        states.append(observation["state"])
        env.close()
    np.testing.assert_array_equal(*states)
    chains = []
    for seed in (7, 7, 8):
        env = make(randomise=True)
        env.reset(seed=seed)
        relocate(env, 0)
        chains.append(env.reset(seed=9)[0]["state"])
        env.close()
    np.testing.assert_array_equal(chains[0], chains[1])
    assert not np.array_equal(chains[0], chains[2])


def test_placed_every_time_both_bins_are_begun_from():
    env = make(reset_free=False)
    sides = []
    for seed in range(12):
        env.reset(seed=seed)
        sides.append(where(env)[1] > 0.0)
    assert 2 <= sum(sides) <= 10
    env.close()


def test_success_is_an_object_that_lies_in_the_other_bin_and_was_let_go(env):
    env.reset(seed=0)
    put(env, IN_LEFT)
    env.reset()
    task = env.unwrapped.task
    for pose, expected in (
        (IN_RIGHT, True),
        (IN_LEFT, False),
        ([0.5, -0.11, 0.08, *FLAT], False),  # still in the air
        ([0.5, 0.0, 0.0255, *FLAT], False),  # in the ridge
        (ON_THE_TABLE, False),
    ):
        put(env, pose)
        assert task.success(env.unwrapped.world()) == expected
    put(env, IN_RIGHT)
    env.unwrapped.cell.gripper.jump_to(0.05)
    assert not task.success(env.unwrapped.world()), "fingers 5 cm apart may still hold it"


def test_a_policy_that_flails_is_not_rewarded(env):
    rng = np.random.default_rng(0)
    for seed in range(3):
        env.reset(seed=seed)
        over = False
        while not over:
            _, reward, terminated, truncated, info = env.step(rng.uniform(-1, 1, 7).astype(np.float32))
            assert (float(reward), info["success"]) == (0.0, False)
            over = terminated or truncated


def test_a_task_that_cannot_go_on_by_itself_says_so():
    with pytest.raises(ConfigError, match="needs its objects placed before every episode"):
        tasks.make_env(tasks.TASKS["reach"], reset_free=True)
    with pytest.raises(ConfigError, match="reset_free='yes'"):
        make(reset_free="yes")
    assert BinRelocate.spec.reset_free
