"""Physics and impedance law in one compiled loop.

MuJoCo is called by symbol from compiled code, so a control step of many ticks crosses into Python once. Between
`mj_step1` (kinematics, bias forces) and `mj_step2` (forces, integration) the law reads the state it will act on.
"""

import ctypes
from pathlib import Path
from typing import NamedTuple

import llvmlite.binding
import mujoco
import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from drivers.impedance import STATUS_BAD_STATE, impedance_torque
from drivers.impedance_numerics import solve_damped

__all__ = ["ArmViews", "advance", "bare_steps", "contact_wrench", "measure"]

Array = NDArray[np.float64]
Indices = NDArray[np.int32]

_library = next(Path(mujoco.__file__).parent.glob("libmujoco.*"))
ctypes.CDLL(str(_library))
llvmlite.binding.load_library_permanently(str(_library))
_signature = types.void(types.intp, types.intp)
_mj_step = types.ExternalFunction("mj_step", _signature)
_mj_step1 = types.ExternalFunction("mj_step1", _signature)
_mj_step2 = types.ExternalFunction("mj_step2", _signature)

WRENCH_BLEND = 0.05  # low-pass of the contact torque per tick of 1 ms: a time constant of 20 ms
LARGEST_STATE = 1e10  # mjMAXVAL: what MuJoCo itself calls unstable
LEAST_CONTACT = 1e-3  # joint torque of contacts below which nothing is touched [N m]


class ArmViews(NamedTuple):
    """Views into `mjData` and indices of one arm, in the order `advance` reads them."""

    dofs: Indices
    hinges: NDArray[np.bool_]
    joint_anchor: Array
    joint_axis: Array
    joint_ids: Indices
    site_position: Array
    site_matrix: Array
    qpos: Array
    qpos_ids: Indices
    qvel: Array
    bias: Array
    constraint: Array
    applied: Array


@njit(cache=True)
def measure(arm: ArmViews, tcp_pose: Array, jacobian: Array, q: Array, qd: Array, bias: Array) -> None:
    """Read pose (xyzw), Jacobian (linear first), joint state and bias of the arm from MuJoCo. Allocates nothing."""
    m = arm.site_matrix
    for i in range(3):
        tcp_pose[i] = arm.site_position[i]
    trace = m[0] + m[4] + m[8]
    if trace >= m[0] and trace >= m[4] and trace >= m[8]:
        x, y, z, w = m[7] - m[5], m[2] - m[6], m[3] - m[1], 1.0 + trace
    elif m[0] >= m[4] and m[0] >= m[8]:
        x, y, z, w = 1.0 + m[0] - m[4] - m[8], m[3] + m[1], m[6] + m[2], m[7] - m[5]
    elif m[4] >= m[8]:
        x, y, z, w = m[1] + m[3], 1.0 + m[4] - m[8] - m[0], m[7] + m[5], m[2] - m[6]
    else:
        x, y, z, w = m[2] + m[6], m[5] + m[7], 1.0 + m[8] - m[0] - m[4], m[3] - m[1]
    norm = np.sqrt(x * x + y * y + z * z + w * w)
    tcp_pose[3], tcp_pose[4], tcp_pose[5], tcp_pose[6] = x / norm, y / norm, z / norm, w / norm
    for j in range(arm.dofs.shape[0]):
        joint = arm.joint_ids[j]
        ax, ay, az = arm.joint_axis[joint, 0], arm.joint_axis[joint, 1], arm.joint_axis[joint, 2]
        if arm.hinges[j]:
            rx = tcp_pose[0] - arm.joint_anchor[joint, 0]
            ry = tcp_pose[1] - arm.joint_anchor[joint, 1]
            rz = tcp_pose[2] - arm.joint_anchor[joint, 2]
            jacobian[0, j] = ay * rz - az * ry
            jacobian[1, j] = az * rx - ax * rz
            jacobian[2, j] = ax * ry - ay * rx
            jacobian[3, j], jacobian[4, j], jacobian[5, j] = ax, ay, az
        else:
            jacobian[0, j], jacobian[1, j], jacobian[2, j] = ax, ay, az
            jacobian[3, j], jacobian[4, j], jacobian[5, j] = 0.0, 0.0, 0.0
        dof = arm.dofs[j]
        q[j] = arm.qpos[arm.qpos_ids[j]]
        qd[j] = arm.qvel[dof]
        bias[j] = arm.bias[dof]


@njit(cache=True)
def advance(  # noqa: PLR0913 (compiled; arrays one by one, as the law takes them)
    model: int,
    data: int,
    ticks: int,
    arm: ArmViews,
    gains: Array,
    joints: Array,
    limits: Array,
    contact: Array,
    memory: Array,
    target_pose: Array,
    tcp_pose: Array,
    jacobian: Array,
    q: Array,
    qd: Array,
    bias: Array,
    torque: Array,
    contact_torque: Array,
) -> int:
    """Run `ticks` ticks of physics with the law in each.

    Args:
        model: Address of `mjModel`.
        data: Address of `mjData`.
        ticks: How many.
        arm: Views into the same `mjData`.
        gains: This and all below but the last as in `impedance_torque`.
        joints: Packed.
        limits: Packed.
        contact: Written before the law reads it: the wrench that the robot exerts on the world, low-passed over 20 ms.
        memory: The law's.
        target_pose: In `base`.
        tcp_pose: Written: of the last tick, as are `jacobian`, `q`, `qd`, `bias` and `torque`.
        jacobian: Written.
        q: Written.
        qd: Written.
        bias: Written.
        torque: Written.
        contact_torque: Low-passed joint torque that contacts exert on the arm [N m], shape (n,), updated.

    Returns:
        The worst status of the law over the ticks; `STATUS_BAD_STATE` also when any part of the scene diverged.
    """
    worst = 0
    for _ in range(ticks):
        _mj_step1(model, data)
        measure(arm, tcp_pose, jacobian, q, qd, bias)
        contact_wrench(contact_torque, memory, jacobian, contact)
        status = impedance_torque(
            gains, joints, limits, contact, memory, target_pose, tcp_pose, jacobian, q, qd, bias, torque
        )
        worst = max(worst, status)
        for j in range(q.shape[0]):
            arm.applied[arm.dofs[j]] = torque[j]
        _mj_step2(model, data)
        for j in range(q.shape[0]):
            contact_torque[j] += WRENCH_BLEND * (arm.constraint[arm.dofs[j]] - contact_torque[j])
    return worst if _bounded(arm.qpos) and _bounded(arm.qvel) else STATUS_BAD_STATE


@njit(cache=True)
def contact_wrench(contact_torque: Array, memory: Array, jacobian: Array, contact: Array) -> None:
    """Wrench [N, N m] on the world at the tcp, in `base`, shape (6,), from joint torques, as a torque-sensing arm does.

    Args:
        contact_torque: What contacts exert on the joints [N m], shape (n,).
        memory: The law's; its scratch is used.
        jacobian: Of the tcp in `base`, shape (6, n).
        contact: Written.
    """
    touched = False
    n = contact_torque.shape[0]
    for j in range(n):
        touched |= abs(contact_torque[j]) > LEAST_CONTACT
    for i in range(6):
        contact[i] = 0.0
        if touched:
            for j in range(n):
                contact[i] -= jacobian[i, j] * contact_torque[j]
    if touched:
        solve_damped(memory[7 + 2 * n :], jacobian, contact)


@njit(cache=True)
def _bounded(values: Array) -> bool:
    bounded = True
    for i in range(values.shape[0]):
        bounded &= abs(values[i]) < LARGEST_STATE  # false of NaN
    return bounded


@njit(cache=True)
def bare_steps(model: int, data: int, ticks: int) -> None:
    """`mj_step` alone, as often: the reference that `advance` is measured against."""
    for _ in range(ticks):
        _mj_step(model, data)
