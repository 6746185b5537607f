"""An arm that leads: free where it stands, moved by a hand or by nobody, and what becomes of it when it fails."""

import os
import signal
import time

import numpy as np
import pytest

from drivers.cell import Cell, NoGripper, NoTracker
from drivers.emulators.plant import Plant
from drivers.interfaces import ArmState
from drivers.teleop import Clutch, Raw, Shape, TeleopDevice, TeleopReading, TeleopSet, open_teleop
from drivers.teleop.leader import POLL_S, Leader
from drivers.twin.devices import TwinClock
from robot_rl.errors import ConfigError, DeviceError, DeviceFaultError, LinkError
from robot_rl.geometry import quat_from_rotvec

pytestmark = pytest.mark.realtime

IDENTITY = np.array([0.0, 0, 0, 1])


def pose(*position, about_z=0.0):
    return np.concatenate([position, quat_from_rotvec(np.array([0.0, 0.0, about_z]))])


def polled(leader, seconds):
    """All polls in a time of the leader's."""
    return [leader.poll() for _ in range(round(seconds / POLL_S))]


# The clutch


def test_in_base_the_follower_goes_where_the_leader_goes():
    """Leader 2 cm along x; the follower's tool is turned by 90 deg about z: in its axes that is along -y (by hand)."""
    clutch = Clutch("base")
    follower = pose(0.5, 0.1, 0.2, about_z=np.pi / 2)
    np.testing.assert_allclose(clutch.to_go(pose(0.3, 0.0, 0.4), follower), np.zeros(6), atol=1e-12)
    led = clutch.to_go(pose(0.32, 0.0, 0.4, about_z=0.1), follower)
    np.testing.assert_allclose(led, [0.0, -0.02, 0.0, 0.0, 0.0, 0.1], atol=1e-12)


def test_in_tcp_what_the_leaders_tool_does_the_followers_tool_does():
    """The leader's tool, turned by 90 deg about z, goes 2 cm along its own x, which is y in its base."""
    clutch = Clutch("tcp")
    clutch.to_go(pose(0.3, 0.0, 0.4, about_z=np.pi / 2), pose(0.5, 0.1, 0.2))
    led = clutch.to_go(pose(0.3, 0.02, 0.4, about_z=np.pi / 2), pose(0.5, 0.1, 0.2))
    np.testing.assert_allclose(led, [0.02, 0, 0, 0, 0, 0], atol=1e-12)


def test_what_the_follower_has_gone_is_not_to_go_any_more_and_a_released_clutch_begins_anew():
    clutch = Clutch("base")
    clutch.to_go(pose(0, 0, 0), pose(1, 0, 0))
    np.testing.assert_allclose(clutch.to_go(pose(0, 0.03, 0), pose(1, 0.02, 0))[:3], [0, 0.01, 0], atol=1e-12)
    clutch.release()
    np.testing.assert_allclose(clutch.to_go(pose(0, 0.3, 0), pose(1, 0.02, 0)), np.zeros(6), atol=1e-12)
    clutch.release(pose(0, 0.3, 0))
    np.testing.assert_allclose(clutch.to_go(pose(0, 0.31, 0), pose(1, 0.5, 0))[:3], [0, 0.01, 0], atol=1e-12)


# Rest and motion


class FakeCell:
    """A cell whose arm is where a test puts it."""

    def __init__(self, gripper=None):
        self.time_s, self.pose = 0.0, pose(0.4, 0.0, 0.3)
        self.opened = 0.08
        gripper = NoGripper() if gripper is None else self
        self.cell = Cell(clock=self, arm=self, gripper=gripper, tracker=NoTracker())
        self.max_opening = 0.08

    def now(self):
        return self.time_s

    def wait_until(self, time_s):
        self.time_s = time_s

    def state(self):
        zeros = np.zeros(7)
        return ArmState(self.time_s, zeros, zeros, zeros, self.pose.copy(), np.zeros(6), np.zeros(6))

    def opening(self):
        return self.opened


@pytest.fixture
def leader(cell_file):
    return Leader(cell_file("arm: {driver: twin}"), scale=2.0)


def moved_at(leader, fake, speed, seconds):
    """Polls while the arm goes at `speed` [m/s] along y; in which of them it counted as moved."""
    engaged = []
    for _ in range(round(seconds / POLL_S)):
        fake.pose[1] += speed * POLL_S
        engaged.append("engage" in leader.poll().held)
    return engaged


def test_a_slow_hand_moves_it_and_drift_does_not(leader):
    """1 mm in half a second is the dead zone: 1.5 mm/s is drift, however long; 3 mm/s is a hand."""
    fake = FakeCell()
    leader.cell = fake.cell
    assert not any(moved_at(leader, fake, 0.0015, 30.0))
    assert all(moved_at(leader, fake, 0.003, 5.0)[50:])
    held_still = moved_at(leader, fake, 0.0, 1.0)
    assert held_still[0]
    assert not any(held_still[-45:]), "let go half a second after the last motion"


def test_its_position_is_scaled_and_its_rotation_is_not(leader):
    fake = FakeCell()
    fake.pose = pose(0.4, 0.1, 0.3, about_z=0.5)
    leader.cell = fake.cell
    np.testing.assert_allclose(leader.poll().pose, [0.8, 0.2, 0.6, *fake.pose[3:]])


def test_its_gripper_closes_and_opens_not_in_between(leader):
    fake = FakeCell(gripper=True)
    leader.cell = fake.cell
    seen = []
    for opening in (0.08, 0.04, 0.03, 0.04, 0.05):  # of 0.08: 40 % is 0.032, 60 % is 0.048
        fake.opened, fake.time_s = opening, fake.time_s + 1.0
        seen.append(leader.poll().closed)
    assert seen == [False, False, True, True, False]
    leader.cell = FakeCell().cell
    leader._forget()
    assert leader.poll().closed is None


@pytest.mark.parametrize("error", [LinkError("the driver process died"), None])
def test_a_state_that_is_none_is_a_device_that_has_gone(leader, monkeypatch, error):
    def state():
        if error is not None:
            raise error
        return ArmState(0.0, *np.zeros((3, 7)), np.full(7, np.nan), np.zeros(6), np.zeros(6))

    fake = FakeCell()
    monkeypatch.setattr(fake, "state", state)
    leader.cell = fake.cell
    with pytest.raises(DeviceFaultError, match="driver process died" if error else "not finite"):
        leader.poll()


# As a device


def test_where_the_person_stands_turns_a_leading_pose_too():
    turned = Shape(yaw_deg=180.0).turned(pose(0.4, 0.1, 0.3), turn=True)
    np.testing.assert_allclose(turned, [-0.4, -0.1, 0.3, 0, 0, 1, 0], atol=1e-12)
    np.testing.assert_array_equal(Shape(yaw_deg=180.0).turned(pose(0.4, 0.1, 0.3), turn=False), pose(0.4, 0.1, 0.3))


class Reads:
    frame = "base"

    def __init__(self, **given):
        self.reading = TeleopReading(np.zeros(6), frozenset(), engaged=False, connected=True, **given)

    def read(self):
        return self.reading


def test_beside_other_devices_its_pose_comes_through():
    reading = TeleopSet([Reads(), Reads(pose=pose(1, 2, 3), closed=True)]).read()
    np.testing.assert_array_equal(reading.pose, pose(1, 2, 3))
    assert reading.closed is True
    assert TeleopSet([Reads(), Reads()]).read().pose is None


def test_it_is_named_with_its_cell_file_and_options(cell_file):
    path = cell_file("arm: {driver: franka, host: 172.16.0.7}")
    device = open_teleop(f"leader:{path},scale=0.5,rest_s=0.3")
    assert (device.source._scale, device.source._rest_s) == (0.5, 0.3)
    assert device.addresses == {"172.16.0.7"}
    assert not open_teleop("keyboard").addresses


@pytest.mark.parametrize(
    ("named", "match"),
    [
        ("leader", "name its cell file"),
        ("leader:nowhere.yaml", "no cell file nowhere.yaml"),
        ("leader:{},scale=0", "scale 0"),
        ("leader:{},reach=far", "reach"),
        ("mouse:left.yaml,scale=1", "mouse:left.yaml cannot be had"),
    ],
)
def test_what_is_asked_for_wrongly_is_said(cell_file, named, match):
    with pytest.raises(ConfigError, match=match):
        open_teleop(named.format(cell_file("arm: {driver: twin}")))


# Arms


def push(twin, force_y):
    twin.data.xfrc_applied[twin.model.body("tool/hand").id, 1] = force_y


def test_a_twin_is_free_where_it_stands_and_gives_way(cell_file, monkeypatch):
    """10 N for half a second against 30 N s/m: not beyond 10 / 30 x 0.5 = 17 cm, and well on the way (by hand)."""
    monkeypatch.setattr(TwinClock, "_pace", lambda *_: None)
    leader = Leader(cell_file("arm: {driver: twin}"))
    leader.open()
    try:
        start = leader.cell.arm.state().tcp_pose
        still = polled(leader, 1)
        np.testing.assert_allclose(still[-1].pose, start, atol=1e-4)
        assert not any(raw.held for raw in still)
        push(leader.cell.twin, 10.0)
        pushed = polled(leader, 0.5)
        push(leader.cell.twin, 0.0)
        assert 0.03 < pushed[-1].pose[1] - start[1] < 0.17
        assert pushed[-1].held == {"engage"}
        let_go = polled(leader, 3)[-1]
        assert let_go.held == frozenset()
        assert let_go.pose[1] > pushed[-1].pose[1], "nothing pulls it back"
    finally:
        leader.close()


def test_a_franka_is_freed_over_its_own_protocol(emulate_here, cell_file):
    """The vendor's client at an emulator in lockstep: connecting does not move it, a push does, a reflex lets go."""
    emulator, host = emulate_here("fr3", lockstep=True)
    twin = emulator.robot.plant.twin
    leader = Leader(cell_file("arm: {driver: franka, host: 172.16.0.2}"), rehearse=host)
    leader.open()
    try:
        before = twin.tcp_pose.copy()
        still = polled(leader, 0.5)
        np.testing.assert_allclose(still[-1].pose[:3], before[:3], atol=1e-3)
        assert not any(raw.held for raw in still)
        push(twin, 10.0)
        pushed = polled(leader, 0.5)
        push(twin, 0.0)
        assert 0.02 < pushed[-1].pose[1] - before[1] < 0.17
        assert pushed[-1].held == {"engage"}
        emulator.inject("reflex")
        with pytest.raises(DeviceError, match="reflex"):
            polled(leader, 2.0)
        leader.open()
        recovered = polled(leader, 0.3)
        np.testing.assert_allclose(recovered[-1].pose[:3], recovered[0].pose[:3], atol=2e-3)
    finally:
        leader.close()


def test_a_ur_is_freed_over_its_own_protocol(emulate_here, cell_file, monkeypatch):
    """Force mode without a wrench: it stands until its sensor feels a push, and stands again after it."""
    emulator, host = emulate_here("ur5e")
    twin = emulator.controller.plant.twin
    body = twin.model.body("tool/hand").id

    def felt(plant):
        return plant.twin.views.constraint[plant.twin.arm_dofs] + plant.jacobian.T @ twin.data.xfrc_applied[body]

    monkeypatch.setattr(Plant, "contact_torque_now", property(felt))  # a hand touches it without a contact
    leader = Leader(cell_file(f"arm: {{driver: ur, host: {host}, max_state_age_s: 5.0}}"))
    before = twin.tcp_pose.copy()
    leader.open()
    try:
        assert not any(raw.held for raw in polled(leader, 0.5))
        np.testing.assert_allclose(twin.tcp_pose, before, atol=1e-4)
        push(twin, 20.0)
        until(lambda: twin.tcp_pose[1] - before[1] > 0.02)
        assert leader.poll().held == {"engage"}
        push(twin, 0.0)
        until(lambda: not leader.poll().held)
    finally:
        leader.close()


@pytest.fixture
def emulate_here():
    """Starts emulators in this process, where a hand can push on them; gives emulator and address."""
    from tasks.commands import start_emulator

    started = []

    def start(arm, **options):
        pytest.importorskip(
            {"fr3": "pylibfranka", "ur5e": "rtde_control"}[arm], reason="pip install 'robot-rl[franka,ur]'"
        )
        host = f"127.9.{os.getpid() % 250}.{len(started) + 1}"
        started.append(start_emulator(arm, "reach", host=host, **options))
        return started[-1][0], host

    yield start
    for emulator, server in started:
        server.stop()
        emulator.stop()


THIRD_PARTY = """
arm:
  driver: tests.drivers.led_arm:LedArm
  max_state_age_s: 2.0
  options: {{log: {log}, fault: {fault}, still: {still}}}
faults_in_a_row: 2
"""


def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


@pytest.fixture
def third_party(cell_file, tmp_path, monkeypatch):
    """A device on an arm in a driver process, a file that makes that arm fail, and what was said of it."""
    monkeypatch.setattr("drivers.teleop.device.RETRY_S", 0.02)
    opened, said = [], []

    def start(still=False):
        fault = tmp_path / "fault"
        text = THIRD_PARTY.format(log=tmp_path / "log", fault=fault, still=str(still).lower())
        device = TeleopDevice(Leader(cell_file(text)), on_change=said.append)
        device.connect()
        opened.append(device)
        return device, fault, said

    yield start
    for device in opened:
        device.close()


def test_a_leader_that_dies_lets_go_and_comes_back_free(third_party, tmp_path):
    device, _, said = third_party()
    until(lambda: device.read().touched)
    os.kill(device.source.cell.arm._process.pid, signal.SIGKILL)
    until(lambda: not device.read().connected)
    reading = device.read()
    if not reading.connected:  # it may be back already
        assert reading.pose is None
        assert not reading.touched
    until(lambda: len(said) == 2)
    assert "leader is gone" in said[0]
    assert said[1] == "leader is back."
    until(lambda: device.read().touched)
    device.close()
    asked = (tmp_path / "log").read_text().split("\n")
    free, braked = "stiffness 0 damping 30", "stiffness 0 damping 89"
    assert asked[:2] == ["connect", free]
    assert asked[2:4] == ["connect", free], "the one that was killed; then a new process"
    assert asked[-3:-1] == [braked, "close"]


def test_a_fault_is_recovered_from_as_often_as_the_cell_file_says(third_party, tmp_path, caplog):
    device, fault, _ = third_party(still=True)
    fault.touch()
    until(lambda: "left alone" in caplog.text)
    assert not device.read().connected
    assert (tmp_path / "log").read_text().count("stiffness 0 damping 30") <= 1 + 2


def test_nothing_polled_is_nothing_open(leader):
    with pytest.raises(DeviceFaultError, match="not open"):
        leader.poll()
    leader.close()
    assert Raw().pose is None
