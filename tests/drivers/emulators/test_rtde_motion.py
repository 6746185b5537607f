"""The emulated controller's kinematics and references, against hand calculations, MuJoCo and invariants."""

import mujoco
import numpy as np
import pytest

from drivers.emulators.plant import Plant
from drivers.emulators.rtde_kinematics import FLANGE, forward, from_ur, inverse, to_ur, wrench_of
from drivers.emulators.rtde_motion import Force, MoveJ, MoveL, Reference, Servo, Speed, Stop, trapezoid
from robot_rl.geometry import compose

pytestmark = pytest.mark.realtime

HOME = np.array([-0.269864, -1.538540, 1.887982, -1.920238, -1.570796, -1.055262])
HAND = np.array([0.0, 0.0, 0.1034, 0.0, 0.0, -np.sin(np.pi / 8), np.cos(np.pi / 8)])  # as the twin's gripper sits
HALF_TURN = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0])
DT = 0.002


def reference():
    return Reference(HOME.copy(), np.zeros(6), FLANGE.copy())


def test_flange_of_the_zero_posture_by_hand():
    """x = a2 + a3, y = -(d4 + d6), z = d1 - d5 of UR's published table."""
    pose, _ = forward(np.zeros(6), FLANGE)
    np.testing.assert_allclose(pose[:3], [-0.425 - 0.3922, -0.1333 - 0.0996, 0.1625 - 0.0997], atol=1e-12)


def test_kinematics_agree_with_the_twin_turned_by_half_a_turn():
    plant = Plant("ur5e")
    rng = np.random.default_rng(1)
    for _ in range(5):
        q = rng.uniform(-2.0, 2.0, 6)
        plant.twin.jump_to_joints(q)
        plant.settle()
        pose = compose(HALF_TURN, forward(q, HAND)[0])
        np.testing.assert_allclose(pose[:3], plant.tcp_pose[:3], atol=1e-9)
        assert abs(pose[3:] @ plant.tcp_pose[3:]) == pytest.approx(1.0, abs=1e-12)


def test_jacobian_is_the_derivative():
    h = 1e-6
    _, jacobian = forward(HOME, HAND)
    for j in range(6):
        step = np.eye(6)[j] * h
        slope = (forward(HOME + step, HAND)[0][:3] - forward(HOME - step, HAND)[0][:3]) / (2 * h)
        np.testing.assert_allclose(jacobian[:3, j], slope, atol=1e-8)


def test_inverse_finds_the_posture_again_and_says_when_there_is_none():
    pose, _ = forward(HOME, HAND)
    q, reached = inverse(pose, HAND, HOME + 0.2)
    assert reached
    np.testing.assert_allclose(forward(q, HAND)[0], pose, atol=1e-5)
    far = pose.copy()
    far[0] = -2.0
    assert not inverse(far, HAND, HOME)[1]


def test_a_controllers_six_numbers_go_there_and_back():
    six = np.array([0.1, -0.2, 0.3, 0.5, -1.0, 2.0])
    np.testing.assert_allclose(to_ur(from_ur(six)), six, atol=1e-12)


def test_trapezoid_by_hand():
    """2 m at most 1 m/s with 1 m/s^2: 1 s up, 1 s level, 1 s down; 1 m is a triangle of 2 s."""
    assert [trapezoid(2.0, 1.0, 1.0, t) for t in (1.0, 2.0, 3.0, 9.0)] == pytest.approx([0.5, 1.5, 2.0, 2.0])
    assert [trapezoid(1.0, 9.0, 1.0, t) for t in (1.0, 2.0)] == pytest.approx([0.5, 1.0])


def test_a_joint_move_takes_as_long_as_its_longest_joint():
    """1 rad at 1 rad/s and 2 rad/s^2: 0.5 + 0.5 + 0.5 s; the short joint arrives with it."""
    r, goal = reference(), HOME + np.array([1.0, 0.2, 0, 0, 0, 0])
    move, cycles = MoveJ(r.q, goal, 1.0, 2.0), 1
    while not move.step(r, DT):
        cycles += 1
        assert (r.q - HOME)[1] == pytest.approx(0.2 * (r.q - HOME)[0], abs=1e-9)
    assert cycles * DT == pytest.approx(1.5, abs=2 * DT)
    np.testing.assert_allclose(r.q, goal, atol=1e-9)


def test_a_linear_move_is_straight():
    r = reference()
    start = r.pose()[0]
    goal = start.copy()
    goal[:3] += [0.1, 0.05, -0.1]
    move, way = MoveL(start, goal, 0.5, 2.0), (goal - start)[:3]
    while not move.step(r, DT):
        off = r.pose()[0][:3] - start[:3]
        assert np.linalg.norm(np.cross(off, way)) / np.linalg.norm(way) < 1e-5
    np.testing.assert_allclose(r.pose()[0][:3], goal[:3], atol=1e-5)


def test_servo_never_exceeds_the_joints_speed_and_arrives():
    r, servo = reference(), Servo(HOME + 2.0, 0.03, 2000.0)
    for _ in range(1000):
        servo.step(r, DT)
        assert np.abs(r.qd).max() <= np.pi + 1e-9
    np.testing.assert_allclose(r.q, HOME + 2.0, atol=1e-6)


def test_speed_ramps_up_at_its_acceleration_and_stops_at_its_deceleration():
    """0.1 m/s at 0.5 m/s^2 takes 0.2 s; stopping it at 1 m/s^2 takes 0.1 s."""
    r, target = reference(), np.array([0.0, 0.0, 0.1, 0.0, 0.0, 0.0])
    speed = Speed(target, 0.5, tool=True)
    for _ in range(50):
        speed.step(r, DT)
    np.testing.assert_allclose((r.pose()[1] @ r.qd)[:3], [0, 0, 0.05], atol=1e-3)
    for _ in range(100):
        speed.step(r, DT)
    np.testing.assert_allclose(r.pose()[1] @ r.qd, target, atol=1e-3)
    stop, cycles = Stop(1.0, tool=True), 1
    while not stop.step(r, DT):
        cycles += 1
    assert cycles * DT == pytest.approx(0.1, abs=0.02)


def test_force_mode_without_contact_moves_its_axis_at_the_limit_and_no_other():
    r = reference()
    start = r.pose()[0]
    force = Force(start)
    force.set(FLANGE, np.arange(6) == 2, np.array([0, 0, -50.0, 0, 0, 0]), np.full(6, 0.02))
    for _ in range(1000):
        before = r.q
        r.qd = np.zeros(6)
        force.step(r, before, np.zeros(6), DT)
    moved = r.pose()[0]
    np.testing.assert_allclose(moved[:2], start[:2], atol=1e-5)
    assert moved[2] - start[2] == pytest.approx(-0.02 * 2.0, rel=0.02)  # 2 s at the limit
    assert abs(moved[3:] @ start[3:]) == pytest.approx(1.0, abs=1e-8)


def test_sensor_wrench_from_joint_torques_is_the_one_applied():
    plant = Plant("ur5e")
    applied = np.array([3.0, -2.0, 10.0, 0.1, 0.2, -0.3])  # at the flange, in Base
    torque = np.zeros(plant.twin.model.nv)
    at, turn = forward(HOME, FLANGE)[0][:3] * [-1, -1, 1], np.diag([-1.0, -1.0, 1.0])
    body = plant.twin.model.site("arm/flange").bodyid[0]
    mujoco.mj_applyFT(plant.twin.model, plant.twin.data, turn @ applied[:3], turn @ applied[3:], at, int(body), torque)
    np.testing.assert_allclose(wrench_of(HOME, torque[plant.twin.arm_dofs], 1e-12), applied, atol=1e-6)
