"""UrArm through the real ur_rtde against the emulated controller, which moves the twin."""

import os
import socket
import sys
import time

import numpy as np
import pytest

from drivers.emulators.plant import Plant
from drivers.emulators.rtde import RtdeEmulator
from drivers.emulators.rtde_controller import ControllerOptions
from drivers.emulators.rtde_process import RtdeProcess
from drivers.impedance import ImpedanceGains
from drivers.safety_limits import SafetyLimits
from drivers.ur import UR5E_HOME, UrArm
from drivers.ur_client import UrClient, to_ur_pose
from drivers.ur_link import Dashboard, survey
from robot_rl.errors import (
    ConfigError,
    DeviceConnectionError,
    DeviceError,
    DeviceFaultError,
    DeviceTimeoutError,
    SafetyError,
    ShapeError,
)  # fmt: skip
from robot_rl.geometry import IDENTITY_POSE, matrix_from_quat

pytestmark = pytest.mark.realtime

pytest.importorskip("rtde_control", reason="ur_rtde is not installed: pip install 'robot-rl[ur]'")

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
HOST, OTHER_HOST, EMPTY_HOST = (f"127.21.{WORKER}.{n}" for n in (1, 2, 3))
GAINS = ImpedanceGains(stiffness=(1000,) * 3, damping=(60,) * 3, translational_clip=(0.02,) * 3)
WIDE = SafetyLimits(position_low=(0.2, -0.4, -0.2), position_high=(0.7, 0.4, 0.6), max_speed=(0.25, 1.0))
HOME, FIRST = np.array(UR5E_HOME), np.eye(6)[0]


@pytest.fixture(scope="module")
def emulator():
    with RtdeProcess(HOST, "--speed", "4") as process:
        yield process


@pytest.fixture(scope="module")
def connection(emulator):
    arm = UrArm(HOST, timeout_s=2.0)  # a shared machine is slow when it likes
    arm.connect()
    yield arm
    arm.close()


@pytest.fixture
def arm(connection):
    """Controlled, near home, at rest."""
    connection.recover()
    connection.set_impedance(GAINS)
    connection.set_limits(WIDE)
    connection.tick()
    connection.move_to_joints(HOME, 0.2)
    while connection.moving:
        connection.tick()
    return connection


def run(arm, seconds):
    """Tick for so many seconds of the arm's own time; the states on the way."""
    end, states = arm.state().time_s + seconds, []
    while arm.state().time_s < end:
        arm.tick()
        states.append(arm.state())
    return states


def in_base(state, six):
    turn = matrix_from_quat(state.tcp_pose[3:])
    return np.concatenate([turn @ six[:3], turn @ six[3:]])


def fault(arm, kind=DeviceFaultError):
    """The error that ticking ends in."""
    with pytest.raises(kind) as caught:
        run(arm, 20.0)
    return caught.value


def test_state_is_the_plants(emulator, arm):
    run(arm, 0.3)
    state, truth = arm.state(), emulator.state()
    np.testing.assert_allclose(state.q, truth["q"], atol=1e-5)
    np.testing.assert_allclose(state.tcp_pose[:3], truth["tcp_pose"][:3], atol=1e-5)
    assert abs(state.tcp_pose[3:] @ truth["tcp_pose"][3:]) == pytest.approx(1.0, abs=1e-9)
    np.testing.assert_allclose(state.wrench_tcp, 0.0, atol=1e-6)
    assert state.q.shape == state.qd.shape == state.torque.shape == (6,)


def test_poses_are_turned_by_half_a_turn():
    """Our +x is the controller's -x; no rotation in ours is pi about z in the controller's."""
    pose = np.array([0.5, 0.1, 0.2, 0.0, 0.0, 0.0, 1.0])
    assert to_ur_pose(pose) == pytest.approx([-0.5, -0.1, 0.2, 0.0, 0.0, np.pi])


def test_reaches_a_target_and_holds_it(emulator, arm):
    target = arm.state().tcp_pose.copy()
    target[:3] += [0.08, 0.05, -0.06]
    arm.command(target)
    speeds = [np.linalg.norm(s.twist_tcp[:3]) for s in run(arm, 1.6)]
    assert max(speeds) < 0.25 * 1.05
    for state in run(arm, 0.3):
        assert np.linalg.norm(state.tcp_pose[:3] - target[:3]) < 0.003
    assert np.linalg.norm(np.array(emulator.state()["tcp_pose"])[:3] - target[:3]) < 0.003


def test_twist_points_along_the_motion(arm):
    target = arm.state().tcp_pose.copy()
    target[1] += 0.1
    arm.command(target)
    state = run(arm, 0.3)[-1]
    twist = in_base(state, state.twist_tcp)
    assert twist[1] > 0.03
    assert np.abs(twist[[0, 2]]).max() < 0.1 * twist[1]


def test_the_clip_bounds_the_force_on_the_table(emulator, arm):
    """A target 30 cm below the table: K x clip = 1000 N/m x 0.02 m = 20 N, pushed down (negative z in base)."""
    pose = arm.state().tcp_pose.copy()
    pose[2] = 0.03
    arm.move_to_pose(pose, 0.5)
    while arm.moving:
        arm.tick()
    pose[2] = -0.3
    arm.command(pose)
    states = run(arm, 1.5)
    force = in_base(states[-1], states[-1].wrench_tcp)
    assert force[2] == pytest.approx(-20.0, abs=0.5)
    assert emulator.state()["wrench_base"][2] == pytest.approx(-20.0, abs=0.5)
    settled = [np.linalg.norm(s.wrench_tcp[:3]) for s in states if s.time_s > states[-1].time_s - 0.5]
    assert max(settled) < 21.0
    assert max(np.linalg.norm(s.wrench_tcp[:3]) for s in states) < 80.0


def test_walls_keep_the_tcp_in_the_box(arm):
    start = arm.state().tcp_pose
    low, high = start[:3] - 0.03, start[:3] + 0.03
    arm.set_limits(SafetyLimits(position_low=tuple(low), position_high=tuple(high)))
    target = start.copy()
    target[0] += 0.3
    arm.command(target)
    assert max(s.tcp_pose[0] for s in run(arm, 0.8)) < high[0] + 0.005


def test_joint_motion_arrives_no_faster_than_its_limit(arm):
    """0.5 rad at most 1 rad/s: 1.875 x 0.5 s at least, however little is asked for; then it holds."""
    start, goal = arm.state(), HOME + 0.5 * FIRST
    arm.move_to_joints(goal, 0.1)
    while arm.moving:
        arm.tick()
    took = arm.state().time_s - start.time_s
    assert 1.875 * 0.5 <= took < 1.5
    run(arm, 0.2)
    np.testing.assert_allclose(arm.state().q, goal, atol=0.005)


def test_pose_motion_is_straight_and_arrives(arm):
    start = arm.state().tcp_pose
    goal = start.copy()
    goal[:3] += [0.0, 0.06, -0.08]
    way = goal[:3] - start[:3]
    arm.move_to_pose(goal, 1.0)
    while arm.moving:
        arm.tick()
        off = np.cross(arm.state().tcp_pose[:3] - start[:3], way / np.linalg.norm(way))
        assert np.linalg.norm(off) < 0.001
    np.testing.assert_allclose(arm.state().tcp_pose[:3], goal[:3], atol=0.002)


def test_a_motion_left_alone_waits_instead_of_leaping(arm):
    arm.recover()  # the controller's watchdog sleeps until the first tick
    arm.move_to_joints(HOME + 0.3 * FIRST, 0.5)
    time.sleep(0.8)  # at the emulator's speed more than the motion and its grace
    fastest = 0.0
    while arm.moving:
        arm.tick()
        fastest = max(fastest, float(np.abs(arm.state().qd).max()))
    np.testing.assert_allclose(arm.state().q, HOME + 0.3 * FIRST, atol=0.005)
    assert fastest < 1.6


def test_stop_holds_the_measured_pose(arm):
    target = arm.state().tcp_pose.copy()
    target[0] -= 0.1
    arm.command(target)
    run(arm, 0.3)
    arm.stop()
    held = arm.state().tcp_pose
    run(arm, 0.5)
    assert np.linalg.norm(arm.state().tcp_pose[:3] - held[:3]) < 0.015


def test_what_is_no_target_is_refused(arm):
    bad = arm.state().tcp_pose.copy()
    bad[0] = np.nan
    with pytest.raises(SafetyError, match="finite"):
        arm.command(bad)
    with pytest.raises(ShapeError):
        arm.move_to_joints(np.zeros(7), 1.0)


def test_a_setting_out_of_range_is_a_config_error(arm):
    with pytest.raises(ConfigError, match="servoJ"):
        arm._client.ask("servoJ", HOME.tolist(), 0.0, 0.0, 0.002, 5.0, 300.0)
    for options in ({"frequency_hz": 1000.0}, {"force_gain": 3.0}, {"force_damping": -1.0}):
        with pytest.raises(ConfigError, match="UrArm"):
            UrArm(HOST, **options)


def test_protective_stop_in_mid_motion_is_a_fault_and_is_recovered_from(emulator, arm):
    arm.move_to_joints(HOME + 0.8 * FIRST, 2.0)
    run(arm, 0.5)
    emulator.inject("protective_stop")
    error = fault(arm)
    assert error.safety == "PROTECTIVE_STOP"
    assert not arm.moving
    arm.tick()  # without control it only reads
    arm.recover()
    held = arm.state().tcp_pose
    run(arm, 0.3)
    assert np.linalg.norm(arm.state().tcp_pose[:3] - held[:3]) < 0.002
    arm.move_to_joints(HOME, 0.5)
    while arm.moving:
        arm.tick()
    np.testing.assert_allclose(arm.state().q, HOME, atol=0.005)


def test_emergency_stop_is_for_a_person_to_clear(emulator, arm):
    emulator.inject("emergency_stop")
    assert "EMERGENCY" in fault(arm).safety
    with pytest.raises(DeviceFaultError, match="Release the emergency stop"):
        arm.recover()
    emulator.inject("emergency_stop", pressed=0)
    with Dashboard(HOST) as dashboard:
        dashboard.ask("power on")
        dashboard.ask("brake release")
    arm.recover()
    run(arm, 0.2)


def test_a_frozen_stream_times_out_and_is_recovered_from(emulator, arm):
    emulator.inject("freeze", duration_s=60.0)
    arm.timeout_s = 0.5
    assert "No new state" in str(fault(arm, DeviceTimeoutError))
    arm.timeout_s = 2.0
    emulator.inject("freeze", duration_s=0.0)
    arm.recover()
    run(arm, 0.2)


def test_dropped_packets_do_not_matter(emulator, arm):
    target = arm.state().tcp_pose.copy()
    target[2] -= 0.05
    emulator.inject("drop_packets", fraction=0.2, duration_s=30.0)
    arm.command(target)
    run(arm, 1.5)
    emulator.inject("drop_packets", fraction=0.0, duration_s=0.0)
    assert np.linalg.norm(arm.state().tcp_pose[:3] - target[:3]) < 0.003


def test_a_second_driver_is_refused(arm):
    with pytest.raises(DeviceConnectionError, match="only one") as caught:
        UrArm(HOST).connect()
    assert caught.value.in_use


def test_a_program_stopped_by_somebody_else_is_a_fault(arm):
    with Dashboard(HOST) as dashboard:
        dashboard.ask("stop")
    assert "program was stopped" in str(fault(arm))
    arm.recover()
    run(arm, 0.2)


def test_a_restarted_controller_is_connected_to_anew(emulator, arm):
    emulator.inject("restart", duration_s=0.3)
    with pytest.raises(DeviceError):
        run(arm, 5.0)
    time.sleep(0.4)
    arm.recover()
    before = arm.state().tcp_pose
    run(arm, 0.3)
    assert np.linalg.norm(arm.state().tcp_pose[:3] - before[:3]) < 0.002


# Without ur_rtde: what is found out before it connects


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ControllerOptions(version=(3, 15, 0, 0)), r"3\.15\.0\.0.*5\.6"),
        (ControllerOptions(version=(10, 7, 0, 0)), "PolyScope X"),
        (ControllerOptions(remote_control=False), "Remote Control"),
    ],
)
def test_a_controller_that_cannot_be_driven_is_refused(options, message):
    with RtdeEmulator(Plant("ur5e"), OTHER_HOST, options=options), pytest.raises(DeviceConnectionError, match=message):
        UrArm(OTHER_HOST).connect()


def test_a_robot_without_power_is_refused_with_what_to_do():
    with RtdeEmulator(Plant("ur5e"), OTHER_HOST):
        with Dashboard(OTHER_HOST) as dashboard:
            dashboard.ask("power off")
        with pytest.raises(DeviceConnectionError, match=r"POWER_OFF.*release the brakes"):
            UrArm(OTHER_HOST).connect()


def test_nobody_there_says_what_to_check():
    with pytest.raises(DeviceConnectionError, match=r"arm\.host.*ping"):
        UrArm(EMPTY_HOST).connect()


def test_somebody_who_is_no_robot_is_told_apart():
    """A port that accepts and stays silent, as a firewall's or another machine's does."""
    with socket.create_server((EMPTY_HOST, 30004)), pytest.raises(DeviceConnectionError, match="not as a UR"):
        survey(EMPTY_HOST)


def test_without_ur_rtde_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "rtde_control", None)
    with pytest.raises(ConfigError, match=r"robot-rl\[ur\]"):
        UrArm(EMPTY_HOST).connect()


def test_not_connected_is_said():
    with pytest.raises(DeviceConnectionError, match="connect"):
        UrArm(EMPTY_HOST).state()


@pytest.mark.parametrize(
    ("raised", "expected"),
    [(ValueError("range"), ConfigError), (TypeError("list"), ConfigError), (RuntimeError("lost"), DeviceFaultError)],
)
def test_every_exception_of_the_client_becomes_ours(raised, expected):
    class Broken:
        def moveJ(self):
            raise raised

    client = UrClient(EMPTY_HOST, 500.0, IDENTITY_POSE)
    client._control = Broken()
    with pytest.raises(expected, match="moveJ"):
        client.ask("moveJ")
