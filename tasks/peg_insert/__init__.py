"""Peg insert: a square peg into a square hole with 1 mm radial clearance, wherever the socket stands."""

import mujoco
import numpy as np

from drivers.cell import Cell
from drivers.impedance import ImpedanceGains
from drivers.safety import SafetyLimits
from drivers.tag_layout import Tag
from drivers.twin.randomisation import Randomisation
from drivers.twin.scene import Scene
from robot_rl.geometry import compose, invert, quat_from_rotvec, quat_multiply, quat_rotate
from tasks.spec import TOOL_DOWN_XYZW, Move, Task, TaskSpec, World

__all__ = ["TAGS", "PegInsert"]

PEG_HALF = 0.01  # half-width of the square peg [m]
PEG_TIP = 0.05  # distance from tcp to the peg's tip [m]
CLEARANCE = 0.001  # between peg and wall, each side [m]
WALL = 0.012  # half-thickness of the socket's walls [m]
SOCKET_HEIGHT = 0.04  # [m]
DEPTH = 0.025  # how deep the tip must be [m]
SOCKET_CENTRE = np.array([0.5, 0.0])

# On a board under the socket: the further apart, the less a camera's error turns or tilts it.
TAGS = {
    "socket": tuple(
        Tag(i, 0.04, (x, y, 0.001, 0.0, 0.0, 0.0, 1.0))
        for i, (x, y) in enumerate(((0.08, 0.08), (0.08, -0.08), (-0.08, 0.08), (-0.08, -0.08)))
    )
}


class PegInsert(Task):
    """Insert a 20 mm square peg 25 mm deep into a 22 mm hole. Sparse reward."""

    spec = TaskSpec(
        name="peg_insert",
        instruction="insert the peg into the socket",
        tags=TAGS,
        objects=("socket",),
        start_position=(0.5, 0.0, SOCKET_HEIGHT + PEG_TIP + 0.06),
        start_noise=(0.03, 0.03, 0.02, 0.2),
        limits=SafetyLimits(
            position_low=(0.42, -0.08, PEG_TIP + 0.002),
            position_high=(0.58, 0.08, SOCKET_HEIGHT + PEG_TIP + 0.1),
            rotation_limit=(0.05, 0.05, 0.8),
            max_speed=(0.4, 1.5),
        ),
        gains=ImpedanceGains(translational_clip=(0.006, 0.006, 0.01), rotational_clip=(0.1, 0.1, 0.1)),
        action_scale=(0.02, 0.1),
        start_opening=2 * PEG_HALF,
        max_steps=100,
        randomisation=Randomisation(
            friction_scale=0.3, damping_scale=0.3, gains_scale=0.1, light_scale=0.3, camera_position=0.01,
            latency_ticks=20, tracker_noise=0.0005, wrench_noise=0.3,
        ),
    )  # fmt: skip

    def build(self, scene: Scene) -> None:
        """A socket of four walls, and the peg fixed in the gripper."""
        socket = scene.spec.worldbody.add_body(name="socket", mocap=True)
        hole = PEG_HALF + CLEARANCE
        for i, (dx, dy) in enumerate(((1, 0), (-1, 0), (0, 1), (0, -1))):
            along = hole + 2 * WALL if dx else hole
            socket.add_geom(
                name=f"wall{i}", type=mujoco.mjtGeom.mjGEOM_BOX, friction=[0.3, 0.005, 0.0001],
                size=[WALL if dx else along, WALL if dy else hole + 2 * WALL, SOCKET_HEIGHT / 2],
                pos=[dx * (hole + WALL), dy * (hole + WALL), SOCKET_HEIGHT / 2],
                rgba=[0.23, 0.55, 0.50, 1.0] if dx else [0.20, 0.48, 0.44, 1.0],
            )  # fmt: skip
        peg = scene.hand.add_body(name="peg", pos=[0.0, 0.0, 0.1034])
        peg.add_geom(
            scene.spec.default, type=mujoco.mjtGeom.mjGEOM_BOX, size=[PEG_HALF, PEG_HALF, PEG_TIP / 2 + 0.01],
            pos=[0.0, 0.0, PEG_TIP / 2 - 0.01], mass=0.05, rgba=[0.93, 0.72, 0.25, 1.0], contype=0, conaffinity=1,
            friction=[0.3, 0.005, 0.0001],
        )  # fmt: skip

    def reset(self, cell: Cell, rng: np.random.Generator) -> None:
        """The socket within 5 cm of the middle, turned by up to 30 degrees."""
        if cell.stage is not None:
            position = np.append(SOCKET_CENTRE + 0.05 * rng.uniform(-1.0, 1.0, 2), 0.0)
            turn = quat_from_rotvec(np.array([0.0, 0.0, np.radians(30) * rng.uniform(-1.0, 1.0)]))
            cell.stage.place("socket", np.concatenate([position, turn]))

    def success(self, world: World) -> bool:
        """The tip is 25 mm deep in the hole."""
        tip = self._tip_in_socket(world)
        inside = np.abs(tip[:2]) < 2 * CLEARANCE + 0.001
        return bool(inside.all() and tip[2] < SOCKET_HEIGHT - DEPTH)

    stages = 2

    def stage(self, world: World) -> int:
        """1 once the tip is in the hole."""
        return 2 if self.success(world) else int(self._tip_in_socket(world)[2] < SOCKET_HEIGHT - 0.005)

    def dense_reward(self, world: World) -> float:
        """Rises as the tip nears its place."""
        tip = self._tip_in_socket(world) - np.array([0.0, 0.0, SOCKET_HEIGHT - DEPTH])
        return float(0.99 * np.exp(-np.linalg.norm(tip) / 0.05))

    def expert(self, world: World) -> Move:
        """Align above the hole, then go down; what is left of misalignment the compliance takes up."""
        socket, tcp = world.objects["socket"], world.arm.tcp_pose
        forward = quat_rotate(socket[3:], np.array([1.0, 0.0, 0.0]))
        yaw = (np.arctan2(forward[1], forward[0]) + np.pi / 4) % (np.pi / 2) - np.pi / 4
        down = quat_multiply(quat_from_rotvec(np.array([0.0, 0.0, yaw])), np.array(TOOL_DOWN_XYZW))
        tip = self._tip_in_socket(world)
        turn = compose(invert(np.array([0.0, 0.0, 0.0, *down])), tcp)
        aligned = np.abs(tip[:2]).max() < 0.0015 and abs(2 * turn[5]) < 0.05
        inside = tip[2] < SOCKET_HEIGHT - 0.002
        height = PEG_TIP if aligned or inside else SOCKET_HEIGHT + PEG_TIP + 0.005
        return Move(np.array([socket[0], socket[1], height, *down]))

    def _tip_in_socket(self, world: World) -> np.ndarray:
        """Position of the peg's tip in the socket's frame [m], z up from its foot, shape (3,)."""
        tip_tcp = np.array([0.0, 0.0, PEG_TIP, 0.0, 0.0, 0.0, 1.0])
        return compose(invert(world.objects["socket"]), compose(world.arm.tcp_pose, tip_tcp))[:3]
