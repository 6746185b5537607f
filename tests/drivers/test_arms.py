"""The arms against their makers' published tables, and bringing one's own."""

import math

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import tasks  # noqa: F401 (registers the environments)
from drivers.twin.arms import ARMS, load_arm
from drivers.twin.twin import Twin
from robot_rl.errors import ConfigError

pytestmark = pytest.mark.realtime

QUARTER = math.pi / 2
# https://frankarobotics.github.io/docs/control_parameters.html, "Denavit-Hartenberg parameters" (Craig's convention):
# a [m], d [m], alpha [rad] of joints 1 to 7 and the flange.
FRANKA_DH = [
    (0.0, 0.333, 0.0),
    (0.0, 0.0, -QUARTER),
    (0.0, 0.316, QUARTER),
    (0.0825, 0.0, QUARTER),
    (-0.0825, 0.384, -QUARTER),
    (0.0, 0.0, QUARTER),
    (0.088, 0.0, QUARTER),
    (0.0, 0.107, 0.0),
]
# https://www.universal-robots.com/articles/ur/application-installation/dh-parameters-for-calculations-of-kinematics-and-dynamics/
# (standard convention), UR5e: a [m], d [m], alpha [rad].
UR5E_DH = [
    (0.0, 0.1625, QUARTER),
    (-0.425, 0.0, 0.0),
    (-0.3922, 0.0, 0.0),
    (0.0, 0.1333, QUARTER),
    (0.0, 0.0997, -QUARTER),
    (0.0, 0.0996, 0.0),
]
FR3_LOWER = [-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159]
FR3_UPPER = [2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159]


def turn(axis, angle):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler(axis, angle).as_matrix()
    return matrix


def shift(x=0.0, y=0.0, z=0.0):
    matrix = np.eye(4)
    matrix[:3, 3] = x, y, z
    return matrix


def fr3_flange(q):
    """Craig: along and about the old x, then about and along the new z."""
    T = np.eye(4)
    for (a, d, alpha), theta in zip(FRANKA_DH, [*q, 0.0], strict=True):
        T = T @ shift(x=a) @ turn("x", alpha) @ turn("z", theta) @ shift(z=d)
    return T


def ur5e_flange(q):
    """Standard: about and along the old z, then along and about the new x. ROS's base_link is turned by pi about z."""
    T = turn("z", math.pi)
    for (a, d, alpha), theta in zip(UR5E_DH, q, strict=True):
        T = T @ turn("z", theta) @ shift(z=d) @ shift(x=a) @ turn("x", alpha)
    return T


@pytest.mark.parametrize(("name", "flange"), [("fr3", fr3_flange), ("ur5e", ur5e_flange)])
def test_forward_kinematics_are_the_makers(name, flange):
    arm = load_arm(name)
    model = mujoco.MjModel.from_xml_path(str(arm.path))
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    for q in [arm.home, *rng.uniform(model.jnt_range[:, 0], model.jnt_range[:, 1], (50, model.njnt))]:
        data.qpos[:] = q
        mujoco.mj_kinematics(model, data)
        site = data.site(arm.flange)
        np.testing.assert_allclose(site.xpos, flange(q)[:3, 3], atol=1e-6)
        np.testing.assert_allclose(site.xmat.reshape(3, 3), flange(q)[:3, :3], atol=1e-6)


def test_the_chain_of_this_test_is_franka_s():
    """Zero pose, by hand from the data sheet: 0.088 m ahead, 0.333 + 0.316 + 0.384 - 0.107 m up, pointing down."""
    np.testing.assert_allclose(fr3_flange(np.zeros(7))[:3, 3], [0.088, 0, 0.926], atol=1e-12)
    np.testing.assert_allclose(fr3_flange(np.zeros(7))[:3, 2], [0, 0, -1], atol=1e-12)


def test_the_tcp_is_the_franka_hands():
    """0.1034 m out of the flange, turned by -45 degrees about its z (franka_description)."""
    twin, q = Twin(load_arm("fr3")), np.array([0.3, -0.5, 0.2, -2.0, 0.4, 1.9, 0.1])
    twin.jump_to_joints(q)
    expected = fr3_flange(q) @ shift(z=0.1034) @ turn("z", -math.pi / 4)
    np.testing.assert_allclose(twin.tcp_pose[:3], expected[:3, 3], atol=1e-6)
    difference = Rotation.from_quat(twin.tcp_pose[3:]).inv() * Rotation.from_matrix(expected[:3, :3])
    assert difference.magnitude() < 1e-6


@pytest.mark.parametrize(
    ("name", "lower", "upper", "torque"),
    [
        ("fr3", FR3_LOWER, FR3_UPPER, [87.0] * 4 + [12.0] * 3),
        (
            "ur5e",
            [-2 * math.pi] * 2 + [-math.pi] + [-2 * math.pi] * 3,
            [2 * math.pi] * 2 + [math.pi] + [2 * math.pi] * 3,
            [150.0] * 3 + [28.0] * 3,
        ),
    ],
)
def test_limits_are_the_makers(name, lower, upper, torque):
    limits = Twin(load_arm(name)).limits
    np.testing.assert_allclose(limits.lower, lower, atol=1e-6)
    np.testing.assert_allclose(limits.upper, upper, atol=1e-6)
    np.testing.assert_allclose(limits.torque, torque)


@pytest.mark.parametrize(("name", "kilograms"), [("fr3", 17.9), ("ur5e", 20.6)])
def test_the_weight_is_about_the_data_sheets(name, kilograms):
    """UR publishes 20.6 kg; franka_description's masses are identified, not weighed, and sum to 17.9."""
    model = mujoco.MjModel.from_xml_path(str(load_arm(name).path))
    assert model.body_mass.sum() == pytest.approx(kilograms, rel=0.06)


@pytest.mark.parametrize("name", ARMS)
def test_home_is_well_inside_the_limits(name):
    twin = Twin(load_arm(name))
    assert (twin.q > twin.limits.lower + 0.2).all()
    assert (twin.q < twin.limits.upper - 0.2).all()


# One's own arm.

LINK = '<geom type="capsule" size="0.04" fromto="0 0 0.05 0 0 {0}" mass="1.5" contype="0"/>'
HOME = (0.0, 0.415, 1.717, 1.01, 0.0, -2.356)


def own_arm(joints=('range="-2.9 2.9"',) * 6, flange="attachment_site", extra=""):
    """Yaw, shoulder, elbow, and a wrist of pitch, roll, yaw; 0.4 m links on a 0.3 m column."""
    lengths, axes = (0.3, 0.4, 0.4, 0.02, 0.02, 0.06), ("0 0 1", "0 1 0", "0 1 0", "0 1 0", "1 0 0", "0 0 1")
    offsets = (0.0, *lengths)
    bodies = "".join(
        f'<body name="b{i}" pos="0 0 {offset}"><joint axis="{axis}" damping="0.5" armature="0.1" {joint}/>'
        + LINK.format(max(length - 0.03, 0.06))
        for i, (offset, length, axis, joint) in enumerate(zip(offsets[:6], lengths, axes, joints, strict=True))
    )
    return (
        f'<mujoco model="own"><compiler angle="radian"/><worldbody><geom name="floor" type="plane" size="1 1 1"/>'
        f'<body name="root"><geom type="box" size="0.05 0.05 0.01" mass="2"/>{bodies}'
        f'<site name="{flange}" pos="0 0 {lengths[-1]}"/>{"</body>" * 7}</worldbody>{extra}</mujoco>'
    )


@pytest.fixture
def write(tmp_path):
    def to_file(xml, name="own_arm.xml"):
        path = tmp_path / name
        path.write_text(xml)
        return str(path)

    return to_file


def keyframe(name="home"):
    return f'<keyframe><key name="{name}" qpos="{" ".join(map(str, HOME))}"/></keyframe>'


NAMED = tuple(f'name="j{i}" range="-2.9 2.9"' for i in range(1, 7))
MOTORS = (
    "<actuator>"
    + "".join(f'<motor joint="j{i}" forcerange="-{30 + i} {30 + i}"/>' for i in range(1, 7))
    + "</actuator>"
)


def test_own_arm_reads_home_torques_and_flange_from_its_file(write):
    arm = load_arm(write(own_arm(NAMED, extra=keyframe() + MOTORS)))
    assert (arm.name, arm.flange) == ("own_arm", "attachment_site")
    np.testing.assert_allclose(arm.home, HOME)
    np.testing.assert_allclose(arm.torque_limits, [31, 32, 33, 34, 35, 36])


def test_torque_limits_of_the_joints_come_before_the_motors(write):
    joints = ('name="j1" range="-2.9 2.9" actuatorfrcrange="-9 9"', *NAMED[1:])
    arm = load_arm(write(own_arm(joints, extra=MOTORS)))
    np.testing.assert_allclose(arm.torque_limits, [9, 32, 33, 34, 35, 36])


def test_without_keyframe_and_motors_home_is_the_middle_and_torque_generous(write):
    joints = ('range="-1 2"',) + ('range="0 1"',) * 5
    arm = load_arm(write(own_arm(joints, extra=keyframe("elsewhere"))))
    np.testing.assert_allclose(arm.home, [0.5] * 6)
    np.testing.assert_allclose(arm.torque_limits, 1000.0)


@pytest.mark.parametrize("joints", [NAMED, ('range="-2.9 2.9"',) * 6, ("",) * 6], ids=["named", "unnamed", "unlimited"])
def test_own_arm_reaches(write, joints):
    """The script brings any six-joint arm to the marker; its joints may be nameless or without limits."""
    env = gym.make("robot_rl/Reach-v0", arm=write(own_arm(joints, extra=keyframe())))
    successes = 0
    for seed in range(3):
        observation, _ = env.reset(seed=seed)
        expert = env.unwrapped.expert(np.random.default_rng(seed), 0.0)
        terminated = truncated = False
        while not (terminated or truncated):
            action = expert.act(observation, env.unwrapped.instruction)
            observation, _, terminated, truncated, info = env.step(action)
            assert env.observation_space.contains(observation)
            assert "fault" not in info
        successes += info["success"]
    env.close()
    assert successes == 3


def test_unlimited_joints_are_not_pushed_to_zero(write):
    twin = Twin(load_arm(write(own_arm(("",) * 6, extra=keyframe()))))
    assert not np.isfinite(twin.limits.lower).any()
    twin.advance(0.5)
    np.testing.assert_allclose(twin.q, HOME, atol=1e-4)


@pytest.mark.parametrize("name", ["panda9", "ur5e.urdf", "/nowhere/arm.xml", ""])
def test_an_unknown_arm_is_told_the_known_ones(name):
    with pytest.raises(ConfigError, match=r"fr3, ur5e; or give the path"):
        load_arm(name)


def test_an_arm_without_flange_is_told_its_sites(write):
    with pytest.raises(ConfigError, match=r"flange or attachment_site or tool0; it has \['tip'\]"):
        load_arm(write(own_arm(flange="tip")))


def test_an_arm_without_joints_is_refused(write):
    xml = '<mujoco><worldbody><body><geom size="0.1"/><site name="flange"/></body></worldbody></mujoco>'
    with pytest.raises(ConfigError, match="no joints"):
        load_arm(write(xml))


@pytest.mark.parametrize("joint", ["<freejoint/>", '<joint type="ball"/>'])
def test_an_arm_is_hinges_and_slides(write, joint):
    xml = f'<mujoco><worldbody><body>{joint}<geom size="0.1"/><site name="flange"/></body></worldbody></mujoco>'
    with pytest.raises(ConfigError, match="free or ball joint"):
        load_arm(write(xml))


@pytest.mark.parametrize(
    "text", ["<mujoco><worldbody>", "not xml", '<mujoco><worldbody><body nme="a"/></worldbody></mujoco>']
)
def test_a_broken_file_is_named_with_mujocos_reason(write, text):
    with pytest.raises(ConfigError, match=r"broken\.xml is not an MJCF file"):
        load_arm(write(text, "broken.xml"))


def test_an_arm_too_short_for_the_task_says_so(write):
    short = own_arm(NAMED, extra=keyframe()).replace('pos="0 0 0.4"', 'pos="0 0 0.1"')
    env = gym.make("robot_rl/Reach-v0", arm=write(short))
    with pytest.raises(ConfigError, match="own_arm cannot reach"):
        env.reset(seed=0)
    env.close()


def test_the_joints_of_a_slide_arm_move_it_along(write):
    """A gantry: three slides and a wrist turned down. Its Jacobian is the identity in position (by hand)."""
    axes = ("1 0 0", "0 1 0", "0 0 1")
    xml = '<mujoco><worldbody><body name="root" pos="0.4 0 0.6"><geom size="0.02" contype="0"/>'
    for axis in axes:
        xml += (
            f'<body><joint type="slide" axis="{axis}" range="-0.5 0.5" armature="0.5"/><geom size="0.02" contype="0"/>'
        )
    xml += '<site name="flange" quat="0 1 0 0"/>' + "</body>" * 4 + "</worldbody></mujoco>"
    twin = Twin(load_arm(write(xml)))
    np.testing.assert_allclose(twin.jacobian, np.eye(6, 3), atol=1e-12)
    twin.target[:3] += [0.02, -0.01, 0.03]
    start = twin.tcp_pose.copy()
    twin.advance(2.0)
    np.testing.assert_allclose(twin.tcp_pose[:3] - start[:3], [0.02, -0.01, 0.03], atol=1e-4)
