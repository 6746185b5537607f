"""An arm of ours as a ROS robot: what it obeys, what it refuses, and what it says; on the twin, without a network."""

import threading

import numpy as np
import pytest

from drivers.emulators.ros2 import JOINT_NAMES, TwinPlant
from drivers.ros2 import messages as ros
from drivers.ros2.actions import ABORTED, SUCCEEDED, ActionClient
from drivers.ros2.arm_link import JOINTS, POSE
from drivers.ros2.node import NEWEST, SENSOR_DATA
from drivers.ros2.robot import CARTESIAN, JOINT, Robot, RobotOptions
from drivers.twin.devices import TwinArm, TwinClock
from robot_rl.errors import ConfigError, DeviceFaultError
from tests.drivers.ros2.inprocess import Bus

TRIGGER = "std_srvs/srv/Trigger"
SWITCH = "controller_manager_msgs/srv/SwitchController"
PARAMETERS = "rcl_interfaces/srv/SetParameters"
TRAJECTORY = "control_msgs/action/FollowJointTrajectory"


class Scene:
    """A robot on a bus, and somebody who commands it; time is the twin's."""

    def __init__(self, **options):
        self.bus = Bus()
        self.plant = TwinPlant("fr3")
        self.clock = TwinClock(self.plant.twin)
        node, self.user = self.bus.node("arm"), self.bus.node("user")
        options = RobotOptions(**{"joint_names": JOINT_NAMES["fr3"], **options})
        self.robot = Robot(node, TwinArm(self.plant.twin), self.plant.gripper, self.clock, options)
        self.targets = self.user.publisher("target_pose", POSE, NEWEST)

    def run(self, seconds):
        for _ in range(round(seconds * 200)):
            self.clock.wait_until(self.clock.now() + 0.005)
            self.bus.now_s += 0.005
            self.robot.tick()

    def send(self, pose, frame="base", stamp=None):
        stamp = self.bus.now_s if stamp is None else stamp
        self.targets.publish(ros.message(POSE, header=ros.header(stamp, frame), pose=ros.pose(pose)))

    def ask(self, service, kind=TRIGGER, **fields):
        return self.user.call(service, kind, ros.message(f"{kind}_Request", **fields), 1.0)

    @property
    def pose(self):
        return self.plant.twin.tcp_pose.copy()

    def newest(self, topic):
        return self.bus.heard[topic][-1]

    def diagnosis(self):
        return self.newest("/diagnostics").status[0]


@pytest.fixture
def scene():
    return Scene()


def above(pose, height):
    return pose + np.array([0, 0, height, 0, 0, 0, 0])


def test_it_goes_where_it_is_told(scene):
    start = scene.pose
    for _ in range(40):
        scene.send(above(start, 0.03))
        scene.run(0.05)
    np.testing.assert_allclose(scene.pose[:3], above(start, 0.03)[:3], atol=1e-3)
    assert scene.diagnosis().message == "following"


def test_it_says_where_it_is(scene):
    scene.run(0.05)
    np.testing.assert_allclose(ros.pose_of(scene.newest("/current_pose").pose), scene.pose, atol=1e-12)
    joints = scene.newest("/joint_states")
    assert joints.name == list(JOINT_NAMES["fr3"])
    np.testing.assert_allclose(joints.position, scene.plant.twin.q, atol=1e-12)
    assert scene.newest("/current_pose").header.frame_id == "base"
    assert scene.newest("/wrench").header.frame_id == "tcp"
    link = scene.newest("/tf").transforms[0]
    assert (link.header.frame_id, link.child_frame_id) == ("base", "tcp")
    assert scene.newest("/gripper/joint_states").position[0] == pytest.approx(scene.plant.gripper.opening())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"frame": "world"}, "in the frame 'world' was refused: this arm's base is 'base'"),
        ({"stamp": 990.0}, "stamped 10.0"),
        ({"stamp": 1990.0}, "s ahead was refused"),
        ({"pose": np.full(7, np.nan)}, "is no pose"),
        ({"pose": np.array([0.5, 0, 0.3, 0, 0, 0, 0.5])}, "is no pose"),
    ],
)
def test_what_is_no_target_is_refused_and_said(scene, change, why, caplog):
    start = scene.pose
    scene.send(**{"pose": above(start, 0.1), **change})
    scene.run(1.1)
    np.testing.assert_allclose(scene.pose, start, atol=1e-3)
    assert why in scene.diagnosis().message
    assert why in caplog.text


def test_a_clock_that_differs_is_said_once(scene, caplog):
    for stamp in (990.0, 989.0, 988.0):
        scene.send(above(scene.pose, 0.1), stamp=stamp)
        scene.run(0.05)
    assert len([record for record in caplog.records if "stamped" in record.message]) == 1


def test_a_stamp_of_zero_is_no_stamp(scene):
    start = scene.pose
    scene.send(above(start, 0.03), stamp=0.0)
    scene.run(0.5)
    assert scene.pose[2] > start[2] + 0.005


def test_two_masters_are_obeyed_neither(scene, caplog):
    start = scene.pose
    rival = scene.bus.node("rival")
    rival.publisher("target_pose", POSE, NEWEST)
    scene.run(1.1)
    for _ in range(10):
        scene.send(above(start, 0.1))
        scene.run(0.05)
    np.testing.assert_allclose(scene.pose, start, atol=1e-3)
    assert "2 nodes send target_pose" in scene.diagnosis().message
    assert "/rival, /user" in caplog.text
    rival.close()
    for _ in range(30):
        scene.send(above(start, 0.03))
        scene.run(0.05)
    assert scene.pose[2] > start[2] + 0.01


def test_without_targets_it_holds_where_it_is(scene, monkeypatch, caplog):
    start, now = scene.pose, [100.0]
    monkeypatch.setattr("drivers.ros2.robot.time.monotonic", lambda: now[0])
    scene.send(above(start, 0.2))
    scene.run(0.1)
    now[0] += 1.01
    scene.run(0.005)
    held = scene.plant.twin.target.copy()
    assert held[2] < start[2] + 0.1
    np.testing.assert_allclose(held, scene.pose, atol=2e-3)
    assert "No target for 1 s" in caplog.text


def test_stop_and_recover(scene):
    start = scene.pose
    scene.send(above(start, 0.2))
    scene.run(0.1)
    assert scene.ask("arm/stop").success
    np.testing.assert_allclose(scene.plant.twin.target, scene.pose)
    assert scene.ask("arm/recover").success


def test_an_arm_that_does_not_recover_says_why(scene, monkeypatch):
    def fail():
        raise DeviceFaultError("The emergency stop is pressed.")

    monkeypatch.setattr(scene.robot.arm, "recover", fail)
    answer = scene.ask("arm/recover")
    assert (answer.success, answer.message) == (False, "The emergency stop is pressed.")


def test_a_fault_of_the_arm_is_an_error_in_the_diagnostics(scene, monkeypatch):
    monkeypatch.setattr(scene.robot.arm, "fault", "joint_velocity_violation", raising=False)
    scene.run(0.01)
    assert (scene.diagnosis().level, scene.diagnosis().message) == (2, "joint_velocity_violation")


def test_a_reading_that_fails_is_said_and_survived(scene, monkeypatch):
    def fail():
        raise DeviceFaultError("No reading.")

    with monkeypatch.context() as broken:
        broken.setattr(scene.robot.arm, "state", fail)
        scene.run(0.01)
    assert "No reading." in scene.diagnosis().message
    scene.run(0.01)
    assert scene.bus.heard["/current_pose"]


# Controllers, gains, motions


def test_one_controller_at_a_time(scene):
    both = scene.ask("controller_manager/switch_controller", SWITCH, activate_controllers=[JOINT])
    assert (both.ok, both.message) == (False, "both would command the arm: deactivate the other one")
    none = scene.ask("controller_manager/switch_controller", SWITCH, activate_controllers=["magic"])
    assert "no magic here" in none.message
    swapped = scene.ask(
        "controller_manager/switch_controller", SWITCH, activate_controllers=[JOINT], deactivate_controllers=[CARTESIAN]
    )
    assert swapped.ok
    listed = scene.ask("controller_manager/list_controllers", "controller_manager_msgs/srv/ListControllers")
    assert {c.name: c.state for c in listed.controller} == {CARTESIAN: "inactive", JOINT: "active"}
    start = scene.pose
    for _ in range(5):
        scene.send(above(start, 0.1))
        scene.run(0.05)
    np.testing.assert_allclose(scene.pose, start, atol=1e-3)


def parameter(name, value):
    return ros.message(
        "rcl_interfaces/msg/Parameter", name=name,
        value=ros.message("rcl_interfaces/msg/ParameterValue", type=3, double_value=value),
    )  # fmt: skip


def test_crisps_parameters_are_the_laws_gains(scene, monkeypatch):
    taken = []
    monkeypatch.setattr(scene.robot.arm, "set_impedance", taken.append)
    given = [parameter("task.k_pos_z", 1200.0), parameter("task.d_rot_x", 4.0), parameter("task.error_clip.ry", 0.2)]
    answer = scene.ask(f"{CARTESIAN}/set_parameters", PARAMETERS, parameters=given)
    assert [r.successful for r in answer.results] == [True] * 3
    (gains,) = taken
    assert gains.stiffness == (2000.0, 2000.0, 1200.0)  # the rest as it was: the law's defaults
    assert gains.rotational_damping == (4.0, 7.0, 7.0)
    assert gains.rotational_clip == (0.05, 0.2, 0.05)


@pytest.mark.parametrize(("name", "value", "why"), [("task.k_x", 1.0, "no k_x"), ("task.k_pos_x", -1.0, "stiffness")])
def test_gains_that_cannot_be_are_refused(scene, name, value, why):
    answer = scene.ask(f"{CARTESIAN}/set_parameters", PARAMETERS, parameters=[parameter(name, value)])
    assert not answer.results[0].successful
    assert why in answer.results[0].reason


def follow(scene, names, *points):
    plan = ros.message(
        "trajectory_msgs/msg/JointTrajectory",
        joint_names=list(names),
        points=[
            ros.message(
                "trajectory_msgs/msg/JointTrajectoryPoint", positions=np.array(q), time_from_start=ros.duration(t)
            )
            for q, t in points
        ],
    )
    return scene.robot._follow(ros.message(f"{TRAJECTORY}_Goal", trajectory=plan), threading.Event())


def test_a_joint_trajectory_goes_by_names_not_by_order(scene):
    goal = scene.plant.twin.q + 0.05 * np.arange(7)
    names = list(JOINT_NAMES["fr3"])
    status, _ = follow(scene, names[::-1], (goal[::-1], 2.0))
    assert status == SUCCEEDED
    np.testing.assert_allclose(scene.plant.twin.q, goal, atol=1e-6)


def test_a_trajectory_before_the_first_tick_finds_joints_that_are_named_by_number():
    scene = Scene(joint_names=())
    goal = scene.plant.twin.q + 0.05
    assert follow(scene, [f"joint{i}" for i in range(1, 8)], (goal, 2.0))[0] == SUCCEEDED
    np.testing.assert_allclose(scene.plant.twin.q, goal, atol=1e-6)


def test_a_joint_trajectory_without_a_joint_is_refused(scene):
    status, result = follow(scene, ["fr3_joint1"], ([0.0], 1.0))
    assert (status, result.error_code) == (ABORTED, -2)
    assert "missing: fr3_joint2" in result.error_string


def test_a_joint_trajectory_with_too_few_positions_is_refused(scene):
    status, result = follow(scene, JOINT_NAMES["fr3"], ([0.0], 1.0))
    assert (status, result.error_code) == (ABORTED, -1)
    assert "1 positions for 7 joints" in result.error_string


def test_a_joint_trajectory_with_a_mistake_at_its_end_moves_nothing(scene):
    start = scene.plant.twin.q.copy()
    status, result = follow(scene, JOINT_NAMES["fr3"], (start + 0.1, 1.0), (np.full(7, np.nan), 2.0))
    assert (status, result.error_code) == (ABORTED, -1)
    assert "not finite" in result.error_string
    np.testing.assert_array_equal(scene.plant.twin.q, start)


def test_nothing_moves_joints_while_no_controller_is_active(scene):
    scene.ask("controller_manager/switch_controller", SWITCH, deactivate_controllers=[CARTESIAN])
    status, result = follow(scene, JOINT_NAMES["fr3"], (scene.plant.twin.q, 1.0))
    assert (status, result.error_string) == (ABORTED, "no controller is active")


def test_a_trajectory_over_the_action(scene):
    client = ActionClient(scene.user, f"{JOINT}/follow_joint_trajectory", TRAJECTORY)
    point = ros.message("trajectory_msgs/msg/JointTrajectoryPoint", positions=np.zeros(1))
    plan = ros.message("trajectory_msgs/msg/JointTrajectory", joint_names=["a"], points=[point])
    goal = client.send(ros.message(f"{TRAJECTORY}_Goal", trajectory=plan), 1.0)
    with pytest.raises(DeviceFaultError, match=r"was aborted\. missing: fr3_joint1"):
        client.result(goal, 5.0)


def test_the_gripper_by_topic(scene):
    scene.user.publisher("gripper/command", "std_msgs/msg/Float64MultiArray", NEWEST).publish(
        ros.message("std_msgs/msg/Float64MultiArray", data=np.array([0.02]))
    )
    scene.run(1.0)
    assert scene.plant.gripper.opening() == pytest.approx(0.02, abs=0.005)


def test_the_gripper_by_action_says_whether_it_arrived(scene):
    kind = "control_msgs/action/GripperCommand"
    wanted = ros.message("control_msgs/msg/GripperCommand", position=scene.plant.gripper.opening())
    status, result = scene.robot._gripped(ros.message(f"{kind}_Goal", command=wanted), threading.Event())
    assert (status, result.reached_goal, result.stalled) == (SUCCEEDED, True, False)
    given_up = threading.Event()
    given_up.set()
    away = ros.message("control_msgs/msg/GripperCommand", position=0.08)
    _, result = scene.robot._gripped(ros.message(f"{kind}_Goal", command=away), given_up)
    assert (result.reached_goal, result.stalled) == (False, True)


def test_a_goal_of_the_gripper_that_is_no_number_is_refused(scene, monkeypatch, caplog):
    monkeypatch.setattr(scene.robot.gripper, "command", lambda opening: pytest.fail(f"told {opening}"))
    wanted = ros.message("control_msgs/msg/GripperCommand", position=np.nan)
    goal = ros.message("control_msgs/action/GripperCommand_Goal", command=wanted)
    status, result = scene.robot._gripped(goal, threading.Event())
    assert (status, result.reached_goal) == (ABORTED, False)
    assert "no opening was refused: nan" in caplog.text


# Ending


def test_asked_to_end_it_holds_at_once_and_stays_until_nobody_commands(scene, monkeypatch):
    ended, ticks, obeyed = threading.Event(), [], []
    start = scene.pose
    monkeypatch.setattr(scene.robot.arm, "command", obeyed.append)
    ended.set()
    plain = scene.robot.tick

    def tick():
        ticks.append(1)
        if len(ticks) < 5:
            scene.send(above(start, 0.2))
        else:
            scene.user.close()
        plain()

    scene.robot.tick = tick
    scene.robot.run(ended)
    assert len(ticks) == 5
    assert obeyed == []
    np.testing.assert_allclose(scene.plant.twin.target, start, atol=1e-3)


@pytest.mark.parametrize("wrong", [{"rate_hz": 0.0}, {"rate_hz": 2000.0}, {"hold_after_s": 0.0}])
def test_options_out_of_range(wrong):
    with pytest.raises(ConfigError, match="rate_hz"):
        RobotOptions(**wrong)


def test_a_sensor_subscriber_and_a_reliable_one_both_hear_the_joints(scene):
    heard = []
    for qos in (SENSOR_DATA, NEWEST):
        scene.user.subscribe("joint_states", JOINTS, heard.append, qos)
    scene.run(0.005)
    assert len(heard) == 2
