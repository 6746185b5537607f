"""Franka arms through franky's C++ impedance tracker: the alternative where the kernel is not a real-time one.

franky runs the 1 kHz law in a C++ thread of its own; this driver gives it a target 200 times a second. The law is
franky's (same stiffness, damping, error clips and null-space posture; see `ImpedanceGains`), so what our law does at
every tick is done here to the target: it approaches the box's faces no faster than it could brake, and moves no faster
than `max_speed`. That bounds the target exactly and the tool nearly: choose `driver: franka` where the limits are
tight.

Source: franky-control's documentation of CartesianImpedanceTracker.
"""

import contextlib
import math
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivers.franka_link import (
    FR3_HOME,
    FR3_LIMITS,
    HAND_FLANGE,
    MOTION_GAINS,
    MOTION_SPEED,
    advice_for,
    broken,
    column_major,
    connect_errors,
    not_arrived,
    probe,
    stopped_itself,
)
from drivers.impedance import ImpedanceGains
from drivers.interfaces import ArmState
from drivers.motions import JointMotion, PoseMotion, check_home
from drivers.safety import SafetyLimits
from robot_rl.errors import ConfigError, DeviceConnectionError, DeviceFaultError
from robot_rl.geometry import (
    compose,
    invert,
    matrix_from_quat,
    quat_conjugate,
    quat_from_rotvec,
    quat_multiply,
    rotvec_from_quat,
)

__all__ = ["FrankyArm"]

Array = NDArray[np.float64]

PORT = 1337
DYNAMICS = 0.2  # of the robot's speed, acceleration and jerk in joint motions
ARRIVED = (0.01, 0.05)
SETTLE_S = 2.0
BRAKING = 2.0  # [m/s^2]


class FrankyArm:
    """A Franka arm as a `ServoArm` whose law runs in C++.

    Args:
        host: Its address.
        tcp_flange: Pose of the tcp in the flange, shape (7,); by default where the Franka hand's is.
        home: Joint posture the null space pulls to [rad], shape (7,).
        collision: Force [N] and torque [N m] at the tcp, and joint torque [N m], at which the robot's reflex stops it.
        realtime: Whether libfranka insists on a real-time kernel.
    """

    period_s = 0.005
    joint_limits = FR3_LIMITS

    def __init__(
        self,
        host: str,
        *,
        tcp_flange: tuple[float, ...] = HAND_FLANGE,
        home: tuple[float, ...] = FR3_HOME,
        collision: tuple[float, float, float] = (60.0, 20.0, 60.0),
        realtime: bool = False,
    ) -> None:
        self.host, self.law_s, self.time_s = host, 0.0, 0.0
        self._tcp_flange, self._collision, self._realtime = np.array(tcp_flange), collision, realtime
        self._home = check_home(np.array(home), FR3_LIMITS.lower, FR3_LIMITS.upper)
        self._gains, self._limits = ImpedanceGains(), None
        self._robot: Any = None
        self._tracker: Any = None
        self._state: Any = None
        self._tcp, self._target, self._goal = np.zeros(7), np.zeros(7), np.zeros(7)
        self._motion: JointMotion | PoseMotion | None = None
        self._motion_start, self._next = 0.0, 0.0

    def connect(self) -> None:
        """Reach the robot and begin to hold the measured pose. Raises DeviceConnectionError."""
        franky = _library()
        probe(self.host, PORT)
        config = franky.RealtimeConfig.Enforce if self._realtime else franky.RealtimeConfig.Ignore
        with connect_errors(self.host, franky):
            self._robot = franky.Robot(self.host, realtime_config=config, relative_dynamics_factor=DYNAMICS)
            state = self._robot.state
            mode = state.robot_mode.name
            if mode in ("UserStopped", "Guiding", "Other"):
                raise DeviceConnectionError(f"{self.host} is not ready: {advice_for(mode)}")
            if self._robot.has_errors:
                self._robot.recover_from_errors()
            force, torque, joints = self._collision
            self._robot.set_collision_behavior([joints] * 7, [force] * 3 + [torque] * 3)
            nominal = np.concatenate([state.F_T_NE.translation, state.F_T_NE.quaternion])
            self._robot.set_ee(column_major(compose(invert(nominal), self._tcp_flange)))
            self._robot.set_k(column_major(np.array([0.0, 0, 0, 0, 0, 0, 1])))
            self._begin()

    @property
    def moving(self) -> bool:
        """Whether a motion is under way."""
        return self._motion is not None

    def tick(self) -> None:
        """Give the tracker its next target and look at the robot; 200 times a second."""
        now = time.monotonic()
        if self._next > now:
            time.sleep(self._next - now)
        self._next = max(self._next, now) + self.period_s
        start = time.perf_counter()
        try:
            if self._tracker is not None or isinstance(self._motion, JointMotion):
                self._robot.poll_motion()
            self._read()
        except _errors() as error:
            self._tracker, self._motion = None, None
            raise _fault(self.host, error) from error
        if isinstance(self._motion, JointMotion):
            self._wait_for_joints(self._motion)
        elif self._tracker is not None:
            self._follow()
        self.law_s = time.perf_counter() - start

    def state(self) -> ArmState:
        """The reading of the last tick; `time_s` is the robot's own clock."""
        state, to_tcp = self._state, matrix_from_quat(self._tcp[3:]).T
        jacobian = np.asarray(self._robot.model.zero_jacobian(_library().Frame.EndEffector, state)).reshape(6, 7)
        twist = jacobian @ state.dq
        return ArmState(
            time_s=state.time.to_sec(),
            q=np.array(state.q),
            qd=np.array(state.dq),
            torque=np.array(state.tau_J_d),
            tcp_pose=self._tcp.copy(),
            twist_tcp=np.concatenate([to_tcp @ twist[:3], to_tcp @ twist[3:]]),
            wrench_tcp=np.array(state.K_F_ext_hat_K),
        )

    def command(self, target_pose: Array) -> None:
        """Follow a target pose in `base`, shape (7,)."""
        self._end_motion()
        self._goal[:] = target_pose

    def set_impedance(self, gains: ImpedanceGains) -> None:
        """Change stiffness, damping and clips."""
        changed, self._gains = gains != self._gains, gains
        if changed and self._tracker is not None and self._motion is None:
            self._track(gains)

    def set_limits(self, limits: SafetyLimits) -> None:
        """What the target is kept within."""
        self._limits = limits

    def move_to_joints(self, q: Array, duration_s: float) -> None:
        """Begin a joint motion by the robot's own position control, at a fifth of its speed."""
        franky = _library()
        goal = np.asarray(q, dtype=np.float64)
        motion = JointMotion.plan(np.array(self._state.q), goal, duration_s, np.full(7, 1.0))
        self._stop_tracking()
        try:
            self._robot.move(franky.JointMotion(franky.JointState(goal)), asynchronous=True)
        except _errors() as error:
            raise _fault(self.host, error) from error
        self._motion, self._motion_start = motion, self.time_s

    def move_to_pose(self, pose: Array, duration_s: float) -> None:
        """Begin a straight motion of the tcp, compliantly."""
        motion = PoseMotion.plan(self._tcp, np.asarray(pose, dtype=np.float64), duration_s, MOTION_SPEED)
        self._end_motion()
        self._track(MOTION_GAINS)
        self._motion, self._motion_start = motion, self.time_s

    def recover(self) -> None:
        """Clear the robot's fault once and hold the measured pose. Raises DeviceFaultError when it persists."""
        if self._robot is None:
            self.connect()
            return
        if self._tracker is not None:  # nothing is wrong with the robot
            self.stop()
            return
        self._motion = None
        try:
            if self._robot.has_errors and not self._robot.recover_from_errors():
                raise DeviceFaultError(f"{self.host} does not recover: {advice_for(self._robot.state.robot_mode.name)}")
            self._begin()
        except _library().NetworkException:
            self._robot = None
            self.connect()
        except _errors() as error:
            raise _fault(self.host, error) from error

    def stop(self) -> None:
        """Hold the measured pose."""
        self._end_motion()
        self._goal[:] = self._tcp
        self._target[:] = self._tcp

    def close(self) -> None:
        """Stop tracking; the robot then holds by itself."""
        if self._robot is not None:
            self._stop_tracking()
        self._robot = None

    def facts(self) -> dict[str, Any]:
        """What `check-cell` shows."""
        state = self._state
        return {
            "mode": state.robot_mode.name,
            "commands arriving": f"{100 * state.control_command_success_rate:.1f} %",
            "mass of tool and load": f"{state.m_total:.2f} kg",
        }

    def _begin(self) -> None:
        self._read()
        self._motion, self._tracker, self._next = None, None, 0.0
        self._goal[:] = self._tcp
        self._track(self._gains)

    def _track(self, gains: ImpedanceGains) -> None:
        """A tracker with these gains, from the measured pose; it takes over from the one before without a stop."""
        franky = _library()
        self._target[:] = self._tcp
        self._tracker = franky.CartesianImpedanceTracker(
            self._robot,
            gains=franky.CartesianImpedanceGains.diagonal(
                np.array(gains.stiffness + gains.rotational_stiffness),
                np.array(gains.damping + gains.rotational_damping),
            ),
            translational_error_clip=np.array(gains.translational_clip),
            rotational_error_clip=np.array(gains.rotational_clip),
            posture_task=franky.PostureTask(self._home, gains.nullspace_stiffness),
            max_delta_tau=min(gains.torque_rate, 1.0),
            lower_joint_limits=FR3_LIMITS.lower,
            upper_joint_limits=FR3_LIMITS.upper,
            joint_limit_activation_distance=gains.limit_margin,
            joint_limit_stiffness=gains.limit_stiffness,
        )

    def _stop_tracking(self) -> None:
        if self._tracker is not None:
            with contextlib.suppress(*_errors()):  # it had stopped already
                self._tracker.stop()
            self._tracker = None

    def _read(self) -> None:
        self._state = self._robot.state
        self.time_s = self._state.time.to_sec()
        pose = self._state.O_T_EE
        self._tcp[:3], self._tcp[3:] = pose.translation, pose.quaternion

    def _follow(self) -> None:
        franky = _library()
        motion = self._motion
        if isinstance(motion, PoseMotion):
            elapsed = self.time_s - self._motion_start
            self._target[:] = motion.at(elapsed)
            self._arrive(motion, elapsed)
        else:
            self._govern()
        self._tracker.set_target(franky.Affine(self._target[:3], self._target[3:]))

    def _govern(self) -> None:
        """Move the target towards the goal, as fast as the limits allow."""
        limits = self._limits
        speed, turn_speed = limits.max_speed if limits is not None else MOTION_SPEED
        way = self._goal[:3] - self._target[:3]
        distance = math.hypot(*way)
        allowed = min(speed, math.sqrt(2.0 * BRAKING * distance)) * self.period_s
        self._target[:3] += way * min(1.0, allowed / max(distance, 1e-12))
        turn = rotvec_from_quat(quat_multiply(self._goal[3:], quat_conjugate(self._target[3:])))
        angle = math.hypot(*turn)
        turn *= min(1.0, turn_speed * self.period_s / max(angle, 1e-12))
        self._target[3:] = quat_multiply(quat_from_rotvec(turn), self._target[3:])

    def _arrive(self, motion: PoseMotion, elapsed: float) -> None:
        if elapsed < motion.duration_s:
            return
        off = float(np.linalg.norm(motion.goal[:3] - self._tcp[:3]))
        turned = float(np.linalg.norm(rotvec_from_quat(quat_multiply(motion.goal[3:], quat_conjugate(self._tcp[3:])))))
        if off < ARRIVED[0] and turned < ARRIVED[1]:
            self._motion = None
            self._goal[:] = motion.goal
            self._track(self._gains)
        elif elapsed > motion.duration_s + SETTLE_S:
            self.stop()
            raise not_arrived(self.host, f"tcp {1000 * off:.0f} mm, {turned:.2f} rad off", SETTLE_S)

    def _wait_for_joints(self, motion: JointMotion) -> None:
        if not self._robot.is_in_control:
            self._motion = None
            self._begin()
        elif self.time_s - self._motion_start > 5.0 * motion.duration_s + SETTLE_S:
            raise DeviceFaultError(f"A joint motion of {self.host} did not end. Look for what is in its way.")

    def _end_motion(self) -> None:
        if isinstance(self._motion, JointMotion):
            self._robot.stop()
            self._begin()
        elif self._motion is not None:
            self._track(self._gains)
        self._motion = None


def _fault(host: str, error: Exception) -> DeviceFaultError | DeviceConnectionError:
    return broken(host, error) if isinstance(error, _library().NetworkException) else stopped_itself(host, error)


def _errors() -> tuple[type[Exception], ...]:
    """What franky raises: a tree of its own beside pybind11's RuntimeError."""
    return (_library().Exception, RuntimeError)


def _library() -> Any:
    try:
        import franky
    except ImportError as error:
        raise ConfigError(f"driver: franky needs franky-control ({error}): pip install 'robot-rl[franka]'") from error
    return franky
