"""An arm that leads: a person moves it by hand, and the arm of the task does what it does.

Any arm of a cell file will do. It is held without stiffness: its weight is carried by whatever carries it (a Franka's
own controller, a UR's force mode, the twin's law), and only damping answers the hand. So what it carries must be known
to it (`arm.options.load_kg`, `payload_kg`), or it sinks, and leads. A UR feels the hand with its force sensor: it is
led by its tool, and the controller's own damping adds to ours (`arm.options.force_damping`). A Franka that is pulled
too hard stops by its reflex (`arm.options.collision`).
"""

import contextlib
from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from drivers.cell import Cell, NoGripper, SceneRequest, open_cell
from drivers.cell_file import TrackerFile, load_cell_file
from drivers.impedance_gains import ImpedanceGains
from drivers.teleop.device import LOG, Raw
from robot_rl.errors import ConfigError, DeviceFaultError, LinkError, SafetyError
from robot_rl.geometry import quat_conjugate, quat_multiply, rotvec_from_quat

__all__ = ["Leader"]

Array = NDArray[np.float64]

POLL_S = 0.01  # of the arm's time that a poll takes
GRIPPER_S = 0.1  # between looks at the gripper, which is slow to answer
CLOSED, OPEN = 0.4, 0.6  # parts of the largest opening; between them it stays what it was
NONE = (0.0, 0.0, 0.0)
BRAKE, BRAKE_S = (89.0, 7.0), 0.2  # damping in the last moments [N s/m, N m s/rad]: a hand must not throw it


class Leader:
    """An arm in a person's hand, as a `Source`.

    Args:
        cell: Path of its cell file; of what is in it, arm and gripper are used.
        scale: Metres that the other arm goes for each of this one; it turns as far.
        dead_zone: Motion [m, rad] within `rest_s` below which it counts as at rest.
        rest_s: How long it must be at rest to count as let go of [s].
        damping: Against the hand: translation [N s/m] and rotation [N m s/rad].
        rehearse: Address of an emulator that stands in for it.

    Attributes:
        address: Of the arm; see `CellFile.address`.
        cell: Its devices while it is open.

    Raises:
        ConfigError: No cell file, a mistake in it, or a number out of its range.
    """

    name = "leader"
    controls = {  # noqa: RUF012 (never changed)
        "the arm": "move it by hand: the other arm follows from where it is; hold it still to let go",
        "its gripper": "close or open it, where it has one",
    }

    def __init__(
        self, cell: str = "", *, scale: float = 1.0, dead_zone: tuple[float, float] = (0.001, 0.01),
        rest_s: float = 0.5, damping: tuple[float, float] = (30.0, 1.5), rehearse: str = "",
    ) -> None:  # fmt: skip
        if not cell:
            raise ConfigError("A leader is an arm of its own; name its cell file: leader:cells/left.yaml")
        if not 0.01 <= scale <= 10.0 or min(*dead_zone, rest_s, *damping) <= 0.0:
            raise ConfigError(
                f"leader: scale {scale}, dead_zone {dead_zone}, rest_s {rest_s}, damping {damping}; expected 0.01 to "
                "10, and numbers above 0."
            )
        self._file = load_cell_file(cell).model_copy(update={"cameras": {}, "tracker": TrackerFile()})
        self._scale, self._dead_zone, self._rest_s, self._rehearse = scale, dead_zone, rest_s, rehearse
        self._damping, self.address = damping, self._file.address(rehearse)
        self.cell: Cell | None = None
        self._faults = 0  # recovered from since it was last moved
        self._forget()

    def open(self) -> None:
        """Reach the arm and free it where it stands; after a fault, recover it, as often as its cell file allows.

        Raises:
            DeviceError: It does not answer, or is not to be recovered.
        """
        with _device_errors():
            if self.cell is None:
                cell = open_cell(self._file, SceneRequest(real_time=True), rehearse=self._rehearse)
                try:
                    cell.arm.connect()
                except Exception:
                    cell.close()
                    raise
                self.cell = cell
            else:
                self._recover(self.cell)
            self.cell.arm.set_impedance(_yielding(self._damping))
        self._forget()

    def poll(self) -> Raw:
        """Where it is, whether it is being moved, and how its gripper is.

        Raises:
            DeviceError: It has gone, its state is too old, or it reports a fault.
        """
        if self.cell is None:
            raise DeviceFaultError("it is not open")
        with _device_errors():
            clock = self.cell.clock
            clock.wait_until(clock.now() + POLL_S)
            pose = self.cell.arm.state().tcp_pose
            if not np.isfinite(pose).all():
                raise DeviceFaultError(f"its pose is not finite: {pose.tolist()}")
            now = clock.now()
            self._watch(pose, now)
            self._look_at_gripper(self.cell, now)
        held = frozenset({"engage"}) if now - self._moved_s < self._rest_s else frozenset[str]()
        return Raw(held=held, pose=(*(self._scale * pose[:3]), *pose[3:]), closed=self._closed)

    def close(self) -> None:
        """Brake it, then let go; it stands by its vendor's own means."""
        cell, self.cell = self.cell, None
        if cell is None:
            return
        with contextlib.suppress(DeviceFaultError), _device_errors():
            cell.arm.set_impedance(_yielding(BRAKE))
            cell.clock.wait_until(cell.clock.now() + BRAKE_S)
        cell.close()

    def _forget(self) -> None:
        self._anchor: Array | None = None
        self._anchored_s = self._moved_s = self._looked_s = -np.inf
        self._closed: bool | None = None

    def _watch(self, pose: Array, now: float) -> None:
        """A motion of more than the dead zone, within `rest_s`, is a hand's; a slower one is drift."""
        if self._anchor is None:
            self._anchor, self._anchored_s = pose, now
        turn = rotvec_from_quat(quat_multiply(pose[3:], quat_conjugate(self._anchor[3:])))
        way = float(np.linalg.norm(pose[:3] - self._anchor[:3]))
        if way > self._dead_zone[0] or float(np.linalg.norm(turn)) > self._dead_zone[1]:
            self._anchor, self._anchored_s, self._moved_s, self._faults = pose, now, now, 0
        elif now - self._anchored_s > self._rest_s:
            self._anchor, self._anchored_s = pose, now

    def _look_at_gripper(self, cell: Cell, now: float) -> None:
        if isinstance(cell.gripper, NoGripper) or now - self._looked_s < GRIPPER_S:
            return
        self._looked_s, part = now, cell.gripper.opening() / cell.gripper.max_opening
        self._closed = part < (OPEN if self._closed else CLOSED)

    def _recover(self, cell: Cell) -> None:
        allowed = self._file.faults_in_a_row
        if self._faults >= allowed:
            message = f"{allowed} faults without having been moved (faults_in_a_row): it is left alone; start anew."
            if self._faults == allowed:
                LOG.warning("%s: %s", self.name, message)
            self._faults = allowed + 1
            raise DeviceFaultError(message)
        cell.arm.recover()
        self._faults += 1


def _yielding(damping: tuple[float, float]) -> ImpedanceGains:
    """No stiffness, and so no way to move by itself; of the elbow, less than a joint's friction."""
    linear, angular = damping
    return ImpedanceGains(
        stiffness=NONE, rotational_stiffness=NONE, damping=(linear, linear, linear),
        rotational_damping=(angular, angular, angular),
        nullspace_stiffness=0.25,
    )  # fmt: skip


@contextlib.contextmanager
def _device_errors() -> Generator[None]:
    """Of a driver process that died, or whose watchdog holds, as of a device that has gone."""
    try:
        yield
    except (LinkError, SafetyError) as error:
        raise DeviceFaultError(str(error)) from error
