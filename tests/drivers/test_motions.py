"""Smooth motions, against the polynomial's known values and numerical derivatives."""

import numpy as np
import pytest

from drivers.motions import PEAK_SPEED, JointMotion, PoseMotion
from robot_rl.errors import ConfigError, ShapeError

FAST = np.full(2, 100.0)
POSE = np.array([0.1, 0.2, 0.3, 0.0, 0.0, 0.0, 1.0])


def test_half_way_at_half_time_with_the_known_peak_speed():
    """By symmetry half the way at half the time; there the speed is 15/8 of the mean (by hand)."""
    motion = JointMotion.plan(np.zeros(2), np.array([1.0, -2.0]), 2.0, FAST)
    q, qd = motion.at(1.0)
    np.testing.assert_allclose(q, [0.5, -1.0], atol=1e-12)
    np.testing.assert_allclose(qd, [0.5 * 1.875, -1.0 * 1.875], atol=1e-12)
    assert PEAK_SPEED == 1.875


def test_speed_is_the_derivative_of_the_angle():
    motion = JointMotion.plan(np.zeros(2), np.array([1.0, 0.3]), 1.5, FAST)
    for time_s in np.linspace(0.01, 1.49, 20):
        ahead, behind = motion.at(time_s + 1e-6)[0], motion.at(time_s - 1e-6)[0]
        np.testing.assert_allclose(motion.at(time_s)[1], (ahead - behind) / 2e-6, atol=1e-6)


def test_rest_before_and_after():
    motion = JointMotion.plan(np.zeros(2), np.ones(2), 1.0, FAST)
    for time_s, expected in ((-1.0, 0.0), (0.0, 0.0), (1.0, 1.0), (9.0, 1.0)):
        q, qd = motion.at(time_s)
        np.testing.assert_allclose(q, expected)
        np.testing.assert_allclose(qd, 0.0)


def test_a_joint_too_fast_makes_the_motion_longer():
    """1 rad at most 0.5 rad/s: the peak of 15/8 rad/T reaches it at T = 3.75 s."""
    motion = JointMotion.plan(np.zeros(2), np.array([1.0, 0.0]), 0.1, np.full(2, 0.5))
    assert motion.duration_s == pytest.approx(3.75)


def test_pose_goes_straight_and_turns_the_short_way():
    goal = np.array([0.3, 0.2, 0.3, 0.0, 0.0, np.sin(0.5), np.cos(0.5)])  # 1 rad about z
    motion = PoseMotion.plan(POSE, goal, 2.0, (1.0, 10.0))
    np.testing.assert_allclose(motion.at(1.0), [0.2, 0.2, 0.3, 0, 0, np.sin(0.25), np.cos(0.25)], atol=1e-12)
    np.testing.assert_allclose(motion.at(2.0), goal, atol=1e-12)


def test_angular_speed_makes_the_pose_motion_longer():
    goal = np.array([0.1, 0.2, 0.3, 0.0, 0.0, np.sin(0.5), np.cos(0.5)])
    assert PoseMotion.plan(POSE, goal, 0.1, (1.0, 0.5)).duration_s == pytest.approx(1.0 / 0.5 * 1.875)


@pytest.mark.parametrize("goal", [np.zeros(3), np.array([np.nan, 0.0])])
def test_a_wrong_joint_goal_is_refused(goal):
    with pytest.raises(ShapeError, match="2 finite angles"):
        JointMotion.plan(np.zeros(2), goal, 1.0, FAST)


def test_a_pose_goal_without_a_unit_quaternion_is_refused():
    with pytest.raises(ShapeError, match="unit quat_xyzw"):
        PoseMotion.plan(POSE, np.zeros(7), 1.0, (1.0, 1.0))


@pytest.mark.parametrize("duration", [0.0, -1.0, float("nan")])
def test_a_motion_needs_time(duration):
    with pytest.raises(ConfigError, match="must be positive"):
        JointMotion.plan(np.zeros(2), np.ones(2), duration, FAST)
