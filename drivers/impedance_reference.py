"""The impedance law once more, in plain numpy: what tests compare the compiled law with, and `bench` its speed.

Written from the equations at the top of `drivers/impedance.py` and `drivers/impedance_guard.py`, not from their code.
Rotations are SciPy's.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from drivers import impedance_guard as constants
from drivers.impedance_gains import ImpedanceGains, JointLimits
from drivers.safety_limits import SafetyLimits

__all__ = ["ReferenceLaw"]

Array = NDArray[np.float64]

SPRING_RATE = 0.7


class ReferenceLaw:
    """Same meaning and signatures as `ImpedanceLaw`; a finite state and target are taken for granted.

    Args:
        joints: The arm's joints.
        tick_s: Period at which `torque` will be called [s].
    """

    def __init__(self, joints: JointLimits, tick_s: float = 0.001) -> None:
        self.joints, self.tick_s = joints, tick_s
        self.limits: SafetyLimits | None = None
        self.contact = np.zeros(6)
        self.set_gains(ImpedanceGains())
        self.reset(np.array([0.0, 0, 0, 0, 0, 0, 1]))

    def set_gains(self, gains: ImpedanceGains) -> None:
        """Change stiffness, damping and clips."""
        self.gains = gains
        self.stiffness = np.array(gains.stiffness + gains.rotational_stiffness)
        self.damping = np.array(gains.damping + gains.rotational_damping)
        self.clip = np.array(gains.translational_clip + gains.rotational_clip)

    def set_limits(self, limits: SafetyLimits) -> None:
        """Keep the tcp within limits."""
        self.limits = limits

    def reset(self, tcp_pose: Array) -> None:
        """Begin at rest at the measured pose, shape (7,)."""
        self.position, self.rotation = tcp_pose[:3].copy(), Rotation.from_quat(tcp_pose[3:])
        self.last, self.held = np.zeros(len(self.joints.lower)), np.zeros(len(self.joints.lower))

    def torque(self, target_pose: Array, tcp_pose: Array, jacobian: Array, q: Array, qd: Array, bias: Array) -> Array:
        """One tick; joint torques [N m], shape (n,)."""
        gains, joints, twist = self.gains, self.joints, jacobian @ qd
        tau = gains.target_time_constant_s
        blend = 1.0 - np.exp(-self.tick_s / tau) if tau > 0.0 else 1.0
        self.position = (1.0 - blend) * self.position + blend * target_pose[:3]
        turn = (Rotation.from_quat(target_pose[3:]) * self.rotation.inv()).as_rotvec()
        self.rotation = Rotation.from_rotvec(blend * turn) * self.rotation

        turn = (self.rotation * Rotation.from_quat(tcp_pose[3:]).inv()).as_rotvec()
        error = np.concatenate([self.position - tcp_pose[:3], turn])
        spring, brake = self.stiffness * np.clip(error, -self.clip, self.clip), np.zeros(6)
        rest = np.zeros(len(q))
        if self.limits is not None:
            left = self._guard_joints(q, qd, rest, self.limits)
            self._guard(tcp_pose, twist, spring, brake, left, self.limits)
        rest += jacobian.T @ (brake - self.damping * twist)
        if len(q) > len(error):
            k = gains.nullspace_stiffness
            posture = k * (joints.posture - q) - 2.0 * np.sqrt(k) * qd
            damped = jacobian @ jacobian.T + 0.01**2 * np.eye(6)
            rest += posture - jacobian.T @ np.linalg.solve(damped, jacobian @ posture)
        below = np.maximum(joints.lower + gains.limit_margin - q, 0.0)
        above = np.maximum(q - (joints.upper - gains.limit_margin), 0.0)
        rest += gains.limit_stiffness * (below - above)

        push = jacobian.T @ spring
        room = np.maximum(joints.torque - np.sign(push) * (rest + bias), 0.0)
        push *= min(1.0, float(np.min(room / np.maximum(np.abs(push), 1e-300))))
        rate = gains.torque_rate * self.tick_s / 0.001
        step = push - self.held
        self.held = self.held + step * min(1.0, SPRING_RATE * rate / max(float(np.abs(step).max()), 1e-300))
        self.last = np.clip(rest + self.held, self.last - rate, self.last + rate)
        return np.clip(self.last + bias, -joints.torque, joints.torque)

    def _guard_joints(self, q: Array, qd: Array, rest: Array, limits: SafetyLimits) -> float:
        margin, left = limits.joint_margin + constants.JOINT_INSET, 1.0
        for distance, side in ((q - self.joints.lower - margin, -1.0), (self.joints.upper - margin - q, 1.0)):
            allowed = _allowed(distance, constants.JOINT_BRAKING, constants.RETURN[1])
            reserve, band = allowed - side * qd, np.maximum(constants.JOINT_BAND, 0.4 * allowed)
            excess = np.maximum(band / 4 - reserve, 0.0)
            rest -= side * constants.JOINT_BRAKE * self.joints.torque * excess
            left = min(left, float(np.clip(1.0 + 2.0 * reserve / band, 0.0, 1.0).min()))
        return left

    def _guard(self, tcp: Array, twist: Array, spring: Array, brake: Array, left: float, limits: SafetyLimits) -> None:
        for part in range(2):
            own = slice(3 * part, 3 * part + 3)
            size, speed = np.linalg.norm(self.contact[own]), np.linalg.norm(twist[own])
            if size > 0.8 * limits.max_wrench[part]:
                along = self.contact[own] / size
                fade = np.clip((limits.max_wrench[part] - size) / (0.2 * limits.max_wrench[part]), 0.0, 1.0)
                spring[own] -= (1.0 - fade) * max(spring[own] @ along, 0.0) * along
            band = constants.SPEED_BAND[part] * limits.max_speed[part]
            reserve = limits.max_speed[part] - speed
            left = min(left, float(np.clip(reserve / band, 0.0, 1.0)))
            excess = max(band / 2 - reserve, 0.0)
            brake[own] -= constants.BRAKE[part] * self.damping[own] * excess * twist[own] / max(speed, 1e-300)
        for part, normal, distance, damping in self._walls(tcp, limits):
            least = constants.BAND[part]
            allowed = float(_allowed(np.array(distance), constants.BRAKING[part], constants.RETURN[part]))
            reserve, band = allowed - normal @ twist, max(least, 0.4 * allowed)
            push = max(normal @ spring, 0.0) / (normal @ normal)
            spring -= (1.0 - np.clip(reserve / band, 0.0, 1.0)) * push * normal
            brake -= constants.BRAKE[part] * damping * max(band / 4 - reserve, 0.0) * normal
            left = min(left, float(np.clip(1.0 + 2.0 * reserve / band, 0.0, 1.0)))
        spring *= left

    def _walls(self, tcp: Array, limits: SafetyLimits) -> Iterator[tuple[int, Array, float, float]]:
        """Part, outward normal (6,), distance and damping of every wall."""
        nominal = Rotation.from_quat(limits.orientation_xyzw)
        away = (nominal.inv() * Rotation.from_quat(tcp[3:])).as_rotvec()
        x = np.cross(np.eye(3), away)  # as a matrix: x @ v = away x v
        rates = np.eye(3) - x / 2 + x @ x / 12  # of `away`, from the angular velocity about the nominal axes
        for i in range(3):
            for side in (-1.0, 1.0):
                edge = limits.position_high[i] if side > 0 else limits.position_low[i]
                straight, turning = np.zeros(6), np.zeros(6)
                straight[i] = side
                turning[3:] = side * (nominal.as_matrix() @ rates[i])
                yield 0, straight, side * (edge - tcp[i]) - constants.INSET[0], self.damping[i]
                yield 1, turning, limits.rotation_limit[i] - side * away[i] - constants.INSET[1], self.damping[3 + i]


def _allowed(distance: Array, braking: float, back: float) -> Array:
    late = braking * constants.LATE_S
    slow = np.maximum(distance / constants.RETURN_S, -back)
    return np.where(distance < 0.0, slow, np.sqrt(late**2 + 2.0 * braking * np.maximum(distance, 0.0)) - late)
