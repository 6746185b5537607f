"""What pcb_insert puts on the twin's table: a panel with a socket let into it, and the circuit board in the gripper."""

import mujoco
import numpy as np

from drivers.twin.scene import Scene

__all__ = ["FOOT", "PANEL_TOP", "TIP", "add_board", "add_panel"]

EDGE_HALF = np.array([0.0005, 0.011])  # half-thickness and half-width of the card edge [m]
EDGE_LENGTH = 0.009  # [m]
TIP = 0.039  # from the tcp to the card edge's tip [m]
# Each side [m]. Pushed sideways with all that the law has, stiffness x clip = 6 N, the contacts below give way by less
# than 0.001 mm at 1 ms ticks, so that what is learnt is the clearance and not the simulator's softness.
CLEARANCE = 0.0004
FOOT = 0.004  # thickness of the panel under the slot, on which a seated tip stands [m]
SLOT_TOP = FOOT + 0.006  # where the slot begins [m]
LEAD_IN, SLANT = 0.003, np.pi / 4  # length [m] and slope [rad] of the flanks above the slot
REACH = LEAD_IN * np.sin(SLANT)  # how far they reach aside, and up [m]
THIN = 0.0005  # their half-thickness [m]
PANEL_TOP = SLOT_TOP + REACH  # flush with the flanks: a tip beside the slot slides on it
RIM = np.array([0.02, 0.016])  # half-width of the panel beside the slot, across and along it [m]

CONTACT = {"friction": [0.2, 0.005, 0.0001], "solref": [0.004, 1.0], "solimp": [0.98, 0.995, 0.0005, 0.5, 2.0]}
GREEN, BLUE, GOLD = [0.10, 0.46, 0.27, 1.0], [0.13, 0.22, 0.40, 1.0], [0.90, 0.72, 0.28, 1.0]
IVORY, BLACK, PRINT = [0.80, 0.76, 0.64, 1.0], [0.12, 0.12, 0.14, 1.0], [0.42, 0.50, 0.66, 1.0]
SEEN_ONLY = {"contype": 0, "conaffinity": 0}


def add_panel(scene: Scene) -> None:
    """The body `socket`: origin on the table under the slot's middle, y along the slot, z up."""
    socket = scene.spec.worldbody.add_body(name="socket", mocap=True)
    slot = EDGE_HALF + CLEARANCE
    whole = [*(slot + REACH + 2 * RIM), FOOT / 2]
    _add_box(scene, socket, whole, [0.0, 0.0, FOOT / 2], BLUE)
    for x, y, half in ((-0.025, 0.0, (0.008, 0.02)), (0.024, 0.018, (0.009, 0.009)), (0.024, -0.018, (0.005, 0.012))):
        _add_box(scene, socket, [*half, 0.0002], [x, y, PANEL_TOP], PRINT, **SEEN_ONLY)
    for axis in (0, 1):
        for side in (1.0, -1.0):
            _add_side(scene, socket, axis, side)


def add_board(scene: Scene) -> None:
    """The circuit board, fixed to the hand: its card edge down, its face to the cameras."""
    board = scene.hand.add_body(name="pcb", pos=[0.0, 0.0, 0.1034])
    held = {"mass": 0.005, "contype": 0, "conaffinity": 1}
    top, bottom = -0.012, TIP - EDGE_LENGTH
    _add_box(scene, board, [0.0008, 0.015, (bottom - top) / 2], [0.0, 0.0, (bottom + top) / 2], GREEN, **held)
    edge = EDGE_LENGTH / 2 + 0.001
    _add_box(scene, board, [*EDGE_HALF, edge], [0.0, 0.0, TIP - edge], GOLD, **held)
    for y, z, half in ((0.0, 0.004, 0.006), (0.009, 0.022, 0.003), (-0.009, 0.022, 0.003)):
        _add_box(scene, board, [0.0008, half, half], [0.0016, y, z], BLACK, mass=0.0005, **SEEN_ONLY)


def _add_side(scene: Scene, socket: mujoco.MjsBody, axis: int, side: float) -> None:
    """One side of the slot: the wall, the panel behind and above it, and the flank on its edge."""
    across, slot = 1 - axis, EDGE_HALF + CLEARANCE
    half, place = np.full(3, RIM[axis]), np.zeros(3)
    half[across] = slot[across] + REACH + (2 * RIM[across] if axis == 0 else 0.0)
    for inner, top, colour in ((slot[axis], SLOT_TOP, IVORY), (slot[axis] + REACH, PANEL_TOP, BLUE)):
        half[2] = (top - FOOT) / 2
        place[axis], place[2] = side * (inner + RIM[axis]), FOOT + half[2]
        _add_box(scene, socket, half, place, colour)
    half[axis], half[across], half[2] = THIN, slot[across] + REACH, LEAD_IN / 2
    place[axis] = side * (slot[axis] + REACH / 2 + np.cos(SLANT) * THIN)
    place[2] = SLOT_TOP + REACH / 2 - np.sin(SLANT) * THIN
    lean = 0.5 * SLANT * side * (-1.0 if axis else 1.0)
    quat_wxyz = [np.cos(lean), 0.0, 0.0, 0.0]
    quat_wxyz[1 + across] = np.sin(lean)
    _add_box(scene, socket, half, place, IVORY, quat=quat_wxyz)


def _add_box(scene: Scene, body: mujoco.MjsBody, size: object, pos: object, rgba: object, **options: object) -> None:
    box = mujoco.mjtGeom.mjGEOM_BOX
    body.add_geom(scene.spec.default, type=box, size=size, pos=pos, rgba=rgba, **(CONTACT | options))
