"""Cable route: snap a flexible cable, plugged in at its other end, into a clip wherever the clip stands."""

import numpy as np

from drivers.cell import Cell
from drivers.impedance import ImpedanceGains
from drivers.safety import SafetyLimits
from drivers.tag_layout import Tag
from drivers.twin.randomisation import Randomisation
from drivers.twin.scene import Scene
from robot_rl.geometry import compose, invert, matrix_from_quat, quat_from_rotvec, quat_multiply, quat_rotate
from tasks.cable_route.props import GRIP_TO_SLEEVE, SEAT_HEIGHT, add_cable, add_clip, add_outlet
from tasks.spec import TOOL_DOWN_XYZW, Move, Task, TaskSpec, World

__all__ = ["TAGS", "CableRoute"]

CLIP_CENTRE = np.array([0.5, 0.0])
RANGE, TURN = 0.10, np.radians(30)  # where the clip may stand [m, rad]
BOX = RANGE + 0.02  # half-width of the box the tcp stays in: every clip, and room to align [m]
SETTLE_S = 0.8  # until the cable hangs still
IN_CLIP = np.array([0.007, 0.0015, 0.0015])  # of the sleeve's middle from its seat, along, across and up [m]
ALONG = 0.3  # most between sleeve and slot [rad]
HOVER, PRESS = 0.018, 0.006  # the expert's tcp above and below the seat [m]
DESCENT = 0.8  # how much higher it stays for every metre that the sleeve is aside
GUIDED = 0.009  # above its seat the flanks keep the sleeve over the slot [m]

# On a sheet under the clip: the further apart, the less a camera's error turns or tilts it.
TAGS = {
    "clip": tuple(
        Tag(i, 0.03, (x, y, 0.001, 0.0, 0.0, 0.0, 1.0))
        for i, (x, y) in enumerate(((0.05, 0.05), (0.05, -0.05), (-0.05, 0.05), (-0.05, -0.05)), start=20)
    )
}


class CableRoute(Task):
    """Press the cable's marked sleeve between the sprung lips of a clip. Sparse reward.

    The sleeve tells where on the cable one looks, and is all that is tracked of it. On metal the clip wears tags; a
    coloured sleeve needs a tracker of its own, or success is a classifier's to tell (`observations="vision"`).
    """

    spec = TaskSpec(
        name="cable_route",
        instruction="route the cable through the clip",
        tags=TAGS,
        objects=("clip", "sleeve"),
        start_position=(CLIP_CENTRE[0] - GRIP_TO_SLEEVE, 0.0, SEAT_HEIGHT + 0.08),
        start_noise=(0.02, 0.02, 0.01, 0.1),
        limits=SafetyLimits(
            position_low=(CLIP_CENTRE[0] - GRIP_TO_SLEEVE - BOX, -BOX, SEAT_HEIGHT - 0.012),
            position_high=(CLIP_CENTRE[0] - GRIP_TO_SLEEVE + BOX, BOX, SEAT_HEIGHT + 0.12),
            rotation_limit=(0.1, 0.1, 0.7),
            max_speed=(0.4, 2.0),
        ),
        gains=ImpedanceGains(translational_clip=(0.005, 0.005, 0.005), rotational_clip=(0.1, 0.1, 0.1)),
        action_scale=(0.05, 0.3),
        start_opening=0.006,
        max_steps=100,
        randomisation=Randomisation(
            friction_scale=0.3, damping_scale=0.3, gains_scale=0.1, light_scale=0.3, camera_position=0.01,
            latency_ticks=20, tracker_noise=0.0005, wrench_noise=0.3,
        ),
    )  # fmt: skip

    def build(self, scene: Scene) -> None:
        """The clip, and a cable from the gripper to an outlet at the far end of the table."""
        add_clip(scene)
        add_outlet(scene)
        add_cable(scene)

    def reset(self, cell: Cell, rng: np.random.Generator) -> None:
        """The clip within 10 cm of the middle, turned by up to 30 degrees; the cable comes to rest."""
        if cell.stage is not None:
            position = np.append(CLIP_CENTRE + RANGE * rng.uniform(-1.0, 1.0, 2), 0.0)
            turn = quat_from_rotvec(np.array([0.0, 0.0, TURN * rng.uniform(-1.0, 1.0)]))
            cell.stage.place("clip", np.concatenate([position, turn]))
            cell.clock.wait_until(cell.clock.now() + SETTLE_S)

    def success(self, world: World) -> bool:
        """The sleeve lies in the slot, under the lips."""
        offset, angle = self._from_seat(world)
        return bool((np.abs(offset) < IN_CLIP).all() and angle < ALONG)

    def dense_reward(self, world: World) -> float:
        """Rises as the sleeve nears its seat."""
        offset, angle = self._from_seat(world)
        return float(0.99 * np.exp(-np.linalg.norm(offset) / 0.05 - angle / 0.5))

    def expert(self, world: World) -> Move:
        """Hold the sleeve over the slot and along it, then press; where the sleeve is, not the tcp, decides."""
        clip, tcp = world.objects["clip"], world.arm.tcp_pose
        down = quat_multiply(clip[3:], np.array(TOOL_DOWN_XYZW))
        offset, angle = self._from_seat(world)
        to_slot = quat_rotate(clip[3:], np.array([-offset[0], -offset[1], 0.0]))
        aside = float(np.linalg.norm(offset[:2]))
        over = abs(offset[0]) < 0.005 and abs(offset[1]) < 0.005 and angle < 0.25
        between = abs(offset[0]) < 0.006 and abs(offset[1]) < 0.008 and offset[2] < GUIDED
        height = SEAT_HEIGHT + (-PRESS if over or between else HOVER + DESCENT * aside)
        return Move(np.concatenate([tcp[:2] + to_slot[:2], [height], down]))

    def _from_seat(self, world: World) -> tuple[np.ndarray, float]:
        """The sleeve's middle from its seat in the clip's frame [m], shape (3,), and between their axes [rad]."""
        sleeve = compose(invert(world.objects["clip"]), world.objects["sleeve"])
        axis = matrix_from_quat(sleeve[3:])[:, 0]
        return sleeve[:3] - np.array([0.0, 0.0, SEAT_HEIGHT]), float(np.arccos(np.clip(axis[0], -1.0, 1.0)))
