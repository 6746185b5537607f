"""Smooth motions from rest to rest: what `move_to_joints` and `move_to_pose` follow.

The fifth-order polynomial with zero velocity and acceleration at both ends; its peak speed is 1.875 times the mean.
Source: Lynch & Park, Modern Robotics, ch. 9.2.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robot_rl.errors import ConfigError, ShapeError
from robot_rl.geometry import quat_conjugate, quat_multiply, quat_slerp, rotvec_from_quat

__all__ = ["PEAK_SPEED", "JointMotion", "PoseMotion", "check_home"]

Array = NDArray[np.float64]

PEAK_SPEED = 1.875


def _fraction(time_s: float, duration_s: float) -> tuple[float, float]:
    """Fraction of the way and its rate [1/s]."""
    s = min(max(time_s / duration_s, 0.0), 1.0)
    return s**3 * (10.0 - 15.0 * s + 6.0 * s**2), 30.0 * s**2 * (1.0 - s) ** 2 / duration_s


@dataclass(frozen=True)
class JointMotion:
    """From joint angles to joint angles [rad], shape (n,), in a duration [s]."""

    start: Array
    goal: Array
    duration_s: float

    @staticmethod
    def plan(start: Array, goal: Array, duration_s: float, max_speed: Array) -> "JointMotion":
        """A motion in which no joint exceeds `max_speed` [rad/s], shape (n,).

        Raises:
            ShapeError: The goal has another number of joints or is not finite.
        """
        if goal.shape != start.shape or not np.isfinite(goal).all():
            raise ShapeError(f"Joint goal {goal.tolist()}: expected {len(start)} finite angles [rad].")
        needed = float(np.max(np.abs(goal - start) / max_speed)) * PEAK_SPEED
        return JointMotion(start.copy(), goal.copy(), max(_positive(duration_s), needed))

    def at(self, time_s: float) -> tuple[Array, Array]:
        """Angles [rad] and speeds [rad/s] at a time since the start."""
        fraction, rate = _fraction(time_s, self.duration_s)
        way = self.goal - self.start
        return self.start + fraction * way, rate * way


@dataclass(frozen=True)
class PoseMotion:
    """From pose to pose in `base`, shape (7,): straight in position, the short way round in rotation."""

    start: Array
    goal: Array
    duration_s: float

    @staticmethod
    def plan(start: Array, goal: Array, duration_s: float, max_speed: tuple[float, float]) -> "PoseMotion":
        """A motion that exceeds neither linear [m/s] nor angular [rad/s] speed.

        Raises:
            ShapeError: The goal is no pose.
        """
        if goal.shape != (7,) or not np.isfinite(goal).all() or abs(np.linalg.norm(goal[3:]) - 1.0) > 1e-3:
            raise ShapeError(f"Pose goal {goal.tolist()}: expected position [m] and a unit quat_xyzw.")
        turn = np.linalg.norm(rotvec_from_quat(quat_multiply(goal[3:], quat_conjugate(start[3:]))))
        needed = max(np.linalg.norm(goal[:3] - start[:3]) / max_speed[0], turn / max_speed[1]) * PEAK_SPEED
        return PoseMotion(start.copy(), goal.copy(), max(_positive(duration_s), float(needed)))

    def at(self, time_s: float) -> Array:
        """The pose at a time since the start, shape (7,)."""
        fraction, _ = _fraction(time_s, self.duration_s)
        position = self.start[:3] + fraction * (self.goal[:3] - self.start[:3])
        return np.concatenate([position, quat_slerp(self.start[3:], self.goal[3:], fraction)])


def check_home(home: Array, lower: Array, upper: Array) -> Array:
    """Joint angles to begin episodes at [rad], shape (n,), within an arm's limits.

    Raises:
        ConfigError: Another number of joints, or an angle out of its range.
    """
    home = np.asarray(home, dtype=np.float64)
    if home.shape != lower.shape:
        raise ConfigError(f"arm.home has {home.size} numbers; this arm has {len(lower)} joints.")
    if not ((home > lower) & (home < upper)).all():
        raise ConfigError(
            f"arm.home {home.tolist()} is outside the joints' range {np.round(lower, 3).tolist()} to "
            f"{np.round(upper, 3).tolist()} rad."
        )
    return home


def _positive(duration_s: float) -> float:
    if not duration_s > 0.0:
        raise ConfigError(f"A motion of {duration_s!r} s: the duration must be positive.")
    return duration_s
