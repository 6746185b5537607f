"""A device as topics and as an arm's targets: how fast, how far ahead, in which frame, and letting go."""

import threading

import numpy as np
import pytest

from drivers.ros2 import messages as ros
from drivers.ros2.arguments import checked
from drivers.ros2.node import NEWEST, SENSOR_DATA
from drivers.ros2.nodes.teleop_node import LEASH, LETTING_GO_S, PARAMETERS, Driving, TeleopNode
from drivers.teleop import TeleopReading
from drivers.teleop import ros2 as hands
from drivers.teleop.ros2 import Ros2Hand
from robot_rl.errors import ConfigError, DeviceConnectionError
from tests.drivers.ros2.inprocess import Bus

POSE = "geometry_msgs/msg/PoseStamped"
HERE = np.array([0.4, 0.1, 0.3, 0.0, 0.0, 0.0, 1.0])
QUARTER_Z = np.array([0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5)])  # 90 degrees about z: x becomes y


def reading(*deflection, pressed=(), engaged=False):
    return TeleopReading(np.array(deflection or [0.0] * 6), frozenset(pressed), engaged, True)


def test_a_full_deflection_drives_at_its_speed():
    """0.1 m/s for 0.1 s, in steps of 20 ms, ahead of an arm that stands: 0.01 m. Half the deflection: half of it."""
    for part in (1.0, 0.5):
        driving = Driving("base", (0.1, 0.5))
        driving.target(reading(), HERE, 10.0)
        for tick in range(1, 6):
            target = driving.target(reading(0, part, 0, 0, 0, 0), HERE, 10.0 + 0.02 * tick)
        np.testing.assert_allclose(target[:3], [0.4, 0.1 + 0.01 * part, 0.3], atol=1e-12)
        np.testing.assert_allclose(target[3:], HERE[3:], atol=1e-12)


def test_a_turn_is_about_the_axis_at_its_speed():
    """0.5 rad/s for 0.1 s about x: 0.05 rad, a quaternion of (sin 0.025, 0, 0, cos 0.025)."""
    driving = Driving("base", (0.1, 0.5))
    driving.target(reading(), HERE, 10.0)
    for tick in range(1, 6):
        target = driving.target(reading(0, 0, 0, 1.0, 0, 0), HERE, 10.0 + 0.02 * tick)
    np.testing.assert_allclose(target, [0.4, 0.1, 0.3, np.sin(0.025), 0, 0, np.cos(0.025)], atol=1e-9)


def test_an_arm_that_follows_goes_as_far_as_it_is_driven():
    """2 s at 0.1 m/s, the arm always where it was told to be: 0.2 m, the leash notwithstanding."""
    driving, at = Driving("base", (0.1, 0.5)), HERE
    driving.target(reading(), at, 10.0)
    for tick in range(1, 101):
        at = driving.target(reading(-1.0, 0, 0, 0, 0, 0), at, 10.0 + 0.02 * tick)
    np.testing.assert_allclose(at[:3], [0.2, 0.1, 0.3], atol=1e-9)


def test_a_target_is_never_further_ahead_than_the_leash():
    """An arm that is held back: 0.02 m and 0.1 rad of its pose, however long it is driven."""
    driving = Driving("base", (0.5, 2.0))
    for tick in range(100):
        target = driving.target(reading(1.0, 1.0, 0, 0, 0, 1.0), HERE, 10.0 + 0.02 * tick)
    assert np.linalg.norm(target[:3] - HERE[:3]) == pytest.approx(LEASH[0])
    assert 2 * np.arccos(target[6]) == pytest.approx(LEASH[1], abs=1e-6)
    np.testing.assert_allclose((target - HERE)[:2], LEASH[0] * np.sqrt(0.5))


def test_deflections_in_the_tools_frame():
    """The tcp is turned by 90 degrees about z: its x axis is the base's y axis."""
    driving, measured = Driving("tcp", (0.1, 0.5)), np.concatenate([HERE[:3], QUARTER_Z])
    driving.target(reading(), measured, 10.0)
    target = driving.target(reading(1.0, 0, 0, 0, 0, 0), measured, 10.1)
    np.testing.assert_allclose(target[:3], [0.4, 0.11, 0.3], atol=1e-12)
    driving.target(reading(), measured, 20.0)
    turned = driving.target(reading(0, 0, 0, 1.0, 0, 0), measured, 20.1)
    about_y = np.array([0, np.sin(0.025), 0, np.cos(0.025)])
    (ax, ay, az, aw), (bx, by, bz, bw) = about_y, QUARTER_Z
    product = [aw * bx + ax * bw + ay * bz - az * by, aw * by - ax * bz + ay * bw + az * bx,
               aw * bz + ax * by - ay * bx + az * bw, aw * bw - ax * bx - ay * by - az * bz]  # fmt: skip
    np.testing.assert_allclose(turned[3:], product, atol=1e-9)


def test_the_first_touch_is_no_jump():
    """After a minute's rest, or none at all, a step is of a tick's time, 0.1 s at most: 0.01 m."""
    driving = Driving("base", (0.1, 0.5))
    np.testing.assert_allclose(driving.target(reading(1.0, 0, 0, 0, 0, 0), HERE, 10.0)[0], 0.41)
    assert driving.target(reading(), HERE, 70.0) is None
    target = driving.target(reading(1.0, 0, 0, 0, 0, 0), HERE, 70.02)
    np.testing.assert_allclose(target[0], 0.402)


def test_nobody_drives_until_somebody_touches():
    assert Driving("base", (0.1, 0.5)).target(reading(), HERE, 10.0) is None


def test_letting_go_holds_for_a_moment_and_then_is_silent():
    driving = Driving("base", (0.1, 0.5))
    driving.target(reading(1.0, 0, 0, 0, 0, 0), HERE, 10.0)
    held = driving.target(reading(), HERE, 10.0 + LETTING_GO_S - 0.01)
    np.testing.assert_allclose(held[:3], [0.41, 0.1, 0.3])
    assert driving.target(reading(), HERE, 10.0 + LETTING_GO_S + 0.01) is None
    elsewhere = np.array([0.6, 0.1, 0.3, 0.0, 0.0, 0.0, 1.0])
    begun = driving.target(reading(engaged=True), elsewhere, 20.0)
    np.testing.assert_allclose(begun, elsewhere, atol=1e-12)


class FakeDevice:
    frame = "base"

    def __init__(self):
        self.next, self.connected, self.closed, self.reads = reading(), False, False, 0

    def connect(self):
        self.connected = True

    def read(self):
        self.reads += 1
        return self.next

    def close(self):
        self.closed = True


class Room:
    def __init__(self, **values):
        self.bus, self.device = Bus(), FakeDevice()
        self.node = TeleopNode(self.bus.node("teleop"), checked(PARAMETERS, values), self.device)
        self.arm = self.bus.node("arm").publisher("current_pose", POSE, SENSOR_DATA)

    def tick(self, *given, **kind):
        self.device.next = reading(*given, **kind)
        self.node.tick()

    def heard(self, topic):
        return self.bus.heard[topic]


@pytest.mark.parametrize(("frame", "told"), [("base", "link0"), ("tcp", "tcp")])
def test_it_tells_what_the_device_does(frame, told):
    room = Room(frame=frame, base_frame="link0")
    assert room.device.connected
    room.tick(0.5, 0, 0, 0, 0, -0.25, pressed={"success"}, engaged=True)
    (moved,), (joy,) = room.heard("/teleop/twist"), room.heard("/teleop/joy")
    assert ros.twist_of(moved.twist).tolist() == [0.5, 0, 0, 0, 0, -0.25]
    assert moved.header.frame_id == joy.header.frame_id == told
    assert ros.seconds(moved.header.stamp) == 1000.0
    np.testing.assert_array_equal(joy.axes, [0.5, 0, 0, 0, 0, -0.25])
    assert np.flatnonzero(joy.buttons).tolist() == [3, 10]  # Y and the right shoulder
    assert "/target_pose" not in room.bus.senders


def test_what_it_tells_another_hand_hears(monkeypatch):
    """From a device here to a `Ros2Hand` there, over the topics' default names."""
    room = Room()
    monkeypatch.setattr(hands, "open_node", lambda name, arguments, transport: room.bus.node(name, arguments))
    hand = Ros2Hand()
    hand.open()
    room.tick(0.5, 0, 0, 0, -1.0, 0, pressed={"gripper", "stop"})
    room.tick(0.5, 0, 0, 0, -1.0, 0, engaged=True)
    heard = hand.poll()
    assert heard.deflection == (0.5, 0, 0, 0, -1.0, 0)
    assert heard.held == {"gripper", "stop", "engage"}


def test_it_drives_an_arm_that_says_where_it_is():
    room = Room(drive=True, base_frame="link0", linear_speed=0.1)
    room.tick(1.0, 0, 0, 0, 0, 0)
    assert room.heard("/target_pose") == []  # nobody knows where the arm is
    room.arm.publish(ros.message(POSE, pose=ros.pose(HERE)))
    room.tick(1.0, 0, 0, 0, 0, 0)
    (target,) = room.heard("/target_pose")
    assert (target.header.frame_id, ros.seconds(target.header.stamp)) == ("link0", 1000.0)
    ahead = ros.pose_of(target.pose) - HERE
    assert 0.0 < ahead[0] <= 0.1 * 0.1 + 1e-9
    np.testing.assert_allclose(ahead[1:], 0.0, atol=1e-12)


def test_untouched_it_sends_no_targets():
    room = Room(drive=True)
    room.arm.publish(ros.message(POSE, pose=ros.pose(HERE)))
    room.tick()
    assert room.heard("/target_pose") == []


def test_the_gripper_is_opened_and_closed():
    room = Room(drive=True, gripper_opening=0.07)
    room.arm.publish(ros.message(POSE, pose=ros.pose(HERE)))
    for pressed in ({"gripper"}, (), {"gripper"}, {"success"}):
        room.tick(pressed=pressed)
    assert [one.data.tolist() for one in room.heard("/gripper/command")] == [[0.0], [0.07]]


def test_it_runs_until_it_is_ended():
    room, ended = Room(rate_hz=500.0), threading.Event()
    publish = room.node._twist.publish

    def publish_and_end(content):
        publish(content)
        if room.device.reads == 3:
            ended.set()

    room.node._twist.publish = publish_and_end
    room.node.run(ended)
    assert len(room.heard("/teleop/twist")) == 3
    assert room.device.closed


@pytest.mark.parametrize("values", [{"device": "mouse"}, {"frame": "world"}, {"rate_hz": 1.0}])
def test_what_is_asked_for_wrongly_is_said(values):
    with pytest.raises(ConfigError):
        TeleopNode(Bus().node(), checked(PARAMETERS, values))


def test_a_device_that_is_not_there_is_said():
    with pytest.raises(DeviceConnectionError, match="not there"):
        TeleopNode(Bus().node(), checked(PARAMETERS, {"device": "tests.drivers.ros2.test_teleop_node:Absent"}))


class Absent:
    name, controls = "absent", {}

    def open(self):
        raise DeviceConnectionError("not there")


def test_targets_are_for_an_arm_of_ours():
    """What arm_node subscribes with: the newest one, in its base frame."""
    room = Room(drive=True)
    (sender,) = room.bus.node("arm_node").publishers("target_pose")
    assert (sender.kind, sender.qos) == (POSE, NEWEST)
