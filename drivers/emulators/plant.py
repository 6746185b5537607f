"""The twin as a vendor's controller sees it: joint torques in, joint state out, a tick at a time."""

from collections.abc import Callable
from threading import Lock, get_ident
from typing import NamedTuple

import mujoco
import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from drivers.twin import physics
from drivers.twin.arms import load_arm
from drivers.twin.devices import TwinGripper
from drivers.twin.scene import Scene
from drivers.twin.twin import Twin

__all__ = ["Plant", "PlantArrays", "TurnLock", "add_inertial_torque", "advance_plant"]

Array = NDArray[np.float64]

_on_data = types.void(types.intp, types.intp)
_mj_step1 = types.ExternalFunction("mj_step1", _on_data)
_mj_step2 = types.ExternalFunction("mj_step2", _on_data)
_mj_mulM = types.ExternalFunction("mj_mulM", types.void(types.intp, types.intp, types.intp, types.intp))


class TurnLock:
    """A reentrant lock that whoever waits longest gets next.

    A controller that lets go for microseconds a tick would take a plain lock again before a waiting thread wakes.
    """

    def __init__(self) -> None:
        self._turn, self._lock = Lock(), Lock()
        self._owner, self._depth = 0, 0

    def __enter__(self) -> None:
        if self._owner != get_ident():
            with self._turn:
                self._lock.acquire()
            self._owner = get_ident()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._owner = 0
            self._lock.release()


class PlantArrays(NamedTuple):
    """What `advance_plant` works on: a plant's own arrays, and the addresses of its `mjModel` and `mjData`."""

    model: int
    data: int
    views: physics.ArmViews
    gravity: Array
    torque: Array
    limit: Array
    tcp_pose: Array
    jacobian: Array
    q: Array
    qd: Array
    bias: Array
    contact_torque: Array


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
        arrays: Of these, what `advance_plant` takes.
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
        self.lock = TurnLock()
        twin = self.twin
        self.tick_s = twin.tick_s
        self.q, self.qd, self.tcp_pose, self.jacobian = twin.q, twin.qd, twin.tcp_pose, twin.jacobian
        self.contact_torque = twin.contact_torque
        self.limits = twin.limits
        n = len(self.q)
        self.bias, self.torque = np.zeros(n), np.zeros(n)
        self._views = twin.views
        self._gravity = twin.data.qfrc_gravcomp
        self.arrays = PlantArrays(
            twin.model._address, twin.data._address, self._views, self._gravity, self.torque, self.limits.torque,
            self.tcp_pose, self.jacobian, self.q, self.qd, self.bias, self.contact_torque,
        )  # fmt: skip
        self.settle()

    @property
    def time_s(self) -> float:
        """Simulated seconds since the plant was made."""
        return float(self.twin.data.time)

    @property
    def gravity(self) -> Array:
        """Torque that carries the weight of arm and hand [N m], shape (n,)."""
        return self._gravity[self._views.dofs]

    @property
    def contact_torque_now(self) -> Array:
        """What contacts exert on the joints in this tick [N m], shape (n,), as a sensor at the joints would feel it."""
        return self._views.constraint[self._views.dofs]

    def step(self, torque: Array) -> None:
        """One tick of physics under `torque` [N m], shape (n,), beyond what carries the weight."""
        with self.lock:
            self.torque[:] = torque
            advance_plant(self.arrays)

    def settle(self) -> None:
        """Make everything derived agree with a state that was set by hand."""
        with self.lock:
            mujoco.mj_step1(self.twin.model, self.twin.data)
            _measure(self._views, self._gravity, self.tcp_pose, self.jacobian, self.q, self.qd, self.bias)

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
def advance_plant(plant: PlantArrays) -> None:
    """One tick of physics under `plant.torque`, which is clipped to the limits first. Allocates nothing.

    For controllers that are compiled themselves; hold the plant's lock around it.
    """
    views, q = plant.views, plant.q
    for j in range(q.shape[0]):
        plant.torque[j] = min(max(plant.torque[j], -plant.limit[j]), plant.limit[j])
        views.applied[views.dofs[j]] = plant.torque[j]
    _mj_step2(plant.model, plant.data)
    for j in range(q.shape[0]):
        plant.contact_torque[j] += physics.WRENCH_BLEND * (views.constraint[views.dofs[j]] - plant.contact_torque[j])
    _mj_step1(plant.model, plant.data)
    _measure(views, plant.gravity, plant.tcp_pose, plant.jacobian, q, plant.qd, plant.bias)


@njit(cache=True)
def add_inertial_torque(plant: PlantArrays, acceleration: Array, torque: Array) -> None:
    """Add to `torque` [N m] the mass matrix times an acceleration of the joints [rad/s^2], shape (n,) each."""
    dofs = plant.views.dofs
    full = np.zeros(plant.views.qvel.shape[0])
    product = np.zeros_like(full)
    for j in range(dofs.shape[0]):
        full[dofs[j]] = acceleration[j]
    _mj_mulM(plant.model, plant.data, product.ctypes.data, full.ctypes.data)
    for j in range(dofs.shape[0]):
        torque[j] += product[dofs[j]]
