"""Bin relocate: carry a block over the ridge between two bins, there and back again, with nobody to reset the scene."""

import mujoco
import numpy as np

from drivers.cell import Cell
from drivers.impedance import ImpedanceGains
from drivers.safety import SafetyLimits
from drivers.tag_layout import Tag
from drivers.twin.randomisation import Randomisation
from drivers.twin.scene import Scene
from robot_rl.geometry import CUBE_ROTATIONS, matrix_from_quat, quat_from_rotvec, quat_multiply
from tasks.spec import TOOL_DOWN_XYZW, Move, Task, TaskSpec, World

__all__ = ["TAGS", "BinRelocate"]

HALF_SIZE = 0.025  # of the block [m]
CENTRE_X = 0.5  # of both bins [m]
BIN_Y = 0.11  # of the left bin's centre; the right one's is at -BIN_Y [m]
BIN_HALF = (0.1, 0.06)  # inside: along x a held block hardly reaches a wall, and one lying at it can be grasped [m]
START_HALF = (0.045, 0.025)  # around a bin's centre, where the block is placed [m]
RIM = 0.025  # height of the outer walls, lower than the fingertips that hold a block [m]
WALL_HALF = 0.003  # half their thickness [m]
RIDGE = 0.05  # height of the inner wall, and half its width at the foot [m]
SLIPPERY = (0.3, 0.005, 0.0001)  # a block that lands on a wall slides down
FLOOR = (0.1, 0.005, 0.0001)  # and along the floor, until it lies flat: at 0.3 one in twenty stayed leaning
GRASP = 0.012  # tcp above the block's centre [m]

RIGHT, LEFT = "move the object to the right bin", "move the object to the left bin"

# On every face, since the block may tumble; with its white margin a tag fills the face.
TAGS = {
    "object": tuple(
        Tag(10 + i, 0.038, (*(np.array(normal) * (HALF_SIZE + 0.0005)), *quat))
        for i, (normal, quat) in enumerate(
            (
                ((0, 0, 1), (0.0, 0.0, 0.0, 1.0)),
                ((0, 0, -1), (1.0, 0.0, 0.0, 0.0)),
                ((1, 0, 0), (0.5, 0.5, 0.5, 0.5)),
                ((-1, 0, 0), (0.5, -0.5, -0.5, 0.5)),
                ((0, 1, 0), (0.0, 0.7071068, 0.7071068, 0.0)),
                ((0, -1, 0), (0.7071068, 0.0, 0.0, 0.7071068)),
            )
        )
    )
}


class BinRelocate(Task):
    """Relocate a 5 cm block from whichever bin it lies in to the other. Sparse reward.

    The inner wall is a ridge with slopes of 45 degrees: a block dropped on it slides into one of the bins, and none
    comes to rest so close to it that a finger has no room. On the outer walls a finger always has: they are low.
    """

    spec = TaskSpec(
        name="bin_relocate",
        instruction="move the object to the other bin",
        tags=TAGS,
        objects=("object",),
        symmetries={"object": CUBE_ROTATIONS},
        start_position=(CENTRE_X, 0.0, 0.16),
        limits=SafetyLimits(
            position_low=(CENTRE_X - 0.07, -0.15, 0.03), position_high=(CENTRE_X + 0.07, 0.15, 0.18),
            rotation_limit=(0.05, 0.05, 0.9), max_speed=(0.4, 1.5),
        ),
        # SERL's clip of 6, 6, 5 mm takes 45 steps on the twin and, through a UR's force mode, more than the limit.
        gains=ImpedanceGains(translational_clip=(0.01, 0.01, 0.008)),
        action_scale=(0.05, 0.1),
        has_gripper=True,
        max_steps=100,
        reset_free=True,
        randomisation=Randomisation(
            friction_scale=0.2, mass_scale=0.3, damping_scale=0.3, gains_scale=0.1, light_scale=0.3,
            camera_position=0.01, latency_ticks=20, tracker_noise=0.002, wrench_noise=0.3,
        ),
    )  # fmt: skip

    @property
    def instructions(self) -> tuple[str, ...]:
        """To the right bin and to the left one, as the robot sees them."""
        return RIGHT, LEFT

    def instruct(self, world: World) -> str:
        """To the bin in which the object is not."""
        return RIGHT if world.objects["object"][1] > 0.0 else LEFT

    def build(self, scene: Scene) -> None:
        """Two trays with a ridge between them, and a block of 80 g."""
        world, box = scene.spec.worldbody, mujoco.mjtGeom.mjGEOM_BOX
        wall = {"type": box, "rgba": [0.44, 0.45, 0.47, 1.0], "friction": SLIPPERY}
        length = BIN_Y + BIN_HALF[1]  # from the middle to the inside of an end wall
        for sign, colour in ((1, [0.80, 0.62, 0.34, 1.0]), (-1, [0.40, 0.54, 0.66, 1.0])):
            world.add_geom(
                type=box, size=[*BIN_HALF, 0.0005], pos=[CENTRE_X, sign * BIN_Y, 0.0], rgba=colour, friction=FLOOR,
                priority=1,  # over the block's own friction
            )  # fmt: skip
            world.add_geom(
                size=[BIN_HALF[0], WALL_HALF, RIM / 2], pos=[CENTRE_X, sign * (length + WALL_HALF), RIM / 2], **wall
            )
            world.add_geom(
                size=[WALL_HALF, length + 2 * WALL_HALF, RIM / 2],
                pos=[CENTRE_X + sign * (BIN_HALF[0] + WALL_HALF), 0.0, RIM / 2], **wall,
            )  # fmt: skip
        edge = RIDGE / np.sqrt(2)  # a square bar on its edge, its lower half in the table
        eighth = np.pi / 8
        world.add_geom(
            size=[BIN_HALF[0], edge, edge],
            pos=[CENTRE_X, 0.0, 0.0],
            quat=[np.cos(eighth), np.sin(eighth), 0, 0],
            **wall,
        )
        block = world.add_body(name="object", pos=[CENTRE_X, BIN_Y, HALF_SIZE])
        block.add_freejoint()
        block.add_geom(
            type=box, size=[HALF_SIZE] * 3, mass=0.08, rgba=[0.74, 0.22, 0.17, 1.0], friction=[0.3, 0.01, 0.001]
        )

    def reset(self, cell: Cell, rng: np.random.Generator) -> None:
        """The object around the middle of one of the bins, turned by up to 45 degrees."""
        if cell.stage is not None:
            side = rng.choice([1.0, -1.0])
            position = np.array([CENTRE_X, side * BIN_Y]) + np.array(START_HALF) * rng.uniform(-1.0, 1.0, 2)
            turn = quat_from_rotvec(np.array([0.0, 0.0, rng.uniform(-np.pi / 4, np.pi / 4)]))
            cell.stage.place("object", np.array([*position, HALF_SIZE, *turn]))

    def success(self, world: World) -> bool:
        """The object lies flat in the bin that was asked for, and the fingers let go of it."""
        away = np.abs(world.objects["object"][:2] - self._goal(world))
        lies = away[0] < BIN_HALF[0] and away[1] < BIN_HALF[1] and world.objects["object"][2] < HALF_SIZE + 0.008
        return bool(lies and world.opening > 2 * HALF_SIZE + 0.01)

    def failure(self, world: World) -> bool:
        """The object is outside both bins."""
        x, y, z = world.objects["object"][:3]
        outside = abs(x - CENTRE_X) > BIN_HALF[0] + 2 * WALL_HALF or abs(y) > BIN_Y + BIN_HALF[1] + 2 * WALL_HALF
        return bool(outside or z < 0.0)

    def dense_reward(self, world: World) -> float:
        """A quarter each for reaching and lifting the object, the rest for carrying it across."""
        position = world.objects["object"][:3]
        near = np.exp(-np.linalg.norm(position - world.arm.tcp_pose[:3]) / 0.1)
        across = 1.0 - np.clip(abs(position[1] - self._goal(world)[1]) / (2 * BIN_Y), 0.0, 1.0)
        lifted = np.clip((position[2] - HALF_SIZE) / RIDGE, 0.0, 1.0)
        return float(0.25 * near + 0.25 * max(lifted, across > 0.7) + 0.49 * across)

    def expert(self, world: World) -> Move:
        """Above the object, down around it, close, up, across, down, open: told apart by where things are.

        One motion fades into the next, since a policy cloned from hard switches hesitates at them.
        """
        block, tcp = world.objects["object"], world.arm.tcp_pose
        offset = tcp[:3] - block[:3] - np.array([0.0, 0.0, GRASP])
        aside = float(np.linalg.norm(offset[:2]))
        around = aside < 0.012 and abs(offset[2]) < 0.012
        there = abs(block[1] - self._goal(world)[1]) < 0.5 * BIN_HALF[1]
        if there and block[2] < HALF_SIZE + 0.012:
            height = tcp[2] + 0.05 if world.opening > 2 * HALF_SIZE + 0.01 else HALF_SIZE + GRASP
            return Move(np.array([tcp[0], tcp[1], height, *_down(tcp)]))
        if around and world.opening < 2 * HALF_SIZE + 0.004:
            x = np.clip(tcp[0], CENTRE_X - 0.035, CENTRE_X + 0.035)
            to_goal = self._goal(world)[1] - block[1]
            clear = np.clip((block[2] - (RIDGE + HALF_SIZE - 0.01)) / 0.015, 0.0, 1.0)
            far = np.clip((abs(to_goal) - 0.015) / 0.035, 0.0, 1.0)
            y = tcp[1] + to_goal * (clear if far == 1.0 else 1.0)
            return Move(np.array([x, y, HALF_SIZE + GRASP + far * (RIDGE + 0.02), *_down(tcp)]), close=True)
        height = block[2] + GRASP + np.clip(6.0 * (aside - 0.006), 0.0, 0.04 + 0.5 * aside)
        return Move(np.array([block[0], block[1], height, *_down(block)]), close=around)

    def _goal(self, world: World) -> np.ndarray:
        """Centre of the bin that was asked for [m], in `base`, shape (2,)."""
        return np.array([CENTRE_X, BIN_Y if world.instruction == LEFT else -BIN_Y])


def _down(pose: np.ndarray) -> np.ndarray:
    """The tool pointing down, turned as the nearest upright face of a block, whichever it lies on; quat_xyzw."""
    axes = matrix_from_quat(pose[3:])
    face = axes[:, np.argmin(np.abs(axes[2]))]
    yaw = (np.arctan2(face[1], face[0]) + np.pi / 4) % (np.pi / 2) - np.pi / 4
    return quat_multiply(quat_from_rotvec(np.array([0.0, 0.0, yaw])), np.array(TOOL_DOWN_XYZW))
