"""`Ros2Arm` and a twin that lives in another process, over real DDS on loopback: motions, and everything that fails."""

import signal
import threading
import time

import numpy as np
import pytest

from drivers.emulators.stage import Stage
from drivers.impedance import ImpedanceGains
from drivers.ros2 import messages as ros
from drivers.ros2.actions import CANCELED, ActionServer
from drivers.ros2.arm_link import POSE
from drivers.ros2.node import LATCHED
from drivers.ros2.opening import open_node
from drivers.ros2.robot import CARTESIAN, JOINT, TRAJECTORY
from drivers.ros2_arm import Ros2Arm
from drivers.safety_limits import SafetyLimits
from robot_rl.errors import (
    ConfigError,
    DeviceConnectionError,
    DeviceFaultError,
    DeviceTimeoutError,
    SafetyError,
    StaleStateError,
)
from tests.drivers.ros2.emulated import address, emulated

pytestmark = pytest.mark.realtime

HOST = address(51)
SWITCHING = {"controller": CARTESIAN, "trajectory_controller": JOINT, "gains": "crisp", "model": "fr3"}


@pytest.fixture(scope="module")
def robot():
    with emulated("reach", 21, HOST) as process:
        yield process


@pytest.fixture
def stage(robot):
    with Stage(HOST) as stage:
        stage.inject("well")
        yield stage
        stage.inject("well")


@pytest.fixture
def arm(stage):
    with Ros2Arm(**SWITCHING, recover_service="sim_node/recover") as arm:
        yield arm


def spin(arm, until, limit=2000):
    for _ in range(limit):
        arm.tick()
        if until():
            return
    raise AssertionError("it did not happen")


def fails(arm, error, ticks=400):
    """What ticking ends in."""
    for _ in range(ticks):
        try:
            arm.tick()
        except error as raised:
            return str(raised)
    raise AssertionError(f"no {error.__name__} in {ticks} ticks")


def lifted(arm, height):
    return arm.state().tcp_pose + np.array([0, 0, height, 0, 0, 0, 0])


def test_connecting_moves_nothing_and_finds_the_arm(stage):
    before = stage.body_pose("tool/hand")
    with Ros2Arm() as arm:
        reach = np.linalg.norm(arm.state().tcp_pose[:3] - before[:3])
        assert reach == pytest.approx(0.1034, abs=1e-3)  # from the hand's flange to between its fingers
        assert arm.state().q.shape == (7,)
        assert "dds; /current_pose from /sim_node at" in arm.facts()["ROS 2"]
    np.testing.assert_allclose(stage.body_pose("tool/hand"), before, atol=2e-3)


def test_it_follows_a_target_no_faster_than_allowed(arm):
    arm.set_limits(SafetyLimits(position_low=(0.2, -0.4, 0.05), position_high=(0.7, 0.4, 0.6), max_speed=(0.05, 0.5)))
    goal, sent = lifted(arm, 0.05), []
    arm.command(goal)
    started = time.monotonic()
    spin(arm, lambda: sent.append(arm._sent[2]) or abs(arm.state().tcp_pose[2] - goal[2]) < 2e-3)
    assert time.monotonic() - started > 0.9  # 5 cm at 5 cm/s
    assert np.all(np.diff(sent) <= 0.05 * 0.1 + 1e-9)


def test_no_target_leaves_the_box(arm):
    """From 1 cm below its lid upwards; then, with the lid below the arm, back inside, without a leap."""
    lid = arm.state().tcp_pose[2] + 0.01
    low = (0.2, -0.4, 0.05)
    arm.set_limits(SafetyLimits(position_low=low, position_high=(0.7, 0.4, lid)))
    arm.command(lifted(arm, 0.2))
    for _ in range(200):
        arm.tick()
        assert arm._sent[2] <= lid + 1e-9
    arm.set_limits(SafetyLimits(position_low=low, position_high=(0.7, 0.4, lid - 0.03), max_speed=(0.05, 0.5)))
    sent = [arm._sent[2]]
    spin(arm, lambda: sent.append(arm._sent[2]) or sent[-1] <= lid - 0.03 + 1e-9)
    assert np.all(np.diff(sent) >= -0.05 * 0.1 - 1e-9)


def test_a_straight_motion_arrives(arm):
    goal = lifted(arm, -0.04)
    arm.move_to_pose(goal, 0.5)
    spin(arm, lambda: not arm.moving)
    np.testing.assert_allclose(arm.state().tcp_pose[:3], goal[:3], atol=5e-3)


def test_a_joint_motion_is_the_trajectory_controllers(arm):
    goal = arm.state().q + np.array([0.1, 0, 0, 0.05, 0, 0, 0])
    arm.move_to_joints(goal, 0.5)
    spin(arm, lambda: not arm.moving)
    np.testing.assert_allclose(arm.state().q, goal, atol=5e-3)
    arm.command(lifted(arm, 0.02))  # and the Cartesian one has the arm again
    height = arm.state().tcp_pose[2]
    spin(arm, lambda: arm.state().tcp_pose[2] > height + 0.01)


def test_gains_are_taken_and_bad_ones_refused(arm):
    arm.set_impedance(ImpedanceGains(stiffness=(800.0, 800.0, 800.0)))
    with pytest.raises(DeviceFaultError, match=f"{CARTESIAN} refuses task.k_pos_x"):
        arm.set_impedance(ImpedanceGains.__new__(_Negative))


class _Negative(ImpedanceGains):
    """Gains that our own check would not let through."""

    stiffness = (-1.0, 0.0, 0.0)


# What goes wrong


def test_silence_ends_in_one_message_and_is_recovered_from(arm, stage):
    stage.inject("freeze", duration_s=1.0)
    said = fails(arm, DeviceTimeoutError)
    assert "No message on /current_pose for 0.25 s" in said
    assert "/sim_node is there and sends nothing. Run: ros2 topic hz /current_pose" in said
    time.sleep(1.0)
    arm.recover()
    spin(arm, lambda: True)


def test_after_a_fault_it_holds_and_sends_nothing_more_until_recovered(arm, monkeypatch):
    """The arm must not go on to the target it was on its way to, whatever becomes of the topics."""
    sent = []
    publish = arm._publisher.publish
    monkeypatch.setattr(
        arm._publisher, "publish", lambda content: sent.append(ros.pose_of(content.pose)) or publish(content)
    )
    arm.command(lifted(arm, 0.05))
    spin(arm, lambda: len(sent) > 5)
    with monkeypatch.context() as once:
        once.setattr(arm._link, "check_target", lambda: (_ for _ in ()).throw(DeviceFaultError("two masters")))
        fails(arm, DeviceFaultError)
    measured, told = arm.state().tcp_pose, len(sent)
    np.testing.assert_allclose(sent[-1][:3], measured[:3], atol=2e-3)
    for _ in range(100):
        arm.tick()
    assert len(sent) == told
    arm.recover()
    spin(arm, lambda: len(sent) > told + 1)


@pytest.mark.parametrize("end", ["stop", "close", "recover"])
def test_what_ends_a_joint_motion_cancels_it(stage, end):
    """The trajectory is carried out elsewhere: that nobody waits for it any more does not stop the arm."""
    started, given_up = threading.Event(), threading.Event()

    def execute(_, cancelled):
        started.set()
        if cancelled.wait(10.0):
            given_up.set()
        return CANCELED, ros.message(f"{TRAJECTORY}_Result")

    node = open_node("slow")
    ActionServer(node, "slow/follow", TRAJECTORY, execute)
    arm = Ros2Arm(trajectory="slow/follow")
    try:
        arm.connect()
        arm.move_to_joints(np.zeros(7), 5.0)
        assert started.wait(5.0)
        spin(arm, lambda: arm._goal is not None)
        getattr(arm, end)()
        assert given_up.wait(5.0)
        assert not arm.moving
    finally:
        arm.close()
        node.close()


def test_another_frame_is_refused(arm, stage):
    stage.inject("wrong_frame")
    said = fails(arm, DeviceFaultError)
    assert "/current_pose is in the frame 'world', expected 'base'" in said
    assert "arm.options.base_frame" in said


def test_a_stale_clock_is_refused(arm, stage):
    stage.inject("stale_clock", offset_s=5.0)
    assert "s behind of this machine's clock, limit 0.5 s" in fails(arm, StaleStateError)


def test_a_second_master_is_refused(arm, stage):
    stage.inject("rival")
    said = fails(arm, DeviceFaultError, ticks=1000)
    assert "2 publishers send on /target_pose: " in said
    assert "/robot_rl_arm" in said  # the other's name may come a moment later
    stage.inject("well")
    time.sleep(0.2)
    arm.recover()
    spin(arm, lambda: True)


def test_nobody_there(robot):
    with pytest.raises(DeviceConnectionError) as raised:
        Ros2Arm(namespace="left", connect_s=0.5).connect()
    said = str(raised.value)
    assert "Nothing came on /left/current_pose within 0.5 s. Nobody publishes there." in said
    assert "Seen: /current_pose" in said


def test_a_listener_that_asks_for_more_than_is_offered(stage):
    """A controller that subscribes transient local to a volatile publisher hears nothing, without a word from ROS."""
    node = open_node("odd")
    node.subscribe("odd_target", POSE, lambda _: None, LATCHED)
    try:
        with pytest.raises(DeviceConnectionError, match="the subscriber asks for transient local"):
            Ros2Arm(target="odd_target").connect()
    finally:
        node.close()


def test_nobody_listens(stage):
    with pytest.raises(DeviceConnectionError, match=r"there is no subscriber\. Is the arm's controller loaded"):
        Ros2Arm(target="void").connect()


def test_a_topic_of_another_kind(stage):
    node = open_node("odd")
    node.publisher("odd_twist", "sensor_msgs/msg/JointState")
    try:
        with pytest.raises(DeviceConnectionError) as raised:
            Ros2Arm(twist="odd_twist", connect_s=0.5).connect()
    finally:
        node.close()
    assert "/odd publishes there, but it is of type sensor_msgs/msg/JointState, not" in str(raised.value)
    assert "An arm without one: arm.options.twist: ''." in str(raised.value)


@pytest.mark.parametrize(
    ("options", "error", "why"),
    [
        ({"controller": "magic"}, DeviceConnectionError, "has no controller 'magic'"),
        ({"joint_names": ["fr3_joint1", "elbow"]}, DeviceFaultError, "does not report elbow"),
        ({"manager": "nobody", "controller": CARTESIAN}, DeviceTimeoutError, "Nobody offers the ROS service /nobody/"),
    ],
)
def test_options_that_do_not_fit_the_robot(stage, options, error, why):
    with pytest.raises(error, match=why):
        Ros2Arm(**options).connect()


@pytest.mark.parametrize(
    ("options", "why"),
    [({"model": "kuka"}, "model 'kuka'"), ({"gains": "loud"}, "gains 'loud'"), ({"gains": "crisp"}, "name it")],
)
def test_options_that_cannot_be(options, why):
    with pytest.raises(ConfigError, match=why):
        Ros2Arm(**options)


def test_an_arm_without_joint_motions_says_so(stage):
    with Ros2Arm(trajectory="") as arm, pytest.raises(ConfigError, match="no joint motions"):
        arm.move_to_joints(np.zeros(7), 1.0)


def test_what_is_no_pose_is_not_sent(arm):
    with pytest.raises(SafetyError, match="not 7 finite numbers"):
        arm.command(np.full(7, np.nan))


def test_zz_a_robot_that_dies(robot):
    """Last: nothing answers after it."""
    with Ros2Arm() as arm:
        robot.send_signal(signal.SIGKILL)
        robot.wait()
        said = fails(arm, DeviceTimeoutError)
    assert "No message on /current_pose for 0.25 s" in said
