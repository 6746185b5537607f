"""The safety supervisor: every command to an arm passes here, whoever sent it.

| event                                       | what happens                                          |
| ------------------------------------------- | ----------------------------------------------------- |
| target outside the box                      | clipped to the box                                    |
| target further than the step limit          | shortened to the step limit, in the same direction    |
| target not finite, or not a unit quaternion | refused: SafetyError, the arm holds its measured pose |
| measured pose or wrench not finite          | refused: SafetyError, the arm holds its measured pose |
| measured wrench above the limit             | refused: SafetyError, the arm holds its measured pose |
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivers.impedance import ImpedanceGains
from drivers.interfaces import Arm, ArmState
from robot_rl.errors import SafetyError
from robot_rl.geometry import quat_conjugate, quat_from_rotvec, quat_multiply, rotvec_from_quat

__all__ = ["SafeArm", "SafetyLimits"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SafetyLimits:
    """What a command may ask for.

    Attributes:
        position_low, position_high: The box the tcp's target stays in, in `base` [m].
        orientation_xyzw: The orientation that rotations are limited about.
        rotation_limit: Largest rotation vector away from it, per axis of that orientation [rad].
        max_step: Largest distance of a target from the measured pose: translation [m], rotation [rad].
        max_wrench: Largest measured force [N] and torque [N m] at which commands are accepted.
    """

    position_low: tuple[float, float, float]
    position_high: tuple[float, float, float]
    orientation_xyzw: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    rotation_limit: tuple[float, float, float] = (0.5, 0.5, 1.0)
    max_step: tuple[float, float] = (0.15, 0.5)
    max_wrench: tuple[float, float] = (100.0, 30.0)


class SafeArm:
    """An arm behind limits; itself an `Arm`.

    Args:
        arm: The arm commanded.
        limits: What passes.
    """

    def __init__(self, arm: Arm, limits: SafetyLimits) -> None:
        self.arm = arm
        self.limits = limits
        self._low, self._high = np.array(limits.position_low), np.array(limits.position_high)
        self._nominal = np.array(limits.orientation_xyzw)
        self._rotation_limit = np.array(limits.rotation_limit)

    def __enter__(self) -> "SafeArm":
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def admit(self, target_pose: Array, state: ArmState) -> Array:
        """The pose that a target becomes under the limits, shape (7,).

        Args:
            target_pose: Asked for, in `base`, shape (7,).
            state: The arm's newest reading.

        Raises:
            SafetyError: The target is no pose, or the measured wrench is above its limit.
        """
        if target_pose.shape != (7,) or not np.isfinite(target_pose).all():
            raise SafetyError(
                f"Target pose {target_pose.tolist()} is not 7 finite numbers. The arm holds its measured pose. "
                "Look for NaN in the policy's output.",
                target=target_pose,
            )
        norm = math.hypot(*target_pose[3:])
        if abs(norm - 1.0) > 1e-3:
            raise SafetyError(
                f"The target's quaternion (xyzw) has norm {norm:.3f}, expected 1. The arm holds its measured pose.",
                target=target_pose,
            )
        if not (np.isfinite(state.tcp_pose).all() and np.isfinite(state.wrench_tcp).all()):
            raise SafetyError(
                f"The arm's reading is not finite: tcp_pose {state.tcp_pose.tolist()}, wrench_tcp "
                f"{state.wrench_tcp.tolist()}. The arm holds. Check its connection and force sensor, then reset.",
                tcp_pose=state.tcp_pose,
                wrench_tcp=state.wrench_tcp,
            )
        force, torque = math.hypot(*state.wrench_tcp[:3]), math.hypot(*state.wrench_tcp[3:])
        if force > self.limits.max_wrench[0] or torque > self.limits.max_wrench[1]:
            raise SafetyError(
                f"Measured wrench {force:.1f} N, {torque:.1f} N m is above the limit {self.limits.max_wrench} "
                "(SafetyLimits.max_wrench). The arm holds its measured pose. Free the arm, then reset.",
                force=force,
                torque=torque,
            )
        out = np.empty(7)
        step = target_pose[:3] - state.tcp_pose[:3]
        out[:3] = np.clip(state.tcp_pose[:3] + step * _shorten(step, self.limits.max_step[0]), self._low, self._high)
        turn = rotvec_from_quat(quat_multiply(target_pose[3:], quat_conjugate(state.tcp_pose[3:])))
        turned = quat_multiply(quat_from_rotvec(turn * _shorten(turn, self.limits.max_step[1])), state.tcp_pose[3:])
        away = rotvec_from_quat(quat_multiply(quat_conjugate(self._nominal), turned))
        away = np.clip(away, -self._rotation_limit, self._rotation_limit)
        out[3:] = quat_multiply(self._nominal, quat_from_rotvec(away))
        return out

    def command(self, target_pose: Array) -> None:
        """Follow what the limits make of a target; a refused target makes the arm hold. Raises SafetyError."""
        try:
            admitted = self.admit(target_pose, self.arm.state())
        except SafetyError:
            self.arm.stop()
            raise
        self.arm.command(admitted)

    def connect(self) -> None:
        """Reach the arm."""
        self.arm.connect()

    def state(self) -> ArmState:
        """The arm's newest reading."""
        return self.arm.state()

    def set_impedance(self, gains: ImpedanceGains) -> None:
        """Change stiffness, damping and clips."""
        self.arm.set_impedance(gains)

    def move_to_joints(self, q: Array, duration_s: float) -> None:
        """Reset motion; its targets come from a task or cell file, not from a policy."""
        self.arm.move_to_joints(q, duration_s)

    def move_to_pose(self, pose: Array, duration_s: float) -> None:
        """Reset motion; its targets come from a task or cell file, not from a policy."""
        self.arm.move_to_pose(pose, duration_s)

    def recover(self) -> None:
        """Clear a fault once."""
        self.arm.recover()

    def stop(self) -> None:
        """Hold the measured pose."""
        self.arm.stop()

    def close(self) -> None:
        """Let go of the arm."""
        self.arm.close()


def _shorten(vector: Array, limit: float) -> float:
    length = math.hypot(*vector)  # unlike a square root of squares, huge numbers do not overflow
    return 1.0 if length <= limit else limit / length
