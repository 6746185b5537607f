"""The twin's arm, gripper, cameras, tracker and clock behind their protocols."""

import time

import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from drivers.cell import SceneRequest, open_cell
from drivers.impedance import ImpedanceGains
from drivers.twin.arms import load_arm
from drivers.twin.devices import TwinArm, TwinCamera, TwinClock, TwinGripper, TwinTracker
from drivers.twin.twin import Twin
from robot_rl.errors import ConfigError, DeviceError

DOWN_XYZW = (1.0, 0.0, 0.0, 0.0)
SOFT = ImpedanceGains(stiffness=(1000.0,) * 3, damping=(60.0,) * 3, translational_clip=(0.02,) * 3)


def cube(scene):
    body = scene.spec.worldbody.add_body(name="cube", pos=[0.5, 0.0, 0.02])
    body.add_freejoint()
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.02] * 3, mass=0.05, friction=[1.0, 0.01, 0.001], rgba=[1, 0, 0, 1]
    )


@pytest.fixture
def twin():
    return Twin(load_arm("fr3"), cube)


def picture(twin, name, **size):
    camera = TwinCamera(twin, name, **size)
    try:
        return camera.read().image
    except DeviceError as error:
        pytest.skip(f"this machine cannot render: {error}")
    finally:
        camera.close()


def pressed_on_the_table(arm_name="fr3", clip=0.02):
    twin = Twin(load_arm(arm_name))
    twin.set_gains(ImpedanceGains(stiffness=(1000.0,) * 3, damping=(60.0,) * 3, translational_clip=(clip,) * 3))
    twin.jump_to_pose(np.array([0.5, 0.05, 0.03, *DOWN_XYZW]))
    TwinGripper(twin).command(0.0)
    twin.target[2] = -0.3
    twin.advance(2.0)
    return twin


@pytest.mark.parametrize(("arm_name", "clip"), [("fr3", 0.02), ("fr3", 0.01), ("ur5e", 0.02)])
def test_pressing_on_the_table_reads_as_positive_force_along_the_tool(arm_name, clip):
    """K x clip = 20 or 10 N, along tcp z, which points down; positive = robot on world."""
    wrench = TwinArm(pressed_on_the_table(arm_name, clip)).state().wrench_tcp
    np.testing.assert_allclose(wrench[2], 1000.0 * clip, rtol=0.1)
    np.testing.assert_allclose(wrench[:2], 0.0, atol=0.3 * wrench[2])  # friction: it slid while it came down


def test_measured_force_is_mujocos_contact_force():
    """Sum of MuJoCo's own contact forces on the table, turned into the tcp frame."""
    twin = pressed_on_the_table()
    total, force = np.zeros(3), np.zeros(6)
    table = twin.model.geom("table").id
    for i in range(twin.data.ncon):
        contact = twin.data.contact[i]
        mujoco.mj_contactForce(twin.model, twin.data, i, force)
        # mj_contactForce is what the first geom exerts on the second.
        total += (1.0 if contact.geom[1] == table else -1.0) * contact.frame.reshape(3, 3).T @ force[:3]
    measured = Rotation.from_quat(twin.tcp_pose[3:]).apply(TwinArm(twin).state().wrench_tcp[:3])
    assert twin.data.ncon > 0
    assert measured[2] < 0.0
    np.testing.assert_allclose(measured, total, atol=1.0)


def test_in_the_air_nothing_is_measured(twin):
    twin.advance(0.2)
    np.testing.assert_allclose(TwinArm(twin).state().wrench_tcp, 0.0, atol=1e-9)


def test_twist_is_the_derivative_of_the_pose_in_tool_axes(twin):
    """Downwards in `base` is +z in a tool that points down; compared with finite differences of the pose."""
    arm = TwinArm(twin)
    arm.set_impedance(SOFT)
    arm.command(np.array([0.5, 0.05, 0.15, *Rotation.from_euler("zx", [0.3, np.pi]).as_quat()]))
    twin.advance(0.1)
    before = arm.state()
    twin.advance(0.001)
    after = arm.state()
    turn = Rotation.from_quat(before.tcp_pose[3:])
    linear = turn.inv().apply(after.tcp_pose[:3] - before.tcp_pose[:3]) / 0.001
    angular = (turn.inv() * Rotation.from_quat(after.tcp_pose[3:])).as_rotvec() / 0.001
    assert linear[2] > 0.05
    np.testing.assert_allclose(after.twist_tcp, [*linear, *angular], atol=0.01)


def test_a_reading_does_not_change_afterwards(twin):
    arm = TwinArm(twin)
    state = arm.state()
    kept = {name: np.copy(value) for name, value in vars(state).items()}
    arm.command(np.array([0.45, 0.05, 0.2, *DOWN_XYZW]))
    twin.advance(0.2)
    for name, value in kept.items():
        np.testing.assert_array_equal(getattr(state, name), value)


def test_connecting_and_stopping_move_nothing(twin):
    before = twin.q.copy()
    with TwinArm(twin) as arm:
        twin.advance(0.2)
        np.testing.assert_allclose(arm.state().q, before, atol=1e-4)
        arm.command(np.array([0.45, 0.05, 0.2, *DOWN_XYZW]))
        twin.advance(0.15)
        arm.stop()
        held = arm.state().tcp_pose
        twin.advance(1.0)
        # What it still had in speed and in the low-pass, no more.
        assert np.linalg.norm(arm.state().tcp_pose[:3] - held[:3]) < 0.02
        assert np.linalg.norm(arm.state().twist_tcp) < 1e-2


def test_moves_arrive(twin):
    arm = TwinArm(twin)
    pose = np.array([0.45, 0.1, 0.2, *DOWN_XYZW])
    arm.move_to_pose(pose, 1.0)
    np.testing.assert_allclose(arm.state().tcp_pose[:3], pose[:3], atol=1e-4)
    q = arm.state().q + 0.1
    arm.move_to_joints(q, 1.0)
    np.testing.assert_allclose(arm.state().q, q, atol=1e-12)
    there = arm.state().tcp_pose
    twin.advance(0.5)
    np.testing.assert_allclose(arm.state().tcp_pose[:3], there[:3], atol=1e-3)


def test_gripper_opens_and_closes(twin):
    gripper = TwinGripper(twin)
    gripper.command(0.08)
    twin.advance(1.5)
    assert gripper.opening() == pytest.approx(0.08, abs=0.001)
    gripper.command(0.0)
    twin.advance(1.5)
    assert gripper.opening() == pytest.approx(0.0, abs=0.001)
    gripper.command(0.05)
    twin.advance(1.5)
    assert gripper.opening() == pytest.approx(0.05, abs=0.001)


@pytest.mark.parametrize(("asked", "got"), [(-1.0, 0.0), (1.0, 0.08)])
def test_gripper_keeps_to_its_travel(twin, asked, got):
    gripper = TwinGripper(twin)
    gripper.command(asked)
    twin.advance(1.5)
    assert gripper.opening() == pytest.approx(got, abs=0.001)


def test_gripper_jumps(twin):
    gripper = TwinGripper(twin)
    gripper.jump_to(0.06)
    assert gripper.opening() == pytest.approx(0.06)
    twin.advance(0.2)
    assert gripper.opening() == pytest.approx(0.06, abs=0.001)


def test_gripper_holds_a_cube_while_the_arm_lifts_it(twin):
    """4 cm between the pads say that something is held; 10 cm up it still is, and it has not slipped."""
    arm, gripper = TwinArm(twin), TwinGripper(twin)
    arm.set_impedance(SOFT)
    gripper.jump_to(0.08)
    arm.move_to_pose(np.array([0.5, 0.0, 0.02, *DOWN_XYZW]), 1.0)
    gripper.command(0.0)
    twin.advance(0.8)
    assert gripper.opening() == pytest.approx(0.04, abs=0.002)
    offset = twin.body_pose("cube")[2] - twin.tcp_pose[2]
    arm.command(np.array([0.5, 0.0, 0.12, *DOWN_XYZW]))
    twin.advance(2.0)
    assert twin.body_pose("cube")[2] > 0.11
    assert twin.body_pose("cube")[2] - twin.tcp_pose[2] == pytest.approx(offset, abs=0.002)
    gripper.command(0.08)
    twin.advance(1.5)
    assert twin.body_pose("cube")[2] == pytest.approx(0.02, abs=0.002)


def test_tracker_reports_what_it_is_asked_for(twin):
    twin.place("cube", np.array([0.4, 0.1, 0.02, 0, 0, 0, 1]))
    twin.advance(0.1)
    seen = TwinTracker(twin, ("cube",)).poses()
    assert list(seen) == ["cube"]
    assert seen["cube"].time_s == pytest.approx(0.1)
    np.testing.assert_allclose(seen["cube"].pose, [0.4, 0.1, 0.02, 0, 0, 0, 1], atol=1e-3)


def test_waiting_runs_physics_up_to_then_and_never_back(twin):
    clock = TwinClock(twin)
    clock.wait_until(0.05)
    assert clock.now() == pytest.approx(0.05)
    before = twin.data.qpos.copy()
    clock.wait_until(0.03)
    assert clock.now() == pytest.approx(0.05)
    np.testing.assert_array_equal(twin.data.qpos, before)


def test_many_short_waits_do_not_drift(twin):
    clock = TwinClock(twin)
    for step in range(1, 301):
        clock.wait_until(step * 0.1 / 3)
    assert clock.now() == pytest.approx(10.0, abs=0.0011)


def test_real_time_sleeps_what_is_left(twin, monkeypatch):
    """A person's clock: wall time runs 1:1 with the simulation's, whatever physics took (here: no time)."""
    wall, slept = [100.0], []

    def sleep(seconds):
        slept.append(seconds)
        wall[0] += seconds

    monkeypatch.setattr(time, "monotonic", lambda: wall[0])
    monkeypatch.setattr(time, "sleep", sleep)
    clock = TwinClock(twin, real_time=True)
    for step in range(1, 6):
        clock.wait_until(step * 0.02)
    assert sum(slept) == pytest.approx(0.08, abs=1e-6)  # the first call sets the start
    wall[0] += 0.5  # somebody was slow: catch up without sleeping
    clock.wait_until(0.12)
    assert sum(slept) == pytest.approx(0.08, abs=1e-6)


def test_front_camera_sees_the_red_cube(twin):
    TwinArm(twin).move_to_pose(np.array([0.5, 0.2, 0.35, *DOWN_XYZW]), 1.0)
    image = picture(twin, "front", height=120, width=160)
    assert image.shape == (120, 160, 3)
    assert image.dtype == np.uint8
    red = (image[..., 0].astype(int) > 100) & (image[..., 1] < 60) & (image[..., 2] < 60)
    assert 10 < red.sum() < 2000
    rows, columns = np.nonzero(red)
    assert abs(columns.mean() - 80) < 10  # y = 0 is in the middle
    twin.place("cube", np.array([0.5, -0.2, 0.02, 0, 0, 0, 1]))
    moved = picture(twin, "front", height=120, width=160)
    red = (moved[..., 0].astype(int) > 100) & (moved[..., 1] < 60) & (moved[..., 2] < 60)
    assert np.nonzero(red)[1].mean() < columns.mean() - 10  # the camera faces the arm: its left is our -y
    assert rows.mean() > 60  # the table is in the lower half


def test_wrist_camera_turns_with_the_hand(twin):
    above = picture(twin, "wrist")
    TwinArm(twin).move_to_pose(np.array([0.4, 0.2, 0.3, *DOWN_XYZW]), 1.0)
    elsewhere = picture(twin, "wrist")
    assert above.shape == (128, 128, 3)
    assert np.abs(above.astype(int) - elsewhere).mean() > 2.0


def test_a_picture_does_not_change_with_the_next(twin):
    camera = TwinCamera(twin, "front")
    try:
        first = camera.read().image
    except DeviceError as error:
        pytest.skip(f"this machine cannot render: {error}")
    kept = first.copy()
    twin.place("cube", np.array([0.6, -0.2, 0.02, 0, 0, 0, 1]))
    assert not np.array_equal(camera.read().image, kept)
    np.testing.assert_array_equal(first, kept)
    camera.close()
    camera.close()


def test_an_unknown_camera_is_told_the_known_ones(twin):
    with pytest.raises(ConfigError, match=r"'side'.*front.*wrist"):
        TwinCamera(twin, "side")


def test_without_opengl_the_message_says_what_to_install(twin, monkeypatch):
    def broken(*_):
        raise ImportError("no libEGL")

    monkeypatch.setattr(mujoco, "Renderer", broken)
    with pytest.raises(DeviceError, match=r"libEGL.*apt install"):
        TwinCamera(twin, "front").read()


def test_a_cell_opens_with_everything_and_closes():
    cell = open_cell("twin", SceneRequest(build=cube, objects=("cube",), cameras=("front", "wrist"), image_size=32))
    assert cell.twin is not None
    assert set(cell.cameras) == {"front", "wrist"}
    assert (cell.cameras["wrist"].height, cell.cameras["wrist"].width) == (32, 32)
    cell.clock.wait_until(0.1)
    assert cell.arm.state().time_s == pytest.approx(cell.clock.now())
    assert list(cell.tracker.poses()) == ["cube"]
    cell.close()


def test_an_unknown_cell_is_told_the_known_ones():
    with pytest.raises(ConfigError, match=r"'lab'.*twin"):
        open_cell("lab")
