"""The numbers of the impedance law: how stiff it holds, and the arm it holds with."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robot_rl.errors import ConfigError

__all__ = ["ImpedanceGains", "JointLimits"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ImpedanceGains:
    """How stiff the arm holds its target. Triples are per axis of `base`.

    Attributes:
        stiffness: Translation [N/m].
        damping: Translation [N s/m]. 2 sqrt(K) is critical for a mass of 1 kg.
        rotational_stiffness: [N m/rad].
        rotational_damping: [N m s/rad].
        translational_clip: Largest position error acted upon [m]. Force never exceeds stiffness x clip.
        rotational_clip: Largest rotation error acted upon [rad].
        nullspace_stiffness: Pull towards the null-space posture [N m/rad]; its damping is 2 sqrt of it.
        target_time_constant_s: Low-pass on the target; 0 turns it off.
        torque_rate: Largest change of the commanded torque [N m per tick of 1 ms].
        limit_margin: Distance from a joint limit at which repulsion begins [rad].
        limit_stiffness: Repulsion [N m/rad] inside that margin.
    """

    stiffness: tuple[float, float, float] = (2000.0, 2000.0, 2000.0)
    damping: tuple[float, float, float] = (89.0, 89.0, 89.0)
    rotational_stiffness: tuple[float, float, float] = (150.0, 150.0, 150.0)
    rotational_damping: tuple[float, float, float] = (7.0, 7.0, 7.0)
    translational_clip: tuple[float, float, float] = (0.01, 0.01, 0.01)
    rotational_clip: tuple[float, float, float] = (0.05, 0.05, 0.05)
    nullspace_stiffness: float = 5.0
    target_time_constant_s: float = 0.01
    torque_rate: float = 1.0
    limit_margin: float = 0.1
    limit_stiffness: float = 60.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            numbers = value if isinstance(value, tuple) else (value,)
            if not all(math.isfinite(v) and v >= 0 for v in numbers):
                raise ConfigError(f"ImpedanceGains.{name} is {value}; every number must be finite and >= 0.")

    @property
    def wrench_bound(self) -> Array:
        """Largest wrench the law's spring can push with: force [N] then torque [N m], shape (6,)."""
        k = np.array(self.stiffness + self.rotational_stiffness)
        return k * np.array(self.translational_clip + self.rotational_clip)

    def pack(self, tick_s: float) -> Array:
        """The gains as the flat vector `impedance_torque` reads, shape (23,)."""
        tau = self.target_time_constant_s
        blend = 1.0 if tau <= 0 else 1.0 - math.exp(-tick_s / tau)
        return np.array(
            [
                *self.stiffness,
                *self.rotational_stiffness,
                *self.damping,
                *self.rotational_damping,
                *self.translational_clip,
                *self.rotational_clip,
                self.nullspace_stiffness,
                blend,
                self.torque_rate * tick_s / 0.001,
                self.limit_margin,
                self.limit_stiffness,
            ]
        )


@dataclass(frozen=True, kw_only=True)
class JointLimits:
    """Per joint, shape (n,): position limits [rad], torque limits [N m] and the posture the null space is pulled to.

    A joint without position limits has -inf and inf.
    """

    lower: Array
    upper: Array
    torque: Array
    posture: Array

    def pack(self) -> Array:
        """Shape (n, 4), C-contiguous, as `impedance_torque` reads it."""
        rows = (self.lower, self.upper, self.torque, self.posture)
        return np.ascontiguousarray(np.stack([np.asarray(r, dtype=np.float64) for r in rows], axis=1))
