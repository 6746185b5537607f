"""What the emulated controller knows of its arm: kinematics and inertias from our own MJCF, limits as published.

Positions in [rad], velocities in [rad/s]. Source of the limits: frankarobotics/libfranka 0.21 (rate_limiting.h) and its
URDF of the FR3; Franka's FCI documentation, "Robot limits" and "Constants" (elbow flip).
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import mujoco
import numpy as np
from numpy.typing import NDArray

from drivers.emulators.fci_kinematics import invert_rigid
from drivers.emulators.plant import Plant
from robot_rl.errors import ConfigError

__all__ = ["ArmDescription", "ToolMass", "describe_arm", "tool_mass", "urdf_of", "velocity_limits"]

Array = NDArray[np.float64]

JOINTS = 7
# Largest velocity, velocity offset, deceleration, lower and upper position of each joint: the velocity a joint may have
# is min(largest, sqrt(2 deceleration distance) - offset), where distance is what is left to the position limit.
JOINT_LIMITS = np.array(
    [
        [2.62, 0.30, 6.0, -2.7501, 2.7501],
        [2.62, 0.20, 2.585, -1.7918, 1.7918],
        [2.62, 0.20, 3.5, -2.9065, 2.9065],
        [2.62, 0.30, 4.0, -3.0481, -0.1458],
        [5.26, 0.35, 17.0, -2.8101, 2.8101],
        [4.18, 0.35, 5.5, 0.54092, 4.5205],
        [5.26, 0.35, 17.0, -3.0196, 3.0196],
    ]
)


@dataclass(frozen=True)
class ArmDescription:
    """An arm as its controller knows it.

    Attributes:
        links: Pose of each joint's frame in the one before (the first in base) at angle zero, axis z, shape (7, 4, 4).
        flange: Pose of the flange in the last joint's frame, shape (4, 4).
        mass: Of each link [kg], shape (7,).
        centre: Of mass, in the link's frame [m], shape (7, 3).
        inertia: About it, in the link's axes [kg m^2], shape (7, 3, 3).
        torque: Largest of each joint [N m], shape (7,).
    """

    links: Array
    flange: Array
    mass: Array
    centre: Array
    inertia: Array
    torque: Array


@dataclass(frozen=True)
class ToolMass:
    """Mass [kg], centre of mass in the flange's frame [m] (3,) and inertia about it [kg m^2] (3, 3)."""

    mass: float
    centre: Array
    inertia: Array


def describe_arm(path: Path, flange: str, torque: Array) -> ArmDescription:
    """Read an arm's MJCF file. Raises ConfigError unless it is a chain of seven hinges about z."""
    model = mujoco.MjModel.from_xml_path(str(path))
    hinges = model.njnt == JOINTS and (model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE).all()
    if not hinges or not np.allclose(model.jnt_axis, [0, 0, 1]) or not np.allclose(model.jnt_pos, 0):
        raise ConfigError(
            f"{path} is not a chain of {JOINTS} hinges about the z axes of their bodies; the Franka Control Interface "
            "serves no other arm. Use fr3."
        )
    data = mujoco.MjData(model)
    data.qpos[:] = 0.0
    mujoco.mj_kinematics(model, data)
    bodies = model.jnt_bodyid
    frames = [np.eye(4), *(_transform(data.xpos[b], data.xmat[b]) for b in bodies)]
    site = model.site(flange).id
    rotations = [_matrix(model.body_iquat[b]) for b in bodies]
    return ArmDescription(
        links=np.array([invert_rigid(a) @ b for a, b in pairwise(frames)]),
        flange=invert_rigid(frames[-1]) @ _transform(data.site_xpos[site], data.site_xmat[site]),
        mass=model.body_mass[bodies].copy(),
        centre=model.body_ipos[bodies].copy(),
        inertia=np.array([r @ np.diag(model.body_inertia[b]) @ r.T for r, b in zip(rotations, bodies, strict=True)]),
        torque=torque,
    )


def tool_mass(plant: Plant, flange: str) -> ToolMass:
    """Everything mounted at the flange, as a person would enter it in the robot's settings."""
    model, data = plant.twin.model, plant.twin.data
    site = model.site(flange).id
    T_flange_base = invert_rigid(_transform(data.site_xpos[site], data.site_xmat[site]))
    hand = model.body("tool/hand").id
    mounted: list[int] = []
    for body in range(model.nbody):
        ancestor = body
        while ancestor not in (0, hand):
            ancestor = int(model.body_parentid[ancestor])
        if ancestor == hand:
            mounted.append(body)
    masses = model.body_mass[mounted]
    centres = data.xipos[mounted] @ T_flange_base[:3, :3].T + T_flange_base[:3, 3]
    total = float(masses.sum())
    centre = masses @ centres / total
    inertia = np.zeros((3, 3))
    for body, mass, at in zip(mounted, masses, centres - centre, strict=True):
        axes = T_flange_base[:3, :3] @ data.ximat[body].reshape(3, 3)
        inertia += axes @ np.diag(model.body_inertia[body]) @ axes.T + mass * (at @ at * np.eye(3) - np.outer(at, at))
    return ToolMass(total, centre, inertia)


def velocity_limits(q: Array) -> tuple[Array, Array]:
    """Lowest and highest velocity of each joint [rad/s] at joint angles `q` [rad], shape (7,) each."""
    largest, offset, deceleration, lower, upper = JOINT_LIMITS.T

    def limit(distance: Array) -> Array:
        return np.clip(np.sqrt(np.maximum(2.0 * deceleration * distance, 0.0)) - offset, 0.0, largest)

    return -limit(q - lower), limit(upper - q)


def urdf_of(arm: ArmDescription) -> str:
    """The arm as URDF: links link0 to link8, joints joint1 to joint7, as the vendor's client reads its model."""
    robot = ET.Element("robot", name="fr3")
    for name in ("base", "link0"):
        ET.SubElement(robot, "link", name=name)
    _joint(robot, "base_joint", "base", "link0", np.eye(4))
    for j in range(JOINTS):
        link = ET.SubElement(robot, "link", name=f"link{j + 1}")
        inertial = ET.SubElement(link, "inertial")
        ET.SubElement(inertial, "origin", rpy="0 0 0", xyz=_text(arm.centre[j]))
        ET.SubElement(inertial, "mass", value=repr(float(arm.mass[j])))
        moments = arm.inertia[j]
        cells = (("ixx", 0, 0), ("ixy", 0, 1), ("ixz", 0, 2), ("iyy", 1, 1), ("iyz", 1, 2), ("izz", 2, 2))
        ET.SubElement(inertial, "inertia", {name: repr(float(moments[a, b])) for name, a, b in cells})
        joint = _joint(robot, f"joint{j + 1}", f"link{j}", f"link{j + 1}", arm.links[j], "revolute")
        largest, offset, deceleration, lower, upper = (repr(float(v)) for v in JOINT_LIMITS[j])
        ET.SubElement(joint, "axis", xyz="0 0 1")
        effort = repr(float(arm.torque[j]))
        ET.SubElement(joint, "limit", effort=effort, lower=lower, upper=upper, velocity=largest)
        limits = {"deceleration_limit": deceleration, "velocity_offset": offset}
        ET.SubElement(joint, "position_based_velocity_limits", limits)
    ET.SubElement(robot, "link", name="link8")
    _joint(robot, "joint8", "link7", "link8", arm.flange)
    return ET.tostring(robot, encoding="unicode", xml_declaration=True)


def _joint(robot: ET.Element, name: str, parent: str, child: str, pose: Array, kind: str = "fixed") -> ET.Element:
    joint = ET.SubElement(robot, "joint", name=name, type=kind)
    roll = np.arctan2(pose[2, 1], pose[2, 2])
    pitch = np.arctan2(-pose[2, 0], np.hypot(pose[0, 0], pose[1, 0]))
    yaw = np.arctan2(pose[1, 0], pose[0, 0])
    ET.SubElement(joint, "origin", rpy=_text(np.array([roll, pitch, yaw])), xyz=_text(pose[:3, 3]))
    ET.SubElement(joint, "parent", link=parent)
    ET.SubElement(joint, "child", link=child)
    return joint


def _text(values: Array) -> str:
    return " ".join(repr(float(v)) for v in values)


def _transform(position: Array, rotation: Array) -> Array:
    transform = np.eye(4)
    transform[:3, :3] = rotation.reshape(3, 3)
    transform[:3, 3] = position
    return transform


def _matrix(quat_wxyz: Array) -> Array:
    rotation = np.empty(9)
    mujoco.mju_quat2Mat(rotation, quat_wxyz)
    return rotation.reshape(3, 3)
