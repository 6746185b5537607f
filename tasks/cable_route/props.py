"""What cable_route puts on the twin's table: a clip with sprung lips, a flexible cable, the outlet it comes from."""

import mujoco
import numpy as np

from drivers.twin.scene import Scene

__all__ = ["GRIP_TO_SLEEVE", "SEAT_HEIGHT", "add_cable", "add_clip", "add_outlet"]

RADIUS = 0.003  # of the cable [m]
BENDING = 3e-3  # stiffness of the cable, E I [N m^2]: about that of a 6 mm polyurethane hose
DAMPING_S = 0.05  # joint damping over joint stiffness
DENSITY = 0.02  # [kg/m]
ARMATURE = 5e-6  # keeps the short links' own vibration slower than the 1 ms ticks [kg m^2]
STUB = 0.010  # length that the fingers hold straight, each side of the tcp [m]
SLEEVE = 0.016  # length of the marked sleeve [m]
GRIP_TO_SLEEVE = 0.023  # from the tcp to the sleeve's middle [m]
LINKS = 8  # beyond the sleeve
LINK = 0.053  # length of each [m]
MEMORY = 0.21  # upward bend that every joint beyond the sleeve keeps from the drum [rad]
GROMMET = 300.0  # stiffness of what holds the cable there [N/m]; a constraint would keep the solver busy at every tick
OUTLET = np.array([0.72, 0.0, 0.30])  # where the cable is plugged in, in `base` [m]

NEAR = ("lead", "sleeve", "cable0")  # links with friction; the others slide on the table, which the solver does fast

SEAT_HEIGHT = 0.045  # of the cable's axis in the clip, above the table [m]
CLIP_HALF = 0.005  # half-length of the clip along the cable [m]
PLAY = 0.0005  # between cable and wall, each side [m]
WALL, CHEEK = 0.0025, 0.0012  # half-thickness of the slot's walls, and of what carries the flanks [m]
LIP = 0.002  # radius of the lips [m]
GAP_HALF = 0.0024  # half the gap between the lips at rest: 0.6 mm less than the cable needs, each side [m]
LIP_RISE = 0.0028  # of the lips' axes above the seated cable's [m]
LIP_STIFFNESS = 6000.0  # [N/m]
LIP_TRAVEL = 0.0012  # [m]
GUIDE, THIN, SLOPE = 0.02, 0.0005, np.radians(35)  # flanks that lead in: length and half-thickness [m], slope [rad]

ORANGE, GREY, TEAL = [0.95, 0.55, 0.15, 1.0], [0.24, 0.26, 0.30, 1.0], [0.10, 0.45, 0.50, 1.0]
BLACK, YELLOW = [0.13, 0.13, 0.16, 1.0], [0.98, 0.80, 0.15, 1.0]
CONTACT = {"friction": [0.3, 0.005, 0.0001], "solref": [0.004, 1.0], "solimp": [0.98, 0.995, 0.0005, 0.5, 2.0]}
BOX, CAPSULE = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CAPSULE
ALONG_X = [0.70710678, 0.0, 0.70710678, 0.0]  # wxyz, turns a capsule's axis from z to x


def add_clip(scene: Scene) -> None:
    """A post with a slot along x, over it two lips that springs push together, over these two flanks that lead in.

    Pushing the cable in, and pulling it out, takes about 3 N: thirty times what hangs on it.
    """
    clip = scene.spec.worldbody.add_body(name="clip", mocap=True)
    floor, slot = SEAT_HEIGHT - RADIUS, RADIUS + PLAY
    wide = slot + 2 * WALL + CHEEK
    clip.add_geom(type=BOX, size=[0.02, 0.03, 0.002], pos=[0.0, 0.0, 0.002], rgba=GREY)
    clip.add_geom(type=BOX, size=[CLIP_HALF, wide, floor / 2], pos=[0.0, 0.0, floor / 2], rgba=TEAL, **CONTACT)
    for side in (1.0, -1.0):
        clip.add_geom(
            type=BOX, size=[CLIP_HALF, WALL, RADIUS / 2], pos=[0.0, side * (slot + WALL), floor + RADIUS / 2],
            rgba=TEAL, **CONTACT,
        )  # fmt: skip
        inner, above = GAP_HALF + LIP, SEAT_HEIGHT + LIP_RISE + LIP
        out, up = np.cos(SLOPE), np.sin(SLOPE)
        clip.add_geom(
            type=BOX, size=[CLIP_HALF, GUIDE / 2, THIN], rgba=TEAL, **CONTACT,
            pos=[0.0, side * (inner + out * GUIDE / 2 + up * THIN), above + up * GUIDE / 2 - out * THIN],
            quat=[np.cos(SLOPE / 2), side * np.sin(SLOPE / 2), 0.0, 0.0],
        )  # fmt: skip
        cheek = above + (wide - inner) * up / out - 2 * THIN
        clip.add_geom(
            type=BOX, size=[CLIP_HALF, CHEEK, cheek / 2], pos=[0.0, side * wide, cheek / 2], rgba=TEAL, **CONTACT
        )  # fmt: skip
        lip = clip.add_body(pos=[0.0, side * (GAP_HALF + LIP), SEAT_HEIGHT + LIP_RISE])
        lip.add_joint(
            type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[0.0, side, 0.0], range=[0.0, LIP_TRAVEL], stiffness=LIP_STIFFNESS,
            damping=10.0, armature=0.05,
        )  # fmt: skip
        lip.add_geom(
            type=CAPSULE, size=[LIP, CLIP_HALF - LIP, 0.0], quat=ALONG_X, mass=0.002, rgba=ORANGE, **CONTACT
        )  # fmt: skip


def add_outlet(scene: Scene) -> None:
    """A gallows beside the table's middle that the cable comes down from."""
    x, y, z = OUTLET
    world = scene.spec.worldbody
    for start, end in (((x, 0.2, 0.0), (x, 0.2, z)), ((x, 0.2, z), (x, y, z))):
        world.add_geom(type=CAPSULE, fromto=[*start, *end], size=[0.008, 0.0, 0.0], rgba=GREY, contype=0, conaffinity=0)
    world.add_site(name="outlet", pos=OUTLET, size=[0.002, 0.002, 0.002], group=4)


def add_cable(scene: Scene) -> None:
    """Rigid links with universal joints from gripper to outlet; the sleeve is the link that has to be clipped."""
    stub = scene.hand.add_body(name="cable", pos=[0.0, 0.0, 0.1034])
    _add_link(scene, stub, 2 * STUB, -STUB, BLACK)
    reach = GRIP_TO_SLEEVE - SLEEVE / 2
    lead = _joined(scene, stub, STUB, (0.0, reach - STUB), 0.0, "lead", BLACK)
    link = _joined(scene, lead, reach - STUB, (reach - STUB, SLEEVE), 0.0, "sleeve", YELLOW)
    at, before = SLEEVE / 2, SLEEVE
    for number in range(LINKS):
        link = _joined(scene, link, at, (before, LINK), MEMORY, f"cable{number}", BLACK)
        at = before = LINK
    link.add_site(name="plug", pos=[LINK, 0.0, 0.0], size=[0.002, 0.002, 0.002], group=4)
    grommet = scene.spec.add_tendon(name="grommet", stiffness=GROMMET, damping=GROMMET * DAMPING_S, springlength=[0, 0])
    grommet.wrap_site("plug")
    grommet.wrap_site("outlet")


def _joined(
    scene: Scene, parent: mujoco.MjsBody, at: float, lengths: tuple[float, float], bend: float, name: str,
    rgba: list[float],
) -> mujoco.MjsBody:  # fmt: skip
    """A link that begins at `at` on its parent [m]; the sleeve's frame is in its middle, others' where they begin.

    `lengths` are the bending parent's and its own [m]; half of each bends in the joint between them.
    """
    length = lengths[1]
    shift = length / 2 if name == "sleeve" else 0.0
    link = parent.add_body(name=name, pos=[at + shift, 0.0, 0.0], quat=[np.cos(bend / 2), 0.0, np.sin(bend / 2), 0.0])
    stiffness = BENDING / (0.5 * sum(lengths))
    for axis in ([0.0, 1.0, 0.0], [0.0, 0.0, 1.0]):
        link.add_joint(
            scene.spec.default, type=mujoco.mjtJoint.mjJNT_HINGE, axis=axis, pos=[-shift, 0.0, 0.0],
            stiffness=stiffness, damping=DAMPING_S * stiffness, armature=ARMATURE,
        )  # fmt: skip
    _add_link(scene, link, length, -shift, rgba, slides=name not in NEAR)
    return link


def _add_link(
    scene: Scene, link: mujoco.MjsBody, length: float, start: float, rgba: list[float], *, slides: bool = False
) -> None:
    link.add_geom(
        scene.spec.default, type=CAPSULE, size=[RADIUS, length / 2, 0.0], pos=[start + length / 2, 0.0, 0.0],
        quat=ALONG_X, rgba=rgba, mass=DENSITY * length, contype=0, conaffinity=1, condim=1 if slides else 3,
        priority=int(slides), **CONTACT,
    )  # fmt: skip
