"""The twin: one MuJoCo model of the cell that arm, gripper, cameras, tracker and clock all look at."""

from collections.abc import Callable

import mujoco
import numpy as np
from numpy.typing import NDArray

from drivers.impedance import STATUS_BAD_STATE, ImpedanceGains, ImpedanceLaw, JointLimits
from drivers.safety_limits import SafetyLimits
from drivers.twin import physics
from drivers.twin.arms import ArmModel
from drivers.twin.scene import Scene, compose
from robot_rl.errors import ConfigError, DeviceFaultError
from robot_rl.geometry import compose as compose_poses
from robot_rl.geometry import invert, quat_conjugate, quat_multiply, rotvec_from_quat

__all__ = ["Twin"]

Array = NDArray[np.float64]

IK_STEPS = 100
IK_TOLERANCE = 1e-5


class Twin:
    """Model, state and impedance law of one simulated cell.

    Args:
        arm: The arm to simulate.
        build: Adds a task's props to the scene.
        weightless: Arm and hand carry their own weight, as behind a vendor's controller (see `drivers.emulators`).

    Attributes:
        model, data: MuJoCo's own, for reading; poses leave through `body_pose`, which gives xyzw.
        target: The pose the law follows, shape (7,); write with `target[:] = pose`.
        tick_s: Physics and law period [s].
        views: The arm's part of `data`.
        latency_ticks: How long a new target takes to arrive, counted from the next `advance` and at most one of it.
    """

    def __init__(
        self, arm: ArmModel, build: Callable[[Scene], None] | None = None, *, weightless: bool = False
    ) -> None:
        self.arm_model = arm
        self.model, joint_names = compose(arm, build, weightless=weightless)
        self.data = mujoco.MjData(self.model)
        self.tick_s = float(self.model.opt.timestep)
        self.latency_ticks = 0
        self.views = self._arm_views(joint_names)
        n = len(joint_names)
        ids = self.views.joint_ids
        limited = self.model.jnt_limited[ids].astype(bool)
        self.limits = JointLimits(
            lower=np.where(limited, self.model.jnt_range[ids, 0], -np.inf),
            upper=np.where(limited, self.model.jnt_range[ids, 1], np.inf),
            torque=arm.torque_limits,
            posture=arm.home,
        )
        self.law = ImpedanceLaw(self.limits, self.tick_s)
        self.target = np.zeros(7)
        self.tcp_pose, self.jacobian = np.zeros(7), np.zeros((6, n))
        self.q, self.qd, self.bias, self.contact_torque = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n)
        self._delayed = np.zeros(7)
        self.reset()

    def reset(self) -> None:
        """Back to the model's own state: arm at home, props where the scene put them, time zero."""
        mujoco.mj_resetData(self.model, self.data)
        self.jump_to_joints(self.arm_model.home)

    def jump_to_joints(self, q: Array) -> None:
        """Put the arm at joint angles [rad], shape (n,), at rest, in no time."""
        self.data.qpos[self.views.qpos_ids] = q
        self.data.qvel[self.views.dofs] = 0.0
        self._settle()

    def jump_to_pose(self, pose: Array) -> None:
        """Put the tcp at a pose in `base`, shape (7,), at rest, in no time.

        Raises:
            ConfigError: The arm cannot reach it.
        """
        self.jump_to_joints(self.inverse_kinematics(pose))

    def advance(self, duration_s: float) -> None:
        """Run physics and law for a duration [s], rounded to ticks.

        Raises:
            DeviceFaultError: The simulation became unstable (the state is no longer finite).
        """
        ticks = round(duration_s / self.tick_s)
        late = min(self.latency_ticks, ticks)
        status = self._run(late, self._delayed) if late else 0
        self._delayed[:] = self.target
        status = max(status, self._run(ticks - late, self._delayed))
        if status == STATUS_BAD_STATE:
            raise DeviceFaultError(
                "The twin's state is not finite: the physics became unstable. The law stopped pushing; "
                "reset the environment. If it happens again, lower stiffness or raise damping in the task's gains."
            )

    def body_pose(self, name: str) -> Array:
        """Pose of a body in `base`, shape (7,). Raises ConfigError when there is none of that name."""
        try:
            body = self.data.body(name)
        except KeyError as error:
            raise ConfigError(f"The scene has no body {name!r}: {error.args[0]}") from error
        return np.concatenate([body.xpos, body.xquat[[1, 2, 3, 0]]])

    def place(self, name: str, pose: Array) -> None:
        """Put a prop (a body with a free joint, or a mocap body) at a pose in `base`, shape (7,), at rest.

        As after every jump, the law starts anew and holds the measured pose.

        Raises:
            ConfigError: No such body, or it is fixed to the world.
        """
        self.place_prop(name, pose)
        self._settle()

    def place_prop(self, name: str, pose: Array) -> None:
        """As `place`, without making what is derived agree."""
        try:
            body = self.model.body(name)
        except KeyError as error:
            raise ConfigError(f"The scene has no body {name!r}: {error.args[0]}") from error
        position, quat_wxyz = pose[:3], pose[[6, 3, 4, 5]]
        if body.mocapid[0] >= 0:
            self.data.mocap_pos[body.mocapid[0]] = position
            self.data.mocap_quat[body.mocapid[0]] = quat_wxyz
        elif body.dofnum[0] == 6:
            start = self.model.jnt_qposadr[body.jntadr[0]]
            self.data.qpos[start : start + 3] = position
            self.data.qpos[start + 3 : start + 7] = quat_wxyz
            self.data.qvel[body.dofadr[0] : body.dofadr[0] + 6] = 0.0
        else:
            raise ConfigError(f"Body {name!r} is fixed to the world; give it a free joint or mocap=True to place it.")

    def contact_wrench_base(self) -> Array:
        """Wrench the robot exerts on the world at the tcp, in `base`, shape (6,), low-passed over 20 ms.

        From joint torques, as a torque-sensing arm estimates it: the damped inverse of J^T.
        """
        wrench = np.empty(6)
        physics.contact_wrench(self.contact_torque, self.law.memory, self.jacobian, wrench)
        return wrench

    def inverse_kinematics(self, pose: Array) -> Array:
        """Joint angles [rad], shape (n,), that put the tcp at a pose, near home. Damped least squares.

        Raises:
            ConfigError: No solution within limits.
        """
        q = self.arm_model.home.copy()
        data = mujoco.MjData(self.model)
        views = self._views_of(data)
        tcp, jacobian = np.zeros(7), np.zeros((6, len(q)))
        q_read, qd_read, bias = np.zeros_like(q), np.zeros_like(q), np.zeros_like(q)
        error = np.zeros(6)
        for _ in range(IK_STEPS):
            data.qpos[views.qpos_ids] = q
            mujoco.mj_kinematics(self.model, data)
            physics.measure(views, tcp, jacobian, q_read, qd_read, bias)
            error[:3] = pose[:3] - tcp[:3]
            error[3:] = rotvec_from_quat(quat_multiply(pose[3:], quat_conjugate(tcp[3:])))
            if np.linalg.norm(error) < IK_TOLERANCE:
                return q
            square = jacobian @ jacobian.T + 1e-5 * np.eye(6)
            step = jacobian.T @ np.linalg.solve(square, error)
            pull = 0.1 * (self.arm_model.home - q)
            pull -= jacobian.T @ np.linalg.solve(square, jacobian @ pull)
            q = np.clip(q + np.clip(step + pull, -0.3, 0.3), self.limits.lower + 0.02, self.limits.upper - 0.02)
        raise ConfigError(
            f"{self.arm_model.name} cannot reach tcp pose {np.round(pose, 3).tolist()} (error "
            f"{np.linalg.norm(error):.3f} after {IK_STEPS} steps). Move the task's start pose or targets closer."
        )

    @property
    def arm_dofs(self) -> NDArray[np.int32]:
        """Where the arm's joints are in MuJoCo's velocity vector, shape (n,)."""
        return self.views.dofs

    def set_gains(self, gains: ImpedanceGains) -> None:
        """Change stiffness, damping and clips."""
        self.law.set_gains(gains)

    def set_limits(self, limits: SafetyLimits) -> None:
        """Keep the tcp within limits at every tick."""
        self.law.set_limits(limits)

    def relative_pose(self, reference: str, name: str) -> Array:
        """Pose of body `name` in the frame of body `reference`, shape (7,)."""
        return compose_poses(invert(self.body_pose(reference)), self.body_pose(name))

    def _run(self, ticks: int, target: Array) -> int:
        law = self.law
        return physics.advance(
            self.model._address, self.data._address, ticks, self.views, law.gains, law.joints,
            law.limits, law.contact, law.memory, target,
            self.tcp_pose, self.jacobian, self.q, self.qd, self.bias, law.output, self.contact_torque,
        )  # fmt: skip

    def _settle(self) -> None:
        """Make every derived quantity agree with a state that was set by hand, and let the law start there."""
        self.data.qacc_warmstart[:] = 0.0
        mujoco.mj_forward(self.model, self.data)
        physics.measure(self.views, self.tcp_pose, self.jacobian, self.q, self.qd, self.bias)
        self.contact_torque[:] = 0.0
        self.target[:] = self.tcp_pose
        self._delayed[:] = self.tcp_pose
        self.law.reset(self.tcp_pose)

    def _arm_views(self, joint_names: list[str]) -> physics.ArmViews:
        self._joint_ids = np.array([self.model.joint(name).id for name in joint_names], dtype=np.int32)
        return self._views_of(self.data)

    def _views_of(self, data: mujoco.MjData) -> physics.ArmViews:
        ids = self._joint_ids
        site = self.model.site("tool/tcp").id
        return physics.ArmViews(
            dofs=self.model.jnt_dofadr[ids].astype(np.int32),
            hinges=self.model.jnt_type[ids] == mujoco.mjtJoint.mjJNT_HINGE,
            joint_anchor=data.xanchor,
            joint_axis=data.xaxis,
            joint_ids=ids,
            site_position=data.site_xpos[site],
            site_matrix=data.site_xmat[site],
            qpos=data.qpos,
            qpos_ids=self.model.jnt_qposadr[ids].astype(np.int32),
            qvel=data.qvel,
            bias=data.qfrc_bias,
            constraint=data.qfrc_constraint,
            applied=data.qfrc_applied,
        )
