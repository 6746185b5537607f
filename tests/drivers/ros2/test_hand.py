"""A hand somewhere in ROS 2: Twist, Joy and words, and a hand that has gone silent."""

import threading

import numpy as np
import pytest

from drivers.ros2.messages import message, twist
from drivers.ros2.node import DEFAULT, NEWEST, SENSOR_DATA
from drivers.teleop import BUTTONS, open_teleop
from drivers.teleop import ros2 as hands
from drivers.teleop.ros2 import GAP, STALE_S, WORD, Ros2Hand
from robot_rl.errors import ConfigError, DeviceConnectionError
from tests.drivers.ros2.inprocess import Bus

STAMPED, TWIST = "geometry_msgs/msg/TwistStamped", "geometry_msgs/msg/Twist"
JOY, STRING = "sensor_msgs/msg/Joy", "std_msgs/msg/String"
QUIET = (0.0,) * 6


class Room:
    def __init__(self, monkeypatch, prefix="/", **options):
        self.bus, self.now_s = Bus(), 100.0
        monkeypatch.setattr(hands, "open_node", lambda name, arguments, transport: self.bus.node(name, arguments))
        monkeypatch.setattr(hands.time, "monotonic", lambda: self.now_s)
        self.person, self.prefix = self.bus.node("person"), prefix
        self.hand = Ros2Hand(**options)
        self.hand.open()
        self.joys = self.person.publisher(f"{prefix}teleop/joy", JOY, NEWEST)

    def move(self, *values, kind=STAMPED):
        content = twist(np.array(values, np.float64))
        content = message(STAMPED, twist=content) if kind == STAMPED else content
        self.person.publisher(f"{self.prefix}teleop/twist", kind, SENSOR_DATA).publish(content)

    def hold(self, *down):
        self.joys.publish(message(JOY, buttons=np.array([i in down for i in range(12)], np.int32)))

    def say(self, word):
        self.person.publisher(f"{self.prefix}teleop/say", STRING, DEFAULT).publish(message(STRING, data=word))


@pytest.fixture
def room(monkeypatch):
    return Room(monkeypatch)


def test_a_twist_moves_until_it_is_silent(room):
    assert room.hand.poll().deflection == QUIET
    room.move(0.5, 0, 0, 0, 0, -1.0)
    assert room.hand.poll().deflection == (0.5, 0, 0, 0, 0, -1.0)
    room.now_s += STALE_S - 0.01
    assert room.hand.poll().deflection[0] == 0.5
    room.now_s += 0.02
    assert room.hand.poll().deflection == QUIET
    room.move(0, 0.25, 0, 0, 0, 0)
    assert room.hand.poll().deflection[1] == 0.25


def test_deflections_are_at_most_full(room):
    room.move(3.0, -3.0, 0, 0, 0, 0)
    assert room.hand.poll().deflection[:2] == (1.0, -1.0)


def test_numbers_that_are_none_are_not_heard(room):
    room.move(0.5, 0, 0, 0, 0, 0)
    room.move(np.nan, 0, 0, 0, 0, 0)
    assert room.hand.poll().deflection[0] == 0.5


def test_a_spacenav_is_scaled_to_full(monkeypatch):
    """Its Twist is not stamped, and full at 0.68 and 0.5: half of each is 0.5 (by hand)."""
    room = Room(monkeypatch, stamped=False, full=(0.68, 0.5))
    room.move(0.34, 0, 0, 0, 0, 0.25, kind=TWIST)
    np.testing.assert_allclose(room.hand.poll().deflection, [0.5, 0, 0, 0, 0, 0.5])


# sensor_msgs/Joy of game_controller_node (ROS 2, joy's README): the index of each button
BUTTON = {"A": 0, "B": 1, "X": 2, "Y": 3, "BACK": 4, "GUIDE": 5, "START": 6, "RIGHTSHOULDER": 10}


@pytest.mark.parametrize(
    ("button", "means"),
    [
        ("A", "gripper"),
        ("B", "rerecord"),
        ("X", "failure"),
        ("Y", "success"),
        ("BACK", "stop"),
        ("START", "pause"),
        ("RIGHTSHOULDER", "engage"),
        ("GUIDE", None),
    ],
)
def test_a_button_means(room, button, means):
    room.hold(BUTTON[button])
    assert room.hand.poll().held == ({means} if means else set())
    room.hold()
    room.hand.poll()
    assert room.hand.poll().held == frozenset()


def test_every_word_has_a_button():
    assert set(hands.JOY_BUTTONS.values()) == {*BUTTONS, "engage"}


def test_a_press_shorter_than_a_poll_is_seen_once(room):
    room.hold(3)
    room.hold()
    assert room.hand.poll().held == {"success"}
    assert room.hand.poll().held == frozenset()


def test_what_is_held_stays_held_while_its_publisher_is_there(room):
    """joy tells of changes alone, where it is told to."""
    room.hold(10)
    room.now_s += 60.0
    assert room.hand.poll().held == {"engage"}
    room.person.close()
    assert room.hand.poll().held == frozenset()


def test_a_publisher_that_was_restarted_is_waited_for(room):
    room.hold(10)
    room.hand.poll()
    room.person.close()
    assert room.hand.poll().held == {"engage"}
    room.now_s += STALE_S + 0.01
    assert room.hand.poll().held == frozenset()


def test_a_word_is_held_down_and_let_go(room):
    """So that who looks at changes sees one press of each, though the same word comes twice."""
    room.say("success")
    room.say("success")
    held = [room.hand.poll().held for _ in range(2 * (WORD + GAP) + 1)]
    one = [{"success"}] * WORD + [set()] * GAP
    assert held == [*one, *one, set()]


def test_other_words_are_not_heard(room):
    for word in ("", "Success", "explode"):
        room.say(word)
    assert room.hand.poll().held == frozenset()


def test_words_and_buttons_are_heard_together(room):
    room.say("pause")
    room.hold(10)
    assert room.hand.poll().held == {"pause", "engage"}


def test_in_a_namespace(monkeypatch):
    room = Room(monkeypatch, "/left/", namespace="/left")
    room.move(0.5, 0, 0, 0, 0, 0)
    assert room.hand.poll().deflection[0] == 0.5


def test_without_buttons_and_words_none_are_listened_to(monkeypatch):
    room = Room(monkeypatch, joy="", say="")
    assert not room.person.subscribers("/teleop/joy")
    assert not room.person.subscribers("/teleop/say")


def test_a_hand_is_opened_once_and_closed(room):
    room.hand.open()
    assert len(room.person.subscribers("/teleop/joy")) == 1
    room.hand.close()
    room.hand.close()
    assert not room.person.subscribers("/teleop/joy")
    with pytest.raises(DeviceConnectionError, match="not open"):
        room.hand.poll()


@pytest.mark.parametrize("full", [(0.0, 1.0), (1.0, -1.0)])
def test_a_full_deflection_is_above_0(full):
    with pytest.raises(ConfigError, match="both are above 0"):
        Ros2Hand(full=full)


def test_as_a_device_a_word_is_one_press(monkeypatch):
    bus = Bus()
    monkeypatch.setattr(hands, "open_node", lambda name, arguments, transport: bus.node(name, arguments))
    device = open_teleop("ros2,joy=pad")
    device.connect()
    try:
        words = bus.node("person").publisher("/teleop/say", STRING)
        words.publish(message(STRING, data="success"))
        words.publish(message(STRING, data="success"))
        presses, pause = 0, threading.Event()
        while device.source._words or not presses:
            presses += "success" in device.read().pressed
            pause.wait(0.001)
        pause.wait(0.02)
        presses += "success" in device.read().pressed
        assert presses == 2
    finally:
        device.close()
    assert not bus.node("other").subscribers("/pad")
