"""The impedance law once more, in plain numpy: what tests compare the compiled law with, and `bench` its speed.

Written from the equation at the top of `drivers/impedance.py`, not from the code below it. Rotations are SciPy's.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from drivers.impedance_gains import ImpedanceGains, JointLimits

__all__ = ["ReferenceLaw"]

Array = NDArray[np.float64]


class ReferenceLaw:
    """Same meaning and signatures as `ImpedanceLaw`; a finite state and target are taken for granted.

    Args:
        limits: The arm's joints.
        tick_s: Period at which `torque` will be called [s].
    """

    def __init__(self, limits: JointLimits, tick_s: float = 0.001) -> None:
        self.limits, self.tick_s = limits, tick_s
        self.set_gains(ImpedanceGains())
        self.reset(np.array([0.0, 0, 0, 0, 0, 0, 1]))

    def set_gains(self, gains: ImpedanceGains) -> None:
        """Change stiffness, damping and clips."""
        self.gains = gains
        self.stiffness = np.array(gains.stiffness + gains.rotational_stiffness)
        self.damping = np.array(gains.damping + gains.rotational_damping)
        self.clip = np.array(gains.translational_clip + gains.rotational_clip)

    def reset(self, tcp_pose: Array) -> None:
        """Begin at rest at the measured pose, shape (7,)."""
        self.position, self.rotation = tcp_pose[:3].copy(), Rotation.from_quat(tcp_pose[3:])
        self.last = np.zeros(len(self.limits.lower))

    def torque(self, target_pose: Array, tcp_pose: Array, jacobian: Array, q: Array, qd: Array, bias: Array) -> Array:
        """One tick; joint torques [N m], shape (n,)."""
        gains, limits = self.gains, self.limits
        tau = gains.target_time_constant_s
        blend = 1.0 - np.exp(-self.tick_s / tau) if tau > 0.0 else 1.0
        self.position = (1.0 - blend) * self.position + blend * target_pose[:3]
        turn = (Rotation.from_quat(target_pose[3:]) * self.rotation.inv()).as_rotvec()
        self.rotation = Rotation.from_rotvec(blend * turn) * self.rotation

        turn = (self.rotation * Rotation.from_quat(tcp_pose[3:]).inv()).as_rotvec()
        error = np.concatenate([self.position - tcp_pose[:3], turn])
        wrench = self.stiffness * np.clip(error, -self.clip, self.clip) - self.damping * (jacobian @ qd)
        torque = jacobian.T @ wrench
        if len(q) > len(error):
            k = gains.nullspace_stiffness
            posture = k * (limits.posture - q) - 2.0 * np.sqrt(k) * qd
            damped = jacobian @ jacobian.T + 0.01**2 * np.eye(6)
            torque += posture - jacobian.T @ np.linalg.solve(damped, jacobian @ posture)
        below = np.maximum(limits.lower + gains.limit_margin - q, 0.0)
        above = np.maximum(q - (limits.upper - gains.limit_margin), 0.0)
        torque += gains.limit_stiffness * (below - above)

        rate = gains.torque_rate * self.tick_s / 0.001
        self.last = np.clip(torque, self.last - rate, self.last + rate)
        return np.clip(self.last + bias, -limits.torque, limits.torque)
