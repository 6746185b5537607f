"""Domain randomisation changes what it says, within its range, from the model's own values, and nothing else."""

from dataclasses import fields

import mujoco
import numpy as np
import pytest

from drivers.impedance import ImpedanceGains
from drivers.twin.arms import load_arm
from drivers.twin.randomisation import Randomisation, Randomiser
from drivers.twin.twin import Twin

GAINS = ImpedanceGains(stiffness=(1000.0, 900.0, 800.0), damping=(60.0, 55.0, 50.0))
# What each range may change: fields of the model, or of the twin.
CHANGES = {
    "friction_scale": {"geom_friction"},
    "mass_scale": {"body_mass", "body_inertia"},
    "damping_scale": {"dof_damping"},
    "gains_scale": {"gains"},
    "light_scale": {"light_diffuse"},
    "camera_position": {"cam_pos"},
    "latency_ticks": {"latency_ticks"},
    "tracker_noise": set(),  # read by the environment, which has the random numbers
    "wrench_noise": set(),
}
# MuJoCo derives these from masses and places; they must follow.
DERIVED = {
    "body_subtreemass", "body_invweight0", "dof_M0", "dof_invweight0", "tendon_invweight0", "actuator_acc0",
    "cam_pos0", "cam_poscom0", "light_poscom0", "stat", "dof_length", "tendon_length0",
}  # fmt: skip
SIZES = {name: 10 if name == "latency_ticks" else 0.3 for name in CHANGES}


def cube(scene):
    body = scene.spec.worldbody.add_body(name="cube", pos=[0.5, 0.0, 0.02])
    body.add_freejoint().damping = [0.01, 0.0, 0.0]
    body.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.02] * 3, mass=0.05)


@pytest.fixture
def twin():
    twin = Twin(load_arm("fr3"), cube)
    twin.set_gains(GAINS)
    return twin


def snapshot(twin):
    model = twin.model
    names = [n for n in dir(model) if not n.startswith("_") and isinstance(getattr(model, n, None), np.ndarray)]
    return {
        **{name: getattr(model, name).copy() for name in names},
        "gains": twin.law.gains.copy(), "joints": twin.law.joints.copy(), "latency_ticks": np.array(twin.latency_ticks),
        "qpos": twin.data.qpos.copy(), "gravity": model.opt.gravity.copy(),
    }  # fmt: skip


def changed(before, after):
    return {
        name for name in before if not np.allclose(before[name], after[name], rtol=1e-12, atol=1e-15, equal_nan=True)
    }


def sampled(twin, seed=0, **ranges):
    Randomiser(twin, Randomisation(**ranges), GAINS).sample(np.random.default_rng(seed))


def test_every_range_is_listed_here():
    assert {field.name for field in fields(Randomisation)} == set(CHANGES)


def test_zero_ranges_change_nothing(twin):
    before = snapshot(twin)
    sampled(twin)
    after = snapshot(twin)
    assert {name for name in before if not np.array_equal(before[name], after[name], equal_nan=True)} == set()


@pytest.mark.parametrize("name", CHANGES)
def test_each_range_changes_what_it_says_and_nothing_else(twin, name):
    before = snapshot(twin)
    sampled(twin, **{name: SIZES[name]})
    assert changed(before, snapshot(twin)) - DERIVED == CHANGES[name]


def test_damping_is_the_arms_alone(twin):
    """The gripper's drive and the props keep theirs."""
    before = twin.model.dof_damping.copy()
    sampled(twin, damping_scale=0.3)
    ratio = twin.model.dof_damping[before > 0] / before[before > 0]
    arm = np.isin(np.flatnonzero(before > 0), twin.arm_dofs)
    assert arm.sum() == 7
    np.testing.assert_allclose(ratio[~arm], 1.0)
    assert abs(ratio[arm][0] - 1.0) > 1e-3


def test_mass_is_the_props_alone_and_inertia_follows(twin):
    mass, inertia = twin.model.body_mass.copy(), twin.model.body_inertia.copy()
    sampled(twin, mass_scale=0.3)
    cube_id = twin.model.body("cube").id
    ratio = twin.model.body_mass[cube_id] / mass[cube_id]
    assert abs(ratio - 1.0) > 1e-3
    np.testing.assert_allclose(twin.model.body_inertia[cube_id], inertia[cube_id] * ratio)
    others = np.arange(twin.model.nbody) != cube_id
    np.testing.assert_array_equal(twin.model.body_mass[others], mass[others])


def test_mass_reaches_what_mujoco_derives_from_it(twin):
    sampled(twin, mass_scale=0.5)
    cube_id = twin.model.body("cube").id
    assert twin.model.body_subtreemass[cube_id] == pytest.approx(twin.model.body_mass[cube_id])


def test_gains_scale_stiffness_by_one_number_and_damping_by_another(twin):
    before = twin.law.gains.copy()
    sampled(twin, gains_scale=0.3)
    ratio = twin.law.gains / before
    np.testing.assert_allclose(ratio[:6], ratio[0])
    np.testing.assert_allclose(ratio[6:12], ratio[6])
    np.testing.assert_allclose(ratio[12:], 1.0)
    assert len({round(ratio[0], 6), round(ratio[6], 6), 1.0}) == 3


def test_samples_fill_their_range_and_do_not_wander(twin):
    """300 resets: every one within +-30 % (20 mm, 4 ticks) of the model's own value, and most of that range seen."""
    scales = ("friction_scale", "mass_scale", "damping_scale", "gains_scale", "light_scale")
    ranges = Randomisation(**dict.fromkeys(scales, 0.3), latency_ticks=4, camera_position=0.02)
    cube_id, rng = twin.model.body("cube").id, np.random.default_rng(1)
    randomiser = Randomiser(twin, ranges, GAINS)

    def values():
        model = twin.model
        inertia, light = model.body_inertia[cube_id, 0], model.light_diffuse[0, 0]
        arm_damping = model.dof_damping[twin.arm_dofs[0]]
        drawn = [model.geom_friction[0, 0], model.body_mass[cube_id], inertia, arm_damping, light]
        return np.array([*drawn, *twin.law.gains[[0, 6]]])

    own, cameras = values(), twin.model.cam_pos.copy()
    ratios, latencies, offsets = [], set(), []
    for _ in range(300):
        randomiser.sample(rng)
        ratios.append(values() / own)
        latencies.add(twin.latency_ticks)
        offsets.append(np.abs(twin.model.cam_pos - cameras).max())
    lowest, highest = np.min(ratios, axis=0), np.max(ratios, axis=0)
    assert ((lowest >= 0.7) & (lowest < 0.73)).all(), lowest
    assert ((highest <= 1.3) & (highest > 1.27)).all(), highest
    assert latencies == {0, 1, 2, 3, 4}
    assert 0.019 < max(offsets) <= 0.02


def test_the_same_seed_draws_the_same_world():
    first, second = (Twin(load_arm("fr3"), cube) for _ in range(2))
    for twin in (first, second):
        sampled(twin, seed=7, **SIZES)
    assert changed(snapshot(first), snapshot(second)) == set()
    sampled(second, seed=8, **SIZES)
    assert len(changed(snapshot(first), snapshot(second))) > 5
