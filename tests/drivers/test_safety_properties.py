"""Safety as a property: no sequence of actions or targets, however hostile, breaks a limit on the twin, at any tick.

Bounds that must hold at every physics tick of 1 ms, through the environment, through `SafeArm` and past it, straight
into the arm's own loop: the tcp in its box to 1 mm, its rotation limit to 0.02 rad, linear and angular speed, measured
wrench, joint margins.
"""

from contextlib import closing
from dataclasses import dataclass, replace

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

import tasks  # noqa: F401 (registers the environments)
from drivers.emulators.plant import Plant
from drivers.impedance import ImpedanceGains, ImpedanceLaw
from drivers.impedance_guard import NO_LIMITS
from drivers.safety import SafeArm
from tasks.reach import Reach

TASKS = ("Reach", "PickCube", "PegInsert")
ARMS = ("fr3", "ur5e")
FAR = 3.0  # how far outside the box raw targets lie, in half-widths of it
DIAGONALS = np.array(np.meshgrid(*[[-1.0, 1.0]] * 3)).reshape(3, -1).T


@dataclass
class Worst:
    """How far things went, over every tick: distances beyond the limits [m, rad], else the largest value seen."""

    outside: float = -np.inf
    turned: float = -np.inf
    joints: float = -np.inf
    speed: float = 0.0
    spin: float = 0.0
    force: float = 0.0
    torque: float = 0.0


class Watch:
    """Advances a twin tick by tick and remembers the worst of each."""

    def __init__(self, env, limits=None):
        self.env, self.robot = env, env.unwrapped
        self.twin = self.robot.cell.twin
        self.limits = limits or self.robot.task.spec.limits
        self.safe = SafeArm(self.robot.cell.arm, self.limits)
        self.robot.arm = self.safe
        self.safe.connect()
        self.worst = Worst()
        self._low, self._high = np.array(self.limits.position_low), np.array(self.limits.position_high)
        self._nominal = Rotation.from_quat(self.limits.orientation_xyzw).inv()
        run = self.twin._run

        def watched(ticks, target):
            status = 0
            for _ in range(ticks):
                status = max(status, run(1, target))
                self._look()
            return status

        self.twin._run = watched

    def _look(self):
        twin, worst = self.twin, self.worst
        position, twist, wrench = twin.tcp_pose[:3], twin.jacobian @ twin.qd, twin.law.contact
        away = np.abs((self._nominal * Rotation.from_quat(twin.tcp_pose[3:])).as_rotvec())
        room = min((twin.q - twin.limits.lower).min(), (twin.limits.upper - twin.q).min())
        worst.outside = max(worst.outside, (self._low - position).max(), (position - self._high).max())
        worst.turned = max(worst.turned, (away - self.limits.rotation_limit).max())
        worst.joints = max(worst.joints, self.limits.joint_margin - room)
        worst.speed, worst.spin = max(worst.speed, norm(twist[:3])), max(worst.spin, norm(twist[3:]))
        worst.force, worst.torque = max(worst.force, norm(wrench[:3])), max(worst.torque, norm(wrench[3:]))

    def check(self):
        """Every bound."""
        worst, limits = self.worst, self.limits
        assert worst.outside <= 0.001, worst
        assert worst.turned <= 0.02, worst
        assert worst.joints <= 0.0, worst
        assert worst.speed <= limits.max_speed[0], worst
        assert worst.spin <= limits.max_speed[1], worst
        assert worst.force <= limits.max_wrench[0], worst
        assert worst.torque <= limits.max_wrench[1], worst

    def act(self, policy, steps):
        """Steps through the environment."""
        for t in range(steps):
            *_, truncated, info = self.env.step(np.clip(policy(t), -1, 1).astype(np.float32))
            assert "fault" not in info, info["fault"]
            assert not truncated

    def aim(self, arm, targets, duration_s):
        """Raw targets to an arm, one per duration."""
        for target in targets:
            arm.command(target)
            self.twin.advance(duration_s)


def norm(vector):
    return float(np.sqrt(vector @ vector))


def environment(task, arm, **options):
    return gym.make(f"robot_rl/{task}-v0", arm=arm, max_steps=10**6, **options)


def policies(watch, rng):
    """Hostile policies, by name: each maps the step to an action."""
    n = watch.env.action_space.shape[0]
    corner, spin = np.sign(rng.normal(size=n)), np.concatenate([0.2 * rng.normal(size=3), np.sign(rng.normal(size=3))])
    period = int(rng.integers(1, 8))
    return {
        "constant": lambda t: corner,
        "bang-bang": lambda t: corner if (t // period) % 2 else -corner,
        "corners": lambda t: np.sign(rng.normal(size=n)),
        "spin": lambda t: np.concatenate([spin, np.ones(n - 6)]),
        "press": lambda t: np.concatenate([rng.uniform(-1, 1, 2), [1.0], rng.uniform(-1, 1, 3), -np.ones(n - 6)]),
        "noise": lambda t: 5.0 * rng.normal(size=n),
    }


def raw_targets(watch, rng, count, far=FAR):
    """Hostile targets, by name: far outside the box, changing at a beat, or always ahead of the motion."""
    limits, twin = watch.limits, watch.twin
    centre, half = 0.5 * (watch._low + watch._high), 0.5 * (watch._high - watch._low)

    def at(corner, turn):
        rotation = watch._nominal.inv() * Rotation.from_rotvec(turn)
        return np.concatenate([centre + far * half * corner, rotation.as_quat()])

    def beat(every, swing):
        side, turn = DIAGONALS[rng.integers(8)], np.sign(rng.normal(size=3))
        for i in range(count):
            if i % every == 0:
                side, turn = (-side, -turn) if swing else (DIAGONALS[rng.integers(8)], np.sign(rng.normal(size=3)))
            yield at(side, turn * np.minimum(1.5, 3.0 * np.array(limits.rotation_limit)))

    def ahead():
        for _ in range(count):
            twist = np.sign(twin.jacobian @ twin.qd + 1e-9 * rng.normal(size=6))
            rotation = Rotation.from_rotvec(0.3 * twist[3:]) * Rotation.from_quat(twin.tcp_pose[3:])
            yield np.concatenate([twin.tcp_pose[:3] + 0.14 * twist[:3], rotation.as_quat()])

    return {
        "every tick": beat(1, swing=False),
        "resonance": beat(int(rng.choice([8, 15, 25, 40])), swing=True),
        "corners": beat(int(rng.choice([10, 30, 60])), swing=False),
        "ahead": ahead(),
    }


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("task", TASKS)
def test_no_policy_breaks_a_limit(task, arm):
    """Corner to corner, spinning, pressing into table, cube and socket, noise; on a randomised, late twin."""
    with closing(environment(task, arm, randomise=True)) as env:
        watch = Watch(env)
        rng = np.random.default_rng(TASKS.index(task))
        for seed, (name, policy) in enumerate(policies(watch, rng).items()):
            observation, _ = env.reset(seed=seed)
            if name in ("press", "spin"):
                expert = watch.robot.expert(rng)
                for _ in range(7):  # to where there is something to touch
                    observation = env.step(expert.act(observation))[0]
            watch.act(policy, 20)
        watch.check()
        assert watch.worst.outside > -0.05 or task == "PegInsert"  # the walls were tried
        assert task == "Reach" or watch.worst.force > 5.0  # something was pushed


@pytest.mark.parametrize("past_the_supervisor", [False, True])
@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("task", TASKS)
def test_no_target_breaks_a_limit(task, arm, past_the_supervisor):
    """Far outside, once a tick to once in 0.6 s, clipped by the supervisor or told to the arm directly."""
    with closing(environment(task, arm)) as env:
        watch = Watch(env)
        rng = np.random.default_rng(7)
        for seed, targets in enumerate(raw_targets(watch, rng, 150).values()):
            env.reset(seed=seed)
            watch.aim(
                watch.robot.cell.arm if past_the_supervisor else watch.safe, targets, 0.001 if seed == 0 else 0.01
            )
        watch.check()
        assert watch.worst.speed > 0.3 * watch.limits.max_speed[0]


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("gains", [ImpedanceGains(), ImpedanceGains(translational_clip=(0.03,) * 3)])
def test_the_default_speed_holds_with_stiff_gains(arm, gains):
    """A first day on metal: 0.25 m/s and 1 rad/s, whatever the springs (20 N and 60 N an axis)."""
    with closing(environment("Reach", arm)) as env:
        watch = Watch(env, replace(env.unwrapped.task.spec.limits, max_speed=(0.25, 1.0)))
        env.reset(seed=0)
        watch.safe.set_impedance(gains)
        for targets in raw_targets(watch, np.random.default_rng(3), 150).values():
            watch.aim(watch.safe, targets, 0.01)
        watch.check()
        assert watch.worst.speed > 0.1


WIDE = {"position_low": (0.2, -0.4, 0.05), "position_high": (0.8, 0.4, 0.75), "rotation_limit": (0.5, 0.5, 1.5)}


@pytest.mark.parametrize("guarded", [True, False])
def test_joints_keep_their_margin_where_the_box_is_larger_than_the_arm(guarded):
    """A box that reaches where the elbow folds: the margin of 0.05 rad is kept; without the guard it is passed."""
    with closing(environment("Reach", "fr3")) as env:
        watch = Watch(env, replace(env.unwrapped.task.spec.limits, **WIDE))
        if not guarded:
            watch.twin.law.limits[:] = NO_LIMITS
        for seed, name in ((0, "corners"), (1, "ahead")):
            env.reset(seed=seed)
            targets = raw_targets(watch, np.random.default_rng(seed), 100)[name]
            watch.aim(watch.robot.cell.arm, targets, 0.02)
        if guarded:
            watch.check()
        assert guarded or watch.worst.joints > 0.03


@pytest.mark.parametrize("ticks", [1, 2, 4])
def test_an_arm_that_takes_wrenches_is_kept_within_limits_too(ticks):
    """`ImpedanceLaw.wrench` at 1000, 500 and 250 Hz on a plant that carries its own weight, as a UR in force mode."""
    plant, limits = Plant("ur5e"), Reach.spec.limits
    law = ImpedanceLaw(plant.limits, 0.001 * ticks)
    law.set_gains(Reach.spec.gains)
    law.set_limits(limits)
    law.reset(plant.tcp_pose)
    rng, nominal = np.random.default_rng(ticks), Rotation.from_quat(limits.orientation_xyzw)
    low, high = np.array(limits.position_low), np.array(limits.position_high)
    target, wrench, fastest = plant.tcp_pose.copy(), np.zeros(6), 0.0
    for tick in range(4000):
        if tick % 250 == 0:
            target[:3] = 0.5 * (low + high) + np.sign(rng.normal(size=3))
            target[3:] = (nominal * Rotation.from_rotvec(np.sign(rng.normal(size=3)))).as_quat()
        twist = plant.jacobian @ plant.qd
        if tick % ticks == 0:
            wrench[:] = law.wrench(target, plant.tcp_pose, twist)
        plant.step(plant.jacobian.T @ wrench + plant.bias)
        fastest = max(fastest, norm(twist[:3]))
        assert max((low - plant.tcp_pose[:3]).max(), (plant.tcp_pose[:3] - high).max()) <= 0.001
        assert norm(twist[:3]) <= limits.max_speed[0]
        assert norm(twist[3:]) <= limits.max_speed[1]
    assert fastest > 0.3


def test_without_the_guard_targets_inside_the_box_break_the_limits():
    """The adversary has teeth: clipping targets alone lets the tcp swing out of the box, and too fast."""
    with closing(environment("Reach", "fr3")) as env:
        watch = Watch(env)
        watch.twin.law.limits[:] = NO_LIMITS
        for seed, targets in enumerate(raw_targets(watch, np.random.default_rng(7), 200, far=1.0).values()):
            env.reset(seed=seed)
            watch.aim(watch.robot.cell.arm, targets, 0.01)
        assert watch.worst.outside > 0.01
        assert watch.worst.speed > watch.limits.max_speed[0]
        assert watch.worst.spin > watch.limits.max_speed[1]


@pytest.fixture(scope="module", params=zip(TASKS, ("ur5e", "fr3", "ur5e"), strict=True), ids=TASKS)
def watched(request):
    with closing(environment(*request.param)) as env:
        yield Watch(env)


bits = st.sampled_from([-1.0, 1.0])
corners = st.tuples(*[bits] * 7)
anywhere = st.tuples(*[st.floats(-1.0, 1.0)] * 7)
segments = st.lists(st.tuples(corners | anywhere, st.integers(1, 6)), min_size=1, max_size=6)


@given(sequence=segments, seed=st.integers(0, 50))
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_sequence_of_actions_breaks_a_limit(watched, sequence, seed):
    watched.env.reset(seed=seed)
    for action, repeats in sequence:
        watched.act(lambda t, a=action: np.array(a)[: watched.env.action_space.shape[0]], repeats)
    watched.check()


beats = st.lists(st.tuples(*[bits] * 6, st.sampled_from([1, 3, 10, 30, 100, 300])), min_size=1, max_size=12)


@given(sequence=beats, seed=st.integers(0, 50))
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_sequence_of_targets_breaks_a_limit(watched, sequence, seed):
    """Each target is held for 1 to 300 ms."""
    watched.env.reset(seed=seed)
    centre = 0.5 * (watched._low + watched._high)
    for *signs, ticks in sequence:
        rotation = watched._nominal.inv() * Rotation.from_rotvec(np.array(signs[3:]))
        target = np.concatenate([centre + 0.5 * np.array(signs[:3]), rotation.as_quat()])
        watched.aim(watched.robot.cell.arm, [target], 0.001 * ticks)
    watched.check()
