"""The twin: the Jacobian against MuJoCo's, determinism, poses at the boundary, placing, inverse kinematics, faults."""

import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from drivers.impedance import ImpedanceGains
from drivers.twin import physics
from drivers.twin.arms import load_arm
from drivers.twin.twin import Twin
from robot_rl.errors import ConfigError, DeviceFaultError

DOWN_XYZW = (1.0, 0.0, 0.0, 0.0)


def props(scene):
    """A cube of 50 g that falls, a marker that is moved by hand, a post that stands."""
    world = scene.spec.worldbody
    cube = world.add_body(name="cube", pos=[0.5, 0.1, 0.02])
    cube.add_freejoint()
    cube.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.02] * 3, mass=0.05, friction=[1.0, 0.01, 0.001])
    marker = world.add_body(name="marker", mocap=True)
    marker.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[0.01, 0, 0], contype=0, conaffinity=0)
    world.add_body(name="post", pos=[0.7, 0.3, 0.1]).add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.02, 0.02, 0.1])


@pytest.fixture(scope="module", params=["fr3", "ur5e"])
def arm(request):
    return load_arm(request.param)


@pytest.fixture
def twin():
    return Twin(load_arm("fr3"), props)


def snapshot(twin):
    arrays = (
        twin.data.qpos,
        twin.data.qvel,
        twin.tcp_pose,
        twin.q,
        twin.law.output,
        twin.law.memory,
        twin.contact_torque,
    )
    return b"".join(array.tobytes() for array in (*arrays, np.array(twin.data.time)))


def wander(twin, seed, steps=30):
    rng = np.random.default_rng(seed)
    home = twin.tcp_pose.copy()
    for _ in range(steps):
        twin.target[:3] = home[:3] + rng.uniform(-0.1, 0.1, 3)
        turn = Rotation.from_rotvec(rng.uniform(-0.3, 0.3, 3)) * Rotation.from_quat(home[3:])
        twin.target[3:] = turn.as_quat()
        twin.advance(0.02)


def random_posture(twin, rng):
    middle, half = 0.5 * (twin.limits.lower + twin.limits.upper), 0.5 * (twin.limits.upper - twin.limits.lower)
    return middle + half * rng.uniform(-0.9, 0.9, len(middle))


def test_jacobian_and_pose_are_mujocos(arm):
    twin, rng = Twin(arm), np.random.default_rng(0)
    linear, angular = np.zeros((3, twin.model.nv)), np.zeros((3, twin.model.nv))
    for _ in range(200):  # enough that every branch of the quaternion's computation is taken
        twin.jump_to_joints(random_posture(twin, rng))
        site = twin.model.site("tool/tcp").id
        mujoco.mj_jacSite(twin.model, twin.data, linear, angular, site)
        expected = np.vstack([linear, angular])[:, twin.arm_dofs]
        np.testing.assert_allclose(twin.jacobian, expected, atol=1e-12)
        np.testing.assert_allclose(twin.tcp_pose[:3], twin.data.site_xpos[site], atol=1e-15)
        matrix = Rotation.from_quat(twin.tcp_pose[3:]).as_matrix()
        np.testing.assert_allclose(matrix, twin.data.site_xmat[site].reshape(3, 3), atol=1e-12)


def test_jacobian_is_the_pose_s_derivative(arm):
    twin = Twin(arm)
    jacobian, before, q = twin.jacobian.copy(), twin.tcp_pose.copy(), twin.q.copy()
    for joint in range(len(q)):
        moved = q.copy()
        moved[joint] += 1e-6
        twin.jump_to_joints(moved)
        turn = (Rotation.from_quat(twin.tcp_pose[3:]) * Rotation.from_quat(before[3:]).inv()).as_rotvec()
        difference = np.concatenate([twin.tcp_pose[:3] - before[:3], turn]) * 1e6
        np.testing.assert_allclose(jacobian[:, joint], difference, atol=1e-5)


def test_home_points_straight_down_at_the_documented_place(arm):
    np.testing.assert_allclose(Twin(arm).tcp_pose[:3], [0.5, 0, 0.25], atol=1e-5)
    tool_axis = Rotation.from_quat(Twin(arm).tcp_pose[3:]).apply([0, 0, 1])
    np.testing.assert_allclose(tool_axis, [0, 0, -1], atol=1e-5)


def test_at_rest_it_stays_at_rest(arm):
    """Gravity is compensated: a second at home moves no joint by 0.1 mrad."""
    twin = Twin(arm)
    before = twin.q.copy()
    twin.advance(1.0)
    np.testing.assert_allclose(twin.q, before, atol=1e-4)


def test_the_same_commands_give_the_same_bytes():
    first, second = Twin(load_arm("fr3"), props), Twin(load_arm("fr3"), props)
    for twin in (first, second):
        wander(twin, seed=3)
    assert snapshot(first) == snapshot(second)


def test_reset_after_motion_is_a_fresh_twin(twin):
    wander(twin, seed=1)
    twin.place("cube", np.array([0.4, 0, 0.3, 0, 0, 0, 1]))
    twin.reset()
    fresh = Twin(load_arm("fr3"), props)
    assert snapshot(twin) == snapshot(fresh)
    for used in (twin, fresh):
        wander(used, seed=2)
    assert snapshot(twin) == snapshot(fresh)


def test_poses_leave_and_enter_as_xyzw(twin):
    """A quarter turn about z is (0, 0, s, s) in xyzw; MuJoCo keeps (s, 0, 0, s)."""
    s = np.sqrt(0.5)
    pose = np.array([0.4, -0.1, 0.3, 0, 0, s, s])
    for name in ("cube", "marker"):
        twin.place(name, pose)
        np.testing.assert_allclose(twin.body_pose(name), pose, atol=1e-12)
        np.testing.assert_allclose(twin.data.body(name).xquat, [s, 0, 0, s], atol=1e-12)
        np.testing.assert_allclose(twin.data.body(name).xmat.reshape(3, 3)[:, 0], [0, 1, 0], atol=1e-12)


def test_placing_stops_what_moved(twin):
    twin.place("cube", np.array([0.5, 0.4, 0.4, 0, 0, 0, 1]))
    twin.advance(0.1)
    np.testing.assert_allclose(twin.data.body("cube").cvel[5], -0.981, rtol=0.02)  # g x 0.1 s
    twin.place("cube", np.array([0.5, 0.1, 0.02, 0, 0, 0, 1]))
    np.testing.assert_array_equal(twin.data.body("cube").cvel, 0.0)


def test_a_jump_ends_at_rest(twin):
    twin.target[0] -= 0.1
    twin.advance(0.1)
    assert np.abs(twin.qd).max() > 0.1
    twin.jump_to_pose(np.array([0.45, 0.1, 0.3, *DOWN_XYZW]))
    np.testing.assert_array_equal(twin.qd, 0.0)
    np.testing.assert_array_equal(twin.target, twin.tcp_pose)
    there = twin.tcp_pose.copy()
    twin.advance(0.2)
    np.testing.assert_allclose(twin.tcp_pose[:3], there[:3], atol=1e-4)


def test_placing_one_prop_moves_no_other(twin):
    before = twin.data.qpos.copy()
    twin.place("marker", np.array([0.4, 0.2, 0.3, 0, 0, 0, 1]))
    np.testing.assert_array_equal(twin.data.qpos, before)


@pytest.mark.parametrize("name", ["post", "arm/link3"])
def test_a_fixed_body_cannot_be_placed(twin, name):
    with pytest.raises(ConfigError, match=name):
        twin.place(name, np.array([0.4, 0, 0.3, 0, 0, 0, 1]))


def test_an_unknown_body_is_named_with_those_that_exist(twin):
    for look in (lambda: twin.place("cubo", twin.tcp_pose), lambda: twin.body_pose("cubo")):
        with pytest.raises(ConfigError, match=r"cubo.*cube"):
            look()


def test_relative_pose_by_hand(twin):
    """The marker 0.1 m to the left of a cube that is itself turned left is 0.1 m ahead of it."""
    s = np.sqrt(0.5)
    twin.place("cube", np.array([0.5, 0.0, 0.02, 0, 0, s, s]))
    twin.place("marker", np.array([0.5, 0.1, 0.02, 0, 0, s, s]))
    np.testing.assert_allclose(twin.relative_pose("cube", "marker"), [0.1, 0, 0, 0, 0, 0, 1], atol=1e-12)


def test_inverse_kinematics_reaches_poses_over_the_table(arm):
    twin, rng = Twin(arm), np.random.default_rng(5)
    for _ in range(20):
        position = rng.uniform([0.35, -0.25, 0.05], [0.65, 0.25, 0.4])
        turn = Rotation.from_euler("z", rng.uniform(-0.8, 0.8)) * Rotation.from_quat(DOWN_XYZW)
        pose = np.concatenate([position, turn.as_quat() * rng.choice([-1, 1])])
        twin.jump_to_pose(pose)
        np.testing.assert_allclose(twin.tcp_pose[:3], position, atol=1e-4)
        assert (Rotation.from_quat(twin.tcp_pose[3:]) * turn.inv()).magnitude() < 1e-4
        assert (twin.q > twin.limits.lower).all()
        assert (twin.q < twin.limits.upper).all()


def test_inverse_kinematics_leaves_the_twin_alone(twin):
    before = snapshot(twin)
    twin.inverse_kinematics(np.array([0.4, 0.1, 0.3, *DOWN_XYZW]))
    assert snapshot(twin) == before


@pytest.mark.parametrize("position", [(1.5, 0, 0.3), (0.5, 0, -0.8), (np.nan, 0, 0.3)])
def test_out_of_reach_is_a_config_error_and_moves_nothing(twin, position):
    before = snapshot(twin)
    with pytest.raises(ConfigError, match="cannot reach"):
        twin.jump_to_pose(np.array([*position, *DOWN_XYZW]))
    assert snapshot(twin) == before


@pytest.mark.parametrize(("address", "value"), [(0, np.nan), (3, np.inf), (-7, np.nan), (2, 1e12)])
def test_an_unstable_state_is_a_fault_and_a_reset_heals_it(twin, tmp_path, monkeypatch, address, value):
    """Of the arm, or of the cube alone. MuJoCo's own answer, to start over silently, would hide it."""
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log
    twin.advance(0.02)
    twin.data.qpos[address] = value
    with pytest.raises(DeviceFaultError, match="unstable"):
        twin.advance(0.02)
    twin.reset()
    wander(twin, seed=4)
    fresh = Twin(load_arm("fr3"), props)
    wander(fresh, seed=4)
    assert snapshot(twin) == snapshot(fresh)


def test_a_prop_flying_apart_is_a_fault_at_once(twin, tmp_path, monkeypatch):
    """The arm is still well, and the numbers still finite: 1e11 m/s is beyond what MuJoCo computes with."""
    monkeypatch.chdir(tmp_path)
    twin.data.qvel[-6] = 1e11
    with pytest.raises(DeviceFaultError, match="unstable"):
        twin.advance(0.001)


def test_latency_delays_a_target_by_so_many_ticks(twin):
    """A torque appears in the first tick after the delay, not before."""
    twin.set_gains(ImpedanceGains(target_time_constant_s=0.0, nullspace_stiffness=0.0))
    twin.latency_ticks = 15
    twin.target[0] += 0.05
    twin.advance(0.015)
    np.testing.assert_allclose(twin.qd, 0.0, atol=1e-6)
    prompt = Twin(load_arm("fr3"), props)
    prompt.set_gains(ImpedanceGains(target_time_constant_s=0.0, nullspace_stiffness=0.0))
    prompt.target[0] += 0.05
    prompt.advance(0.005)
    twin.latency_ticks = 0
    twin.advance(0.005)
    np.testing.assert_allclose(twin.qd, prompt.qd, atol=1e-6)
    assert np.abs(twin.qd).max() > 1e-3


def test_latency_within_one_control_step(twin):
    """20 ticks with 15 of latency leave the new target 5: the tcp has come as far as in 5 prompt ones."""
    prompt = Twin(load_arm("fr3"), props)
    for used, latency, duration in ((twin, 15, 0.02), (prompt, 0, 0.005)):
        used.latency_ticks = latency
        used.target[0] += 0.05
        used.advance(duration)
    np.testing.assert_allclose(twin.tcp_pose[0], prompt.tcp_pose[0], atol=1e-7)
    assert twin.tcp_pose[0] > 0.5 + 1e-6


def test_bare_steps_are_mujocos(twin):
    """The reference of the benchmark is the real mj_step."""
    other = Twin(load_arm("fr3"), props)
    physics.bare_steps(twin.model._address, twin.data._address, 50)
    mujoco.mj_step(other.model, other.data, 50)
    np.testing.assert_array_equal(twin.data.qpos, other.data.qpos)
    assert np.abs(twin.data.qvel[:7]).max() > 0.01  # nothing held the arm


def test_advance_is_mujoco_with_the_laws_torque(twin):
    """One tick with the law equals MuJoCo's own step with the torque the law says it commanded."""
    twin.target[0] += 0.05
    twin.advance(0.05)
    other = Twin(load_arm("fr3"), props)
    other.data.qpos[:], other.data.qvel[:] = twin.data.qpos, twin.data.qvel
    other.data.qacc_warmstart[:], other.data.ctrl[:] = twin.data.qacc_warmstart, twin.data.ctrl
    twin.advance(0.001)
    other.data.qfrc_applied[other.arm_dofs] = twin.law.output
    mujoco.mj_step(other.model, other.data)
    np.testing.assert_allclose(other.data.qpos, twin.data.qpos, atol=1e-12)
    np.testing.assert_allclose(other.data.qvel, twin.data.qvel, atol=1e-10)
