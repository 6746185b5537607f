"""The driver process under everything that can happen to the process that commands it.

A real FCI emulator in real time, the real pylibfranka in the driver process, an actor that is killed, stopped or talks
nonsense. What the arm does is seen from the emulator's side.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from drivers.cell import NoGripper
from drivers.mailbox import Mailbox, Mode
from drivers.realtime import ArmProcess, WallClock
from drivers.ros2 import messages as ros
from drivers.ros2.actions import ActionClient
from drivers.ros2.robot import TRAJECTORY, Robot
from drivers.safety import SafetyLimits
from robot_rl.errors import (
    ConfigError,
    DeviceConnectionError,
    DeviceFaultError,
    LinkError,
    RobotRLError,
    SafetyError,
    StaleStateError,
)
from tests.drivers.ros2.inprocess import Bus

pytestmark = pytest.mark.realtime

LIMITS = SafetyLimits(position_low=(0.3, -0.3, 0.1), position_high=(0.7, 0.3, 0.5))
HOLD, STOP = 0.3, 1.0
ACTOR = """
import sys, time, numpy as np
from drivers.realtime import ArmProcess
from drivers.safety import SafetyLimits
options = {"hold_after_s": 0.3, "stop_after_s": 1.0, "max_state_age_s": 9.0}
arm = ArmProcess("drivers.franka:FrankaArm", {"host": sys.argv[1]}, **options)
arm.connect()
arm.set_limits(SafetyLimits(position_low=(0.3, -0.3, 0.1), position_high=(0.7, 0.3, 0.5)))
target = arm.state().tcp_pose
target[1] += 0.14
print(arm._process.pid, arm._mailbox.path, flush=True)
while True:
    arm.command(target)
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def robot(emulate):
    return emulate("fr3", task="reach")


@pytest.fixture
def arm(robot):
    with ArmProcess("drivers.franka:FrankaArm", {"host": robot.host}, hold_after_s=HOLD, stop_after_s=STOP,
                    max_state_age_s=5.0) as opened:  # fmt: skip
        opened.set_limits(LIMITS)
        yield opened


def wait_for(condition, seconds=20.0):
    """Poll: a busy machine may be slow, a correct one gets there."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def hand_position(robot):
    with robot.stage() as stage:
        return stage.body_pose("tool/hand")[:3]


def hand_is_still(robot):
    before = hand_position(robot)
    time.sleep(0.3)
    return np.linalg.norm(hand_position(robot) - before) < 1e-3


def test_connecting_never_moves_the_arm(robot, arm):
    before = hand_position(robot)
    time.sleep(0.5)
    np.testing.assert_allclose(hand_position(robot), before, atol=1e-3)


def test_a_target_is_followed_and_held(arm):
    target = arm.state().tcp_pose
    target[0] += 0.02
    assert wait_for(lambda: arm.command(target) or np.linalg.norm(arm.state().tcp_pose[:3] - target[:3]) < 2e-3)
    arm.stop()


def test_a_target_outside_the_box_is_clipped_to_it(arm):
    target = arm.state().tcp_pose
    target[0] = 2.0

    def at_the_wall():
        state = arm.state()
        arm.command(np.array([state.tcp_pose[0] + 0.1, *state.tcp_pose[1:3], *target[3:]]))
        assert state.tcp_pose[0] < LIMITS.position_high[0] + 1e-3
        return state.tcp_pose[0] > LIMITS.position_high[0] - 0.01

    assert wait_for(at_the_wall)
    back = target.copy()
    back[:3] = (0.5, 0.0, 0.25)
    arm.move_to_pose(back, 1.0)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda pose: np.full(7, np.nan), "not 7 finite numbers"),
        (lambda pose: np.concatenate([pose[:3], [0, 0, 0, 2.0]]), "norm 2.000"),
    ],
)
def test_a_nonsensical_target_is_refused_and_the_arm_holds(robot, arm, spoil, said):
    arm.command(spoil(arm.state().tcp_pose))
    with pytest.raises(SafetyError, match=said):
        assert not wait_for(lambda: arm.state() is None, 5.0)
    assert hand_is_still(robot)
    arm.stop()
    arm.state()  # forgiven


def test_a_motion_is_stopped_by_another_thread(arm):
    """And readings come meanwhile: the ROS node of an arm tells its state while a trajectory is carried out."""
    start, said = arm.state().q, []
    goal = start + np.array([0.4, 0, 0, 0, 0, 0, 0])

    def move():
        try:
            arm.move_to_joints(goal, 4.0)
        except SafetyError as error:
            said.append(str(error))

    moving = threading.Thread(target=move)
    moving.start()
    stamps = set()
    for _ in range(20):
        time.sleep(0.05)
        stamps.add(arm.state().time_s)
    assert len(stamps) > 5
    arm.stop()
    moving.join(5.0)
    assert said == ["The motion was stopped; the arm holds its measured pose."]
    assert 0.001 < arm.state().q[0] - start[0] < 0.35


def test_as_a_ros_robot_it_tells_its_state_during_a_trajectory_that_is_then_given_up(arm):
    bus = Bus()
    node, user = bus.node("arm"), bus.node("user")
    robot = Robot(node, arm, NoGripper(), WallClock())
    client = ActionClient(user, "joint_trajectory_controller/follow_joint_trajectory", TRAJECTORY)
    ended = threading.Event()
    running = threading.Thread(target=robot.run, args=(ended,))
    running.start()
    try:
        q = arm.state().q + np.array([0.0, 0, 0, 0, 0, 0, 0.4])
        point = ros.message("trajectory_msgs/msg/JointTrajectoryPoint", positions=q, time_from_start=ros.duration(4.0))
        names = [f"joint{i}" for i in range(1, 8)]
        plan = ros.message("trajectory_msgs/msg/JointTrajectory", joint_names=names, points=[point])
        goal = client.send(ros.message(f"{TRAJECTORY}_Goal", trajectory=plan), 1.0)
        before = len(bus.heard["/current_pose"])
        time.sleep(1.0)
        assert len(bus.heard["/current_pose"]) > before + 20
        client.cancel(goal)
        with pytest.raises(DeviceFaultError, match="was canceled"):
            client.result(goal, 5.0)
        assert abs(arm.state().q[6] - q[6]) > 0.05
    finally:
        ended.set()
        running.join(15.0)


def test_a_silent_actor_lets_the_arm_hold_and_then_stop(robot, arm):
    target = arm.state().tcp_pose
    target[1] += 0.1
    arm.command(target)
    assert wait_for(lambda: arm.fault)
    assert "watchdog" in arm.fault
    with pytest.raises(SafetyError, match=r"limit (0.3|1) s"):
        arm.command(target)
    assert wait_for(lambda: "control was closed" in arm.fault)
    assert hand_is_still(robot)
    arm.recover()
    assert not arm.fault
    arm.command(arm.state().tcp_pose)
    arm.stop()


def test_holding_on_request_waits_for_ever(arm):
    """Between episodes a learner may take its time: only following wakes the watchdog."""
    arm.command(arm.state().tcp_pose)
    arm.stop()
    time.sleep(STOP + 0.5)
    assert not arm.fault


def ended(pid):
    """No such process, or one that waits only to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def start_actor(robot):
    actor = subprocess.Popen([sys.executable, "-c", ACTOR, robot.host], stdout=subprocess.PIPE, text=True)
    line = actor.stdout.readline().split()
    assert len(line) == 2, "the actor did not get to work"
    start = hand_position(robot)
    assert wait_for(lambda: np.linalg.norm(hand_position(robot) - start) > 0.01)  # under way
    return actor, int(line[0]), line[1]


def test_sigkill_of_the_actor_holds_then_stops_the_arm_and_ends_the_driver(robot):
    actor, driver, mailbox = start_actor(robot)
    actor.kill()
    actor.wait()
    actor.stdout.close()
    assert wait_for(lambda: hand_is_still(robot))
    assert wait_for(lambda: ended(driver))
    with ArmProcess("drivers.franka:FrankaArm", {"host": robot.host}, max_state_age_s=5.0) as arm:  # the robot is free
        assert np.isfinite(arm.state().q).all()
    assert not Path(mailbox).exists()  # nor does its shared memory stay behind


def test_sigstop_of_the_actor_holds_then_stops_the_arm(robot):
    actor, driver, mailbox = start_actor(robot)
    os.kill(actor.pid, signal.SIGSTOP)
    assert wait_for(lambda: hand_is_still(robot))
    box = Mailbox(Path(mailbox))
    assert wait_for(lambda: int(box.status["mode"]) == Mode.STOPPED)
    assert b"control was closed" in box.status["message"]
    os.kill(actor.pid, signal.SIGCONT)
    assert actor.wait(20) != 0  # its next command is a SafetyError
    actor.stdout.close()
    assert wait_for(lambda: ended(driver))


def test_a_reflex_is_a_typed_fault_and_recovery_is_explicit(robot, arm):
    with robot.stage() as stage:
        stage.inject("reflex")
    assert wait_for(lambda: arm.fault)
    with pytest.raises(DeviceFaultError, match="cartesian_reflex"):
        arm.state()
    with pytest.raises(DeviceFaultError, match="cartesian_reflex"):
        arm.command(np.array([0.5, 0, 0.3, 1, 0, 0, 0]))
    arm.recover()
    assert not arm.fault
    arm.move_to_pose(np.array([0.5, 0.0, 0.25, 1.0, 0, 0, 0]), 1.0)


def test_a_killed_driver_process_is_noticed_and_replaced(arm):
    os.kill(arm._process.pid, signal.SIGKILL)
    with pytest.raises(LinkError, match=r"driver process .* died"):
        assert not wait_for(lambda: arm.state() is None, 10.0)
    with pytest.raises(RobotRLError):
        arm.command(np.array([0.5, 0, 0.3, 1, 0, 0, 0]))

    def recovered():
        try:
            arm.recover()
        except (DeviceConnectionError, DeviceFaultError):  # the robot notices the silence a little later
            return False
        return True

    assert wait_for(recovered)
    assert np.isfinite(arm.state().q).all()


def test_a_restarted_robot_is_a_lost_connection_and_is_found_again(robot, arm):
    with robot.stage() as stage:
        stage.inject("restart", seconds=0.5)
    assert wait_for(lambda: arm.fault)
    with pytest.raises((DeviceConnectionError, DeviceFaultError), match="connection"):
        arm.state()

    def recovered():
        try:
            arm.recover()
        except (DeviceConnectionError, DeviceFaultError):
            return False
        return True

    assert wait_for(recovered)


def test_a_few_lost_or_late_packets_do_not_matter(robot, arm):
    """The robot forgives up to 20 missing commands in a row (libfranka's documentation)."""
    target = arm.state().tcp_pose
    with robot.stage() as stage:
        stage.inject("drop_packets", ticks=5)
        arm.command(target)
        stage.inject("delay_packets", seconds=0.002, ticks=100)
        time.sleep(0.2)
        arm.command(target)
        time.sleep(0.2)
    assert not arm.fault
    arm.stop()


def test_many_lost_packets_are_a_fault(robot, arm):
    with robot.stage() as stage:
        stage.inject("drop_packets", ticks=300)
    assert wait_for(lambda: arm.fault)
    with pytest.raises(DeviceFaultError, match="communication_constraints_violation"):
        arm.state()
    arm.recover()
    assert hand_is_still(robot)


def test_another_firmware_is_refused_with_advice():
    """An emulator that speaks robot interface version 9, where pylibfranka 0.21 wants 10."""
    host = "127.0.97.1"
    command = [sys.executable, "-m", "drivers.emulators.fci", "--host", host, "--version", "9"]
    robot = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    try:
        assert robot.stdout.readline()
        with pytest.raises(DeviceConnectionError, match="compatibility table"):
            ArmProcess("drivers.franka:FrankaArm", {"host": host}).connect()
    finally:
        robot.terminate()
        robot.wait(20)
        robot.stdout.close()
        robot.stdin.close()


def test_a_stale_state_is_refused(arm):
    """The driver process stopped: its readings grow old."""
    arm.max_state_age_s = 0.2
    os.kill(arm._process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(StaleStateError, match=r"limit 0.2 s \(arm.max_state_age_s\)"):
            assert not wait_for(lambda: arm.state() is None, 10.0)
    finally:
        os.kill(arm._process.pid, signal.SIGCONT)


def test_a_second_program_is_turned_away(robot, arm):
    with pytest.raises(DeviceConnectionError, match="no other program"):
        ArmProcess("drivers.franka:FrankaArm", {"host": robot.host}).connect()
    arm.state()  # the first is not disturbed


def test_a_wrong_address_says_what_to_check():
    """192.0.2.0/24 is set aside for documentation (RFC 5737); nothing answers there."""
    for host in ("192.0.2.1", "127.0.99.99"):
        start = time.monotonic()
        with pytest.raises(DeviceConnectionError, match=r"Check arm.host .* FCI activated"):
            ArmProcess("drivers.franka:FrankaArm", {"host": host}).connect()
        del start


def test_statistics_are_read_while_the_loop_runs(arm):
    before = arm.statistics()
    assert wait_for(lambda: arm.statistics().ticks > before.ticks + 100)
    assert arm.statistics().period_p50_us > 0
    assert "missed" in str(arm.statistics())


def test_what_the_system_withheld_is_said(arm):
    assert all(isinstance(what, str) for what in arm.missing)
    if not Path("/sys/kernel/realtime").is_file():
        assert "a PREEMPT_RT kernel" in arm.missing


@pytest.mark.parametrize(
    ("driver", "options", "said"),
    [
        ("drivers.franka:NoSuchArm", {}, "cannot be loaded"),
        ("no.such.module:Arm", {}, "cannot be loaded"),
        ("drivers.franka:FrankaArm", {"host": "127.0.0.1", "colour": "red"}, "does not take"),
    ],
)
def test_a_wrong_driver_is_a_config_error(driver, options, said):
    with pytest.raises(ConfigError, match=said):
        ArmProcess(driver, options).connect()


def test_no_command_before_limits_are_set(robot):
    with ArmProcess("drivers.franka:FrankaArm", {"host": robot.host}, max_state_age_s=5.0) as arm:
        arm.command(arm.state().tcp_pose)
        with pytest.raises(SafetyError, match="No safety limits were set"):
            assert not wait_for(lambda: arm.state() is None, 5.0)
