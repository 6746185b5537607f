"""Reach: bring the tcp to a marker. The smallest task; copy this file to begin your own."""

import mujoco
import numpy as np

from drivers.cell import Cell
from drivers.impedance import ImpedanceGains
from drivers.safety import SafetyLimits
from drivers.tag_layout import Tag
from drivers.twin.scene import Scene
from robot_rl.geometry import IDENTITY_XYZW
from tasks.spec import TOOL_DOWN_XYZW, Move, Task, TaskSpec, World

__all__ = ["TAGS", "Reach"]

CENTRE = np.array([0.5, 0.0, 0.25])
HALF_RANGE = np.array([0.12, 0.15, 0.12])
TOLERANCE = 0.02  # [m]

# In front of the marker, half way between upright and facing forward, where the front camera is.
TAGS = {"marker": (Tag(4, 0.04, (0.012, 0.0, 0.012, 0.270598, 0.270598, 0.653281, 0.653281)),)}


class Reach(Task):
    """Bring the tool centre point to within 2 cm of a marker."""

    spec = TaskSpec(
        name="reach",
        instruction="move the gripper to the marker",
        tags=TAGS,
        objects=("marker",),
        start_position=(0.5, 0.0, 0.25),
        start_noise=(0.05, 0.05, 0.05, 0.0),
        limits=SafetyLimits(position_low=(0.35, -0.2, 0.1), position_high=(0.65, 0.2, 0.4), max_speed=(0.8, 2.0)),
        gains=ImpedanceGains(stiffness=(1000, 1000, 1000), damping=(60, 60, 60), translational_clip=(0.05, 0.05, 0.05)),
        action_scale=(0.05, 0.1),
        max_steps=50,
    )

    def build(self, scene: Scene) -> None:
        """A marker that touches nothing."""
        marker = scene.spec.worldbody.add_body(name="marker", mocap=True)
        marker.add_geom(
            type=mujoco.mjtGeom.mjGEOM_SPHERE,
            size=[0.015, 0, 0],
            rgba=[0.93, 0.35, 0.28, 0.8],
            contype=0,
            conaffinity=0,
        )

    def reset(self, cell: Cell, rng: np.random.Generator) -> None:
        """The marker anywhere in its range."""
        if cell.stage is not None:
            cell.stage.place("marker", np.concatenate([CENTRE + HALF_RANGE * rng.uniform(-1.0, 1.0, 3), IDENTITY_XYZW]))

    def success(self, world: World) -> bool:
        """The tcp is within tolerance of the marker."""
        return self._distance(world) < TOLERANCE

    def dense_reward(self, world: World) -> float:
        """Rises from 0 far away to 1 at the marker."""
        return float(np.exp(-self._distance(world) / 0.1))

    def expert(self, world: World) -> Move:
        """Straight there."""
        return Move(np.concatenate([world.objects["marker"][:3], TOOL_DOWN_XYZW]))

    def _distance(self, world: World) -> float:
        return float(np.linalg.norm(world.objects["marker"][:3] - world.arm.tcp_pose[:3]))
