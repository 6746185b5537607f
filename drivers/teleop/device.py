"""What a device in a person's hand must offer, and what each is given: a dead zone, smoothness, a second life.

A device is read by a thread of its own, so that it may be slow, unplugged and plugged in again while an episode runs:
what is not there counts as not touched.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robot_rl.errors import ConfigError, DeviceError
from robot_rl.geometry import quat_from_rotvec, quat_multiply, quat_rotate

__all__ = ["BUTTONS", "Raw", "Shape", "Source", "Teleop", "TeleopDevice", "TeleopReading", "TeleopSet"]

Array = NDArray[np.float64]

BUTTONS = {
    "gripper": "open or close the gripper",
    "success": "the episode succeeded",
    "failure": "the episode failed",
    "rerecord": "do not keep this episode, begin it anew",
    "pause": "pause, go on",
    "stop": "stop after this episode",
}
"""What a person can say besides moving; every device has a way to say each."""

LOG = logging.getLogger("robot_rl.teleop")
RETRY_S = 1.0  # between attempts to find a device that went away
QUIET = (0.0,) * 6


@dataclass(frozen=True)
class Raw:
    """What a device itself reports.

    Attributes:
        deflection: Translation (3) and rotation (3), each in [-1, 1], in the device's frame: x forward, y left, z up.
        held: Names of `BUTTONS` that are down now, and `engage` while a button is held that means "I drive".
        pose: Of an arm that leads: its tcp in its base, shape (7,); None of a device that deflects.
        closed: Whether the gripper of an arm that leads is closed; None where it has none.
    """

    deflection: tuple[float, ...] = QUIET
    held: frozenset[str] = frozenset()
    pose: tuple[float, ...] | None = None
    closed: bool | None = None


class Source(Protocol):
    """A kind of device. Every method is called from one thread."""

    name: str
    controls: dict[str, str]

    def open(self) -> None:
        """Find and open it. Raises DeviceError where there is none."""
        ...

    def poll(self) -> Raw:
        """Its state now, soon: within a few milliseconds. Raises DeviceError when it has gone."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


@dataclass(frozen=True)
class TeleopReading:
    """What a person does with a device now.

    Attributes:
        deflection: Translation (3) and rotation (3) in [-1, 1], shape (6,), in the frame that the device is used in.
        pressed: `BUTTONS` that went down since the last reading.
        engaged: Whether a button is held that means "I drive", moved or not.
        connected: Whether the device is there.
        pose: Of an arm that leads: its tcp in its base, turned by `Shape.yaw_deg`, shape (7,); see `Clutch`. None of a
            device that deflects, and of an arm that has gone.
        closed: Whether the gripper of an arm that leads is closed; None where it has none.
    """

    deflection: Array
    pressed: frozenset[str]
    engaged: bool
    connected: bool
    pose: Array | None = None
    closed: bool | None = None

    @property
    def touched(self) -> bool:
        """Whether the person moves, drives, or works the gripper."""
        return bool(self.engaged or self.deflection.any() or "gripper" in self.pressed)


class Teleop(Protocol):
    """A person's hand. `frame` says what its deflections are relative to: `tcp` or `base`."""

    frame: str

    def connect(self) -> None:
        """Raises DeviceError where it cannot be had."""
        ...

    def read(self) -> TeleopReading:
        """What is done now. Never waits."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


@dataclass(frozen=True)
class Shape:
    """How deflections are made pleasant.

    Attributes:
        dead_zone: Deflections below it are none; above it they begin from zero.
        expo: Exponent of the rest: above 1, small motions are finer.
        rate_per_s: Most that a deflection may change in a second; returning to zero is not held back.
        scale: The largest deflection.
        yaw_deg: Of the person about the base's z axis, where `frame` is base: 0 looks along the base's x axis from
            behind the robot, 180 faces it.
    """

    dead_zone: float = 0.12
    expo: float = 1.5
    rate_per_s: float = 8.0
    scale: float = 1.0
    yaw_deg: float = 0.0

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("dead_zone", self.dead_zone, 0.0, 0.9), ("expo", self.expo, 0.2, 5.0), ("scale", self.scale, 0.0, 1.0),
            ("rate_per_s", self.rate_per_s, 0.1, 1e6), ("yaw_deg", self.yaw_deg, -360.0, 360.0),
        ):  # fmt: skip
            if not low <= value <= high:
                raise ConfigError(f"teleop: {name} is {value}; it must lie between {low:g} and {high:g}.")

    def of(self, deflection: Array, before: Array, dt_s: float, turn: bool) -> Array:
        """A raw deflection, shape (6,), shaped; `before` is what came out `dt_s` ago."""
        beyond = np.clip((np.abs(deflection) - self.dead_zone) / (1.0 - self.dead_zone), 0.0, 1.0)
        wanted = np.sign(deflection) * beyond**self.expo * self.scale
        if turn and self.yaw_deg:
            wanted = np.concatenate([quat_rotate(self._yaw, wanted[:3]), quat_rotate(self._yaw, wanted[3:])])
        most = self.rate_per_s * dt_s
        moved = before + np.clip(wanted - before, -most, most)
        returning = np.abs(wanted) < np.abs(before)
        return np.where(returning & (wanted * before >= 0.0), wanted, moved)

    def turned(self, pose: Array, turn: bool) -> Array:
        """A leading arm's pose, shape (7,), as the person sees it."""
        if not (turn and self.yaw_deg):
            return pose
        return np.concatenate([quat_rotate(self._yaw, pose[:3]), quat_multiply(self._yaw, pose[3:])])

    @property
    def _yaw(self) -> Array:
        return quat_from_rotvec(np.array([0.0, 0.0, np.deg2rad(self.yaw_deg)]))


@dataclass
class _Shared:
    """What the reading thread leaves for the others."""

    raw: Raw = field(default_factory=Raw)
    pressed: set[str] = field(default_factory=set[str])
    connected: bool = False
    trouble: str = ""


class TeleopDevice:
    """A `Teleop` made of a source: a thread that polls it and finds it again, and a shape.

    Args:
        source: The kind of device.
        frame: What its deflections are relative to: `tcp`, the tool's own axes, or `base`, the room's.
        shape: How deflections are made pleasant.
        period_s: Between polls [s].
        on_change: Called with a sentence when the device goes away or comes back; it is logged by default.

    Attributes:
        source: As given.
    """

    def __init__(
        self,
        source: Source,
        *,
        frame: str = "base",
        shape: Shape | None = None,
        period_s: float = 0.004,
        on_change: Callable[[str], None] = LOG.warning,
    ) -> None:
        if frame not in ("tcp", "base"):
            raise ConfigError(f"teleop: frame is {frame!r}; it is tcp or base.")
        self.source, self.frame, self.shape = source, frame, shape or Shape()
        self._period_s, self._on_change = period_s, on_change
        self._shared, self._lock = _Shared(), threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._last, self._read_at = np.zeros(6), 0.0

    @property
    def addresses(self) -> frozenset[str]:
        """Of the arm that it is; none of another device."""
        return frozenset({getattr(self.source, "address", "")} - {""})

    def connect(self) -> None:
        """Open the device and begin to read it.

        Raises:
            DeviceError: It is not there; what to do is in the message.
        """
        if self._thread is not None:
            return
        self.source.open()
        self._shared.connected = True
        self._ended.clear()
        self._thread = threading.Thread(target=self._follow, name=f"teleop {self.source.name}", daemon=True)
        self._thread.start()

    def read(self) -> TeleopReading:
        """What is done now; presses are told once."""
        now = time.monotonic()
        with self._lock:
            shared = self._shared
            raw, connected = shared.raw, shared.connected
            pressed, shared.pressed = frozenset(shared.pressed), set()
        dt_s = min(now - self._read_at, 1.0)
        self._read_at = now
        deflection = np.asarray(raw.deflection, np.float64) if connected else np.zeros(6)
        self._last = self.shape.of(np.nan_to_num(deflection), self._last, dt_s, turn=self.frame == "base")
        pose = None if raw.pose is None else self.shape.turned(np.array(raw.pose), turn=self.frame == "base")
        return TeleopReading(
            self._last.copy(), pressed, connected and "engage" in raw.held, connected, pose, raw.closed
        )

    def close(self) -> None:
        """End the thread and let go of the device."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(5.0)
            self._thread = None
        self.source.close()

    def _follow(self) -> None:
        while not self._ended.is_set():
            try:
                raw = self.source.poll()
            except DeviceError as error:
                self._lose(str(error))
                self._find_again()
                continue
            with self._lock:
                self._shared.pressed |= (raw.held - self._shared.raw.held) & BUTTONS.keys()
                self._shared.raw = raw
            self._ended.wait(self._period_s)

    def _lose(self, why: str) -> None:
        with self._lock:
            self._shared.connected, self._shared.raw = False, Raw()
        self._on_change(f"{self.source.name} is gone ({why}). The policy has the arm; plug it in again at any time.")

    def _find_again(self) -> None:
        while not self._ended.wait(RETRY_S):
            try:
                self.source.open()
            except DeviceError:
                continue
            with self._lock:
                self._shared.connected = True
            self._on_change(f"{self.source.name} is back.")
            return


class TeleopSet:
    """Several devices in one pair of hands: a mouse to drive, a page to say what happened.

    Args:
        devices: All used in the same frame.

    Attributes:
        frame: Theirs.
    """

    def __init__(self, devices: Sequence[Teleop]) -> None:
        self.frame = devices[0].frame
        if any(device.frame != self.frame for device in devices):
            raise ConfigError("teleop: devices that are used together need the same frame.")
        self._devices = devices

    @property
    def addresses(self) -> frozenset[str]:
        """Of the arms among them."""
        return frozenset[str]().union(*(getattr(device, "addresses", frozenset()) for device in self._devices))

    def connect(self) -> None:
        """Connect each."""
        for device in self._devices:
            device.connect()

    def read(self) -> TeleopReading:
        """What is done with any of them."""
        readings = [device.read() for device in self._devices]
        return TeleopReading(
            np.clip(np.sum([r.deflection for r in readings], axis=0), -1.0, 1.0),
            frozenset().union(*(r.pressed for r in readings)),
            any(r.engaged for r in readings),
            any(r.connected for r in readings),
            next((r.pose for r in readings if r.pose is not None), None),
            next((r.closed for r in readings if r.closed is not None), None),
        )

    def close(self) -> None:
        """Let go of each."""
        for device in self._devices:
            device.close()
