"""What a piece of hardware must offer: an arm, a gripper, a camera, a tracker and a clock.

Anything with these methods will do; nothing here is inherited from. Quantities are SI, poses position and
`quat_xyzw`, wrenches positive when the robot pushes on the world.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from drivers.impedance import ImpedanceGains
from drivers.safety_limits import SafetyLimits

__all__ = ["Arm", "ArmState", "Camera", "Clock", "Frame", "Gripper", "ServoArm", "Stage", "TrackedPose", "Tracker"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ArmState:
    """One reading of an arm.

    Attributes:
        time_s: When it was taken, on the cell's clock [s].
        q, qd: Joint positions [rad] and velocities [rad/s], shape (n,).
        torque: Commanded joint torques [N m], shape (n,).
        tcp_pose: Of the tool centre point in `base`, shape (7,).
        twist_tcp: Linear [m/s] and angular [rad/s] velocity, expressed in `tcp`, shape (6,).
        wrench_tcp: Force [N] and torque [N m] that the robot exerts on the world, in `tcp`, at the tcp, shape (6,).
    """

    time_s: float
    q: Array
    qd: Array
    torque: Array
    tcp_pose: Array
    twist_tcp: Array
    wrench_tcp: Array


@dataclass(frozen=True)
class Frame:
    """One picture: `image` uint8, shape (H, W, 3), RGB, taken at `time_s` on the cell's clock.

    `depth` [m] along the view, float32, shape (H, W), 0 where it was not measured; None from a camera without.
    """

    time_s: float
    image: NDArray[np.uint8]
    depth: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class TrackedPose:
    """Where an object was seen: `pose` in `base`, shape (7,), at `time_s` on the cell's clock.

    `reprojection_px` is how far measured features lie from where that pose puts them, rms; None where there are none.
    """

    time_s: float
    pose: Array
    reprojection_px: float | None = None


class Clock(Protocol):
    """The only way time passes."""

    def now(self) -> float:
        """Seconds since an arbitrary start."""
        ...

    def wait_until(self, time_s: float) -> None:
        """Return at `time_s`: a real clock sleeps, the twin's runs its physics up to then."""
        ...


class Arm(Protocol):
    """A robot arm that follows a target pose compliantly. A context manager; connecting never moves it."""

    def connect(self) -> None:
        """Reach the arm. Its first target is its measured pose. Raises DeviceConnectionError."""
        ...

    def state(self) -> ArmState:
        """The newest reading. Raises StaleStateError, DeviceFaultError."""
        ...

    def command(self, target_pose: Array) -> None:
        """Follow `target_pose` of the tcp in `base`, shape (7,), from now on. Raises SafetyError, DeviceFaultError."""
        ...

    def set_impedance(self, gains: ImpedanceGains) -> None:
        """Change how stiffly the target is held."""
        ...

    def set_limits(self, limits: SafetyLimits) -> None:
        """Keep the tcp within `limits` in every cycle of the arm's own loop, whatever the target."""
        ...

    def move_to_joints(self, q: Array, duration_s: float) -> None:
        """Move to joint angles [rad], shape (n,), in `duration_s`, and rest there."""
        ...

    def move_to_pose(self, pose: Array, duration_s: float) -> None:
        """Move the tcp to a pose in `base`, shape (7,), in `duration_s`, and rest there."""
        ...

    def recover(self) -> None:
        """Clear a fault once, holding the measured pose. Raises DeviceFaultError when it persists."""
        ...

    def stop(self) -> None:
        """Stop moving and hold."""
        ...

    def close(self) -> None:
        """Stop and let go of the connection."""
        ...


class ServoArm(Arm, Protocol):
    """An arm whose control loop runs on our side: `tick` is one cycle of it.

    Motions do not block: `move_to_*` begins one, `tick` carries it out, `moving` says whether it is under way.
    """

    period_s: float  # nominal, between ticks [s]
    time_s: float  # of the last reading, on the arm's own clock [s]
    law_s: float  # what the last tick took to compute, without waiting for the arm [s]

    @property
    def moving(self) -> bool:
        """Whether a motion begun by `move_to_*` is under way."""
        ...

    def tick(self) -> None:
        """Wait for the arm's next reading and answer it.

        Raises DeviceFaultError (a reflex, a protective stop, a motion that did not arrive), DeviceTimeoutError.
        """
        ...


class Gripper(Protocol):
    """A parallel gripper."""

    max_opening: float  # [m]

    def opening(self) -> float:
        """Measured distance between the fingers [m]."""
        ...

    def command(self, opening: float) -> None:
        """Move towards an opening [m], gripping whatever is between."""
        ...


class Camera(Protocol):
    """A colour camera."""

    height: int
    width: int

    def read(self) -> Frame:
        """The newest picture. Raises DeviceTimeoutError, StaleStateError."""
        ...

    def close(self) -> None:
        """Let go of the camera."""
        ...


class Tracker(Protocol):
    """Says where named objects are."""

    def poses(self) -> dict[str, TrackedPose]:
        """The newest pose of every object seen so far, by name."""
        ...


class Stage(Protocol):
    """Where a task's props stand, where a program can move them: a twin, or the stage beside an emulator."""

    def body_pose(self, name: str) -> Array:
        """Pose of a body in `base`, shape (7,)."""
        ...

    def place(self, name: str, pose: Array) -> None:
        """Put a prop at a pose in `base`, shape (7,), at rest."""
        ...
