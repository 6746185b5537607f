"""Devices in a person's hand: a real terminal (pty), a real SDL gamepad (virtual), and what every device is given."""

import ctypes
import os
import pty
import time
from pathlib import Path

import numpy as np
import pytest

from drivers.teleop import DEVICES, Raw, Shape, TeleopDevice, open_teleop
from drivers.teleop.keyboard import TerminalKeyboard
from robot_rl.errors import ConfigError, DeviceConnectionError, DeviceFaultError

STRAIGHT = Shape(dead_zone=0.0, expo=1.0, rate_per_s=1e6)


class Fake:
    """A source that a test moves, unplugs and plugs in."""

    name = "fake"
    controls = {}  # noqa: RUF012

    def __init__(self):
        self.raw, self.there, self.opened = Raw(), True, 0

    def open(self):
        if not self.there:
            raise DeviceConnectionError("not there")
        self.opened += 1

    def poll(self):
        if not self.there:
            raise DeviceFaultError("unplugged")
        return self.raw

    def close(self):
        pass


def until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr("drivers.teleop.device.RETRY_S", 0.02)
    source, said = Fake(), []
    device = TeleopDevice(source, shape=STRAIGHT, on_change=said.append)
    device.connect()
    yield source, device, said
    device.close()


def test_a_deflection_arrives_as_it_is(fake):
    source, device, _ = fake
    source.raw = Raw((0.5, 0.0, 0.0, 0.0, 0.0, -1.0))
    until(lambda: device.read().touched)
    reading = device.read()
    np.testing.assert_allclose(reading.deflection, [0.5, 0, 0, 0, 0, -1.0])
    assert reading.connected
    assert not reading.engaged


def test_a_press_is_told_once_however_long_it_is_held(fake):
    source, device, _ = fake
    source.raw = Raw(held=frozenset({"success", "engage"}))
    presses = []
    until(lambda: presses.append(device.read().pressed) or frozenset({"success"}) in presses)
    for _ in range(20):
        time.sleep(0.005)
        assert device.read().pressed == frozenset()
        assert device.read().engaged
    source.raw = Raw()
    time.sleep(0.05)
    source.raw = Raw(held=frozenset({"success"}))
    until(lambda: "success" in device.read().pressed)


def test_unplugged_it_is_not_touched_and_plugged_in_again_it_is_back(fake):
    source, device, said = fake
    source.raw = Raw((1.0,) * 6, frozenset({"engage"}))
    until(lambda: device.read().touched)
    source.there = False
    until(lambda: not device.read().connected)
    assert not device.read().touched
    assert "fake is gone (unplugged)" in said[0]
    source.there = True
    until(lambda: device.read().touched)
    assert said[1] == "fake is back."


def test_a_device_that_is_not_there_is_said_at_once():
    source = Fake()
    source.there = False
    with pytest.raises(DeviceConnectionError, match="not there"):
        TeleopDevice(source).connect()


def test_below_the_dead_zone_is_nothing_and_above_it_begins_from_zero():
    """Dead zone 0.2: 0.2 is 0, 0.6 is (0.6 - 0.2) / 0.8 = 0.5, and with exponent 2 its square (by hand)."""
    raw = np.array([0.2, 0.6, -0.6, 1.0, -1.0, 0.1])
    shaped = Shape(dead_zone=0.2, expo=2.0, rate_per_s=1e6).of(raw, np.zeros(6), 0.1, turn=False)
    np.testing.assert_allclose(shaped, [0, 0.25, -0.25, 1.0, -1.0, 0], atol=1e-12)


def test_the_rate_is_bounded_upwards_and_letting_go_is_at_once():
    shape = Shape(dead_zone=0.0, expo=1.0, rate_per_s=2.0)
    full, none = np.ones(6), np.zeros(6)
    np.testing.assert_allclose(shape.of(full, none, 0.1, turn=False), 0.2 * full)
    np.testing.assert_allclose(shape.of(none, full, 0.1, turn=False), none)
    np.testing.assert_allclose(shape.of(-full, full, 0.1, turn=False), 0.8 * full)


def test_a_person_who_faces_the_robot_pushes_towards_it():
    raw = np.array([1.0, 0, 0, 0.5, 0, 0])
    turned = Shape(dead_zone=0.0, expo=1.0, rate_per_s=1e6, yaw_deg=180.0).of(raw, np.zeros(6), 1.0, turn=True)
    np.testing.assert_allclose(turned, [-1.0, 0, 0, -0.5, 0, 0], atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("mouse", {}), "Known: spacemouse, gamepad, keyboard"),
        (("no.such.module:Thing", {}), "no.such.module"),
        (("gamepad", {"frame": "world"}), "tcp or base"),
        (("gamepad", {"dead_zone": 2.0}), "dead_zone is 2.0"),
        (("gamepad", {"options": {"wheels": 4}}), "wheels"),
        (("gamepad", {"speed": 4.0}), "speed"),
    ],
)
def test_what_is_asked_for_wrongly_is_said(arguments, match):
    device, options = arguments
    with pytest.raises(ConfigError, match=match):
        open_teleop(device, **options)


def test_every_device_tells_its_controls(tmp_path):
    (tmp_path / "left.yaml").write_text("arm: {driver: twin}")
    for name in DEVICES:
        options = {"cell": str(tmp_path / "left.yaml")} if name == "leader" else None
        assert open_teleop(name, options=options).source.controls


@pytest.fixture
def terminal():
    """A keyboard on a pseudo-terminal; type by writing to the other end."""
    other, own = pty.openpty()
    device = TeleopDevice(TerminalKeyboard(own), shape=STRAIGHT)
    device.connect()
    yield other, device
    device.close()
    os.close(other)
    os.close(own)


def test_a_key_moves_for_a_moment(terminal):
    keys, device = terminal
    os.write(keys, b"w")
    until(lambda: device.read().deflection[0] == 1.0)
    until(lambda: not device.read().touched)
    os.write(keys, b"Dj")
    until(lambda: device.read().deflection.tolist() == [0, -1.0, 0, -1.0, 0, 0])


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (b" ", "gripper"),
        (b"\n", "success"),
        (b"\x7f", "failure"),
        (b"z", "rerecord"),
        (b"P", "pause"),
        (b"\x1b", "stop"),
    ],
)
def test_a_key_says(terminal, typed, said):
    keys, device = terminal
    os.write(keys, typed)
    until(lambda: said in device.read().pressed)


def test_an_arrow_key_is_no_escape(terminal):
    keys, device = terminal
    os.write(keys, b"\x1b[A")
    time.sleep(0.1)
    assert device.read().pressed == frozenset()


def test_no_terminal_is_said(tmp_path):
    with (tmp_path / "file").open("w") as file, pytest.raises(DeviceConnectionError, match="--teleop page"):
        TeleopDevice(TerminalKeyboard(file.fileno())).connect()


@pytest.fixture
def virtual_pad(monkeypatch):
    """SDL's own virtual joystick in this process, as pygame sees a real one."""
    pygame = pytest.importorskip("pygame", reason="pip install 'robot-rl[teleop]'")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    pygame.display.init()
    pygame.joystick.init()
    (library,) = (Path(pygame.__file__).parents[1] / "pygame.libs").glob("libSDL2-2*")
    sdl = ctypes.CDLL(str(library))
    sdl.SDL_JoystickOpen.restype = ctypes.c_void_p
    index = sdl.SDL_JoystickAttachVirtual(1, 6, 15, 0)  # a game controller: axes, buttons, hats
    assert index >= 0
    handle = ctypes.c_void_p(sdl.SDL_JoystickOpen(index))
    yield sdl, handle, index
    if index < sdl.SDL_NumJoysticks():
        sdl.SDL_JoystickDetachVirtual(index)
    pygame.joystick.quit()
    pygame.display.quit()


LEFT_X, LEFT_Y, RIGHT_X, RIGHT_Y, LEFT_TRIGGER, RIGHT_TRIGGER = range(6)


def test_a_gamepad_moves_and_says(virtual_pad):
    sdl, handle, _ = virtual_pad
    for axis, value in ((LEFT_Y, -32768), (LEFT_X, 16384), (RIGHT_TRIGGER, 32767), (LEFT_TRIGGER, -32768)):
        sdl.SDL_JoystickSetVirtualAxis(handle, axis, value)
    sdl.SDL_JoystickSetVirtualButton(handle, 3, 1)  # Y
    device = open_teleop("gamepad", dead_zone=0.0, expo=1.0, rate_per_s=1e6)
    device.connect()
    try:
        until(lambda: "success" in device.read().pressed)
        deflection = device.read().deflection
        np.testing.assert_allclose(deflection[:3], [1.0, -0.5, 1.0], atol=0.01)
    finally:
        device.close()


def test_a_gamepad_switched_off_lets_go(virtual_pad):
    sdl, handle, index = virtual_pad
    sdl.SDL_JoystickSetVirtualAxis(handle, LEFT_Y, -32768)
    device = open_teleop("gamepad")
    device.connect()
    try:
        until(lambda: device.read().touched)
        sdl.SDL_JoystickDetachVirtual(index)
        until(lambda: not device.read().connected)
        assert not device.read().touched
    finally:
        device.close()


def test_without_a_gamepad_it_says_what_to_do():
    pytest.importorskip("pygame")
    with pytest.raises(DeviceConnectionError, match="SDL sees 0"):
        open_teleop("gamepad").connect()


class Hid:
    """Reports as the mouse sends them: one, three or six axes of little-endian int16 behind a number."""

    def __init__(self):
        self.reports, self.there = [], True

    def read(self, _size):
        if not self.there:
            raise OSError("no such device")
        return self.reports.pop(0) if self.reports else b""

    def close(self):
        pass

    def axes(self, channel, *values):
        self.reports.append(bytes([channel]) + b"".join(int(v).to_bytes(2, "little", signed=True) for v in values))

    def buttons(self, bits):
        self.reports.append(bytes([3, bits, 0]))


@pytest.fixture
def mouse(monkeypatch):
    """The vendor library's own device class, which unpacks the reports, on a mouse that is not there."""
    pyspacemouse = pytest.importorskip("pyspacemouse", reason="pip install 'robot-rl[teleop]'")
    from pyspacemouse.config_helpers import apply_axis_convention
    from pyspacemouse.device import SpaceMouseDevice
    from pyspacemouse.loader import get_device_specs

    hid = Hid()

    def opened(nonblocking, axis_convention):
        assert nonblocking
        device = SpaceMouseDevice(apply_axis_convention(get_device_specs()["SpaceMouseCompact"], axis_convention), hid)
        if not hid.there:
            raise RuntimeError("No connected or supported devices found.")
        return device

    monkeypatch.setattr("ctypes.util.find_library", lambda name: f"lib{name}.so")
    monkeypatch.setattr(pyspacemouse, "open", opened)
    return hid


def test_a_spacemouse_pushed_away_drives_forward(mouse):
    """HID: x to the right, y towards the person, z down (Usage Tables, 4.2); ours: forward, left, up; 350: full."""
    source = open_teleop("spacemouse").source
    source.open()
    mouse.axes(1, 35, 70, 0)
    mouse.axes(1, 175, -350, -350)
    mouse.axes(2, 0, 0, 350)
    np.testing.assert_allclose(source.poll().deflection, [1.0, -0.5, 1.0, 0, 0, -1.0], atol=1e-6)
    for bits, said in ((1, {"gripper"}), (2, {"success"}), (3, {"gripper", "success"}), (0, set())):
        mouse.buttons(bits)
        assert source.poll().held == said
    mouse.there = False
    with pytest.raises(DeviceFaultError, match="no such device"):
        source.poll()


def test_a_spacemouse_counts_as_at_rest_where_the_kernel_may_have_dropped_reports(mouse):
    """It keeps 63 (64 places, one empty, drivers/hid/hidraw.c): with that many the newest may be missing."""
    source = open_teleop("spacemouse").source
    source.open()
    for _ in range(62):
        mouse.axes(1, 0, -350, 0)
    assert source.poll().deflection[0] == 1.0
    for _ in range(63):
        mouse.axes(1, 0, -350, 0)
    assert source.poll() == Raw()
    assert source.poll() == Raw()
    mouse.axes(1, 0, -350, 0)
    assert source.poll().deflection[0] == 1.0


def test_a_spacemouse_that_is_not_there_or_not_allowed(mouse, monkeypatch):
    mouse.there = False
    with pytest.raises(DeviceConnectionError, match="70-spacemouse"):
        open_teleop("spacemouse").connect()
    monkeypatch.setattr("ctypes.util.find_library", lambda _: None)
    with pytest.raises(DeviceConnectionError, match="libhidapi-hidraw0"):
        open_teleop("spacemouse").connect()
