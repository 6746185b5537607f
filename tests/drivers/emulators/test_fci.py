"""The emulated Franka, through the vendor's own client: connecting, torque control, faults.

The emulator runs in a process of its own, as the client holds Python's lock while it waits.
"""

import itertools
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from drivers.emulators.fci import FciEmulator
from drivers.emulators.plant import Plant
from robot_rl.errors import ConfigError, DeviceConnectionError

pytestmark = pytest.mark.realtime

franka = pytest.importorskip("pylibfranka", reason="the vendor's client; pip install robot-rl[franka]")

HOME = np.array([0.0, -0.041759, 0.0, -2.334272, 0.0, 2.292514, 0.785398])
STIFFNESS = np.array([600.0, 600.0, 600.0, 600.0, 250.0, 150.0, 50.0])
DAMPING = np.array([50.0, 50.0, 50.0, 50.0, 30.0, 25.0, 15.0])
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_hosts = itertools.count(1)
SCENE = """
from drivers.emulators.fci import FciEmulator, serve
from drivers.emulators.plant import Plant
build = None
{build}
plant = Plant("fr3", build)
plant.gripper.jump_to(0.08)
plant.settle()
serve(FciEmulator(plant, {host!r}, lockstep=True, version={version}))
"""


class Server:
    """An emulator in a process of its own, in lockstep, on an address that no other test has."""

    def __init__(self, build="", version=10, group=1):
        self.host = f"127.{group}.{WORKER}.{next(_hosts)}"
        code = SCENE.format(build=build, host=self.host, version=version)
        self.process = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True)
        assert "Listening" in self.process.stdout.readline()

    def inject(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def connect(self):
        return franka.Robot(self.host, franka.RealtimeConfig.kIgnore)

    def close(self):
        self.process.terminate()
        self.process.wait(10)
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def robot(server):
    robot = server.connect()
    robot.automatic_error_recovery()
    return robot


def settled(robot):
    """A state measured after what was just set: the newest to have arrived may be from before."""
    robot.read_once()
    return robot.read_once()


def hold(robot, ticks, *, until=lambda index: None, target=None):
    """Joint impedance for some ticks; returns the states and the times between them [ms]."""
    control = robot.start_torque_control()
    states, gaps = [], []
    for index in range(ticks):
        state, gap = control.readOnce()
        states.append(state)
        gaps.append(round(gap.to_sec() * 1e3))
        wanted = np.array(states[0].q) if target is None else target
        torque = franka.Torques(STIFFNESS * (wanted - state.q) - DAMPING * state.dq)
        torque.motion_finished = index == ticks - 1
        until(index)
        control.writeOnce(torque)
    return states, gaps


def test_at_home_the_tool_is_where_the_arm_description_says(robot):
    """ARMS: tcp at (0.5, 0, 0.25) m, pointing straight down. So EE, the hand's published frame, is our tcp."""
    state = robot.read_once()
    pose = np.array(state.O_T_EE).reshape(4, 4).T
    np.testing.assert_allclose(pose[:3, 3], [0.5, 0.0, 0.25], atol=1e-5)
    np.testing.assert_allclose(pose[:3, :3], np.diag([1.0, -1.0, -1.0]), atol=1e-5)
    assert state.robot_mode == franka.RobotMode.Idle


def test_the_hand_is_mounted_as_published(robot):
    """Franka Hand: 0.1034 m along the flange, turned by -45 degrees."""
    half = np.sqrt(0.5)
    frame = np.array(robot.read_once().F_T_EE).reshape(4, 4).T
    np.testing.assert_allclose(frame[:3], [[half, half, 0, 0], [-half, half, 0, 0], [0, 0, 1, 0.1034]], atol=1e-6)


def test_the_vendors_model_of_our_description_agrees_with_the_physics(robot):
    """Pinocchio on the URDF we send, against MuJoCo: weight, inertia (less the rotors) and Coriolis torque."""
    plant, model, state = Plant("fr3"), robot.load_model(), robot.read_once()
    np.testing.assert_allclose(model.gravity(state), state.tau_J, atol=2e-3)  # nothing else loads the sensors at rest
    rng = np.random.default_rng(0)
    state.q, state.dq = HOME + rng.uniform(-0.3, 0.3, 7), rng.uniform(-1.0, 1.0, 7)
    plant.twin.data.qpos[plant.twin.views.qpos_ids] = state.q
    plant.twin.data.qvel[plant.twin.arm_dofs] = state.dq
    plant.settle()
    rotors = np.diag(plant.twin.model.dof_armature[plant.twin.arm_dofs])
    np.testing.assert_allclose(np.array(model.mass(state)).reshape(7, 7), plant.mass_matrix() - rotors, atol=2e-3)
    np.testing.assert_allclose(model.coriolis(state), plant.bias, atol=2e-2)
    np.testing.assert_allclose(np.array(model.zero_jacobian(state)).reshape(7, 6).T, plant.jacobian, atol=1e-5)


def test_torque_control_never_misses_a_tick(robot):
    states, gaps = hold(robot, 2000)
    assert gaps[1:] == [1] * 1999
    assert states[-1].control_command_success_rate == 1.0
    assert states[-1].robot_mode == franka.RobotMode.Move
    np.testing.assert_allclose(states[-1].q, states[0].q, atol=1e-6)
    assert settled(robot).robot_mode == franka.RobotMode.Idle


def test_cartesian_impedance_reaches_its_target_within_a_millimetre(robot):
    model, control = robot.load_model(), robot.start_torque_control()
    torque, goal, rate = np.zeros(7), None, 0.9
    for index in range(2000):
        state, _ = control.readOnce()
        position = np.array(state.O_T_EE)[12:15]
        goal = position + np.array([0.0, 0.0, 0.02]) if goal is None else goal
        jacobian = np.array(model.zero_jacobian(state)).reshape(7, 6).T
        pull = np.clip(goal - position, -0.01, 0.01)
        wrench = np.concatenate([2000.0 * pull, np.zeros(3)]) - [89, 89, 89, 7, 7, 7] * (jacobian @ state.dq)
        torque = torque + np.clip(jacobian.T @ wrench - torque, -rate, rate)
        command = franka.Torques(torque)
        command.motion_finished = index == 1999
        control.writeOnce(command)
    assert np.linalg.norm(position - goal) < 1e-3


def test_end_effector_load_and_stiffness_frame_are_as_set(robot):
    down, before = np.eye(4), np.array(robot.read_once().O_T_EE)[14]
    down[2, 3] = 0.05
    robot.set_EE(down.T.ravel())
    robot.set_load(0.4, [0.0, 0.0, 0.1], (0.001 * np.eye(3)).ravel())
    state = settled(robot)
    assert np.array(state.O_T_EE)[14] == pytest.approx(before - 0.05, abs=2e-3)  # the tool points down
    assert state.m_load == pytest.approx(0.4)
    assert state.m_total == pytest.approx(0.7126 + 0.4, abs=1e-4)  # hand 0.6544, two fingers of 0.0291 kg
    robot.set_EE(np.eye(4).ravel())
    robot.set_load(0.0, [0.0] * 3, [0.0] * 9)


@pytest.mark.parametrize(
    ("setter", "value"),
    [
        ("set_joint_impedance", [20000.0] * 7),
        ("set_cartesian_impedance", [5000.0] * 6),
        ("set_EE", np.ones(16)),
    ],
)
def test_settings_out_of_range_are_refused(robot, setter, value):
    with pytest.raises(franka.CommandException, match="invalid argument"):
        getattr(robot, setter)(value)


def test_a_few_lost_states_are_survived_and_counted(server, robot):
    """Five states lost: the next comes 6 ms after the last, and 5 of the last 100 commands are missing."""
    states, gaps = hold(robot, 300, until=lambda index: server.inject("drop_packets ticks=5") if index == 150 else None)
    assert sorted(gaps[1:])[-2:] == [1, 6]
    assert min(state.control_command_success_rate for state in states[120:]) == pytest.approx(0.95)


def test_twenty_lost_states_in_a_row_end_the_motion(server, robot):
    with pytest.raises(franka.ControlException, match=r"\[\"communication_constraints_violation\"\]"):
        hold(robot, 10**6, until=lambda index: server.inject("drop_packets ticks=25") if index == 50 else None)
    robot.automatic_error_recovery()
    hold(robot, 100)


def test_late_states_arrive_all_the_same(server, robot):
    hold(robot, 60, until=lambda index: server.inject("delay_packets seconds=0.002 ticks=20") if index == 10 else None)


def test_a_reflex_ends_the_motion_and_only_recovery_allows_the_next(server, robot):
    with pytest.raises(franka.ControlException, match=r"motion aborted by reflex! \[\"cartesian_reflex\"\]"):
        hold(robot, 10**6, until=lambda index: server.inject("reflex") if index == 50 else None)
    state = robot.read_once()
    assert state.robot_mode == franka.RobotMode.Reflex
    assert state.last_motion_errors.cartesian_reflex
    assert state.current_errors.cartesian_reflex
    with pytest.raises(franka.CommandException, match="Reflex"):
        robot.start_torque_control()
    robot.automatic_error_recovery()
    assert not settled(robot).current_errors
    hold(robot, 100)


def test_the_stop_button_ends_the_motion_until_it_is_released(server, robot):
    with pytest.raises(franka.ControlException, match="User Stop"):
        hold(robot, 10**6, until=lambda index: server.inject("user_stop") if index == 50 else None)
    with pytest.raises(franka.CommandException, match="User stopped"):
        robot.automatic_error_recovery()
    server.inject("release_stop")
    while robot.read_once().robot_mode != franka.RobotMode.Idle:
        pass
    hold(robot, 100)


def test_a_second_client_is_refused_and_the_first_goes_on(server, robot):
    with pytest.raises(franka.NetworkException):
        server.connect()
    hold(robot, 100)


def test_after_a_client_left_in_mid_motion_the_next_finds_a_reflex(server):
    code = (
        f"import os, pylibfranka as f; r = f.Robot({server.host!r}, f.RealtimeConfig.kIgnore)\n"
        "c = r.start_torque_control(); c.readOnce(); c.writeOnce(f.Torques([0.0] * 7)); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    robot = server.connect()
    assert settled(robot).last_motion_errors.communication_constraints_violation
    robot.automatic_error_recovery()


def read_for_ever(robot):
    while True:
        robot.read_once()


def test_a_restarted_controller_can_be_reached_again(server, robot):
    server.inject("restart seconds=0.2")
    with pytest.raises(franka.NetworkException):
        read_for_ever(robot)
    for _ in range(100):
        try:
            robot = server.connect()
            break
        except franka.NetworkException:
            time.sleep(0.05)
    assert robot.read_once().robot_mode == franka.RobotMode.Idle


def test_other_firmware_is_told_apart():
    server = Server(version=9)
    with pytest.raises(franka.FrankaException, match=r"(?s)9.*10|10.*9"):
        server.connect()
    server.close()


def test_a_taken_port_and_a_foreign_address_are_said_plainly():
    host = f"127.9.{WORKER}.1"
    with socket.create_server((host, 1338)):
        emulator = FciEmulator(Plant("fr3"), host)
        with pytest.raises(DeviceConnectionError, match=f"{host}:1338"):
            emulator.start()
    with pytest.raises(DeviceConnectionError, match=r"192\.0\.2\.1:1337"):
        FciEmulator(Plant("fr3"), "192.0.2.1").start()


def test_an_arm_that_is_no_franka_is_refused():
    with pytest.raises(ConfigError, match="fr3"):
        FciEmulator(Plant("ur5e"))


def test_an_unknown_fault_is_answered_with_those_there_are():
    with pytest.raises(ConfigError, match="drop_packets"):
        FciEmulator(Plant("fr3")).inject("earthquake")
