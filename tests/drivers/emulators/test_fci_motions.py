"""The emulated Franka's motion generators, reflexes and hand, through the vendors' own clients."""

import importlib.util
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.realtime

franka = pytest.importorskip("pylibfranka", reason="the vendor's client; pip install robot-rl[franka]")

_shared = runpy.run_path(str(Path(__file__).with_name("test_fci.py")))
Server, hold, settled = _shared["Server"], _shared["hold"], _shared["settled"]

# A post, 30 mm wide, fixed between the open fingers: something to grasp and to push against.
POST = """
def build(scene):
    scene.spec.worldbody.add_geom(name="post", type=6, pos=[0.5, 0.0, 0.255], size=[0.008, 0.015, 0.012])
"""
JOINTS, POSE = "joint_impedance", "cartesian_impedance"
MODES = {JOINTS: franka.ControllerMode.JointImpedance, POSE: franka.ControllerMode.CartesianImpedance}


@pytest.fixture(scope="module")
def server():
    server = Server(group=2)
    yield server
    server.close()


@pytest.fixture(scope="module")
def post_server():
    server = Server(build=POST, group=3)
    yield server
    server.close()


@pytest.fixture
def robot(server):
    robot = server.connect()
    robot.automatic_error_recovery()
    return robot


@pytest.fixture
def robot_at_post(post_server):
    robot = post_server.connect()
    robot.automatic_error_recovery()
    robot.set_collision_behavior([100.0] * 7, [100.0] * 7, [100.0] * 6, [100.0] * 6)
    return robot


def ease(time_s, duration_s):
    """0 to 1 with zero velocity and acceleration at both ends, and the derivative: 10 s^3 - 15 s^4 + 6 s^5."""
    s = min(time_s / duration_s, 1.0)
    return s**3 * (10 - 15 * s + 6 * s * s), 30 * s * s * (1 - s) ** 2 / duration_s


def drive(control, command, duration_s):
    """Send `command(start, time_s)` each tick until `duration_s`; the last state."""
    time_s, start = 0.0, None
    while True:
        state, elapsed = control.readOnce()
        start = state if start is None else start
        time_s += elapsed.to_sec()
        order = command(start, time_s)
        order.motion_finished = time_s >= duration_s
        control.writeOnce(order)
        if order.motion_finished:
            return start, state


def pose_of(state, name="O_T_EE"):
    return np.array(getattr(state, name)).reshape(4, 4).T


def moved(start, offset):
    pose = pose_of(start, "O_T_EE_c")
    pose[:3, 3] += offset
    return franka.CartesianPose(pose.T.ravel())


@pytest.mark.parametrize("mode", [JOINTS, POSE])
def test_joint_positions_are_followed(robot, mode):
    goal = np.array([0.1, 0.05, -0.1, 0.05, 0.1, -0.1, 0.2])
    control = robot.start_joint_position_control(MODES[mode])
    start, _ = drive(control, lambda s, t: franka.JointPositions(np.array(s.q_d) + goal * ease(t, 0.8)[0]), 1.0)
    np.testing.assert_allclose(np.array(settled(robot).q) - start.q, goal, atol=2e-3)


def test_joint_velocities_are_followed(robot):
    """The integral of the eased velocity is the whole way."""
    goal = np.array([-0.1, -0.05, 0.1, -0.05, -0.1, 0.1, -0.2])
    control = robot.start_joint_velocity_control(MODES[JOINTS])
    start, _ = drive(control, lambda s, t: franka.JointVelocities(goal * ease(t, 0.8)[1]), 1.0)
    np.testing.assert_allclose(np.array(settled(robot).q) - start.q, goal, atol=2e-3)


@pytest.mark.parametrize("mode", [JOINTS, POSE])
def test_cartesian_poses_are_followed(robot, mode):
    goal = np.array([0.02, -0.03, 0.04])
    control = robot.start_cartesian_pose_control(MODES[mode])
    start, last = drive(control, lambda s, t: moved(s, goal * ease(t, 0.8)[0]), 1.0)
    end = settled(robot)
    np.testing.assert_allclose(pose_of(end)[:3, 3] - pose_of(start)[:3, 3], goal, atol=1e-3)
    np.testing.assert_allclose(pose_of(end)[:3, :3], pose_of(start)[:3, :3], atol=2e-3)
    assert last.robot_mode == franka.RobotMode.Move


def test_cartesian_velocities_are_followed(robot):
    """4 cm along -x, and 0.2 rad about the vertical."""
    goal = np.array([-0.04, 0.0, 0.0, 0.0, 0.0, 0.2])
    control = robot.start_cartesian_velocity_control(MODES[JOINTS])
    start, _ = drive(control, lambda s, t: franka.CartesianVelocities(goal * ease(t, 0.8)[1]), 1.0)
    before, after = pose_of(start), pose_of(settled(robot))
    np.testing.assert_allclose(after[:3, 3] - before[:3, 3], goal[:3], atol=1e-3)
    turn = after[:3, :3] @ before[:3, :3].T
    assert np.arctan2(turn[1, 0], turn[0, 0]) == pytest.approx(0.2, abs=2e-3)


def jump(count, before, after):
    """A command that changes after some ticks."""
    return lambda start, time_s: before(start) if time_s < count * 1e-3 else after(start)


def still(state):
    return franka.JointPositions(np.array(state.q_d))


def still_joints(_):
    return franka.JointVelocities([0.0] * 7)


def rest(_):
    return franka.CartesianVelocities([0.0] * 6)


# What is commanded suddenly, and the error that must name it. 1 mm in a millisecond is 1 m/s: within the speed limit of
# 3 m/s, but 1000 m/s^2. A joint's step of 0.5 mrad is 0.5 rad/s, and 500 rad/s^2.
ABRUPT = {
    "joint_motion_generator_velocity_limits_violation": (
        "joint_position", jump(5, still, lambda s: franka.JointPositions(np.array(s.q_d) + 0.005))),
    "joint_motion_generator_velocity_discontinuity": (
        "joint_position", jump(5, still, lambda s: franka.JointPositions(np.array(s.q_d) + 0.0005))),
    "joint_motion_generator_acceleration_discontinuity": (
        "joint_velocity", jump(5, still_joints, lambda s: franka.JointVelocities([0.008] * 7))),
    "joint_position_motion_generator_start_pose_invalid": (
        "joint_position", lambda s, t: franka.JointPositions(np.array(s.q_d) + 0.1)),
    "cartesian_motion_generator_velocity_discontinuity": (
        "cartesian_pose", jump(5, lambda s: moved(s, 0.0), lambda s: moved(s, 0.001))),
    "cartesian_motion_generator_velocity_limits_violation": (
        "cartesian_velocity", jump(5, rest, lambda s: franka.CartesianVelocities([3.5, 0, 0, 0, 0, 0]))),
    "cartesian_motion_generator_acceleration_discontinuity": (
        "cartesian_velocity", jump(5, rest, lambda s: franka.CartesianVelocities([0.008, 0, 0, 0, 0, 0]))),
    "cartesian_position_motion_generator_start_pose_invalid": ("cartesian_pose", lambda s, t: moved(s, 0.1)),
}  # fmt: skip


@pytest.mark.parametrize("error", ABRUPT)
def test_an_abrupt_command_is_a_reflex_of_its_name(robot, error):
    mode, command = ABRUPT[error]
    control = getattr(robot, f"start_{mode}_control")(MODES[JOINTS])
    with pytest.raises(franka.ControlException, match=f'"{error}"'):
        drive(control, command, 10.0)
    del control
    assert getattr(settled(robot).last_motion_errors, error)
    robot.automatic_error_recovery()
    hold(robot, 50)


TORQUES = {
    # 1000 N m/s is 1 N m a tick.
    "controller_torque_discontinuity": lambda tick: 1.5,
    # Joint 7 may have 12 N m and 5.26 rad/s; against 0.052 kg m^2 it is there long before its velocity is.
    "tau_J_range_violation": lambda tick: 0.9 * (tick + 1),
    "joint_velocity_violation": lambda tick: -min(0.5 * (tick + 1), 5.0),
}


@pytest.mark.parametrize("error", TORQUES)
def test_torques_beyond_the_limits_are_a_reflex(robot, error):
    with pytest.raises(franka.ControlException, match=f'"{error}"'):
        twist_the_wrist(robot, TORQUES[error])
    robot.automatic_error_recovery()
    hold(robot, 50)


def twist_the_wrist(robot, torque):
    control = robot.start_torque_control()
    for tick in range(10**4):
        control.readOnce()
        control.writeOnce(franka.Torques([0, 0, 0, 0, 0, 0, torque(tick)]))


def push(robot, force, ticks):
    """Press sideways against the post: J^T f, ramped up, with some damping. The last state."""
    model, control, torque = robot.load_model(), robot.start_torque_control(), np.zeros(7)
    for tick in range(ticks):
        state, _ = control.readOnce()
        jacobian = np.array(model.zero_jacobian(state)).reshape(7, 6).T
        wanted = jacobian.T @ np.concatenate([force, np.zeros(3)]) - 8.0 * np.array(state.dq)
        torque = torque + np.clip(wanted - torque, -0.05, 0.05)
        command = franka.Torques(torque)
        command.motion_finished = tick == ticks - 1
        control.writeOnce(command)
    return state


def test_the_estimated_force_is_what_the_robot_exerts(robot_at_post):
    """Pressing with 12 N along +y: +12 N. 'Forces applied by the robot to the environment are positive' (libfranka)."""
    state = push(robot_at_post, [0.0, 12.0, 0.0], 2500)
    force = np.array(state.O_F_ext_hat_K)
    assert force[1] == pytest.approx(12.0, abs=1.0)
    np.testing.assert_allclose(force[[0, 2]], 0.0, atol=1.5)
    to_hand = pose_of(state)[:3, :3].T
    np.testing.assert_allclose(np.array(state.K_F_ext_hat_K)[:3], to_hand @ force[:3], atol=1e-3)
    model = robot_at_post.load_model()
    jacobian = np.array(model.zero_jacobian(state)).reshape(7, 6).T
    np.testing.assert_allclose(state.tau_ext_hat_filtered, jacobian.T @ force, atol=0.3)


@pytest.mark.parametrize(("error", "torque", "force"), [("cartesian_reflex", 100.0, 8.0), ("joint_reflex", 2.0, 100.0)])
def test_a_collision_beyond_the_threshold_is_a_reflex(robot_at_post, error, torque, force):
    robot_at_post.set_collision_behavior([torque] * 7, [torque] * 7, [force] * 6, [force] * 6)
    with pytest.raises(franka.ControlException, match=rf'\["{error}"\]'):
        push(robot_at_post, [0.0, 15.0, 0.0], 3000)
    state = settled(robot_at_post)
    hit = state.cartesian_collision if error == "cartesian_reflex" else state.joint_collision
    assert max(hit) == 1.0
    robot_at_post.automatic_error_recovery()
    assert max(settled(robot_at_post).cartesian_collision) == 0.0


def test_the_hand_grasps_what_is_there_and_says_so():
    """The post is 30 mm wide: a success for 30 +- 5 mm, none for 60 +- 5 mm."""
    server = Server(build=POST, group=5)
    gripper = franka.Gripper(server.host)
    assert gripper.server_version() == 3
    assert gripper.grasp(0.03, 0.1, 20.0, 0.005, 0.005)
    state = gripper.read_once()
    assert state.is_grasped
    assert state.width == pytest.approx(0.03, abs=2e-3)
    assert gripper.move(0.08, 0.1)
    assert not gripper.grasp(0.06, 0.1, 20.0, 0.005, 0.005)
    assert not gripper.read_once().is_grasped
    assert not gripper.move(0.01, 0.1)  # the post is in the way
    assert gripper.move(0.08, 0.1)
    assert gripper.read_once().width == pytest.approx(0.08, abs=1e-3)
    with pytest.raises(franka.CommandException, match="failed"):
        gripper.move(0.2, 0.1)
    del gripper
    server.close()


def test_homing_moves_through_the_whole_travel(server):
    gripper = franka.Gripper(server.host)
    assert gripper.homing()
    state = gripper.read_once()
    assert state.max_width == pytest.approx(0.08)
    assert state.width == pytest.approx(0.08, abs=1e-3)


FRANKY = """
import sys, time, franky, numpy as np
robot = franky.Robot(sys.argv[1], realtime_config=franky.RealtimeConfig.Ignore)
robot.recover_from_errors()
start = robot.current_cartesian_state.pose.end_effector_pose
goal = franky.Affine(start.translation + np.array([0.0, 0.02, 0.02]), start.quaternion)
with franky.CartesianImpedanceTracker(robot, translational_stiffness=1000.0, rotational_stiffness=80.0) as tracker:
    for _ in range(1000):
        tracker.set_target(goal)
        time.sleep(0.01)
        reached = tracker.current_pose.end_effector_pose.translation
        if np.linalg.norm(reached - goal.translation) < 1e-3:
            break
print(*(reached - goal.translation))
"""


def test_frankys_impedance_tracker_reaches_its_target(server):
    """In a process of its own: franky and pylibfranka both register a type `Duration`, so only one can be loaded."""
    if importlib.util.find_spec("franky") is None:
        pytest.skip("the alternative client is not installed; pip install robot-rl[franka]")
    command = [sys.executable, "-c", FRANKY, server.host]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    np.testing.assert_allclose(np.array(run.stdout.split()[-3:], float), 0.0, atol=1e-3)
