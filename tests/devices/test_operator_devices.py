"""A SpaceMouse and a gamepad as a real kernel shows them, read through the vendors' libraries: `make test-devices`."""

import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from drivers.teleop import open_teleop
from drivers.teleop.spacemouse import PERMISSION
from robot_rl.errors import DeviceConnectionError
from tests.devices.virtual import Gamepad, SpaceMouse

pytestmark = pytest.mark.devices

REST = (0, 0, 0, 0, 0, 0)
STRAIGHT = {"dead_zone": 0.0, "expo": 1.0, "rate_per_s": 1e6}
NOBODY = 65534


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def succeeds(action):
    try:
        action()
    except DeviceConnectionError:
        return False
    return True


@pytest.fixture
def plug_in():
    """Plugs in virtual devices; those that are left at the end are unplugged."""
    plugged = []

    def new(kind):
        plugged.append(kind())
        return plugged[-1]

    yield new
    for device in plugged:
        device.unplug()


@pytest.fixture
def connect():
    """Connects our drivers, once the kernel and udev have got so far."""
    connected = []

    def new(name, **options):
        device = open_teleop(name, options=options, **STRAIGHT)
        until(lambda: succeeds(device.connect))
        connected.append(device)
        return device

    yield new
    for device in connected:
        device.close()


@pytest.fixture
def read():
    """Connects a driver without the thread that reads it: the test says when."""
    opened = []

    def new(name, **options):
        source = open_teleop(name, options=options).source
        until(lambda: succeeds(source.open))
        opened.append(source)
        return lambda: source.poll().deflection

    yield new
    for source in opened:
        source.close()


def deflected(device, expected):
    return lambda: np.allclose(device.read().deflection, expected, atol=0.01)


def test_the_knob_of_a_spacemouse_drives_where_it_is_moved(plug_in, connect):
    """HID: x to the right, y towards the person, z down (Usage Tables, 4.2); ours: forward, left, up."""
    mouse = plug_in(SpaceMouse)
    device = connect("spacemouse")
    for motion, counts, expected in (
        (mouse.push, (0, -350, 0), (1, 0, 0, 0, 0, 0)),  # away
        (mouse.push, (-350, 0, 0), (0, 1, 0, 0, 0, 0)),  # to the left
        (mouse.push, (0, 0, -350), (0, 0, 1, 0, 0, 0)),  # lifted
        (mouse.twist, (0, -350, 0), (0, 0, 0, 1, 0, 0)),  # its right side down
        (mouse.twist, (-350, 0, 0), (0, 0, 0, 0, 1, 0)),  # its far side down
        (mouse.twist, (0, 0, -175), (0, 0, 0, 0, 0, 0.5)),  # counter-clockwise from above, half
    ):
        motion(*counts)
        until(deflected(device, expected))
        motion(0, 0, 0)
        until(deflected(device, REST))


def test_the_sticks_of_a_gamepad_drive_where_they_are_moved(plug_in, connect):
    pad = plug_in(Gamepad)
    device = connect("gamepad")
    for axes, expected in (
        ({"left_y": -1}, (1, 0, 0, 0, 0, 0)),
        ({"left_x": -0.5}, (0, 0.5, 0, 0, 0, 0)),
        ({"right_trigger": 1}, (0, 0, 1, 0, 0, 0)),
        ({"left_trigger": 1}, (0, 0, -1, 0, 0, 0)),
        ({"cross_x": 1}, (0, 0, 0, 1, 0, 0)),
        ({"right_y": -1}, (0, 0, 0, 0, 1, 0)),
        ({"right_x": -1}, (0, 0, 0, 0, 0, 1)),
    ):
        pad.move(**axes)
        until(deflected(device, expected))
        pad.move(**dict.fromkeys(axes, 0))
        until(deflected(device, REST))


@pytest.mark.parametrize(
    ("kind", "name", "meanings"),
    [
        (SpaceMouse, "spacemouse", {"LEFT": "gripper", "RIGHT": "success"}),
        (
            Gamepad, "gamepad",
            {"A": "gripper", "Y": "success", "X": "failure", "B": "rerecord", "START": "pause", "BACK": "stop"},
        ),
    ],
)  # fmt: skip
def test_a_button_says_one_thing_once(plug_in, connect, kind, name, meanings):
    plugged, said = plug_in(kind), []
    device = connect(name)
    for button, meaning in meanings.items():
        plugged.hold(button)
        until(lambda meaning=meaning: said.extend(device.read().pressed) or meaning in said)
    plugged.hold()
    assert said == list(meanings.values())


def test_a_gamepad_is_engaged_while_its_shoulder_button_is_held(plug_in, connect):
    pad = plug_in(Gamepad)
    device = connect("gamepad")
    pad.hold("RB")
    until(lambda: device.read().engaged)
    pad.hold()
    until(lambda: not device.read().engaged)


@pytest.mark.parametrize(("kind", "name"), [(SpaceMouse, "spacemouse"), (Gamepad, "gamepad")])
def test_unplugged_it_lets_go_and_plugged_in_again_it_drives(plug_in, connect, caplog, kind, name):
    first = plug_in(kind)
    device = connect(name)
    first.push(0, -350, 0)
    until(deflected(device, (1, 0, 0, 0, 0, 0)))
    first.unplug()
    until(lambda: not device.read().connected)
    assert not device.read().touched
    second = plug_in(kind)
    until(lambda: device.read().connected)
    assert not device.read().touched
    second.push(-350, 0, 0)
    until(deflected(device, (0, 1, 0, 0, 0, 0)))
    assert [" is gone " in message for message in caplog.messages] == [True, False]


def test_a_spacemouse_at_a_path_is_found_there_however_soon_it_is_back(plug_in, connect):
    first = plug_in(SpaceMouse)
    device = connect("spacemouse", path="/dev/hidraw0")
    first.unplug()
    until(lambda: not device.read().connected)
    second = plug_in(SpaceMouse)
    until(lambda: device.read().connected)
    second.push(0, -350, 0)
    until(deflected(device, (1, 0, 0, 0, 0, 0)))


@pytest.mark.parametrize(("kind", "name"), [(SpaceMouse, "spacemouse"), (Gamepad, "gamepad")])
def test_what_was_done_last_is_read_at_once(plug_in, read, kind, name):
    """At once means at the first reading after it, whether one report waits or forty."""
    plugged = plug_in(kind)
    poll = read(name)
    for counts in range(-350, 351, 7):
        plugged.push(0, counts, 0)
        assert poll()[0] == pytest.approx(-counts / 350, abs=0.01)
    for counts in range(40):
        plugged.push(0, counts, 0)
    assert poll()[0] == pytest.approx(-39 / 350, abs=0.01)


@pytest.mark.parametrize(("kind", "name"), [(SpaceMouse, "spacemouse"), (Gamepad, "gamepad")])
def test_let_go_of_while_nobody_read_it_is_at_rest(plug_in, read, kind, name):
    """More reports than the kernel keeps: it drops the newest, and the one that says "released" is among them."""
    plugged = plug_in(kind)
    poll = read(name)
    plugged.push(0, -350, 0)
    assert poll()[0] == pytest.approx(1.0, abs=0.01)
    for counts in range(200):
        plugged.push(0, counts - 350, 0)
    plugged.push(0, 0, 0)
    assert poll() == pytest.approx(REST)
    assert poll() == pytest.approx(REST)
    plugged.push(-350, 0, 0)
    assert poll() == pytest.approx((0, 1, 0, 0, 0, 0), abs=0.01)


def test_a_spacemouse_is_no_gamepad_although_sdl_sees_it(plug_in, connect):
    mouse, pad = plug_in(SpaceMouse), plug_in(Gamepad)
    by_mouse, by_pad = connect("spacemouse"), connect("gamepad")
    mouse.push(0, -350, 0)
    until(deflected(by_mouse, (1, 0, 0, 0, 0, 0)))
    pad.push(-350, 0, 0)
    until(deflected(by_pad, (0, 1, 0, 0, 0, 0)))
    assert deflected(by_mouse, (1, 0, 0, 0, 0, 0))()


def test_who_may_not_read_a_spacemouse_is_told_a_rule_that_udev_takes(plug_in, read):
    first = plug_in(SpaceMouse)
    read("spacemouse", path="/dev/hidraw0")
    os.seteuid(NOBODY)
    try:
        with pytest.raises(DeviceConnectionError, match="70-spacemouse"):
            open_teleop("spacemouse").connect()
    finally:
        os.seteuid(0)
    first.unplug()
    rules = Path("/run/udev/rules.d")
    rules.mkdir()
    (rules / "70-spacemouse.rules").write_text(PERMISSION.splitlines()[1])
    subprocess.run(["udevadm", "control", "--reload"], check=True)
    plug_in(SpaceMouse)
    node = Path("/dev/hidraw1")  # the first is still open, though gone
    until(node.exists)
    until(lambda: (node.stat().st_mode & 0o777, node.group()) == (0o660, "input"))
