"""The safety supervisor: every command to an arm passes here, whoever sent it.

| event                                                  | what happens                                            |
| ------------------------------------------------------ | ------------------------------------------------------- |
| target outside the box                                 | clipped to the box; `outside="refuse"`: refused         |
| target further than the step limit                     | shortened in its direction; `outside="refuse"`: refused |
| target not finite, or not a unit quaternion            | refused: SafetyError                                    |
| measured state not finite                              | refused: SafetyError                                    |
| measured wrench above the limit                        | refused: SafetyError                                    |
| a joint closer to its limit than half the joint margin | refused: SafetyError                                    |
| newest reading older than `max_state_age_s`            | refused: StaleStateError                                |
| no limits yet                                          | refused: SafetyError                                    |

After a refusal the arm holds its measured pose. Between commands the arm's own loop keeps the same limits at every tick
(`Arm.set_limits`; see `drivers/impedance_guard.py`).
"""

import math

import numpy as np
from numpy.typing import NDArray

from drivers.impedance import ImpedanceGains, JointLimits
from drivers.interfaces import Arm, ArmState, Clock, ServoArm
from drivers.safety_limits import SafetyLimits
from robot_rl.errors import SafetyError, StaleStateError
from robot_rl.geometry import quat_conjugate, quat_from_rotvec, quat_multiply, rotvec_from_quat

__all__ = ["SafeArm", "SafeServoArm", "SafetyLimits"]

Array = NDArray[np.float64]

ROUNDING = 1e-9  # [m, rad]


class SafeArm:
    """An arm behind limits; itself an `Arm`.

    Args:
        arm: The arm commanded. Where it has an attribute `joint_limits` (`JointLimits`), their margin is kept too.
        limits: What passes; nothing does before they are set.
        clock: Whose time the arm's readings bear; without it their age is not looked at.
    """

    def __init__(self, arm: Arm, limits: SafetyLimits | None = None, clock: Clock | None = None) -> None:
        self.arm = arm
        self.clock = clock
        self._take(limits)

    def __enter__(self) -> "SafeArm":
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def fault(self) -> str:
        """What the arm itself reports to be wrong, where it does; empty when nothing is."""
        return str(getattr(self.arm, "fault", ""))

    def admit(self, target_pose: Array, state: ArmState) -> Array:
        """The pose that a target becomes under the limits, shape (7,).

        Args:
            target_pose: Asked for, in `base`, shape (7,).
            state: The arm's newest reading.

        Raises:
            SafetyError: The target is no pose, the reading forbids to move, or `outside="refuse"` and the target is.
            StaleStateError: The reading is too old.
        """
        if self.limits is None:
            raise SafetyError(
                "No safety limits were set for the arm, so nothing may move it. It holds. Call set_limits(...) first."
            )
        _check_target(target_pose)
        self._check_state(state, self.limits)
        out = np.empty(7)
        step = target_pose[:3] - state.tcp_pose[:3]
        turn = rotvec_from_quat(quat_multiply(target_pose[3:], quat_conjugate(state.tcp_pose[3:])))
        if self.limits.outside == "refuse":
            self._refuse_outside(target_pose, step, turn, self.limits)
        out[:3] = np.clip(state.tcp_pose[:3] + step * _shorten(step, self.limits.max_step[0]), self._low, self._high)
        turned = quat_multiply(quat_from_rotvec(turn * _shorten(turn, self.limits.max_step[1])), state.tcp_pose[3:])
        out[3:] = quat_multiply(
            self._nominal, quat_from_rotvec(np.clip(self._away(turned), -self._rotation_limit, self._rotation_limit))
        )
        return out

    def command(self, target_pose: Array) -> None:
        """Follow what the limits make of a target; a refused target makes the arm hold.

        Raises:
            SafetyError: Refused; see the table at the top of `drivers/safety.py`.
            StaleStateError: The arm's newest reading is too old to act on.
        """
        try:
            admitted = self.admit(target_pose, self.arm.state())
        except (SafetyError, StaleStateError):
            self.arm.stop()
            raise
        self.arm.command(admitted)

    def connect(self) -> None:
        """Reach the arm, and hand it the limits."""
        self.arm.connect()
        if self.limits is not None:
            self.arm.set_limits(self.limits)

    def state(self) -> ArmState:
        """The arm's newest reading."""
        return self.arm.state()

    def set_impedance(self, gains: ImpedanceGains) -> None:
        """Change stiffness, damping and clips."""
        self.arm.set_impedance(gains)

    def set_limits(self, limits: SafetyLimits) -> None:
        """Change what passes here, and what the arm's own loop keeps."""
        self._take(limits)
        self.arm.set_limits(limits)

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

    def _take(self, limits: SafetyLimits | None) -> None:
        self.limits = limits
        if limits is not None:
            self._low, self._high = np.array(limits.position_low), np.array(limits.position_high)
            self._nominal, self._rotation_limit = np.array(limits.orientation_xyzw), np.array(limits.rotation_limit)

    def _away(self, quat_xyzw: Array) -> Array:
        return rotvec_from_quat(quat_multiply(quat_conjugate(self._nominal), quat_xyzw))

    def _check_state(self, state: ArmState, limits: SafetyLimits) -> None:
        age = self.clock.now() - state.time_s if self.clock is not None else 0.0
        if not age <= limits.max_state_age_s:
            raise StaleStateError(
                f"The arm's reading is {age:.3f} s old, limit {limits.max_state_age_s:.3f} s "
                "(SafetyLimits.max_state_age_s). The arm holds its measured pose. Check its connection, then reset.",
                age_s=age,
            )
        for name in ("tcp_pose", "wrench_tcp", "twist_tcp", "q", "qd"):
            value = getattr(state, name)
            if not np.isfinite(value).all():
                raise SafetyError(
                    f"The arm's reading is not finite: {name} {value.tolist()}. The arm holds. "
                    "Check its connection and force sensor, then reset.",
                    **{name: value},
                )
        force, torque = math.hypot(*state.wrench_tcp[:3]), math.hypot(*state.wrench_tcp[3:])
        if force > limits.max_wrench[0] or torque > limits.max_wrench[1]:
            raise SafetyError(
                f"Measured wrench {force:.1f} N, {torque:.1f} N m is above the limit {limits.max_wrench} "
                "(SafetyLimits.max_wrench). The arm holds its measured pose. Free the arm, then reset.",
                force=force,
                torque=torque,
            )
        joints: JointLimits | None = getattr(self.arm, "joint_limits", None)
        if joints is None:
            return
        room = np.minimum(state.q - joints.lower, joints.upper - state.q)
        joint = int(np.argmin(room))
        if room[joint] < 0.5 * limits.joint_margin:
            raise SafetyError(
                f"Joint {joint + 1} is {room[joint]:.3f} rad from its limit, closer than half of "
                f"{limits.joint_margin} rad (SafetyLimits.joint_margin). The arm holds its measured pose. "
                "Reset, or move the task's box away from where the arm is folded or stretched.",
                joint=joint + 1,
                room=float(room[joint]),
            )

    def _refuse_outside(self, target_pose: Array, step: Array, turn: Array, limits: SafetyLimits) -> None:
        away, length, angle = self._away(target_pose[3:]), math.hypot(*step), math.hypot(*turn)
        beyond = np.maximum(self._low - target_pose[:3], target_pose[:3] - self._high)
        if beyond.max() > ROUNDING or (np.abs(away) > self._rotation_limit + ROUNDING).any():
            raise SafetyError(
                f"Target {np.round(target_pose[:3], 4).tolist()} m, turned by {np.round(away, 3).tolist()} rad, is "
                f"outside the box {limits.position_low} to {limits.position_high} m or the rotation limit "
                f"{limits.rotation_limit} rad (SafetyLimits; outside='refuse'). The arm holds its measured pose.",
                target=target_pose,
            )
        if length > limits.max_step[0] + ROUNDING or angle > limits.max_step[1] + ROUNDING:
            raise SafetyError(
                f"Target is {length:.3f} m and {angle:.3f} rad away, further than {limits.max_step} "
                "(SafetyLimits.max_step; outside='refuse'). The arm holds its measured pose.",
                target=target_pose,
            )


class SafeServoArm(SafeArm):
    """As `SafeArm`, of an arm whose control loop runs on our side; itself a `ServoArm`."""

    arm: ServoArm  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, arm: ServoArm, limits: SafetyLimits | None = None, clock: Clock | None = None) -> None:
        super().__init__(arm, limits, clock)

    @property
    def period_s(self) -> float:
        """Nominal, between ticks [s]."""
        return self.arm.period_s

    @property
    def time_s(self) -> float:
        """Of the last reading, on the arm's own clock [s]."""
        return self.arm.time_s

    @property
    def law_s(self) -> float:
        """What the last tick took to compute, without waiting for the arm [s]."""
        return self.arm.law_s

    @property
    def moving(self) -> bool:
        """Whether a motion begun by `move_to_*` is under way."""
        return self.arm.moving

    def tick(self) -> None:
        """Wait for the arm's next reading and answer it."""
        self.arm.tick()


def _check_target(target_pose: Array) -> None:
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


def _shorten(vector: Array, limit: float) -> float:
    length = math.hypot(*vector)  # unlike a square root of squares, huge numbers do not overflow
    return 1.0 if length <= limit else limit / length
