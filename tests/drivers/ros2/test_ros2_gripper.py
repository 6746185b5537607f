"""A gripper in ROS 2: moved by a topic or an action, heard by a joint, and what is said when it is silent."""

import threading

import numpy as np
import pytest

from drivers import ros2_gripper
from drivers.ros2.actions import SUCCEEDED, ActionServer
from drivers.ros2.messages import message
from drivers.ros2.node import SENSOR_DATA
from drivers.ros2_gripper import Ros2Gripper
from robot_rl.errors import ConfigError, DeviceConnectionError, DeviceFaultError, StaleStateError
from tests.drivers.ros2.inprocess import Bus

JOINTS, FLOATS = "sensor_msgs/msg/JointState", "std_msgs/msg/Float64MultiArray"
ACTION = "control_msgs/action/GripperCommand"


class Hand:
    """What is on the other side: it tells its joints as soon as somebody listens."""

    def __init__(self, monkeypatch, names=("gripper",), positions=(0.04,)):
        self.bus = Bus()
        self.node = self.bus.node("hand")
        self.tell = self.node.publisher("/gripper/joint_states", JOINTS, SENSOR_DATA)
        self.state = (list(names), np.array(positions, np.float64))
        self.clock = 0.0
        monkeypatch.setattr(ros2_gripper, "open_node", self.open_node)

    def open_node(self, name, arguments, transport):
        self.client = self.bus.node(name, arguments)
        listen = self.client.subscribe

        def subscribe(*given):
            listen(*given)
            self.say()

        self.client.subscribe = subscribe
        return self.client

    def say(self):
        names, positions = self.state
        self.tell.publish(message(JOINTS, name=names, position=positions))


@pytest.fixture
def hand(monkeypatch):
    return Hand(monkeypatch)


def commands(hand, topic="/gripper/command"):
    return [list(one.data) for one in hand.bus.heard[topic]]


def test_it_is_moved_by_a_topic_and_heard(hand):
    gripper = Ros2Gripper()
    assert gripper.opening() == 0.04
    gripper.command(0.03)
    gripper.command(9.0)
    gripper.command(-1.0)
    assert commands(hand) == [[0.03], [0.08], [0.0]]
    gripper.close()
    assert hand.client.closed


def test_a_finger_moves_half_the_opening(monkeypatch):
    """Fingers at 0.03 are 0.06 apart; an opening of 0.05 is a finger's 0.025."""
    hand = Hand(monkeypatch, ("arm", "finger"), (1.0, 0.03))
    gripper = Ros2Gripper(joint="finger", opening_per_position=2.0)
    assert gripper.opening() == pytest.approx(0.06)
    gripper.command(0.05)
    assert commands(hand) == [[0.025]]


def test_in_a_namespace(hand):
    hand.tell = hand.node.publisher("/left/gripper/joint_states", JOINTS, SENSOR_DATA)
    gripper = Ros2Gripper(namespace="/left")
    gripper.command(0.01)
    assert commands(hand, "/left/gripper/command") == [[0.01]]


@pytest.mark.parametrize("options", [{"topic": ""}, {"opening_per_position": 0.0}])
def test_neither_topic_nor_action_is_said(hand, options):
    with pytest.raises(ConfigError, match=r"gripper\.options"):
        Ros2Gripper(**options)


def test_a_joint_that_is_not_there_is_said(hand):
    with pytest.raises(DeviceConnectionError, match=r"it reports gripper, no 'finger' \(gripper.options.joint\)"):
        Ros2Gripper(joint="finger", connect_s=0.0)
    assert hand.client.closed


def test_no_position_is_no_state(monkeypatch):
    Hand(monkeypatch, ("gripper",), ())
    with pytest.raises(DeviceConnectionError, match="does not come"):
        Ros2Gripper(connect_s=0.0)


def test_a_silent_topic_is_said(hand):
    with pytest.raises(DeviceConnectionError, match=r"Nobody publishes there\. Is .* Seen: /gripper/joint_states"):
        Ros2Gripper(state="hand/joint_states", connect_s=0.0)


def test_a_state_that_no_longer_comes_is_stale(hand, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(ros2_gripper.time, "monotonic", lambda: now[0])
    gripper = Ros2Gripper(max_age_s=1.0)
    now[0] = 100.9
    assert gripper.opening() == 0.04
    now[0] = 101.5
    with pytest.raises(StaleStateError, match=r"1\.50 s old, limit 1 s.*/hand is there and sends nothing") as caught:
        gripper.opening()
    assert caught.value.age_s == pytest.approx(1.5)
    hand.say()
    assert gripper.opening() == 0.04


class Fingers:
    """Serves the action; notes what is asked, and may be broken."""

    def __init__(self, hand):
        self.asked, self.changed = [], threading.Condition()
        ActionServer(hand.node, "grip", ACTION, self.execute)
        self.serve = hand.bus.services

    def execute(self, goal, _cancelled):
        with self.changed:
            self.asked.append((goal.command.position, goal.command.max_effort))
            self.changed.notify_all()
        return SUCCEEDED, message(f"{ACTION}_Result")

    def until(self, count):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.asked) >= count, 30.0)


def test_an_action_is_asked_once_for_the_same(hand):
    fingers = Fingers(hand)
    gripper = Ros2Gripper(action="grip", opening_per_position=2.0, max_effort=12.0)
    for opening in (0.04, 0.0401, 0.039):  # all within 2 mm of the first
        gripper.command(opening)
    fingers.until(1)
    gripper.command(0.02)
    fingers.until(2)
    gripper.close()
    assert fingers.asked == [(0.02, 12.0), (0.01, 12.0)]
    assert hand.bus.heard["/gripper/command"] == []


def test_an_action_that_fails_is_told_once_and_can_be_asked_again(hand):
    gripper = Ros2Gripper(action="grip")
    gripper.command(0.03)  # nobody serves it
    pause = threading.Event()
    while gripper._failure is None:
        pause.wait(0.002)
    with pytest.raises(DeviceFaultError, match="did not do what it was told: Nobody offers"):
        gripper.opening()
    assert gripper.opening() == 0.04
    fingers = Fingers(hand)
    gripper.command(0.03)
    fingers.until(1)
    gripper.close()
