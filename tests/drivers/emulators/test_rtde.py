"""The unmodified ur_rtde client against the emulator, which runs in a process of its own."""

import os
import time

import numpy as np
import pytest

from drivers.emulators.plant import Plant
from drivers.emulators.rtde import RtdeEmulator
from drivers.emulators.rtde_process import RtdeProcess
from drivers.emulators.rtde_wire import INPUTS, Recipe, frame, take_frames
from drivers.ur_link import Dashboard
from robot_rl.errors import ConfigError, DeviceConnectionError

pytestmark = pytest.mark.realtime

rtde_control = pytest.importorskip("rtde_control", reason="ur_rtde is not installed: pip install 'robot-rl[ur]'")
rtde_receive = pytest.importorskip("rtde_receive", reason="ur_rtde is not installed: pip install 'robot-rl[ur]'")
rtde_io = pytest.importorskip("rtde_io", reason="ur_rtde is not installed: pip install 'robot-rl[ur]'")

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
HOST, OTHER_HOST = f"127.20.{WORKER}.1", f"127.20.{WORKER}.2"
HOME = [-0.269864, -1.538540, 1.887982, -1.920238, -1.570796, -1.055262]
SPEED = 4.0
Z_DOWN, FRAME, SLOW = [0, 0, -15.0, 0, 0, 0], [0.0] * 6, [0.05] * 6


@pytest.fixture(scope="module")
def emulator():
    with RtdeProcess(HOST, "--speed", str(SPEED)) as process:
        yield process


@pytest.fixture(scope="module")
def receive(emulator):
    client = rtde_receive.RTDEReceiveInterface(HOST)
    yield client
    client.disconnect()


@pytest.fixture(scope="module")
def connection(emulator, receive):
    client = rtde_control.RTDEControlInterface(HOST)
    yield client
    client.disconnect()


@pytest.fixture
def control(connection, emulator, receive):
    """The control client, its program running, the arm at home, as after a fresh start."""
    if not connection.isProgramRunning():
        connection.reuploadScript()
        until(connection.isProgramRunning)
    assert connection.moveJ(HOME, 3.0, 10.0)
    until(connection.isSteady)
    return connection


def until(reached, timeout_s=20.0):
    give_up = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < give_up, "it never came"
        time.sleep(0.001)


def wait(receive, seconds):
    """Until so many simulated seconds have passed."""
    end = receive.getTimestamp() + seconds
    until(lambda: receive.getTimestamp() >= end)


def push(control, receive, seconds, selection=(0, 0, 1, 0, 0, 0), wrench=Z_DOWN, limits=SLOW):
    """Stream force mode as a driver does, one command a state."""
    end, last = receive.getTimestamp() + seconds, 0.0
    while (now := receive.getTimestamp()) < end:
        if now != last:
            assert control.forceMode(FRAME, list(selection), list(wrench), 2, limits)
            last = now
        time.sleep(1e-4)


def stamps(client, count):
    seen = [client.getTimestamp()]
    while len(seen) < count:
        if client.getTimestamp() != seen[-1]:
            seen.append(client.getTimestamp())
        time.sleep(5e-5)
    return np.array(seen)


def test_stamps_are_cycles_of_two_milliseconds(receive):
    steps = np.diff(stamps(receive, 100)) / 0.002
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-6)
    assert (steps > 0.5).all()


def test_a_client_may_ask_for_fewer_states(emulator):
    client = rtde_receive.RTDEReceiveInterface(HOST, 125.0, ["timestamp", "actual_q"])
    steps = np.diff(stamps(client, 20)) / 0.008
    client.disconnect()
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-6)


def test_the_state_is_the_plants_half_a_turn_away(emulator, receive, control):
    assert control.setTcp([0.0, 0.0, 0.1034, 0.0, 0.0, -np.pi / 4])
    assert control.getTCPOffset() == pytest.approx([0.0, 0.0, 0.1034, 0.0, 0.0, -np.pi / 4])
    wait(receive, 0.1)
    truth, pose = emulator.state(), receive.getActualTCPPose()
    np.testing.assert_allclose(receive.getActualQ(), truth["q"], atol=1e-6)
    np.testing.assert_allclose(np.array(pose[:3]) * [-1, -1, 1], truth["tcp_pose"][:3], atol=1e-6)


def test_an_unknown_variable_is_refused_by_name(emulator):
    with pytest.raises(RuntimeError, match="flux_capacitor"):
        rtde_receive.RTDEReceiveInterface(HOST, 500.0, ["timestamp", "flux_capacitor"])


def test_joint_move_arrives_and_takes_its_time(control, receive):
    """1 rad at 1 rad/s and 2 rad/s^2 is 1.5 s by hand."""
    goal = [HOME[0] + 1.0, *HOME[1:]]
    start = receive.getTimestamp()
    assert control.moveJ(goal, 1.0, 2.0)
    assert receive.getTimestamp() - start == pytest.approx(1.5, abs=0.15)
    np.testing.assert_allclose(receive.getActualQ(), goal, atol=1e-3)


def test_linear_move_and_the_kinematics_agree(control, receive):
    pose = receive.getActualTCPPose()
    pose[2] -= 0.1
    assert control.getInverseKinematicsHasSolution(pose)
    q = control.getInverseKinematics(pose)
    assert control.moveL(pose, 0.5, 2.0)
    np.testing.assert_allclose(receive.getActualQ(), q, atol=2e-3)
    np.testing.assert_allclose(control.getForwardKinematics()[:3], pose[:3], atol=1e-3)
    away = [3.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert not control.getInverseKinematicsHasSolution(away)


def test_a_pose_out_of_reach_ends_the_program(control, emulator):
    assert not control.moveL([3.0, 0.0, 0.0, 0.0, 0.0, 0.0], 0.5, 2.0)
    until(lambda: not emulator.state()["program"])
    assert "inverse kinematics" in emulator.state()["message"]


def test_an_asynchronous_move_is_under_way_and_can_be_stopped(control, receive):
    assert control.moveJ([HOME[0] + 1.0, *HOME[1:]], 0.5, 1.0, True)
    assert control.getAsyncOperationProgress() >= 0
    wait(receive, 0.6)
    control.stopJ(5.0)
    until(control.isSteady)
    stopped_at = receive.getActualQ()[0]
    assert HOME[0] + 0.05 < stopped_at < HOME[0] + 0.9
    wait(receive, 0.2)
    assert receive.getActualQ()[0] == pytest.approx(stopped_at, abs=1e-3)


def test_servo_follows_and_stops(control, receive):
    goal = [HOME[0] + 0.2, *HOME[1:]]
    end = receive.getTimestamp() + 1.5
    while receive.getTimestamp() < end:
        assert control.servoJ(goal, 0.0, 0.0, 0.002, 0.1, 300.0)
        time.sleep(2e-4)
    np.testing.assert_allclose(receive.getActualQ(), goal, atol=1e-3)
    assert control.servoStop()


def test_tool_speed_is_the_one_asked_for(control, receive):
    assert control.speedL([0.0, 0.05, 0.05, 0.0, 0.0, 0.0], 0.5)
    wait(receive, 0.5)
    np.testing.assert_allclose(receive.getActualTCPSpeed(), [0, 0.05, 0.05, 0, 0, 0], atol=2e-3)
    assert control.speedStop()
    until(control.isSteady)


def test_force_mode_presses_with_the_force_asked_for(control, receive, emulator):
    """15 N down onto the table: the sensor feels 15 N up, and x and y stay where they were."""
    assert control.moveJ_IK([*receive.getActualTCPPose()[:2], 0.13, *receive.getActualTCPPose()[3:]], 1.0, 3.0)
    assert control.zeroFtSensor()
    before = receive.getActualTCPPose()
    push(control, receive, 3.0)
    assert receive.getActualTCPForce()[2] == pytest.approx(15.0, abs=0.5)
    assert emulator.state()["wrench_base"][2] == pytest.approx(-15.0, abs=0.5)
    np.testing.assert_allclose(receive.getActualTCPPose()[:2], before[:2], atol=2e-3)
    assert control.forceModeStop()


def test_force_mode_keeps_its_speed_limit(control, receive):
    fastest, end = 0.0, receive.getTimestamp() + 1.0
    while receive.getTimestamp() < end:
        control.forceMode(FRAME, [0, 0, 1, 0, 0, 0], Z_DOWN, 2, [0.02] * 6)
        fastest = max(fastest, abs(receive.getActualTCPSpeed()[2]))
        time.sleep(2e-4)
    assert control.forceModeStop()
    assert fastest == pytest.approx(0.02, rel=0.05)


def test_a_collision_stops_the_arm_and_needs_five_seconds(control, receive, emulator):
    control.speedL([0.0, 0.0, -0.4, 0.0, 0.0, 0.0], 2.0)
    until(receive.isProtectiveStopped)
    assert not control.moveJ(HOME)
    with Dashboard(HOST) as dashboard:
        assert dashboard.ask("safetystatus") == "Safetystatus: PROTECTIVE_STOP"
        assert dashboard.ask("unlock protective stop").startswith("Cannot unlock")
        wait(receive, 5.0)
        assert dashboard.ask("unlock protective stop") == "Protective stop releasing"
        assert dashboard.ask("safetystatus") == "Safetystatus: NORMAL"


def test_an_emergency_stop_needs_power_and_brakes(connection, receive, emulator):
    emulator.inject("emergency_stop")
    until(receive.isEmergencyStopped)
    with Dashboard(HOST) as dashboard:
        assert dashboard.ask("brake release").startswith("Failed")
        emulator.inject("emergency_stop", pressed=0)
        until(lambda: not receive.isEmergencyStopped())
        assert dashboard.ask("robotmode") == "Robotmode: POWER_OFF"
        dashboard.ask("power on")
        assert dashboard.ask("robotmode") == "Robotmode: IDLE"
        dashboard.ask("brake release")
        assert dashboard.ask("robotmode") == "Robotmode: RUNNING"


def test_a_second_control_client_is_refused(control):
    with pytest.raises(RuntimeError, match="already in use"):
        rtde_control.RTDEControlInterface(HOST)


def test_the_watchdog_stops_the_program_of_a_silent_client(control, emulator):
    assert control.setWatchdog(10.0)
    until(lambda: not emulator.state()["program"])
    assert "watchdog" in emulator.state()["message"]


def test_digital_outputs(emulator, receive):
    io = rtde_io.RTDEIOInterface(HOST)
    assert io.setStandardDigitalOut(3, True)
    until(lambda: receive.getDigitalOutState(3))
    assert io.setStandardDigitalOut(3, False)
    until(lambda: not receive.getDigitalOutState(3))
    io.disconnect()


def test_the_dashboard_says_what_it_is(emulator):
    with Dashboard(HOST) as dashboard:
        assert "5.13" in dashboard.ask("PolyscopeVersion")
        assert dashboard.ask("is in remote control") == "true"
        assert dashboard.ask("make coffee").startswith("could not understand")


def test_teach_mode_and_payload_are_understood(control):
    assert control.teachMode()
    assert control.endTeachMode()
    assert control.setPayload(0.9, [0.0, 0.0, 0.05])


def test_unknown_faults_are_refused(emulator):
    with pytest.raises(ConfigError, match="freeze"):
        emulator.inject("gremlins")


def test_two_emulators_cannot_share_an_address():
    plant = Plant("ur5e")
    with RtdeEmulator(plant, OTHER_HOST), pytest.raises(DeviceConnectionError, match=OTHER_HOST):
        RtdeEmulator(plant, OTHER_HOST).start()


@pytest.mark.parametrize(("arm", "options"), [("fr3", {}), ("ur5e", {"frequency": 250.0}), ("ur5e", {"speed": 0.0})])
def test_what_cannot_be_emulated_is_refused(arm, options):
    with pytest.raises(ConfigError, match=r"ur5e|125 or 500"):
        RtdeEmulator(Plant(arm), OTHER_HOST, **options)


def test_messages_come_out_of_a_stream_cut_anywhere():
    whole = frame(85, b"abc") + frame(83)
    buffer, taken = bytearray(), []
    for byte in whole:
        buffer.append(byte)
        taken += list(take_frames(buffer))
    assert taken == [(85, b"abc"), (83, b"")]
    with pytest.raises(ValueError, match="header"):
        list(take_frames(bytearray(b"\x00\x00\x55")))


def test_a_data_package_is_big_endian_behind_its_recipe():
    """RTDE guide: recipe 7, then int32 1 and double 1.0 (0x3ff0000000000000)."""
    recipe = Recipe(["input_int_register_0", "input_double_register_0"], INPUTS)
    payload = recipe.pack(7, {"input_int_register_0": 1, "input_double_register_0": 1.0})
    assert payload == bytes.fromhex("07" + "00000001" + "3ff0000000000000")
    assert recipe.unpack(payload) == {"input_int_register_0": 1, "input_double_register_0": 1.0}
