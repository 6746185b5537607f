"""RobotEnv: Gymnasium's contract, frames by hand, seeds, hostile actions, faults."""

import warnings

import gymnasium as gym
import hypothesis
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.spatial.transform import Rotation

import tasks
from robot_rl.errors import ConfigError, DeviceFaultError, ShapeError, StaleStateError

IDS = ["robot_rl/Reach-v0", "robot_rl/PickCube-v0", "robot_rl/PegInsert-v0"]
ZERO = np.zeros(6, np.float32)


@pytest.fixture(scope="module")
def reach():
    env = gym.make("robot_rl/Reach-v0")
    yield env
    env.close()


def part(env, observation, name):
    return observation["state"][env.unwrapped.state_layout[name]]


def roll(env, actions, seed):
    """Every byte of an episode: observations, rewards, flags."""
    observation, _ = env.reset(seed=seed)
    out = [observation["state"].tobytes()]
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        out.append((observation["state"].tobytes(), float(reward), terminated, truncated))
        if terminated or truncated:
            break
    return out


def test_every_task_is_registered():
    names = {f"robot_rl/{target.split(':')[1]}-v0" for target in tasks.TASKS.values()}
    assert set(IDS) <= names <= set(gym.registry)


@pytest.mark.parametrize("arm", ["fr3", "ur5e"])
@pytest.mark.parametrize("name", IDS)
def test_check_env(name, arm):
    env = gym.make(name, arm=arm)
    with warnings.catch_warnings():
        # Forces and positions have no natural bound, and wrapped environments are what one uses.
        warnings.filterwarnings("ignore", message=".*(infinity|infinite|different from the unwrapped).*")
        check_env(env, skip_render_check=True)
    env.close()


def test_the_state_layout_covers_the_state_without_a_gap(reach):
    slices = sorted(reach.unwrapped.state_layout.values(), key=lambda s: s.start)
    assert slices[0].start == 0
    assert [s.stop for s in slices[:-1]] == [s.start for s in slices[1:]]
    assert slices[-1].stop == reach.observation_space["state"].shape[0]
    # SERL's 19 numbers of the arm come first: opening 1, wrench 6, pose 6, twist 6.
    assert [s.stop - s.start for s in slices[:4]] == [1, 6, 6, 6]


def test_the_start_pose_is_the_origin_of_the_start_frame(reach):
    observation, info = reach.reset(seed=3)
    assert info == {"success": False}
    np.testing.assert_allclose(part(reach, observation, "tcp_pose"), np.zeros(6), atol=1e-6)
    np.testing.assert_array_equal(part(reach, observation, "twist_tcp"), np.zeros(6))


def test_base_and_start_frame_differ_by_the_start_pose():
    """The tool starts pointing down, a half turn about x: `start` has y and z turned round against `base`."""
    start, base = gym.make("robot_rl/Reach-v0"), gym.make("robot_rl/Reach-v0", frame="base")
    action = np.array([0.3, 0.6, 0.9, 0.0, 0.0, 0.0], np.float32)
    poses = []
    for env in (start, base):
        observation, _ = env.reset(seed=5)
        origin = env.unwrapped.world().arm.tcp_pose[:3].copy()
        observation = env.step(action)[0]
        poses.append((origin, env.unwrapped.world().arm.tcp_pose[:3].copy(), part(env, observation, "tcp_pose")))
    for origin, measured, _ in poses:
        np.testing.assert_array_equal(origin, poses[0][0])
        np.testing.assert_array_equal(measured, poses[0][1])
    moved = poses[0][1] - poses[0][0]
    np.testing.assert_allclose(poses[0][2][:3], moved * [1.0, -1.0, -1.0], atol=1e-5)
    np.testing.assert_allclose(poses[1][2][:3], poses[1][1] * [1.0, -1.0, -1.0], atol=1e-5)
    start.close()
    base.close()


def test_an_objects_pose_is_seen_from_the_tcp(reach):
    observation, _ = reach.reset(seed=7)
    world = reach.unwrapped.world()
    down = Rotation.from_quat(world.arm.tcp_pose[3:])
    expected = down.inv().apply(world.objects["marker"][:3] - world.arm.tcp_pose[:3])
    marker = part(reach, observation, "marker_pose")
    np.testing.assert_allclose(marker[:3], expected, atol=1e-6)
    np.testing.assert_allclose(marker[3:], down.inv().as_matrix()[:, :2].T.ravel(), atol=1e-6)


@pytest.mark.parametrize("name", IDS)
def test_fault_16_the_seed_decides_every_byte(name):
    first, second = gym.make(name), gym.make(name)
    space = first.action_space
    space.seed(0)
    actions = [space.sample() for _ in range(12)]
    one = roll(first, actions, 11)
    assert one == roll(second, actions, 11)
    roll(first, actions[:3], 99)
    assert one == roll(first, actions, 11), "an earlier episode leaves its traces"
    assert one != roll(first, actions, 12)
    first.close()
    second.close()


def test_randomisation_is_seeded_too():
    first, second = (gym.make("robot_rl/PegInsert-v0", randomise=True) for _ in range(2))
    actions = [ZERO + 0.2] * 5
    one = roll(first, actions, 1)
    roll(second, actions, 2)
    assert one == roll(second, actions, 1)
    first.close()
    second.close()


def test_without_a_seed_episodes_differ(reach):
    reach.reset(seed=1)
    first = reach.reset()[0]["state"].copy()
    assert not np.array_equal(first, reach.reset()[0]["state"])


@pytest.mark.parametrize(
    "action", [ZERO + np.nan, np.array([0, 0, np.inf, 0, 0, 0]), np.zeros(7), np.zeros((1, 6)), 0.0, np.zeros(0)]
)
def test_a_bad_action_commands_nothing(action):
    env = gym.make("robot_rl/Reach-v0")
    env.reset(seed=0)
    twin = env.unwrapped.cell.twin
    target, time_s = twin.target.copy(), twin.data.time
    with pytest.raises(ShapeError, match="Nothing was commanded"):
        env.step(action)
    np.testing.assert_array_equal(twin.target, target)
    assert twin.data.time == time_s
    env.step(ZERO)
    env.close()


def test_fault_4_a_pure_z_action_does_not_rotate(reach):
    """The adjoint with its blocks swapped would turn a translation into a rotation; by hand, z is -z of the base."""
    reach.reset(seed=0)
    before = reach.unwrapped.world().arm.tcp_pose.copy()
    observation, *_ = reach.step(np.array([0, 0, 1, 0, 0, 0], np.float32))
    target = reach.unwrapped.cell.twin.target
    np.testing.assert_allclose(target[:3] - before[:3], [0.0, 0.0, -0.05], atol=1e-6)
    np.testing.assert_allclose(np.abs(target[3:] @ before[3:]), 1.0, atol=1e-12)
    for _ in range(2):
        observation, *_ = reach.step(np.array([0, 0, 1, 0, 0, 0], np.float32))
    after = reach.unwrapped.world().arm.tcp_pose
    turned = (Rotation.from_quat(before[3:]).inv() * Rotation.from_quat(after[3:])).magnitude()
    assert turned < np.radians(0.5)
    assert after[2] - before[2] < -0.05
    np.testing.assert_allclose(after[:2], before[:2], atol=0.02)  # the arm's inertia is not the same in all directions
    assert part(reach, observation, "twist_tcp")[2] > 0.1, "moving along +z of the tcp is positive in the tcp's frame"


def test_a_rotated_tool_moves_along_its_own_axes(reach):
    """With the tool turned by yaw, +x of the action is that direction in the base."""
    env = reach.unwrapped
    reach.reset(seed=0)
    yaw = Rotation.from_euler("z", 0.6)
    down = Rotation.from_quat([1.0, 0.0, 0.0, 0.0])
    env.arm.move_to_pose(np.concatenate([[0.5, 0.0, 0.25], (yaw * down).as_quat()]), 1.0)
    start = env.world().arm.tcp_pose[:3].copy()
    observation, *_ = reach.step(np.array([1, 0, 0, 0, 0, 0], np.float32))
    twin = env.cell.twin
    np.testing.assert_allclose(twin.target[:3] - start, [0.05 * np.cos(0.6), 0.05 * np.sin(0.6), 0.0], atol=1e-6)
    velocity = np.zeros(6)  # MuJoCo's own, angular first, in the tool's frame
    site = twin.model.site("tool/tcp").id
    mujoco.mj_objectVelocity(twin.model, twin.data, mujoco.mjtObj.mjOBJ_SITE, site, velocity, 1)
    twist = part(reach, observation, "twist_tcp")
    assert twist[0] > 0.05
    np.testing.assert_allclose(twist, [*velocity[3:], *velocity[:3]], atol=0.02)  # a tick of 1 ms apart


def test_fault_5_the_wrench_is_in_the_tcp_frame():
    """Pressed on the table, the robot pushes down: -z in the base, +z along the tool that points down."""
    env = gym.make("robot_rl/PegInsert-v0", max_steps=200)
    env.reset(seed=0)
    robot = env.unwrapped
    robot.cell.twin.place("socket", np.array([0.9, 0.4, 0.0, 0.0, 0.0, 0.0, 1.0]))  # out of the way
    for _ in range(15):
        observation, *_ = env.step(np.array([0, 0, 1, 0, 0, 0], np.float32))
    wrench = part(env, observation, "wrench_tcp")
    if abs(wrench[2]) < 1.0:  # the box ends above the table: press on the socket's wall instead
        env.reset(seed=0)
        tip = robot.world().arm.tcp_pose
        robot.cell.twin.place("socket", np.array([tip[0] + 0.022, tip[1], 0.0, 0.0, 0.0, 0.0, 1.0]))
        for _ in range(15):
            observation, *_ = env.step(np.array([0, 0, 1, 0, 0, 0], np.float32))
        wrench = part(env, observation, "wrench_tcp")
    assert wrench[2] > 1.0
    env.close()


@hypothesis.settings(max_examples=12)
@hypothesis.given(
    actions=arrays.arrays(
        np.float32, st.tuples(st.integers(1, 12), st.just(6)), elements=st.floats(-1e6, 1e6, width=32)
    ),
    seed=st.integers(0, 100),
)
def test_no_action_leaves_the_box_or_exceeds_the_step(reach, actions, seed):
    reach.reset(seed=seed)
    env = reach.unwrapped
    limits, gains = env.task.spec.limits, env.task.spec.gains
    low, high = np.array(limits.position_low), np.array(limits.position_high)
    k, clip, damping = (np.array(g) for g in (gains.stiffness, gains.translational_clip, gains.damping))
    fastest = np.linalg.norm(k * clip / damping)  # [m/s]
    for action in actions:
        before = env.world().arm.tcp_pose.copy()
        _, _, terminated, truncated, info = reach.step(action)
        target, after = env.cell.twin.target, env.world().arm.tcp_pose
        assert (target[:3] >= low - 1e-9).all()
        assert (target[:3] <= high + 1e-9).all()
        assert np.linalg.norm(target[:3] - before[:3]) <= limits.max_step[0] + 1e-9
        # The target never leaves the box; the arm, arriving at full speed, swings past a wall by its braking distance.
        assert (after[:3] >= low - 0.05).all()
        assert (after[:3] <= high + 0.05).all()
        assert np.linalg.norm(env.world().arm.twist_tcp[:3]) <= fastest
        assert "fault" not in info
        if terminated or truncated:
            break


@pytest.mark.parametrize("during", ["clock", "state", "command", "tracker"])
def test_a_device_fault_truncates_with_the_last_observation(during, monkeypatch):
    env = gym.make("robot_rl/Reach-v0")
    first, _ = env.reset(seed=0)
    first = {"state": first["state"].copy()}
    cell, recovered = env.unwrapped.cell, []

    def broken(*_):
        raise DeviceFaultError("reflex: joint 4")

    def stale():
        raise StaleStateError("'tcp_pose' is 0.2 s old")

    with monkeypatch.context() as patch:
        patch.setattr(*{
            "clock": (cell.clock, "wait_until", broken), "state": (cell.arm, "state", stale),
            "command": (cell.arm, "command", broken), "tracker": (cell.tracker, "poses", dict),
        }[during])  # fmt: skip
        observation, reward, terminated, truncated, info = env.step(ZERO)
    np.testing.assert_array_equal(observation["state"], first["state"])
    assert (reward, terminated, truncated, info["success"]) == (0.0, False, True, False)
    assert info["fault"]
    monkeypatch.setattr(cell.arm, "recover", lambda: recovered.append(1))
    _, after = env.reset(seed=0)
    assert after["recovered_from"] == info["fault"]
    assert recovered == [1], "fault 10: cleared once, and said so"
    _, again = env.reset(seed=0)
    assert "recovered_from" not in again
    assert recovered == [1]
    env.close()


def test_a_refused_command_truncates_and_holds(monkeypatch):
    env = gym.make("robot_rl/Reach-v0")
    env.reset(seed=0)
    twin = env.unwrapped.cell.twin
    monkeypatch.setattr(twin, "contact_wrench_base", lambda: np.array([150.0, 0, 0, 0, 0, 0]))
    _, reward, terminated, truncated, info = env.step(ZERO + 1)
    assert (float(reward), terminated, truncated) == (0.0, False, True)
    assert "150.0 N" in info["fault"]
    np.testing.assert_allclose(twin.target[:3], twin.tcp_pose[:3], atol=1e-3)
    env.close()


def test_an_unstable_twin_is_a_fault_and_the_next_episode_is_well():
    env = gym.make("robot_rl/Reach-v0")
    env.reset(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env.unwrapped.cell.twin.data.qvel[:] = np.nan
        _, _, terminated, truncated, info = env.step(ZERO)
    assert truncated
    assert not terminated
    assert "not finite" in info["fault"]
    observation, _ = env.reset(seed=0)
    assert np.isfinite(observation["state"]).all()
    assert "fault" not in env.step(ZERO)[4]
    env.close()


def test_a_block_on_its_side_looks_like_one_on_its_foot():
    env = gym.make("robot_rl/BinRelocate-v0")
    env.reset(seed=0)
    own, turned = env.unwrapped, Rotation.from_rotvec([0.0, 0.0, 0.2])
    place = own.world().objects["object"][:3]
    for tumbled in (Rotation.identity(), Rotation.from_rotvec([np.pi / 2, 0.0, 0.0])):
        own.cell.stage.place("object", np.concatenate([place, (turned * tumbled).as_quat()]))
        columns = env.step(np.zeros(7, np.float32))[0]["state"][own.state_layout["object_pose"]][3:]
        np.testing.assert_allclose(columns, [np.cos(0.2), -np.sin(0.2), 0, np.sin(0.2), np.cos(0.2), 0], atol=0.02)
    env.close()


def test_vision_has_pictures_and_no_object_poses():
    env = gym.make("robot_rl/PickCube-v0", observations="vision", image_size=48)
    observation, _ = env.reset(seed=0)
    assert set(env.unwrapped.state_layout) == {"gripper_opening", "wrench_tcp", "tcp_pose", "twist_tcp"}
    assert observation["state"].shape == (19,)
    for picture in (observation["images"]["front"], observation["images"]["wrist"]):
        assert picture.shape == (48, 48, 3)
        assert picture.dtype == np.uint8, "fault 13: no float32 pictures"
        assert picture.std() > 5.0
    assert observation in env.observation_space
    kept = observation["images"]["front"].copy()
    env.step(np.ones(7, np.float32))
    np.testing.assert_array_equal(observation["images"]["front"], kept)
    env.close()


def test_render_is_a_picture_of_the_scene():
    env = gym.make("robot_rl/Reach-v0", render_mode="rgb_array", image_size=64)
    env.reset(seed=0)
    assert env.render().shape == (64, 64, 3)
    assert env.metadata["render_fps"] == 10
    env.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"observations": "pixels"}, "state, vision"),
        ({"reward": "shaped"}, "sparse, dense"),
        ({"frame": "world"}, "start, base"),
        ({"cell": "lab"}, "twin"),
        ({"arm": "kuka"}, "fr3"),
        ({"image_size": "big"}, "image_size"),
        ({"image_size": 0}, "image_size"),
        ({"max_steps": 0}, "max_steps"),
        ({"max_steps": 2.5}, "max_steps"),
        ({"action_repeat": 0}, "action_repeat"),
        ({"action_history": -1}, "action_history"),
        ({"gripper_penalty": "a lot"}, "gripper_penalty"),
        ({"gripper_penalty": 0.1}, "7 numbers"),
        ({"randomise": "yes"}, "randomise"),
        ({"render_mode": "human"}, "rgb_array"),
    ],
)
def test_bad_options_are_named(options, said):
    with pytest.raises(ConfigError, match=said):
        gym.make("robot_rl/Reach-v0", **options)
