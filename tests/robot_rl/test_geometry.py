"""Rotations, poses, twists and wrenches against SciPy, hand calculation, finite differences and invariants."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from robot_rl.errors import ShapeError
from robot_rl.geometry import (
    CUBE_ROTATIONS,
    IDENTITY_POSE,
    IDENTITY_XYZW,
    adjoint,
    compose,
    invert,
    least_turned,
    matrix_from_quat,
    move_wrench,
    quat_conjugate,
    quat_from_matrix,
    quat_from_rotvec,
    quat_multiply,
    quat_rotate,
    quat_slerp,
    rotvec_from_quat,
)

ROOT_HALF = math.sqrt(0.5)
QUARTER_ABOUT_Z = np.array([0.0, 0.0, ROOT_HALF, ROOT_HALF])
HALF_ABOUT_X = np.array([1.0, 0.0, 0.0, 0.0])  # a tool pointing down

components = st.floats(-1.0, 1.0)
vectors = st.tuples(components, components, components).map(np.array)
rotvecs = vectors.filter(lambda v: np.linalg.norm(v) > 1e-3).flatmap(
    lambda v: st.floats(-math.pi, math.pi).map(lambda angle: v / np.linalg.norm(v) * angle)
)
quats = rotvecs.map(lambda v: Rotation.from_rotvec(v).as_quat())
poses = st.tuples(vectors, quats).map(np.concatenate)


def homogeneous(pose):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_quat(pose[3:]).as_matrix()
    matrix[:3, 3] = pose[:3]
    return matrix


def assert_same_rotation(a_xyzw, b_xyzw, atol=1e-9):
    difference = Rotation.from_quat(a_xyzw) * Rotation.from_quat(b_xyzw).inv()
    assert difference.magnitude() < atol


def test_a_quaternion_holds_half_the_angle_and_its_scalar_last():
    """A quarter turn about z: sin 45 deg in z, cos 45 deg in w (by hand)."""
    np.testing.assert_allclose(quat_from_rotvec(np.array([0.0, 0.0, math.pi / 2])), QUARTER_ABOUT_Z, atol=1e-15)


def test_a_quarter_turn_about_z_takes_x_to_y():
    np.testing.assert_allclose(quat_rotate(QUARTER_ABOUT_Z, np.array([1.0, 0, 0])), [0, 1, 0], atol=1e-15)


def test_product_applies_its_right_factor_first():
    """x -> half turn about x -> x -> quarter turn about z -> y; the other order gives -y (by hand)."""
    x = np.array([1.0, 0.0, 0.0])
    np.testing.assert_allclose(quat_rotate(quat_multiply(QUARTER_ABOUT_Z, HALF_ABOUT_X), x), [0, 1, 0], atol=1e-15)
    np.testing.assert_allclose(quat_rotate(quat_multiply(HALF_ABOUT_X, QUARTER_ABOUT_Z), x), [0, -1, 0], atol=1e-15)


@given(quats, quats, vectors)
def test_rotations_agree_with_scipy(a, b, v):
    expected = Rotation.from_quat(a)
    np.testing.assert_allclose(quat_rotate(a, v), expected.apply(v), atol=1e-12)
    np.testing.assert_allclose(matrix_from_quat(a), expected.as_matrix(), atol=1e-12)
    assert_same_rotation(quat_multiply(a, b), (expected * Rotation.from_quat(b)).as_quat())
    assert_same_rotation(quat_conjugate(a), expected.inv().as_quat())


@given(rotvecs)
def test_rotation_vectors_agree_with_scipy(v):
    expected = Rotation.from_rotvec(v)
    assert_same_rotation(quat_from_rotvec(v), expected.as_quat())
    ours = rotvec_from_quat(quat_from_rotvec(v))
    assert_same_rotation(Rotation.from_rotvec(ours).as_quat(), expected.as_quat())
    assert np.linalg.norm(ours) <= math.pi + 1e-12


@given(quats)
def test_q_and_minus_q_are_one_rotation(q):
    np.testing.assert_allclose(rotvec_from_quat(q), rotvec_from_quat(-q), atol=1e-12)
    np.testing.assert_allclose(matrix_from_quat(q), matrix_from_quat(-q), atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 1e-300, 1e-12, 1e-9, 1e-8, 1e-5, 0.99e-4, 1.01e-4, 1e-3])
def test_small_angles_keep_their_digits(angle):
    """To 12 digits, not merely to 1e-12: scipy keeps them too."""
    v = np.array([0.6, 0.0, -0.8]) * angle
    np.testing.assert_allclose(quat_from_rotvec(v), Rotation.from_rotvec(v).as_quat(), rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(rotvec_from_quat(quat_from_rotvec(v)), v, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("short_of_pi", [1e-3, 1e-6, 1e-9])
def test_just_short_of_a_half_turn_the_axis_survives(short_of_pi):
    v = np.array([0.0, 0.6, 0.8]) * (math.pi - short_of_pi)
    np.testing.assert_allclose(rotvec_from_quat(quat_from_rotvec(v)), v, atol=1e-12)


def test_just_past_a_half_turn_the_other_way_is_shorter():
    """190 degrees about y are -170 (by hand)."""
    v = rotvec_from_quat(quat_from_rotvec(np.array([0.0, math.radians(190), 0.0])))
    np.testing.assert_allclose(v, [0.0, math.radians(-170), 0.0], atol=1e-12)


def test_an_exact_half_turn_is_finite_and_pi_long():
    np.testing.assert_allclose(rotvec_from_quat(HALF_ABOUT_X), [math.pi, 0, 0], atol=1e-12)


@given(quats)
def test_quat_from_matrix_inverts_scipys_matrix(q):
    ours = quat_from_matrix(Rotation.from_quat(q).as_matrix())
    assert_same_rotation(ours, q)
    assert ours[3] >= 0.0
    assert abs(np.linalg.norm(ours) - 1.0) < 1e-12


@pytest.mark.parametrize("axis", np.vstack([np.eye(3), np.eye(3)[::-1] + 0.3, -np.eye(3)]))
def test_quat_from_matrix_at_a_half_turn(axis):
    """The trace is -1 here, where the textbook formula divides by zero."""
    rotation = Rotation.from_rotvec(math.pi * axis / np.linalg.norm(axis))
    assert_same_rotation(quat_from_matrix(rotation.as_matrix()), rotation.as_quat(), atol=1e-7)


@given(quats, quats, st.floats(0.0, 1.0))
def test_slerp_moves_at_constant_speed_the_short_way(a, b, fraction):
    whole = (Rotation.from_quat(b) * Rotation.from_quat(a).inv()).magnitude()
    part = (Rotation.from_quat(quat_slerp(a, b, fraction)) * Rotation.from_quat(a).inv()).magnitude()
    assert abs(part - fraction * whole) < 1e-7
    assert_same_rotation(quat_slerp(a, b, 1.0), b, atol=1e-7)


def test_slerp_to_minus_q_stays():
    """-q is where we are: half way there is still here, not a full turn's half."""
    assert_same_rotation(quat_slerp(QUARTER_ABOUT_Z, -QUARTER_ABOUT_Z, 0.5), QUARTER_ABOUT_Z)


@given(poses, poses)
def test_compose_and_invert_agree_with_homogeneous_matrices(a, b):
    np.testing.assert_allclose(homogeneous(compose(a, b)), homogeneous(a) @ homogeneous(b), atol=1e-12)
    np.testing.assert_allclose(homogeneous(invert(a)), np.linalg.inv(homogeneous(a)), atol=1e-12)


def test_compose_by_hand():
    """A camera 1 m ahead, turned left; an object 0.5 m ahead of it is 0.5 m to our left."""
    pose_base_camera = np.array([1.0, 0, 0, *QUARTER_ABOUT_Z])
    pose_camera_object = np.array([0.5, 0, 0, *IDENTITY_XYZW])
    np.testing.assert_allclose(compose(pose_base_camera, pose_camera_object)[:3], [1.0, 0.5, 0.0], atol=1e-15)
    np.testing.assert_allclose(invert(pose_base_camera)[:3], [0.0, 1.0, 0.0], atol=1e-15)


def test_identities_cannot_be_overwritten():
    for constant in (IDENTITY_POSE, IDENTITY_XYZW):
        with pytest.raises(ValueError, match="read-only"):
            constant[0] = 1.0


@given(poses)
def test_a_straight_twist_stays_straight_in_every_frame(pose):
    """SERL's trap: with blocks in the other order, a pure z command comes out as a rotation."""
    moved = adjoint(pose) @ np.array([0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(moved[3:], 0.0)
    assert abs(np.linalg.norm(moved[:3]) - 1.0) < 1e-12


def test_adjoint_by_hand():
    """b is 1 m along x from a and spins about z at 1 rad/s: the body's point at a moves along -y at 1 m/s."""
    pose_a_b = np.array([1.0, 0, 0, *IDENTITY_XYZW])
    np.testing.assert_allclose(adjoint(pose_a_b) @ [0, 0, 0, 0, 0, 1.0], [0, -1, 0, 0, 0, 1.0], atol=1e-15)


@given(poses, vectors, vectors)
def test_adjoint_is_the_derivative_of_a_rigid_motion(pose_a_b, linear_b, angular_b):
    """Finite differences: move the body by its twist for 1 us and watch its point at a's origin."""
    dt = 1e-6
    moved_b = np.concatenate([linear_b * dt, Rotation.from_rotvec(angular_b * dt).as_quat()])
    t = homogeneous(pose_a_b)
    motion_a = t @ homogeneous(moved_b) @ np.linalg.inv(t)
    linear, angular = motion_a[:3, 3] / dt, Rotation.from_matrix(motion_a[:3, :3]).as_rotvec() / dt
    expected = np.concatenate([linear, angular])
    np.testing.assert_allclose(adjoint(pose_a_b) @ np.concatenate([linear_b, angular_b]), expected, atol=2e-5)


def test_side_force_above_tcp_gives_lever_arm_torque():
    """10 N along +x, 0.1 m above the tcp: 1 N m about +y (by hand)."""
    moved = move_wrench(np.array([10.0, 0, 0, 0, 0, 0]), np.array([0, 0, 0.1]), IDENTITY_XYZW)
    np.testing.assert_allclose(moved, [10.0, 0, 0, 0, 1.0, 0], atol=1e-12)


def test_a_turned_sensor_reports_in_its_own_axes():
    """2 N along the sensor's x, its x being the tcp's y: 2 N along y; the 3 N m about its z stay (by hand)."""
    moved = move_wrench([2.0, 0, 0, 0, 0, 3.0], [0.0, 0, 0], QUARTER_ABOUT_Z)
    np.testing.assert_allclose(moved, [0, 2.0, 0, 0, 0, 3.0], atol=1e-12)


@given(poses, vectors, vectors, vectors, vectors)
def test_power_does_not_depend_on_the_frame(pose_tcp_sensor, force, torque, linear, angular):
    wrench, twist = np.concatenate([force, torque]), np.concatenate([linear, angular])
    moved = move_wrench(wrench, pose_tcp_sensor[:3], pose_tcp_sensor[3:])
    assert abs(moved @ (adjoint(pose_tcp_sensor) @ twist) - wrench @ twist) < 1e-9


def test_a_batch_of_wrenches_is_one_wrench_at_a_time():
    rng = np.random.default_rng(0)
    wrenches, position = rng.normal(size=(4, 3, 6)), rng.normal(size=3)
    moved = move_wrench(wrenches, position, QUARTER_ABOUT_Z)
    assert moved.shape == (4, 3, 6)
    np.testing.assert_allclose(moved[2, 1], move_wrench(wrenches[2, 1], position, QUARTER_ABOUT_Z), atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "name", "shape"),
    [
        ((np.zeros(5), np.zeros(3), IDENTITY_XYZW), "wrench_sensor", "(5,)"),
        ((np.zeros((2, 7)), np.zeros(3), IDENTITY_XYZW), "wrench_sensor", "(2, 7)"),
        ((1.0, np.zeros(3), IDENTITY_XYZW), "wrench_sensor", "()"),
        ((np.zeros(6), np.zeros(4), IDENTITY_XYZW), "position_tcp_sensor", "(4,)"),
        ((np.zeros(6), np.zeros((2, 3)), IDENTITY_XYZW), "position_tcp_sensor", "(2, 3)"),
        ((np.zeros(6), np.zeros(3), np.eye(3)), "quat_tcp_sensor_xyzw", "(3, 3)"),
        ((np.zeros(6), np.zeros(3), np.zeros((2, 4))), "quat_tcp_sensor_xyzw", "(2, 4)"),
    ],
)
def test_a_wrong_shape_is_named(arguments, name, shape):
    with pytest.raises(ShapeError, match=name) as caught:
        move_wrench(*arguments)
    assert shape in str(caught.value)


def test_a_cube_looks_the_same_on_every_face():
    assert len({matrix.tobytes() for matrix in CUBE_ROTATIONS + 0.0}) == 24
    turn = matrix_from_quat(quat_from_rotvec(np.array([0.1, -0.2, 0.5])))
    for rotation in CUBE_ROTATIONS:
        np.testing.assert_allclose(least_turned(turn @ rotation, CUBE_ROTATIONS), turn, atol=1e-12)
    quarter_less = matrix_from_quat(quat_from_rotvec(np.array([0.0, 0.0, 1.0])))
    nearest = matrix_from_quat(quat_from_rotvec(np.array([0.0, 0.0, 1.0 - np.pi / 2])))
    np.testing.assert_allclose(least_turned(quarter_less, CUBE_ROTATIONS), nearest, atol=1e-12)


@pytest.mark.parametrize("pose", [np.zeros(6), np.eye(4), np.zeros((2, 7)), 0.0])
def test_adjoint_wants_one_pose(pose):
    with pytest.raises(ShapeError, match="pose_a_b"):
        adjoint(pose)
