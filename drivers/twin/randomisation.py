"""Domain randomisation: what may differ between episodes on the twin, so that a policy also fits the metal.

Everything is off by default. A task declares its ranges; `randomise=True` on the environment turns them on.
"""

from dataclasses import dataclass, replace

import mujoco
import numpy as np
from numpy.typing import NDArray

from drivers.impedance import ImpedanceGains
from drivers.twin.twin import Twin

__all__ = ["Randomisation", "Randomiser"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Randomisation:
    """Ranges, each sampled anew at every reset. A `scale` of 0.2 multiplies by a number in [0.8, 1.2].

    Attributes:
        friction_scale: Sliding friction of every geom.
        mass_scale: Mass and inertia of every prop (bodies with a free joint).
        damping_scale: Joint damping of the arm.
        gains_scale: Stiffness and damping of the impedance law.
        light_scale: Brightness of the lights.
        camera_position: Noise on every camera's place [m].
        latency_ticks: Most ticks (1 ms) that a target may arrive late.
        tracker_noise: Standard deviation of a tracked position [m].
        wrench_noise: Standard deviation of a measured force [N] and torque [N m / 10].
    """

    friction_scale: float = 0.0
    mass_scale: float = 0.0
    damping_scale: float = 0.0
    gains_scale: float = 0.0
    light_scale: float = 0.0
    camera_position: float = 0.0
    latency_ticks: int = 0
    tracker_noise: float = 0.0
    wrench_noise: float = 0.0


class Randomiser:
    """Applies a `Randomisation` to a twin, each time from the model's own values.

    Args:
        twin: Whose model is varied.
        ranges: How much.
        gains: The task's gains.
    """

    def __init__(self, twin: Twin, ranges: Randomisation, gains: ImpedanceGains) -> None:
        self.ranges = ranges
        self._twin = twin
        self._gains = gains
        model = twin.model
        self._friction = model.geom_friction.copy()
        self._mass, self._inertia = model.body_mass.copy(), model.body_inertia.copy()
        self._damping, self._arm = model.dof_damping.copy(), twin.arm_dofs
        self._light = model.light_diffuse.copy()
        self._camera = model.cam_pos.copy()
        free = model.jnt_type == mujoco.mjtJoint.mjJNT_FREE
        self._props = model.jnt_bodyid[free]

    def sample(self, rng: np.random.Generator) -> None:
        """Draw a new world; call it right after the twin's reset."""
        r, model = self.ranges, self._twin.model

        def scale(spread: float) -> float:
            return float(rng.uniform(1.0 - spread, 1.0 + spread))

        model.geom_friction[:, 0] = self._friction[:, 0] * scale(r.friction_scale)
        for body in self._props:
            factor = scale(r.mass_scale)
            model.body_mass[body] = self._mass[body] * factor
            model.body_inertia[body] = self._inertia[body] * factor
        model.dof_damping[self._arm] = self._damping[self._arm] * scale(r.damping_scale)
        model.light_diffuse[:] = self._light * scale(r.light_scale)
        model.cam_pos[:] = self._camera + rng.uniform(-1.0, 1.0, self._camera.shape) * r.camera_position
        self._twin.latency_ticks = int(rng.integers(0, r.latency_ticks + 1))
        stiffness, damping = scale(r.gains_scale), scale(r.gains_scale)
        k, d, kr, dr = (
            self._gains.stiffness,
            self._gains.damping,
            self._gains.rotational_stiffness,
            self._gains.rotational_damping,
        )
        self._twin.set_gains(
            replace(
                self._gains,
                stiffness=(k[0] * stiffness, k[1] * stiffness, k[2] * stiffness),
                damping=(d[0] * damping, d[1] * damping, d[2] * damping),
                rotational_stiffness=(kr[0] * stiffness, kr[1] * stiffness, kr[2] * stiffness),
                rotational_damping=(dr[0] * damping, dr[1] * damping, dr[2] * damping),
            )
        )
        mujoco.mj_setConst(model, mujoco.MjData(model))
