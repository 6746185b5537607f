"""Pick cube: find a cube anywhere on a 30 x 40 cm area, grasp it and lift it by 10 cm."""

import mujoco
import numpy as np

from drivers.cell import Cell
from drivers.impedance import ImpedanceGains
from drivers.safety import SafetyLimits
from drivers.tag_layout import Tag
from drivers.twin.randomisation import Randomisation
from drivers.twin.scene import Scene
from robot_rl.geometry import CUBE_ROTATIONS, quat_from_rotvec, quat_multiply, quat_rotate
from tasks.spec import TOOL_DOWN_XYZW, Move, Task, TaskSpec, World

__all__ = ["TAGS", "PickCube"]

HALF_SIZE = 0.02  # of the cube [m]
AREA_CENTRE = np.array([0.5, 0.0])
AREA_HALF = np.array([0.15, 0.20])
LIFT = 0.10  # [m]

# On every face but the one it stands on; with its white margin a tag fills the face.
TAGS = {
    "cube": (
        Tag(5, 0.03, (0.0, 0.0, HALF_SIZE + 0.0005, 0.0, 0.0, 0.0, 1.0)),
        Tag(6, 0.03, (HALF_SIZE + 0.0005, 0.0, 0.0, 0.5, 0.5, 0.5, 0.5)),
        Tag(7, 0.03, (-HALF_SIZE - 0.0005, 0.0, 0.0, 0.5, -0.5, -0.5, 0.5)),
        Tag(8, 0.03, (0.0, HALF_SIZE + 0.0005, 0.0, 0.0, 0.7071068, 0.7071068, 0.0)),
        Tag(9, 0.03, (0.0, -HALF_SIZE - 0.0005, 0.0, 0.7071068, 0.0, 0.0, 0.7071068)),
    )
}


class PickCube(Task):
    """Lift a 4 cm cube by 10 cm. Sparse reward."""

    spec = TaskSpec(
        name="pick_cube",
        instruction="pick up the cube",
        tags=TAGS,
        objects=("cube",),
        symmetries={"cube": CUBE_ROTATIONS},
        start_position=(0.5, 0.0, 0.25),
        start_noise=(0.03, 0.03, 0.03, 0.0),
        limits=SafetyLimits(
            position_low=(0.3, -0.25, 0.018), position_high=(0.7, 0.25, 0.35), rotation_limit=(0.02, 0.02, 0.9),
            max_speed=(0.8, 3.0),
        ),
        gains=ImpedanceGains(
            stiffness=(1000, 1000, 1000),
            damping=(60, 60, 60),
            translational_clip=(0.05, 0.05, 0.018),
            rotational_stiffness=(60, 60, 60),
            rotational_damping=(4, 4, 4),
            rotational_clip=(0.3, 0.3, 0.3),
        ),
        action_scale=(0.06, 0.3),
        has_gripper=True,
        max_steps=50,
        randomisation=Randomisation(
            friction_scale=0.2, mass_scale=0.3, damping_scale=0.3, gains_scale=0.1, light_scale=0.3,
            camera_position=0.01, latency_ticks=20, tracker_noise=0.002, wrench_noise=0.3,
        ),
    )  # fmt: skip

    def build(self, scene: Scene) -> None:
        """A cube of 50 g, and the area it is placed in drawn on the table; the front camera sees little else."""
        scene.aim_front(np.array([*AREA_CENTRE, 0.06]), fovy=30.0)
        cube = scene.spec.worldbody.add_body(name="cube", pos=[0.5, 0.0, HALF_SIZE])
        cube.add_freejoint()
        cube.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX, size=[HALF_SIZE] * 3, mass=0.05, rgba=[0.16, 0.47, 0.75, 1.0],
            friction=[1.0, 0.01, 0.001],
        )  # fmt: skip
        scene.spec.worldbody.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX, size=[*(AREA_HALF + HALF_SIZE), 0.0005], pos=[*AREA_CENTRE, 0.0],
            rgba=[0.88, 0.84, 0.77, 1.0], contype=0, conaffinity=0,
        )  # fmt: skip

    def reset(self, cell: Cell, rng: np.random.Generator) -> None:
        """The cube anywhere in the area, turned by up to 45 degrees."""
        if cell.stage is not None:
            position = np.append(AREA_CENTRE + AREA_HALF * rng.uniform(-1.0, 1.0, 2), HALF_SIZE)
            turn = quat_from_rotvec(np.array([0.0, 0.0, rng.uniform(-np.pi / 4, np.pi / 4)]))
            cell.stage.place("cube", np.concatenate([position, turn]))

    def success(self, world: World) -> bool:
        """The cube is 10 cm up and between the fingers."""
        cube = world.objects["cube"][:3]
        held = np.linalg.norm(cube - world.arm.tcp_pose[:3]) < 2 * HALF_SIZE
        return bool(cube[2] > HALF_SIZE + LIFT and held)

    stages = 2

    def stage(self, world: World) -> int:
        """1 once the cube is held clear of the table."""
        cube = world.objects["cube"][:3]
        held = np.linalg.norm(cube - world.arm.tcp_pose[:3]) < 2 * HALF_SIZE and cube[2] > HALF_SIZE + 0.01
        return 2 if self.success(world) else int(held)

    def failure(self, world: World) -> bool:
        """The cube fell off the table."""
        return bool(world.objects["cube"][2] < -HALF_SIZE)

    def dense_reward(self, world: World) -> float:
        """Half for approaching, half for lifting."""
        cube = world.objects["cube"][:3]
        near = np.exp(-np.linalg.norm(cube - world.arm.tcp_pose[:3]) / 0.1)
        return float(0.5 * near + 0.49 * np.clip((cube[2] - HALF_SIZE) / LIFT, 0.0, 1.0))

    def expert(self, world: World) -> Move:
        """Above the cube, down around it, close, lift: told apart by where things are, not by a clock."""
        cube, tcp = world.objects["cube"], world.arm.tcp_pose
        face = quat_rotate(cube[3:], np.array([1.0, 0.0, 0.0]))
        yaw = (np.arctan2(face[1], face[0]) + np.pi / 4) % (np.pi / 2) - np.pi / 4  # the nearest of four faces
        down = quat_multiply(quat_from_rotvec(np.array([0.0, 0.0, yaw])), np.array(TOOL_DOWN_XYZW))
        offset = tcp[:3] - cube[:3]
        aside = float(np.linalg.norm(offset[:2]))
        around = aside < 0.012 and abs(offset[2]) < 0.012
        gripped = around and world.opening < 2 * HALF_SIZE + 0.004
        if gripped:
            return Move(np.concatenate([tcp[:3] + np.array([0.0, 0.0, 0.06]), down]), close=True)
        height = cube[2] + 0.005 if aside < 0.012 else cube[2] + 0.05 + 0.5 * aside
        return Move(np.array([cube[0], cube[1], height, *down]), close=around)
