"""The twin as a vendor's controller sees it: joint torques in, joint state out, a tick at a time."""

from collections.abc import Callable
from threading import RLock

import mujoco
import numpy as np
from numba import njit
from numpy.typing import NDArray

from drivers.twin import physics
from drivers.twin.arms import load_arm
from drivers.twin.devices import TwinGripper
from drivers.twin.scene import Scene
from drivers.twin.twin import Twin

__all__ = ["Plant"]

Array = NDArray[np.float64]


class Plant:
    """One simulated arm in its cell, carrying its own weight, driven by joint torques.

    Between ticks everything derived agrees with the state: what is read here is what the next torque acts on.

    Args:
        arm: `fr3`, `ur5e` or the path of an MJCF file.
        build: Adds a task's props to the scene.

    Attributes:
        twin: Model, data and props; read freely, move props with `twin.data`'s lock held (see `place`).
        gripper: Its parallel gripper.
        lock: Held while the plant steps; hold it to read several quantities of one tick, or to change the scene.
        q, qd: Joint positions [rad] and velocities [rad/s], shape (n,), updated in place, as all below.
        tcp_pose: Of the tool in `base`, shape (7,).
        jacobian: Of the tcp in `base`, linear rows first, shape (6, n).
        bias: Coriolis and centrifugal torque [N m], shape (n,); weight is not in it.
        torque: Last commanded, shape (n,), clipped to the arm's limits.
        contact_torque: What contacts exert on the joints [N m], shape (n,), low-passed over 20 ms.
    """

    def __init__(self, arm: str, build: Callable[[Scene], None] | None = None) -> None:
        self.twin = Twin(load_arm(arm), build, weightless=True)
        self.gripper = TwinGripper(self.twin)
        self.lock = RLock()
        twin = self.twin
        self.tick_s = twin.tick_s
        self.q, self.qd, self.tcp_pose, self.jacobian = twin.q, twin.qd, twin.tcp_pose, twin.jacobian
        self.contact_torque = twin.contact_torque
        self.limits = twin.limits
        n = len(self.q)
        self.bias, self.torque = np.zeros(n), np.zeros(n)
        self._address = (twin.model._address, twin.data._address)
        self._views = twin.views._replace(bias=twin.data.qfrc_bias)
        self._gravity = twin.data.qfrc_gravcomp
        self.settle()

    @property
    def time_s(self) -> float:
        """Simulated seconds since the plant was made."""
        return float(self.twin.data.time)

    @property
    def gravity(self) -> Array:
        """Torque that carries the weight of arm and hand [N m], shape (n,)."""
        return self._gravity[self._views.dofs]

    def step(self, torque: Array) -> None:
        """One tick of physics under `torque` [N m], shape (n,), beyond what carries the weight."""
        np.clip(torque, -self.limits.torque, self.limits.torque, out=self.torque)
        with self.lock:
            _step(
                *self._address, self._views, self.torque, self._gravity,
                self.tcp_pose, self.jacobian, self.q, self.qd, self.bias, self.contact_torque,
            )  # fmt: skip

    def settle(self) -> None:
        """Make everything derived agree with a state that was set by hand."""
        with self.lock:
            mujoco.mj_step1(self.twin.model, self.twin.data)
            _measure(
                self._views, self._gravity, self.tcp_pose, self.jacobian, self.q, self.qd, self.bias
            )

    def place(self, name: str, pose: Array) -> None:
        """Put a prop at a pose in `base`, shape (7,), at rest. Raises ConfigError when there is none of that name."""
        with self.lock:
            self.twin.place_prop(name, pose)
            self.settle()

    def mass_matrix(self) -> Array:
        """Joint-space inertia, shape (n, n)."""
        with self.lock:
            full = np.zeros((self.twin.model.nv, self.twin.model.nv))
            mujoco.mj_fullM(self.twin.model, self.twin.data, full)
        return full[np.ix_(self._views.dofs, self._views.dofs)]

    def wrench_base(self) -> Array:
        """Wrench the robot exerts on the world at the tcp, in `base`, shape (6,), low-passed over 20 ms."""
        return self.twin.contact_wrench_base()


@njit(cache=True)
def _measure(
    views: physics.ArmViews, gravity: Array, tcp_pose: Array, jacobian: Array, q: Array, qd: Array, bias: Array
) -> None:
    physics.measure(views, tcp_pose, jacobian, q, qd, bias)
    for j in range(q.shape[0]):
        bias[j] -= gravity[views.dofs[j]]


@njit(cache=True)
def _step(
    model: int,
    data: int,
    views: physics.ArmViews,
    torque: Array,
    gravity: Array,
    tcp_pose: Array,
    jacobian: Array,
    q: Array,
    qd: Array,
    bias: Array,
    contact_torque: Array,
) -> None:
    for j in range(q.shape[0]):
        views.applied[views.dofs[j]] = torque[j]
    physics._mj_step2(model, data)
    for j in range(q.shape[0]):
        contact_torque[j] += physics.WRENCH_BLEND * (views.constraint[views.dofs[j]] - contact_torque[j])
    physics._mj_step1(model, data)
    _measure(views, gravity, tcp_pose, jacobian, q, qd, bias)
