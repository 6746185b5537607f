"""The cell as a MuJoCo model: a table, an arm, a gripper, cameras, and what a task puts on the table."""

from collections.abc import Callable
from dataclasses import dataclass

import mujoco
import numpy as np

from drivers.twin.arms import MODELS, ArmModel

__all__ = ["Scene", "compose"]

TABLE_HALF_SIZE = (0.55, 0.6)
TABLE_CENTRE_X = 0.35
FRONT = np.array([1.25, 0.0, 0.62])  # where the front camera is


@dataclass(frozen=True)
class Scene:
    """What a task builds upon. `base` is the world's origin, on the table's surface, x forward, z up.

    Attributes:
        spec: The model being composed; add props to `spec.worldbody`. Plain geoms collide with arm and table.
        hand: The gripper's body, to fix a tool to. A geom on it needs contype 0, conaffinity 1, as the gripper's have,
            so that it meets the world but not the fingers.
    """

    spec: mujoco.MjSpec
    hand: mujoco.MjsBody

    def aim_front(self, target: np.ndarray, fovy: float) -> None:
        """Turn the front camera to a point [m], shape (3,), and narrow its view to `fovy` [degrees].

        A small picture shows little of a wide view: a 4 cm cube is six of 128 pixels wide at 45 degrees, ten at 30.
        """
        front = self.spec.camera("front")
        front.quat, front.fovy = _look_at(np.array(front.pos), target), fovy


def compose(
    arm: ArmModel, build: Callable[[Scene], None] | None = None, *, weightless: bool = False
) -> tuple[mujoco.MjModel, list[str]]:
    """Put arm, gripper, cameras and a task's props together.

    Args:
        arm: The arm; its file's actuators are dropped, since the impedance law writes joint torques.
        build: Adds a task's props.
        weightless: Arm and hand carry their own weight, as behind a vendor's controller; props do not.

    Returns:
        The compiled model, and the names of the arm's joints in order. The tool centre point is the site `tool/tcp`.
    """
    spec = mujoco.MjSpec()
    spec.modelname = f"robot_rl_{arm.name}"
    spec.option.timestep = 0.001
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10.0
    # An unstable state must be seen: by default MuJoCo would start over from its initial state and carry on.
    spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
    _surroundings(spec)

    arm_spec = mujoco.MjSpec.from_file(str(arm.path))
    for actuator in list(arm_spec.actuators):
        arm_spec.delete(actuator)
    for key in list(arm_spec.keys):
        arm_spec.delete(key)
    for number, joint in enumerate(arm_spec.joints, start=1):
        joint.name = joint.name or f"unnamed{number}"
    joints = [f"arm/{joint.name}" for joint in arm_spec.joints]
    spec.worldbody.add_frame().attach_body(arm_spec.worldbody.first_body(), "arm/", "")
    gripper = mujoco.MjSpec.from_file(str(MODELS / "gripper.xml"))
    hand = spec.site(f"arm/{arm.flange}").attach_body(gripper.body("hand"), "tool/", "")
    if build is not None:
        build(Scene(spec, hand))
    if weightless:
        for body in (arm_spec.worldbody.first_body(), hand):
            _carry(body)
    return spec.compile(), joints


def _carry(body: mujoco.MjsBody) -> None:
    body.gravcomp = 1.0
    for child in body.bodies:
        _carry(child)


def _surroundings(spec: mujoco.MjSpec) -> None:
    """Table, light, backdrop and the front camera."""
    world = spec.worldbody
    spec.visual.headlight.ambient = [0.45, 0.45, 0.45]
    spec.visual.headlight.diffuse = [0.35, 0.35, 0.35]
    spec.visual.headlight.specular = [0.1, 0.1, 0.1]
    spec.visual.quality.offsamples = 0
    spec.visual.quality.numslices, spec.visual.quality.numstacks = 20, 10
    spec.visual.global_.offwidth, spec.visual.global_.offheight = 1280, 960
    spec.visual.map.znear = 0.005
    sky = spec.add_texture(name="sky", type=mujoco.mjtTexture.mjTEXTURE_SKYBOX)
    sky.builtin = mujoco.mjtBuiltin.mjBUILTIN_GRADIENT
    sky.rgb1, sky.rgb2, sky.width, sky.height = [0.86, 0.9, 0.94], [0.58, 0.65, 0.73], 64, 64
    world.add_light(
        name="key", pos=[0.2, -0.8, 2.0], dir=[0.15, 0.4, -1.0], diffuse=[0.5, 0.5, 0.48], castshadow=False,
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
    )  # fmt: skip
    world.add_geom(
        name="table", type=mujoco.mjtGeom.mjGEOM_BOX, pos=[TABLE_CENTRE_X, 0, -0.02], size=[*TABLE_HALF_SIZE, 0.02],
        rgba=[0.79, 0.72, 0.62, 1], friction=[0.8, 0.005, 0.0001],
    )  # fmt: skip
    world.add_camera(name="front", pos=FRONT, quat=_look_at(FRONT, np.array([0.42, 0.0, 0.12])), fovy=45)


def _look_at(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    """MuJoCo quaternion (wxyz) of a camera (looks along -z, y up) at `position` looking at `target`."""
    z = (position - target) / np.linalg.norm(position - target)
    x = np.cross([0.0, 0.0, 1.0], z)
    x /= np.linalg.norm(x)
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, np.stack([x, np.cross(z, x), z], axis=1).ravel())
    return quat
