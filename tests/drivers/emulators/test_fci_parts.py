"""Parts of the emulated Franka that need no client: kinematics, model, wire layout, whose turn it is."""

import threading
import time
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from drivers.emulators import fci_kinematics, fci_protocol
from drivers.emulators.fci_model import describe_arm, urdf_of, velocity_limits
from drivers.emulators.plant import Plant, TurnLock

pytestmark = pytest.mark.realtime


@pytest.fixture(scope="module")
def plant():
    return Plant("fr3")


@pytest.fixture(scope="module")
def arm(plant):
    model = plant.twin.arm_model
    return describe_arm(model.path, model.flange, model.torque_limits)


def test_packets_have_the_published_sizes():
    """libfranka-common 0.21: RobotState 1377 bytes, RobotCommand 371, 41 errors; headers of 12 and 10 bytes."""
    assert (fci_protocol.STATE_BYTES.size, fci_protocol.COMMAND_BYTES.size) == (1377, 371)
    assert len(fci_protocol.ERRORS) == len(set(fci_protocol.ERRORS)) == 41
    assert (fci_protocol.ROBOT_HEADER.size, fci_protocol.GRIPPER_HEADER.size) == (12, 10)


def test_the_chain_agrees_with_the_physics(plant, arm):
    """Anywhere, the chain read from our MJCF has MuJoCo's pose and Jacobian of the tool."""
    site = plant.twin.model.site("tool/tcp").id
    rng = np.random.default_rng(1)
    half = np.sqrt(0.5)
    hand = np.array([[half, half, 0, 0], [-half, half, 0, 0], [0, 0, 1, 0.1034], [0, 0, 0, 1]])
    pose, jacobian = np.zeros((4, 4)), np.zeros((6, 7))
    for _ in range(5):
        plant.twin.jump_to_joints(rng.uniform(plant.limits.lower, plant.limits.upper))
        plant.settle()
        fci_kinematics.forward(arm.links, arm.flange @ hand, plant.q, np.zeros((8, 4, 4)), pose, jacobian)
        np.testing.assert_allclose(pose[:3, 3], plant.twin.data.site_xpos[site], atol=1e-9)
        np.testing.assert_allclose(pose[:3, :3].ravel(), plant.twin.data.site_xmat[site], atol=1e-9)
        np.testing.assert_allclose(jacobian, plant.jacobian, atol=1e-9)


def test_a_quarter_turn_about_z_is_a_rotation_vector_of_half_pi():
    pose, start, vector = np.eye(4), np.eye(4), np.zeros(3)
    fci_kinematics.move_rigid(pose, np.array([0.1, 0.0, 0.0, 0.0, 0.0, np.pi / 4]), 2.0)
    np.testing.assert_allclose(pose[:3, :3], [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-12)
    np.testing.assert_allclose(pose[:3, 3], [0.2, 0.0, 0.0], atol=1e-12)
    fci_kinematics.rotation_vector(pose, start, vector)
    np.testing.assert_allclose(vector, [0.0, 0.0, np.pi / 2], atol=1e-12)


def test_the_null_space_moves_joints_but_not_the_tool():
    rng = np.random.default_rng(2)
    jacobian, values = rng.normal(size=(6, 7)), rng.normal(size=7)
    fci_kinematics.to_nullspace(jacobian, 0.0, values, np.zeros((6, 6)), np.zeros(12))
    np.testing.assert_allclose(jacobian @ values, 0.0, atol=1e-9)
    assert np.linalg.norm(values) > 1e-3


def test_a_joint_may_be_fast_in_the_middle_and_not_at_its_end():
    """Joint 1: min(2.62, sqrt(12 (2.7501 - q)) - 0.3); 0.1 rad before the end that is 0.7954 rad/s."""
    low, high = velocity_limits(np.array([2.6501, 0, 0, -1.5, 0, 2.0, 0]))
    assert high[0] == pytest.approx(np.sqrt(1.2) - 0.3)
    assert low[0] == -2.62
    _, at_end = velocity_limits(np.array([2.7501, 0, 0, -1.5, 0, 2.0, 0]))
    assert at_end[0] == 0.0


def test_the_urdf_has_what_the_client_asks_for(arm):
    robot = ET.fromstring(urdf_of(arm))
    joints = {joint.get("name"): joint for joint in robot.iter("joint")}
    assert {f"joint{n}" for n in range(1, 8)} <= set(joints)
    for number in range(1, 8):
        assert joints[f"joint{number}"].find("position_based_velocity_limits") is not None
        assert joints[f"joint{number}"].find("limit") is not None
    assert "link8" in {link.get("name") for link in robot.iter("link")}
    assert joints["joint8"].find("origin").get("xyz").endswith(repr(float(arm.flange[2, 3])))
    assert arm.flange[2, 3] == pytest.approx(0.107)  # franka_description, kinematics.yaml


def test_the_lock_lets_a_waiting_thread_in():
    """A loop that lets go only for an instant does not keep others out."""
    lock, entered, running = TurnLock(), threading.Event(), True

    def loop():
        while running:
            with lock, lock:  # and it may be taken again by its owner
                time.sleep(1e-3)

    def visit():
        with lock:
            entered.set()

    threads = [threading.Thread(target=loop), threading.Thread(target=visit)]
    for thread in threads:
        thread.start()
    assert entered.wait(10.0)
    running = False
    for thread in threads:
        thread.join()
