"""PCB insert: a circuit board's 1 mm card edge into a socket with 0.4 mm clearance, wherever the socket stands."""

import numpy as np

from drivers.cell import Cell
from drivers.impedance import ImpedanceGains
from drivers.safety import SafetyLimits
from drivers.tag_layout import Tag
from drivers.twin.randomisation import Randomisation
from drivers.twin.scene import Scene
from robot_rl.geometry import compose, invert, quat_from_rotvec, quat_multiply, quat_rotate, rotvec_from_quat
from tasks.pcb_insert.props import FOOT, PANEL_TOP, TIP, add_board, add_panel
from tasks.spec import TOOL_DOWN_XYZW, Move, Task, TaskSpec, World

__all__ = ["TAGS", "PcbInsert"]

HOVER = 0.004  # of the tip above the panel while the expert aligns [m]
DESCENT = 0.5  # how much higher it stays for every metre it is aside
SEATED = np.array([0.0, 0.0, FOOT + TIP, *TOOL_DOWN_XYZW])  # the tcp in the socket's frame
TOLERANCE = np.array([0.003, 0.003, 0.001])  # of the tip in the socket's frame [m]
TOLERANCE_ANGLE = 0.1  # [rad]
SOCKET_CENTRE = np.array([0.5, 0.0])
RANGE, TURN = 0.05, np.radians(20)  # where the socket may stand [m, rad]
BOX = RANGE + 0.015  # half-width of the box the tcp stays in: every socket, and room to align [m]

# On a sheet under the panel: the further apart, the less a camera's error turns or tilts it.
TAGS = {
    "socket": tuple(
        Tag(i, 0.04, (x, y, 0.001, 0.0, 0.0, 0.0, 1.0))
        for i, (x, y) in enumerate(((0.08, 0.08), (0.08, -0.08), (-0.08, 0.08), (-0.08, -0.08)), start=10)
    )
}


class PcbInsert(Task):
    """Seat a card edge of 22 x 1 mm, 6 mm deep, in a slot that leaves it 0.4 mm and 2 degrees. Sparse reward.

    On metal the socket's panel wears tags, and the tcp says where the board is: success needs nothing else.
    """

    spec = TaskSpec(
        name="pcb_insert",
        instruction="insert the circuit board into the socket",
        tags=TAGS,
        objects=("socket",),
        start_position=(0.5, 0.0, FOOT + TIP + 0.03),
        start_noise=(0.01, 0.01, 0.01, 0.1),
        limits=SafetyLimits(
            position_low=(SOCKET_CENTRE[0] - BOX, -BOX, FOOT + TIP - 0.005),
            position_high=(SOCKET_CENTRE[0] + BOX, BOX, FOOT + TIP + 0.05),
            rotation_limit=(0.1, 0.1, 0.5),
            max_speed=(0.25, 1.5),
        ),
        gains=ImpedanceGains(
            stiffness=(3000, 3000, 3000),
            damping=(180, 180, 180),
            translational_clip=(0.002, 0.002, 0.002),
            rotational_clip=(0.1, 0.1, 0.1),
        ),
        action_scale=(0.02, 0.2),
        start_opening=0.03,
        max_steps=100,
        randomisation=Randomisation(
            friction_scale=0.3, damping_scale=0.3, gains_scale=0.1, light_scale=0.3, camera_position=0.01,
            latency_ticks=20, tracker_noise=0.0003, wrench_noise=0.3,
        ),
    )  # fmt: skip

    def build(self, scene: Scene) -> None:
        """A panel with the socket let into it, and the circuit board held by its sides in the gripper."""
        add_panel(scene)
        add_board(scene)

    def reset(self, cell: Cell, rng: np.random.Generator) -> None:
        """The socket within 5 cm of the middle, turned by up to 20 degrees."""
        if cell.stage is not None:
            position = np.append(SOCKET_CENTRE + RANGE * rng.uniform(-1.0, 1.0, 2), 0.0)
            turn = quat_from_rotvec(np.array([0.0, 0.0, TURN * rng.uniform(-1.0, 1.0)]))
            cell.stage.place("socket", np.concatenate([position, turn]))

    def success(self, world: World) -> bool:
        """The tip is within 3, 3, 1 mm of its seat, in the socket's frame, and the board within 0.1 rad."""
        offset, angle = self._from_seat(world)
        return bool((np.abs(offset) < TOLERANCE).all() and angle < TOLERANCE_ANGLE)

    def dense_reward(self, world: World) -> float:
        """Rises as the board nears its seat."""
        offset, angle = self._from_seat(world)
        return float(0.99 * np.exp(-np.linalg.norm(offset) / 0.05 - angle / 0.5))

    def expert(self, world: World) -> Move:
        """Come down on the slot from all sides, align, go in; flanks and compliance take up what is left."""
        socket = world.objects["socket"]
        forward = quat_rotate(socket[3:], np.array([1.0, 0.0, 0.0]))
        yaw = np.arctan2(forward[1], forward[0])
        down = quat_multiply(quat_from_rotvec(np.array([0.0, 0.0, yaw])), np.array(TOOL_DOWN_XYZW))
        offset, angle = self._from_seat(world)
        aligned = np.abs(offset[:2]).max() < 0.002 and angle < 0.08
        inside = offset[2] < PANEL_TOP - FOOT - 0.001
        hover = PANEL_TOP - FOOT + HOVER + DESCENT * float(np.linalg.norm(offset[:2]))
        height = socket[2] + SEATED[2] + (-0.002 if aligned or inside else hover)
        return Move(np.array([socket[0], socket[1], height, *down]))

    def _from_seat(self, world: World) -> tuple[np.ndarray, float]:
        """How far the tip is from its seat in the socket's frame [m], shape (3,), and how far turned [rad]."""
        tip = np.array([0.0, 0.0, TIP, 0.0, 0.0, 0.0, 1.0])
        held = compose(invert(world.objects["socket"]), compose(world.arm.tcp_pose, tip))
        turn = rotvec_from_quat(compose(invert(SEATED), held)[3:])
        return held[:3] - np.array([0.0, 0.0, FOOT]), float(np.linalg.norm(turn))
