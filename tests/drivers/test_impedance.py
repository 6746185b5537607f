"""The impedance law: an independent oracle, hand calculation, and physics on the twin."""

import math
from dataclasses import replace

import mujoco
import numpy as np
import pytest
from numba import njit
from numba.core.runtime import _nrt_python, rtsys
from scipy.spatial.transform import Rotation

from drivers.impedance import ImpedanceGains, ImpedanceLaw, JointLimits, impedance_torque
from drivers.impedance_reference import ReferenceLaw
from drivers.safety_limits import SafetyLimits
from drivers.twin.arms import load_arm
from drivers.twin.twin import Twin
from robot_rl.errors import ConfigError, ShapeError

AT_ORIGIN = np.array([0.0, 0, 0, 0, 0, 0, 1])
ZERO = np.zeros(6)
ROOMY = 100.0
# Every filter off, so that one tick shows the law itself.
PLAIN = ImpedanceGains(
    stiffness=(1000.0, 800.0, 600.0),
    damping=(50.0, 40.0, 30.0),
    rotational_stiffness=(60.0, 50.0, 40.0),
    rotational_damping=(4.0, 3.0, 2.0),
    nullspace_stiffness=0.0,
    target_time_constant_s=0.0,
    torque_rate=1e6,
)


def limits_of(n, torque=1e6):
    ones = np.ones(n)
    return JointLimits(lower=-ROOMY * ones, upper=ROOMY * ones, torque=torque * ones, posture=np.zeros(n))


def cartesian_law(gains=PLAIN, **options):
    """Six joints whose Jacobian is the identity: joint torques are the wrench in `base`."""
    law = ImpedanceLaw(limits_of(6, **options))
    law.set_gains(gains)
    law.reset(AT_ORIGIN)
    return law


def wrench_towards(law, target, tcp=AT_ORIGIN, qd=ZERO, bias=ZERO):
    return law.torque(np.asarray(target, float), tcp, np.eye(6), ZERO, qd, bias).copy()


def pose_at(position=(0, 0, 0), rotvec=(0, 0, 0)):
    return np.concatenate([position, Rotation.from_rotvec(rotvec).as_quat()])


def random_gains(rng):
    names = ("stiffness", "damping", "rotational_stiffness", "rotational_damping")
    return ImpedanceGains(
        **{name: tuple(np.array(getattr(PLAIN, name)) * rng.uniform(0.1, 2, 3)) for name in names},
        translational_clip=tuple(rng.uniform(0.005, 0.05, 3)),
        rotational_clip=tuple(rng.uniform(0.01, 0.3, 3)),
        nullspace_stiffness=rng.uniform(0, 20),
        target_time_constant_s=rng.choice([0.0, 0.01, 0.2]),
        torque_rate=rng.uniform(0.1, 10.0),
        limit_margin=rng.uniform(0, 0.3),
        limit_stiffness=rng.uniform(0, 100),
    )


def random_limits(rng, n):
    return JointLimits(
        lower=rng.uniform(-1.5, -0.5, n),
        upper=rng.uniform(0.5, 1.5, n),
        torque=rng.uniform(5, 100, n),
        posture=rng.uniform(-0.5, 0.5, n),
    )


def random_safety_limits(rng):
    """A box about the origin, about as large as the poses' spread, so that half of them lie outside."""
    return SafetyLimits(
        position_low=tuple(rng.uniform(-1.5, -0.5, 3)),
        position_high=tuple(rng.uniform(0.5, 1.5, 3)),
        orientation_xyzw=tuple(Rotation.random(rng=rng).as_quat()),
        rotation_limit=tuple(rng.uniform(0.5, 3.0, 3)),
        max_speed=tuple(rng.uniform(0.5, 4.0, 2)),
        max_wrench=tuple(rng.uniform(0.5, 4.0, 2)),
        joint_margin=rng.uniform(0.0, 0.2),
    )


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("n", [6, 7])
def test_agrees_with_the_numpy_law_over_random_inputs(n, guarded):
    rng = np.random.default_rng(n)
    for _ in range(20):
        limits, gains = random_limits(rng, n), random_gains(rng)
        start = pose_at(rng.normal(size=3), rng.normal(size=3))
        compiled, reference = ImpedanceLaw(limits, 0.002), ReferenceLaw(limits, 0.002)
        safety = random_safety_limits(rng)
        for law in (compiled, reference):
            law.set_gains(gains)
            law.reset(start)
            if guarded:
                law.set_limits(safety)
        for _ in range(20):
            compiled.contact[:] = reference.contact[:] = rng.normal(size=6)
            target, tcp = (pose_at(rng.normal(size=3), rng.normal(size=3)) for _ in range(2))
            target[3:] *= rng.choice([-1, 1])
            inputs = (rng.normal(size=(6, n)), rng.uniform(-2, 2, n), rng.normal(size=n), rng.normal(size=n) * 5)
            expected = reference.torque(target, tcp, *inputs)
            np.testing.assert_allclose(compiled.torque(target, tcp, *inputs), expected, atol=1e-9, rtol=1e-9)


def test_inside_the_clip_it_is_a_spring_and_a_damper():
    """4 mm x 1000 N/m = 4 N; 0.02 rad x 40 N m/rad = 0.8 N m; 0.1 m/s x 40 N s/m = 4 N against it (by hand)."""
    wrench = wrench_towards(cartesian_law(), pose_at((0.004, 0, 0), (0, 0, 0.02)), qd=np.array([0, 0.1, 0, 0, 0, 0]))
    np.testing.assert_allclose(wrench, [4.0, -4.0, 0, 0, 0, 0.8], atol=1e-12)


def test_a_far_target_pushes_with_stiffness_times_clip_on_each_axis():
    """Clips 0.01, 0.02, 0.03 m on 1000, 800, 600 N/m: 10, 16, 18 N however far; rotation 6, 5, 4 N m at 0.1 rad."""
    gains = replace(PLAIN, translational_clip=(0.01, 0.02, 0.03), rotational_clip=(0.1, 0.1, 0.1))
    expected = [10.0, -16.0, 18.0, 6.0, 5.0, -4.0]
    wrench = wrench_towards(cartesian_law(gains), pose_at((5.0, -5.0, 5.0), (0.5, 0.5, -0.5)))
    np.testing.assert_allclose(wrench, expected, atol=1e-9)
    np.testing.assert_allclose(gains.wrench_bound, np.abs(expected), atol=1e-12)


def test_the_clip_of_one_axis_leaves_the_others_alone():
    wrench = wrench_towards(cartesian_law(), pose_at((1.0, 0.005, 0)))
    np.testing.assert_allclose(wrench[:3], [10.0, 4.0, 0.0], atol=1e-9)


def test_rotation_takes_the_short_way_whatever_the_sign_of_the_quaternion():
    target = pose_at(rotvec=(0.03, 0, 0))
    flipped = target * np.array([1, 1, 1, -1, -1, -1, -1])
    np.testing.assert_allclose(wrench_towards(cartesian_law(), target)[3], 1.8, atol=1e-9)
    np.testing.assert_allclose(wrench_towards(cartesian_law(), flipped)[3], 1.8, atol=1e-9)


def test_rotation_error_is_in_base_axes():
    """The tool points down (half turn about x) and shall turn about the base's +z: the torque is about +z of `base`."""
    down = pose_at(rotvec=(math.pi, 0, 0))
    target = np.concatenate(
        [np.zeros(3), (Rotation.from_rotvec([0, 0, 0.02]) * Rotation.from_quat(down[3:])).as_quat()]
    )
    law = cartesian_law()
    law.reset(down)
    np.testing.assert_allclose(wrench_towards(law, target, tcp=down), [0, 0, 0, 0, 0, 0.8], atol=1e-9)


def test_bias_passes_through_and_the_sum_obeys_the_torque_limit():
    law = cartesian_law(torque=5.0)
    torque = wrench_towards(law, pose_at((0.004, 0.001, 0)), bias=np.array([-3.0, 3.0, 0, 0, 0, -5.0]))
    np.testing.assert_allclose(torque, [1.0, 3.8, 0, 0, 0, -5.0], atol=1e-9)
    np.testing.assert_allclose(wrench_towards(law, AT_ORIGIN, bias=np.full(6, -9.0)), np.full(6, -5.0))


def test_where_a_joint_would_saturate_the_whole_spring_yields():
    """4, 3.2 and 2.4 N asked for; the second joint has room for 1.6 beside a bias of 3.4: half of each (by hand)."""
    law = cartesian_law(torque=5.0)
    torque = wrench_towards(law, pose_at((0.004, 0.004, 0.004)), bias=np.array([0, 3.4, 0, 0, 0, 0]))
    np.testing.assert_allclose(torque, [2.0, 5.0, 1.2, 0, 0, 0], atol=1e-9)


def test_damping_has_its_torque_before_the_spring():
    """10 N of spring against 50 N s/m x 0.1 m/s elsewhere: with a limit of 5 N m the damping's 4 N stay whole."""
    law = cartesian_law(torque=5.0)
    torque = wrench_towards(law, pose_at((1.0, 0, 0)), qd=np.array([0, 0.1, 0, 0, 0, 0]))
    np.testing.assert_allclose(torque, [5.0, -4.0, 0, 0, 0, 0], atol=1e-9)


def test_the_spring_rises_by_no_more_than_its_part_of_the_rate():
    """10 N asked for at 0.7 x 2 a tick: 1.4, 2.8, ... 9.8, then 10. The bias is not delayed (by hand)."""
    law = cartesian_law(replace(PLAIN, torque_rate=2.0))
    bias = np.array([20.0, 0, 0, 0, 0, 0])
    seen = [wrench_towards(law, pose_at((1.0, 0, 0)), bias=bias)[0] for _ in range(9)]
    np.testing.assert_allclose(seen, 20.0 + np.array([*(1.4 * np.arange(1, 8)), 10.0, 10.0]), atol=1e-9)


def test_the_spring_keeps_its_direction_while_it_rises():
    """10, 8 and 6 N asked for at 0.7 a tick: after the first, 0.7, 0.56 and 0.42 (by hand)."""
    law = cartesian_law(replace(PLAIN, torque_rate=1.0))
    torque = wrench_towards(law, pose_at((1.0, 1.0, 1.0)))
    np.testing.assert_allclose(torque, [0.7, 0.56, 0.42, 0, 0, 0], atol=1e-9)


def test_damping_has_the_whole_rate():
    """50 N s/m x 1 m/s, at 3 a tick: 3, 6, 9 (by hand)."""
    law = cartesian_law(replace(PLAIN, torque_rate=3.0))
    seen = [wrench_towards(law, AT_ORIGIN, qd=np.array([1.0, 0, 0, 0, 0, 0]))[0] for _ in range(3)]
    np.testing.assert_allclose(seen, [-3.0, -6.0, -9.0], atol=1e-9)


def test_torque_rate_is_per_millisecond_whatever_the_tick():
    """1 N m per ms at 4 ms a tick: the spring's 70% of 4 in the first (by hand)."""
    law = ImpedanceLaw(limits_of(6), 0.004)
    law.set_gains(replace(PLAIN, torque_rate=1.0))
    law.reset(AT_ORIGIN)
    np.testing.assert_allclose(wrench_towards(law, pose_at((1.0, 0, 0)))[0], 2.8)


@pytest.mark.parametrize("tick_s", [0.001, 0.002])
def test_target_low_pass_is_half_way_after_ln_2_time_constants(tick_s):
    """tau = 0.1 s: a step of 8 mm is 4 mm after 69.3 ms (by hand), seen as 4 N on 1000 N/m; the rotation alike."""
    law = ImpedanceLaw(limits_of(6), tick_s)
    law.set_gains(replace(PLAIN, target_time_constant_s=0.1, rotational_clip=(1.0, 1.0, 1.0)))
    law.reset(AT_ORIGIN)
    target = pose_at((0.008, 0, 0), (0.2, 0, 0))
    for _ in range(round(0.0693 / tick_s)):
        wrench = wrench_towards(law, target)
    np.testing.assert_allclose(wrench[[0, 3]], [4.0, 6.0], rtol=0.01)


def test_joint_limits_push_back_in():
    """0.04 rad inside a margin of 0.1 on 60 N m/rad: 2.4 N m away from that limit, nothing elsewhere (by hand)."""
    limits = JointLimits(lower=-np.ones(6), upper=np.ones(6), torque=np.full(6, 100.0), posture=np.zeros(6))
    law = ImpedanceLaw(limits)
    law.set_gains(replace(PLAIN, limit_margin=0.1, limit_stiffness=60.0))
    law.reset(AT_ORIGIN)
    q = np.array([0.94, -0.94, 0.89, -0.89, 0.0, 1.1])
    torque = law.torque(AT_ORIGIN, AT_ORIGIN, np.eye(6), q, np.zeros(6), np.zeros(6))
    np.testing.assert_allclose(torque, [-2.4, 2.4, 0, 0, 0, -12.0], atol=1e-9)


def test_a_joint_without_limits_is_never_pushed():
    infinite = np.full(6, np.inf)
    law = ImpedanceLaw(JointLimits(lower=-infinite, upper=infinite, torque=np.full(6, 9.0), posture=ZERO))
    law.reset(AT_ORIGIN)
    torque = law.torque(AT_ORIGIN, AT_ORIGIN, np.eye(6), np.full(6, 50.0), ZERO, ZERO)
    np.testing.assert_array_equal(torque, 0.0)


def status_of(law, target, tcp, jacobian, q, qd, bias):
    return impedance_torque(
        law.gains, law.joints, law.limits, law.contact, law.memory, target, tcp, jacobian, q, qd, bias, law.output
    )


@pytest.mark.parametrize("component", range(7))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_target_that_is_no_number_leaves_the_last_one_standing(component, value):
    law, bad = cartesian_law(), pose_at((0.004, 0, 0))
    wrench_towards(law, bad)
    bad[component] = value
    assert status_of(law, bad, AT_ORIGIN, np.eye(6), ZERO, ZERO, ZERO) == 1
    np.testing.assert_allclose(law.output, [4.0, 0, 0, 0, 0, 0], atol=1e-12)


@pytest.mark.parametrize("argument", ["tcp", "jacobian", "q", "qd"])
def test_a_state_that_is_no_number_commands_the_bias_alone(argument):
    law = cartesian_law(torque=50.0)
    state = {"tcp": AT_ORIGIN.copy(), "jacobian": np.eye(6), "q": np.zeros(6), "qd": np.zeros(6)}
    state[argument].flat[3] = math.nan
    assert status_of(law, pose_at((1.0, 0, 0)), **state, bias=np.array([3.0, -60, 0, 0, 0, 0])) == 2
    np.testing.assert_array_equal(law.output, [3.0, -50.0, 0, 0, 0, 0])


def test_a_bias_that_is_no_number_commands_zero_there():
    law = cartesian_law()
    bias = np.array([1.0, math.nan, 0, 0, 0, 0])
    assert status_of(law, AT_ORIGIN, AT_ORIGIN, np.eye(6), ZERO, ZERO, bias) == 2
    np.testing.assert_array_equal(law.output, [1.0, 0, 0, 0, 0, 0])


def test_after_a_bad_state_torque_rises_from_zero_again():
    law = cartesian_law(replace(PLAIN, torque_rate=1.0))
    for _ in range(20):
        wrench_towards(law, pose_at((1.0, 0, 0)))
    status_of(law, AT_ORIGIN, AT_ORIGIN, np.eye(6), np.full(6, math.nan), ZERO, ZERO)
    np.testing.assert_allclose(wrench_towards(law, pose_at((1.0, 0, 0)))[0], 0.7)


@njit
def many_ticks(ticks, gains, joints, limits, contact, memory, target, tcp, jacobian, q, qd, bias, torque):
    for _ in range(ticks):
        impedance_torque(gains, joints, limits, contact, memory, target, tcp, jacobian, q, qd, bias, torque)


@pytest.fixture
def numba_allocations():
    _nrt_python.memsys_enable_stats()
    yield lambda: rtsys.get_allocation_stats().alloc
    _nrt_python.memsys_disable_stats()


def test_a_tick_allocates_nothing(numba_allocations):
    """Handing arrays over allocates a little a call; a thousand ticks in a call allocate as much as one."""
    rng = np.random.default_rng(0)
    law = ImpedanceLaw(limits_of(7))
    state = (AT_ORIGIN, AT_ORIGIN, rng.normal(size=(6, 7)), *rng.normal(size=(3, 7)))
    arrays = (law.gains, law.joints, law.limits, law.contact, law.memory, *state, law.output)
    many_ticks(1, *arrays)
    counts = []
    for ticks in (1, 1000):
        before = numba_allocations()
        many_ticks(ticks, *arrays)
        counts.append(numba_allocations() - before)
    assert counts[0] == counts[1]


BOX = SafetyLimits(
    position_low=(-0.5, -0.5, -0.5), position_high=(0.5, 0.5, 0.5), orientation_xyzw=(0, 0, 0, 1.0),
    rotation_limit=(0.5, 0.5, 0.5), max_speed=(1.0, 2.0), max_wrench=(50.0, 10.0), joint_margin=0.1,
)  # fmt: skip


def guarded_wrench(target, position=(0, 0, 0), rotvec=(0, 0, 0), twist=ZERO, contact=ZERO):
    law = cartesian_law(replace(PLAIN, translational_clip=(0.05,) * 3))
    law.set_limits(BOX)
    law.contact[:] = contact
    tcp = pose_at(position, rotvec)
    law.reset(tcp)
    law.contact[:] = contact
    return law.wrench(np.asarray(target, float), tcp, np.asarray(twist, float)).copy()


def test_well_inside_the_limits_the_guard_does_nothing():
    wrench = guarded_wrench(pose_at((1.0, 0, 0)), twist=[0.3, 0, 0, 0, 0, 0.5])
    np.testing.assert_allclose(wrench, [50.0 - 0.3 * 50.0, 0, 0, 0, 0, -0.5 * 2.0], atol=1e-9)


def test_at_the_wall_nothing_pushes_outward():
    """On the face of the box, with a target beyond it: the spring's 50 N are gone, and it is led back inside."""
    assert guarded_wrench(pose_at((1.0, 0, 0)), position=(0.5, 0, 0))[0] < 0.0
    assert guarded_wrench(pose_at((-1.0, 0, 0)), position=(-0.5, 0, 0))[0] > 0.0
    assert guarded_wrench(pose_at(rotvec=(0, 0, 1.0)), rotvec=(0, 0, 0.51))[5] < 0.0


def test_from_beyond_the_wall_the_way_back_is_free():
    """Where the arm was put outside, the spring back inside is whole, and more pulls the same way."""
    free = guarded_wrench(pose_at(), position=(0.49, 0, 0))[0]
    assert guarded_wrench(pose_at(), position=(0.55, 0, 0))[0] <= free == -50.0


def test_towards_a_wall_faster_than_it_allows_is_braked():
    """5 cm before the wall at 0.8 m/s: more than the damper's 40 N against it, although the spring pushes on."""
    assert guarded_wrench(pose_at((1.0, 0, 0)), position=(0.45, 0, 0), twist=[0.8, 0, 0, 0, 0, 0])[0] < -40.0
    away = guarded_wrench(pose_at((-1.0, 0, 0)), position=(0.45, 0, 0), twist=[-0.5, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(away[0], -50.0 + 25.0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_at_the_speed_limit_no_spring_is_left(axis):
    """At 1 m/s the law brakes at least as hard as its damper does."""
    twist = np.zeros(6)
    twist[axis] = 1.0
    along = guarded_wrench(pose_at(np.eye(3)[axis]), twist=twist)[axis]
    assert along <= -PLAIN.damping[axis]


def test_at_the_wrench_limit_nothing_pushes_on():
    """50 N measured along +x: no push along it is left; across it and back the spring is whole (40 N, 50 N)."""
    contact = np.array([50.0, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(guarded_wrench(pose_at((1, 1, 0)), contact=contact)[:2], [0.0, 40.0], atol=1e-9)
    np.testing.assert_allclose(guarded_wrench(pose_at((-1, 0, 0)), contact=contact)[0], -50.0, atol=1e-9)
    np.testing.assert_allclose(guarded_wrench(pose_at((1, 0, 0)), contact=0.9 * contact)[0], 25.0, atol=1e-9)


def test_a_joint_on_its_way_into_the_margin_is_braked():
    limits = JointLimits(lower=-np.ones(6), upper=np.ones(6), torque=np.full(6, 100.0), posture=np.zeros(6))
    law = ImpedanceLaw(limits)
    law.set_gains(replace(PLAIN, limit_stiffness=0.0, damping=(0.0,) * 3, rotational_damping=(0.0,) * 3))
    law.set_limits(replace(BOX, max_speed=(10.0, 10.0)))
    law.reset(AT_ORIGIN)
    q, qd = np.array([0.8, -0.8, 0.8, 0.0, 0.95, -0.95]), np.array([1.5, -1.5, -1.5, 1.5, 0, 0])
    torque = law.torque(AT_ORIGIN, AT_ORIGIN, np.eye(6), q, qd, np.zeros(6)).copy()
    assert (torque[[0, 4]] < -1.0).all()
    assert (torque[[1, 5]] > 1.0).all()
    np.testing.assert_array_equal(torque[[2, 3]], 0.0)  # on its way out, and in the middle


def test_wrench_and_torque_are_one_law():
    """Through an identity Jacobian, joint torques are the wrench in `base`."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        torque, wrench = cartesian_law(), cartesian_law()
        for law in (torque, wrench):
            law.set_limits(BOX)
        for _ in range(3):
            target, tcp = (pose_at(rng.uniform(-0.6, 0.6, 3), rng.uniform(-0.6, 0.6, 3)) for _ in range(2))
            twist, zero = rng.normal(size=6), np.zeros(6)
            expected = torque.torque(target, tcp, np.eye(6), zero, twist, zero)
            np.testing.assert_allclose(wrench.wrench(target, tcp, twist), expected, atol=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_wrench_from_numbers_that_are_none(bad):
    """A bad target leaves the last one standing; a bad state commands nothing."""
    law, target = cartesian_law(), pose_at((0.004, 0, 0))
    np.testing.assert_allclose(law.wrench(target, AT_ORIGIN, ZERO), [4.0, 0, 0, 0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(law.wrench(np.full(7, bad), AT_ORIGIN, ZERO), [4.0, 0, 0, 0, 0, 0], atol=1e-12)
    np.testing.assert_array_equal(law.wrench(target, AT_ORIGIN, np.full(6, bad)), 0.0)
    np.testing.assert_array_equal(law.wrench(target, np.full(7, bad), ZERO), 0.0)


@pytest.mark.parametrize("bad", [{"stiffness": (1.0, math.nan, 1.0)}, {"damping": (-1.0, 0, 0)}, {"torque_rate": -0.1}])
def test_gains_below_zero_or_not_numbers_are_refused(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        ImpedanceGains(**bad)


def test_reset_wants_a_pose():
    with pytest.raises(ShapeError, match=r"\(6,\)"):
        cartesian_law().reset(np.zeros(6))


# On the twin: the same properties as physics has them.

SOFT = ImpedanceGains(stiffness=(1000.0,) * 3, damping=(60.0,) * 3, translational_clip=(0.02,) * 3)


def rigid_wall(scene):
    """Its face is 2 cm ahead of the hand at home."""
    scene.spec.worldbody.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX, pos=[0.75, 0, 0.35], size=[0.2, 0.3, 0.15], solref=[0.002, 1.0]
    )


def test_pressing_on_a_wall_ends_at_stiffness_times_clip():
    """Target 20 cm inside the wall: the wall takes 1000 N/m x 2 cm = 20 N, read from MuJoCo's contacts."""
    twin = Twin(load_arm("fr3"), rigid_wall)
    twin.jump_to_pose(np.array([0.4, 0, 0.25, 1, 0, 0, 0]))
    twin.set_gains(replace(SOFT, nullspace_stiffness=0.0))
    twin.target[0] += 0.4
    twin.advance(3.0)
    force, total = np.zeros(6), np.zeros(3)
    assert twin.data.ncon > 0
    for i, contact in enumerate(twin.data.contact[: twin.data.ncon]):
        mujoco.mj_contactForce(twin.model, twin.data, i, force)
        total += contact.frame.reshape(3, 3).T @ force[:3]
    assert abs(abs(total[0]) - 20.0) < 1.0


@pytest.mark.parametrize("arm", ["fr3", "ur5e"])
def test_in_free_space_the_target_is_reached_exactly(arm):
    twin = Twin(load_arm(arm))
    twin.set_gains(replace(SOFT, nullspace_stiffness=0.0))
    target = np.array([0.45, 0.1, 0.3, 1, 0, 0, 0])
    twin.target[:] = target
    twin.advance(4.0)
    np.testing.assert_allclose(twin.tcp_pose[:3], target[:3], atol=1e-4)
    assert (Rotation.from_quat(twin.tcp_pose[3:]) * Rotation.from_quat(target[3:]).inv()).magnitude() < 1e-3


def test_energy_never_grows_towards_a_fixed_target():
    """Passivity: after a push, kinetic plus spring energy only falls (gravity is compensated, springs unclipped)."""
    twin = Twin(load_arm("fr3"))
    unclipped = replace(SOFT, translational_clip=(1.0,) * 3, rotational_clip=(3.0,) * 3, nullspace_stiffness=0.0)
    twin.set_gains(replace(unclipped, torque_rate=1e3))
    home = twin.tcp_pose.copy()
    twin.data.qvel[:7] = [0.3, -0.2, 0.3, 0.2, -0.3, 0.4, 0.5]
    mass = np.zeros((twin.model.nv, twin.model.nv))

    def energy():
        mujoco.mj_forward(twin.model, twin.data)
        mujoco.mj_fullM(twin.model, twin.data, mass)
        site = twin.data.site("tool/tcp")
        turn = (Rotation.from_matrix(site.xmat.reshape(3, 3)) * Rotation.from_quat(home[3:]).inv()).magnitude()
        spring = 0.5 * 1000.0 * np.sum((site.xpos - home[:3]) ** 2) + 0.5 * 150.0 * turn**2
        return 0.5 * twin.data.qvel @ mass @ twin.data.qvel + spring

    energies = [energy()]
    for _ in range(400):
        twin.advance(0.002)
        energies.append(energy())
    assert energies[0] > 0.1
    assert np.diff(energies).max() < 1e-3 * energies[0]
    assert energies[-1] < 0.05 * energies[0]


def test_null_space_motion_leaves_the_tcp_where_it_is():
    """Pull the elbow to another posture: joints move by more than 0.1 rad, the tcp by less than 1 mm."""
    arm = load_arm("fr3")
    twin = Twin(arm)
    before, home = twin.q.copy(), twin.tcp_pose.copy()
    twin.set_gains(replace(SOFT, nullspace_stiffness=20.0))
    twin.law.joints[:, 3] += np.array([0.6, 0, -0.6, 0, 0, 0, 0])
    twin.advance(3.0)
    assert np.abs(twin.q - before).max() > 0.1
    assert np.linalg.norm(twin.tcp_pose[:3] - home[:3]) < 1e-3
