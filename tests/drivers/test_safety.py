"""The safety supervisor: what passes, what is clipped, what is refused; and a property over any sequence."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from drivers.impedance import ImpedanceGains, JointLimits
from drivers.interfaces import ArmState
from drivers.safety import SafeArm, SafeServoArm, SafetyLimits
from robot_rl.errors import ConfigError, SafetyError, StaleStateError

DOWN = np.array([1.0, 0.0, 0.0, 0.0])
LIMITS = SafetyLimits(
    position_low=(0.3, -0.2, 0.05), position_high=(0.7, 0.2, 0.4), rotation_limit=(0.1, 0.2, 0.8), max_step=(0.15, 0.5),
    max_wrench=(50.0, 10.0),
)  # fmt: skip


class RecordingArm:
    """An arm that goes where it is told at once and remembers what it was told."""

    joint_limits = JointLimits(lower=-np.ones(7), upper=np.ones(7), torque=np.ones(7), posture=np.zeros(7))

    def __init__(self, tcp_pose, wrench=(0,) * 6, q=(0,) * 7, twist=(0,) * 6):
        self.tcp_pose, self.wrench, self.calls = np.array(tcp_pose, float), np.array(wrench, float), []
        self.q, self.twist, self.time_s = np.array(q, float), np.array(twist, float), 0.0

    def state(self):
        zero = np.zeros(7)
        return ArmState(self.time_s, self.q, zero, zero, self.tcp_pose.copy(), self.twist, self.wrench)

    def command(self, target_pose):
        assert target_pose.shape == (7,)
        assert np.isfinite(target_pose).all()
        assert abs(np.linalg.norm(target_pose[3:]) - 1.0) < 1e-9
        self.calls.append("command")
        self.tcp_pose = target_pose.copy()

    def __getattr__(self, name):
        return lambda *arguments: self.calls.append(name)


def pose(x=0.5, y=0.0, z=0.2, away=(0.0, 0.0, 0.0)):
    """A tool pointing down, turned by rotation vector `away` in its own frame."""
    return np.array([x, y, z, *(Rotation.from_quat(DOWN) * Rotation.from_rotvec(away)).as_quat()])


def admitted(target, start=None, **options):
    arm = RecordingArm(pose() if start is None else start, **options)
    SafeArm(arm, LIMITS).command(np.asarray(target, float))
    return arm.tcp_pose


def away_of(pose_xyzw):
    return (Rotation.from_quat(DOWN).inv() * Rotation.from_quat(pose_xyzw[3:])).as_rotvec()


def test_a_target_within_limits_passes_unchanged():
    target = pose(0.55, 0.05, 0.15, (0.05, -0.1, 0.2))
    np.testing.assert_allclose(admitted(target)[:3], target[:3], atol=1e-12)
    np.testing.assert_allclose(away_of(admitted(target)), [0.05, -0.1, 0.2], atol=1e-12)


def test_minus_q_passes_as_q():
    target = pose(away=(0.05, -0.1, 0.2))
    target[3:] *= -1
    np.testing.assert_allclose(away_of(admitted(target)), [0.05, -0.1, 0.2], atol=1e-12)


@pytest.mark.parametrize(
    ("start", "target", "expected"),
    [
        ((0.65, 0, 0.2), (0.75, 0, 0.2), (0.7, 0, 0.2)),
        ((0.35, 0, 0.2), (0.25, 0, 0.2), (0.3, 0, 0.2)),
        ((0.5, 0.15, 0.1), (0.5, 0.25, 0.02), (0.5, 0.2, 0.05)),
        ((0.5, -0.15, 0.35), (0.5, -0.25, 0.45), (0.5, -0.2, 0.4)),
    ],
)
def test_outside_the_box_is_clipped_to_its_face(start, target, expected):
    np.testing.assert_allclose(admitted(pose(*target), pose(*start))[:3], expected, atol=1e-12)


def test_an_arm_pushed_out_of_the_box_is_called_back():
    assert admitted(pose(0.9, 0, 0.2), pose(0.9, 0, 0.2))[0] == pytest.approx(0.7)


def test_rotation_is_clipped_on_each_axis_of_the_tool():
    got = away_of(admitted(pose(away=(0.3, -0.3, 0.1))))
    np.testing.assert_allclose(got, [0.1, -0.2, 0.1], atol=1e-9)


def test_a_long_step_is_shortened_in_its_own_direction():
    """0.2 m along y and -z as 3-4-5: shortened to 0.15 m (by hand)."""
    np.testing.assert_allclose(admitted(pose(0.5, 0.12, 0.2 - 0.16))[:3], [0.5, 0.09, 0.08], atol=1e-12)


def test_a_long_turn_is_shortened_about_its_own_axis():
    np.testing.assert_allclose(away_of(admitted(pose(away=(0, 0, 0.7)))), [0, 0, 0.5], atol=1e-9)


@pytest.mark.parametrize("component", range(7))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_a_number_is_refused_and_the_arm_holds(component, value):
    arm, target = RecordingArm(pose()), pose()
    target[component] = value
    with pytest.raises(SafetyError, match="finite"):
        SafeArm(arm, LIMITS).command(target)
    assert arm.calls == ["stop"]


@pytest.mark.parametrize("target", [np.zeros(6), np.zeros((1, 7)), np.zeros(0)])
def test_a_wrong_shape_is_refused_and_the_arm_holds(target):
    arm = RecordingArm(pose())
    with pytest.raises(SafetyError, match="7 finite numbers"):
        SafeArm(arm, LIMITS).command(target)
    assert arm.calls == ["stop"]


@pytest.mark.parametrize("factor", [0.0, 0.99, 1.01])
def test_a_quaternion_that_is_not_unit_is_refused(factor):
    arm, target = RecordingArm(pose()), pose()
    target[3:] *= factor
    with pytest.raises(SafetyError, match=f"norm {factor:.3f}"):
        SafeArm(arm, LIMITS).command(target)
    assert arm.calls == ["stop"]


@pytest.mark.parametrize(
    ("wrench", "accepted"),
    [
        ((0, 0, 49, 0, 0, 0), True),
        ((30, 30, 30, 0, 0, 0), False),
        ((0, 0, 0, 0, 9, 0), True),
        ((0, 0, 0, 8, 8, 0), False),
    ],
)
def test_a_hard_push_is_refused_by_its_norm(wrench, accepted):
    """30 N on each axis are 52 N, 8 N m on two 11.3 N m (by hand)."""
    arm = RecordingArm(pose(), wrench=wrench)
    if accepted:
        SafeArm(arm, LIMITS).command(pose())
        assert arm.calls == ["command"]
        return
    with pytest.raises(SafetyError, match="max_wrench") as caught:
        SafeArm(arm, LIMITS).command(pose())
    assert arm.calls == ["stop"]
    assert caught.value.force == pytest.approx(np.linalg.norm(wrench[:3]))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_reading_that_is_not_a_number_is_refused(bad):
    """NaN is above no limit; it must not pass for a small one."""
    broken_pose = pose()
    broken_pose[1] = bad
    arms = (
        RecordingArm(pose(), wrench=(0, 0, bad, 0, 0, 0)),
        RecordingArm(broken_pose),
        RecordingArm(pose(), q=(0, 0, 0, bad, 0, 0, 0)),
        RecordingArm(pose(), twist=(bad, 0, 0, 0, 0, 0)),
    )
    for arm in arms:
        with pytest.raises(SafetyError):
            SafeArm(arm, LIMITS).command(pose())
        assert arm.calls == ["stop"]


REFUSING = replace(LIMITS, outside="refuse")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (pose(0.5, 0.0, 0.04), "outside the box"),
        (pose(away=(0.15, 0, 0)), "outside the box"),
        (pose(0.66, 0, 0.2), "max_step"),
        (pose(away=(0, 0, 0.6)), "max_step"),
    ],
)
def test_what_is_declared_refused_is_not_clipped(target, words):
    arm = RecordingArm(pose())
    with pytest.raises(SafetyError, match=words):
        SafeArm(arm, REFUSING).command(target)
    assert arm.calls == ["stop"]


def test_on_the_face_and_at_full_step_is_inside():
    arm = RecordingArm(pose(0.55))
    SafeArm(arm, REFUSING).command(pose(0.7, away=(0.1, 0, 0)))
    np.testing.assert_allclose(arm.tcp_pose[:3], [0.7, 0, 0.2], atol=1e-12)


@pytest.mark.parametrize(("q3", "accepted"), [(0.9, True), (0.96, True), (0.98, False), (-0.98, False), (1.2, False)])
def test_a_joint_within_half_its_margin_is_refused(q3, accepted):
    """Limits at 1 rad, margin 0.05: refused from 0.975 on (by hand)."""
    arm = RecordingArm(pose(), q=(0, 0, q3, 0, 0, 0, 0))
    if accepted:
        SafeArm(arm, LIMITS).command(pose())
        return
    with pytest.raises(SafetyError, match="Joint 3 is"):
        SafeArm(arm, LIMITS).command(pose())
    assert arm.calls == ["stop"]


class StillClock:
    def __init__(self, time_s):
        self.time_s = time_s

    def now(self):
        return self.time_s


@pytest.mark.parametrize(("age", "accepted"), [(0.09, True), (0.11, False), (math.nan, False)])
def test_a_reading_too_old_to_act_on_is_refused(age, accepted):
    arm = RecordingArm(pose())
    safe = SafeArm(arm, LIMITS, StillClock(age))
    if accepted:
        safe.command(pose())
        return
    with pytest.raises(StaleStateError, match=r"limit 0.100 s \(SafetyLimits.max_state_age_s\)"):
        safe.command(pose())
    assert arm.calls == ["stop"]


def test_without_limits_nothing_moves():
    arm = RecordingArm(pose())
    safe = SafeArm(arm)
    with pytest.raises(SafetyError, match="set_limits"):
        safe.command(pose())
    safe.set_limits(LIMITS)
    safe.command(pose())
    assert arm.calls == ["stop", "set_limits", "command"]


def test_a_servo_arm_keeps_its_loop():
    arm = RecordingArm(pose())
    arm.period_s, arm.law_s, arm.moving = 0.002, 1e-5, True
    safe = SafeServoArm(arm, LIMITS)
    safe.tick()
    assert (safe.period_s, safe.law_s, safe.moving) == (0.002, 1e-5, True)
    assert arm.calls == ["tick"]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"position_low": (0.3, 0.2, 0.05)}, "along y"),
        ({"position_low": (0.3, math.nan, 0.05)}, "position_low"),
        ({"orientation_xyzw": (1.0, 0.5, 0.0, 0.0)}, r"norm 1\.118"),
        ({"rotation_limit": (0.1, -0.1, 0.1)}, "rotation_limit"),
        ({"max_speed": (0.0, 1.0)}, "never move"),
        ({"max_speed": (math.inf, 1.0)}, "max_speed"),
        ({"max_step": (-0.1, 0.5)}, "max_step"),
        ({"max_wrench": (math.nan, 1.0)}, "max_wrench"),
        ({"joint_margin": -0.1}, "joint_margin"),
        ({"max_state_age_s": 0.0}, "max_state_age_s"),
        ({"outside": "ignore"}, "clip or refuse"),
        ({"max_speed": (1.0,)}, "2 numbers"),
    ],
)
def test_limits_that_make_no_sense_say_which(bad, words):
    with pytest.raises(ConfigError, match=words):
        replace(LIMITS, **bad)


numbers = st.floats(-3.0, 3.0) | st.floats()
targets = st.tuples(
    numbers,
    numbers,
    numbers,
    st.tuples(*[st.floats(-4.0, 4.0)] * 3),
    st.sampled_from([1.0, -1.0, 1.0005, 0.5, math.nan]),
)


@given(st.lists(targets, min_size=1, max_size=30))
@settings(max_examples=200)
def test_no_sequence_of_targets_leaves_the_box(sequence):
    """Not the targets of a broken policy, not far jumps, not sums of small steps."""
    arm = RecordingArm(pose())
    safe = SafeArm(arm, LIMITS)
    for x, y, z, rotvec, factor in sequence:
        before = arm.tcp_pose.copy()
        try:
            safe.command(np.array([x, y, z, *(Rotation.from_rotvec(rotvec).as_quat() * factor)]))
        except SafetyError:
            assert arm.calls[-1] == "stop"
        assert (arm.tcp_pose[:3] >= LIMITS.position_low).all()
        assert (arm.tcp_pose[:3] <= LIMITS.position_high).all()
        assert (np.abs(away_of(arm.tcp_pose)) <= np.array(LIMITS.rotation_limit) + 1e-9).all()
        assert np.linalg.norm(arm.tcp_pose[:3] - before[:3]) <= 0.15 + 1e-9


def test_everything_else_reaches_the_arm():
    arm = RecordingArm(pose())
    with SafeArm(arm, LIMITS) as safe:
        safe.set_impedance(ImpedanceGains())
        safe.move_to_joints(np.zeros(7), 1.0)
        safe.move_to_pose(pose(), 1.0)
        safe.recover()
        safe.stop()
    expected = ["connect", "set_limits", "set_impedance", "move_to_joints", "move_to_pose", "recover", "stop", "close"]
    assert arm.calls == expected
