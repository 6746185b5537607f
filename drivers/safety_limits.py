"""The numbers an arm is kept within: by the supervisor at every command, by the impedance law at every tick."""

import math
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from robot_rl.errors import ConfigError
from robot_rl.geometry import matrix_from_quat

__all__ = ["SafetyLimits"]

Array = NDArray[np.float64]


COUNTS = {
    "orientation_xyzw": 4, "max_step": 2, "max_speed": 2, "max_wrench": 2, "joint_margin": 1, "max_state_age_s": 1,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SafetyLimits:
    """What a command may ask for, and what the law lets the arm do. The defaults are meant for a first day on metal.

    Attributes:
        position_low, position_high: The box the tcp and its target stay in, in `base` [m].
        orientation_xyzw: The orientation that rotations are limited about.
        rotation_limit: Largest rotation vector away from it, per axis of that orientation [rad].
        max_step: Largest distance of a target from the measured pose: translation [m], rotation [rad].
        max_speed: Largest speed of the tcp: linear [m/s], angular [rad/s].
        max_wrench: Largest measured force [N] and torque [N m] at which commands are accepted.
        joint_margin: Distance that is kept to every joint limit [rad].
        max_state_age_s: Age of the newest reading above which commands are refused [s].
        outside: Whether a target outside the box or too far away is clipped or refused.
    """

    position_low: tuple[float, float, float]
    position_high: tuple[float, float, float]
    orientation_xyzw: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    rotation_limit: tuple[float, float, float] = (0.5, 0.5, 1.0)
    max_step: tuple[float, float] = (0.15, 0.5)
    max_speed: tuple[float, float] = (0.25, 1.0)
    max_wrench: tuple[float, float] = (100.0, 30.0)
    joint_margin: float = 0.05
    max_state_age_s: float = 0.1
    outside: Literal["clip", "refuse"] = "clip"

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name != "outside":
                self._check(field.name)
        for axis, low, high in zip("xyz", self.position_low, self.position_high, strict=True):
            if low >= high:
                raise ConfigError(
                    f"SafetyLimits: position_low {low} is not below position_high {high} along {axis}; "
                    "the box is empty. Give the lower corner first."
                )
        if abs(math.hypot(*self.orientation_xyzw) - 1.0) > 1e-3:
            raise ConfigError(
                f"SafetyLimits.orientation_xyzw {self.orientation_xyzw} has norm "
                f"{math.hypot(*self.orientation_xyzw):.3f}, expected 1 (x, y, z, w)."
            )
        if self.outside not in ("clip", "refuse"):
            raise ConfigError(f"SafetyLimits.outside is {self.outside!r}; use clip or refuse.")

    def _check(self, name: str) -> None:
        value = getattr(self, name)
        numbers = value if isinstance(value, tuple) else (value,)
        if len(numbers) != COUNTS.get(name, 3):
            raise ConfigError(f"SafetyLimits.{name} is {value}; it takes {COUNTS.get(name, 3)} numbers.")
        if not all(math.isfinite(v) for v in numbers):
            raise ConfigError(f"SafetyLimits.{name} is {value}; every number must be finite.")
        signed = name in ("position_low", "position_high", "orientation_xyzw")
        if not signed and any(v < 0.0 for v in numbers):
            raise ConfigError(f"SafetyLimits.{name} is {value}; no number may be below zero.")
        if name in ("max_step", "max_speed", "max_wrench", "max_state_age_s") and 0.0 in numbers:
            raise ConfigError(f"SafetyLimits.{name} is {value}; with a zero in it the arm could never move.")

    def pack(self) -> Array:
        """The limits as the flat vector `drivers.impedance_guard.guard` reads, shape (27,)."""
        turn = matrix_from_quat(np.array(self.orientation_xyzw)).ravel()
        return np.array(
            [
                *self.position_low,
                *self.position_high,
                *self.orientation_xyzw,
                *turn,
                *self.rotation_limit,
                *self.max_speed,
                *self.max_wrench,
                self.joint_margin,
            ]
        )
