"""RobotiqGripper over its socket, the twin's fingers behind it."""

import os
import socket
import threading
import time

import mujoco
import pytest

from drivers.emulators.plant import Plant
from drivers.emulators.rtde import RtdeEmulator
from drivers.robotiq import RobotiqGripper
from robot_rl.errors import ConfigError, DeviceConnectionError, DeviceFaultError, DeviceTimeoutError

pytestmark = pytest.mark.realtime

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
HOST, EMPTY_HOST = f"127.22.{WORKER}.1", f"127.22.{WORKER}.2"
COUNT = 0.085 / (230 - 3)  # [m]


def post(scene):
    """A fixed post of 40 mm where the fingers are at home."""
    scene.spec.worldbody.add_geom(
        name="post", type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=[0.02, 0.02, 0], pos=[0.5, 0.0, 0.245]
    )


@pytest.fixture(scope="module")
def empty_handed():
    with RtdeEmulator(Plant("ur5e"), HOST, speed=10.0) as emulator:
        yield emulator


@pytest.fixture
def gripper(empty_handed):
    gripper = RobotiqGripper(HOST)
    yield gripper
    gripper.close()


def until(reached):
    give_up = time.monotonic() + 20.0
    while not reached():
        assert time.monotonic() < give_up, "it never came"
        time.sleep(0.005)


def test_it_is_active_after_connecting(gripper):
    assert gripper.facts() == {"status": "active", "fault": "0"}


@pytest.mark.parametrize("opening", [0.0, 0.06, 0.02])
def test_it_goes_where_it_is_told(gripper, empty_handed, opening):
    gripper.command(opening)
    until(lambda: abs(gripper.opening() - opening) < 2 * COUNT)
    until(lambda: abs(empty_handed.state()["opening"] - opening) < 2 * COUNT)  # which may still have been on its way
    assert not gripper.holding()


def test_it_opens_fully(gripper, empty_handed):
    """The twin's gripper ends at 80 mm, a 2F-85 at 85."""
    gripper.command(gripper.max_opening)
    until(lambda: abs(gripper.opening() - 0.08) < 2 * COUNT)
    gripper.command(1.0)
    assert not gripper.holding()


def test_it_notices_what_it_grasps():
    host = f"127.22.{WORKER}.3"
    with RtdeEmulator(Plant("ur5e", post), host, speed=10.0) as emulator:
        emulator.plant.gripper.jump_to(0.08)
        gripper = RobotiqGripper(host)
        gripper.command(0.0)
        until(gripper.holding)
        assert gripper.opening() == pytest.approx(0.04, abs=0.004)
        gripper.command(0.08)
        until(lambda: gripper.opening() > 0.075)
        assert not gripper.holding()
        gripper.close()


def test_nobody_there_says_what_to_check():
    with pytest.raises(DeviceConnectionError, match=r"gripper\.host.*URCap"):
        RobotiqGripper(EMPTY_HOST)


@pytest.mark.parametrize("options", [{"speed": 256}, {"force": -1}, {"counts": (230, 3)}, {"max_opening": 0.0}])
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match="RobotiqGripper"):
        RobotiqGripper(EMPTY_HOST, **options)


@pytest.fixture
def scripted():
    """A gripper that gives prepared answers, one a question; then none."""
    answers = []
    server = socket.create_server((EMPTY_HOST, 63352))

    def serve():
        with server.accept()[0] as link:
            while (received := link.recv(1024)) and answers is not None:
                for _ in range(received.count(b"\n")):
                    if answers:
                        link.sendall(answers.pop(0))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield answers
    server.close()
    thread.join(5.0)


@pytest.mark.parametrize(
    ("answers", "expected", "message"),
    [
        ([b"STA 0\n"], DeviceFaultError, "not active"),
        ([b"STA ?\n"], DeviceFaultError, "STA"),
        ([], DeviceTimeoutError, "STA"),
    ],
)
def test_a_gripper_that_is_not_well_is_a_fault(scripted, answers, expected, message):
    scripted.extend(answers)
    with pytest.raises(expected, match=message):
        RobotiqGripper(EMPTY_HOST, activate=False)


def test_a_gripper_that_vanishes_is_a_lost_connection(scripted):
    scripted.append(b"STA 3\n")
    gripper = RobotiqGripper(EMPTY_HOST)
    gripper._socket.shutdown(socket.SHUT_RDWR)
    with pytest.raises(DeviceConnectionError, match="broke"):
        gripper.opening()
    gripper.close()
