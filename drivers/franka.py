"""The Franka Research 3 through libfranka: our impedance law writes joint torques at
1 kHz.

One torque-control session lasts from `connect` to `close`; impedance, joint motions and resting are three ways of
computing the torque inside it, so nothing ever switches the robot's own controller while it moves. libfranka adds
gravity; the law adds Coriolis (`bias`). Runs in the driver process (`drivers.realtime`): pylibfranka keeps the
interpreter's lock while it waits for the robot.

Joint-impedance gains as in libfranka's own example.
"""

import time
from dataclasses import replace
from typing import Any

import numpy as np
from numba import njit
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
    pose_into,
    pose_of,
    probe,
    realtime_kernel,
    reflex_of,
    stopped_itself,
)
from drivers.impedance import ImpedanceGains, ImpedanceLaw
from drivers.impedance_guard import NO_LIMITS
from drivers.interfaces import ArmState
from drivers.motions import JointMotion, PoseMotion, check_home
from drivers.safety import SafetyLimits
from robot_rl.errors import ConfigError, DeviceConnectionError, DeviceFaultError
from robot_rl.geometry import (
    compose,
    invert,
    matrix_from_quat,
    quat_conjugate,
    quat_multiply,
    rotvec_from_quat,
)

__all__ = ["FrankaArm"]

Array = NDArray[np.float64]

PORT = 1337
JOINT_STIFFNESS = np.array([600.0, 600, 600, 600, 250, 150, 50])  # [N m/rad]
JOINT_DAMPING = np.array([50.0, 50, 50, 50, 30, 25, 15])  # [N m s/rad]
TORQUE_STEP = 0.9  # [N m per ms]; the robot's own limit is 1
MOTION_JOINT_SPEED = np.array([1.0, 1, 1, 1, 1.5, 1.5, 1.5])  # [rad/s], well below the robot's own
ARRIVED = (0.01, 0.05)  # [m], [rad]
ARRIVED_JOINTS = 0.02  # [rad]
SETTLE_S = 2.0  # a motion may end this much later than planned


class FrankaArm:
    """A Franka arm as a `ServoArm`.

    Args:
        host: Its address.
        tcp_flange: Pose of the tcp in the flange, shape (7,); by default where the Franka hand's is.
        load_kg: Mass of what the gripper always holds; 0 when Desk's settings stand.
        load_centre: Its centre of mass in the flange [m], shape (3,).
        home: Joint posture the null space pulls to [rad], shape (7,).
        collision: Force [N] and torque [N m] at the tcp, and joint torque [N m], at which the robot's own reflex stops
        it. realtime: `auto` asks libfranka to insist on a real-time kernel where there is one; `enforce`; `ignore`.
    """

    period_s = 0.001
    joint_limits = FR3_LIMITS

    def __init__(
        self,
        host: str,
        *,
        tcp_flange: tuple[float, ...] = HAND_FLANGE,
        load_kg: float = 0.0,
        load_centre: tuple[float, float, float] = (0.0, 0.0, 0.0),
        home: tuple[float, ...] = FR3_HOME,
        collision: tuple[float, float, float] = (60.0, 20.0, 60.0),
        realtime: str = "auto",
    ) -> None:
        if realtime not in ("auto", "enforce", "ignore"):
            raise ConfigError(f"realtime={realtime!r} is not known; use auto, enforce or ignore.")
        self.host, self.law_s, self.time_s = host, 0.0, 0.0
        self._tcp_flange, self._load = np.array(tcp_flange), (load_kg, list(load_centre))
        self._collision, self._realtime = collision, realtime
        posture = check_home(np.array(home), FR3_LIMITS.lower, FR3_LIMITS.upper)
        self._law = ImpedanceLaw(replace(FR3_LIMITS, posture=posture))
        self._gains, self._limits = ImpedanceGains(), NO_LIMITS
        self._robot: Any = None
        self._control: Any = None
        self._state: Any = None
        self._q, self._qd, self._bias = np.zeros(7), np.zeros(7), np.zeros(7)
        self._tcp, self._jacobian, self._torque = np.zeros(7), np.zeros((6, 7)), np.zeros(7)
        self._target = np.zeros(7)
        self._motion: JointMotion | PoseMotion | None = None
        self._motion_start = 0.0

    def connect(self) -> None:
        """Reach the robot and begin torque control, holding the measured pose. Raises DeviceConnectionError."""
        franka = _library()
        probe(self.host, PORT)
        enforce = {"enforce": True, "ignore": False, "auto": realtime_kernel()}[self._realtime]
        config = franka.RealtimeConfig.kEnforce if enforce else franka.RealtimeConfig.kIgnore
        with connect_errors(self.host, franka):
            self._robot = franka.Robot(self.host, config)
            self._prepare(franka)
            self._begin()

    @property
    def moving(self) -> bool:
        """Whether a motion is under way."""
        return self._motion is not None

    def tick(self) -> None:
        """One cycle of the robot: read, compute, answer. Without control (after a fault) it only reads."""
        franka = _library()
        try:
            if self._control is None:
                self._read(self._robot.read_once())
                return
            state, _ = self._control.readOnce()
            self._read(state)
            self._compute()
            self._control.writeOnce(franka.Torques(self._torque.tolist()))
        except franka.ControlException as error:
            self._lose_control()
            raise stopped_itself(self.host, error) from error
        except RuntimeError as error:  # NetworkException, and plain ones where pylibfranka names none
            self._lose_control()
            raise broken(self.host, error) from error

    def state(self) -> ArmState:
        """The reading of the last tick; `time_s` is the robot's own clock."""
        to_tcp = matrix_from_quat(self._tcp[3:]).T
        twist = self._jacobian @ self._qd
        return ArmState(
            time_s=self.time_s,
            q=self._q.copy(),
            qd=self._qd.copy(),
            torque=self._torque.copy(),
            tcp_pose=self._tcp.copy(),
            twist_tcp=np.concatenate([to_tcp @ twist[:3], to_tcp @ twist[3:]]),
            wrench_tcp=np.array(self._state.K_F_ext_hat_K),  # libfranka: positive = robot on environment
        )

    def command(self, target_pose: Array) -> None:
        """Follow a target pose in `base`, shape (7,)."""
        self._end_motion()
        self._target[:] = target_pose

    def set_impedance(self, gains: ImpedanceGains) -> None:
        """Change stiffness, damping and clips."""
        self._gains = gains
        if not isinstance(self._motion, PoseMotion):
            self._law.set_gains(gains)

    def set_limits(self, limits: SafetyLimits) -> None:
        """What the law enforces in every tick."""
        self._limits = limits.pack()
        if self._motion is None:
            self._law.limits[:] = self._limits

    def move_to_joints(self, q: Array, duration_s: float) -> None:
        """Begin a joint motion; joint impedance, speed limited."""
        self._start_motion(JointMotion.plan(self._q, np.asarray(q, dtype=np.float64), duration_s, MOTION_JOINT_SPEED))

    def move_to_pose(self, pose: Array, duration_s: float) -> None:
        """Begin a straight motion of the tcp; Cartesian impedance, speed limited."""
        self._start_motion(PoseMotion.plan(self._tcp, np.asarray(pose, dtype=np.float64), duration_s, MOTION_SPEED))
        self._law.set_gains(MOTION_GAINS)

    def recover(self) -> None:
        """Clear the robot's fault once and hold the measured pose. Raises DeviceFaultError when it persists."""
        franka = _library()
        if self._robot is None:
            self.connect()
            return
        if self._control is not None:  # nothing is wrong with the robot
            self.stop()
            return
        try:
            if self._robot.read_once().robot_mode != franka.RobotMode.Idle:
                self._robot.automatic_error_recovery()
            self._begin()
        except franka.NetworkException:
            self._robot = None
            self.connect()
        except RuntimeError as error:
            raise DeviceFaultError(
                f"{self.host} does not recover: {reflex_of(error)}. {advice_for(self._mode(franka))}",
                errors=reflex_of(error),
            ) from error

    def stop(self) -> None:
        """Hold the measured pose."""
        self._end_motion()
        self._target[:] = self._tcp

    def close(self) -> None:
        """End torque control; the robot then holds by itself."""
        if self._robot is None:
            return
        franka = _library()
        try:
            if self._control is not None:
                self._control.readOnce()
                finished = franka.Torques(self._torque.tolist())
                finished.motion_finished = True
                self._control.writeOnce(finished)
        except RuntimeError:
            pass  # it had stopped already
        self._control, self._robot = None, None

    def facts(self) -> dict[str, Any]:
        """What `check-cell` shows: mode, success rate of commands, tool and load."""
        state = self._state
        return {
            "mode": state.robot_mode.name,
            "commands arriving": f"{100 * state.control_command_success_rate:.1f} %",
            "mass of tool and load": f"{state.m_total:.2f} kg",
        }

    # The session

    def _prepare(self, franka: Any) -> None:
        """Collision thresholds, tool and load; then make sure that the robot is ready to move."""
        force, torque, joints = self._collision
        wrench = [force] * 3 + [torque] * 3
        state = self._robot.read_once()
        if state.robot_mode in (franka.RobotMode.UserStopped, franka.RobotMode.Guiding, franka.RobotMode.Other):
            raise DeviceConnectionError(f"{self.host} is not ready: {advice_for(state.robot_mode.name)}")
        if state.robot_mode == franka.RobotMode.Reflex:
            self._robot.automatic_error_recovery()
        self._robot.set_collision_behavior([joints] * 7, [joints] * 7, wrench, wrench)
        flange_nominal = pose_of(state.F_T_NE)
        self._robot.set_EE(column_major(compose(invert(flange_nominal), self._tcp_flange)))
        self._robot.set_K(column_major(np.array([0.0, 0, 0, 0, 0, 0, 1])))
        if self._load[0] > 0.0:
            self._robot.set_load(self._load[0], self._load[1], [0.0] * 9)
        self._model = self._robot.load_model()

    def _begin(self) -> None:
        """Torque control from rest: the target is the measured pose."""
        self._read(self._robot.read_once())
        self._motion = None
        self._target[:] = self._tcp
        self._law.reset(self._tcp)
        self._compute()  # once in vain, and state() too: loading compiled code takes longer than the robot waits
        self.state()
        self._law.reset(self._tcp)
        self._law.set_gains(self._gains)
        self._law.limits[:] = self._limits
        self._torque[:] = 0.0
        self._control = self._robot.start_torque_control()
        self.tick()  # at once: the robot counts every millisecond without an answer

    def _lose_control(self) -> None:
        self._control, self._motion = None, None

    def _read(self, state: Any) -> None:
        self._state, self.time_s = state, state.time.to_sec()
        self._q[:], self._qd[:] = state.q, state.dq
        pose_into(np.array(state.O_T_EE), self._tcp)
        self._jacobian[:] = np.array(self._model.zero_jacobian(state)).reshape(7, 6).T
        self._bias[:] = self._model.coriolis(state)
        self._law.contact[:] = state.O_F_ext_hat_K  # libfranka: positive = robot on environment

    def _compute(self) -> None:
        motion = self._motion
        if isinstance(motion, JointMotion):
            wanted = self._follow_joints(motion)
        else:
            if motion is not None:
                self._follow_pose(motion)
            start = time.perf_counter()
            wanted = self._law.torque(self._target, self._tcp, self._jacobian, self._q, self._qd, self._bias)
            self.law_s = time.perf_counter() - start
        # The robot checks the rate of the whole torque, Coriolis included, from the last one that reached it.
        _limit_rate(wanted, np.array(self._state.tau_J_d), self._torque)

    # Motions

    def _start_motion(self, motion: JointMotion | PoseMotion) -> None:
        self._end_motion()
        self._law.limits[:] = NO_LIMITS  # a reset may begin and end outside a task's box; its own speed is limited
        self._motion, self._motion_start = motion, self.time_s

    def _end_motion(self) -> None:
        if self._motion is None:
            return
        if isinstance(self._motion, JointMotion):  # the law goes on from the torque that is there
            self._law.reset(self._tcp)
            self._law.memory[7:14] = self._law.memory[14:21] = self._torque - self._bias
        self._motion = None
        self._target[:] = self._tcp
        self._law.set_gains(self._gains)
        self._law.limits[:] = self._limits

    def _follow_joints(self, motion: JointMotion) -> Array:
        elapsed = self.time_s - self._motion_start
        q, qd = motion.at(elapsed)
        wanted = JOINT_STIFFNESS * (q - self._q) + JOINT_DAMPING * (qd - self._qd) + self._bias
        off = float(np.abs(motion.goal - self._q).max())
        if elapsed >= motion.duration_s:
            self._arrive(elapsed - motion.duration_s, off < ARRIVED_JOINTS, f"joints {off:.3f} rad off")
        return wanted

    def _follow_pose(self, motion: PoseMotion) -> None:
        elapsed = self.time_s - self._motion_start
        self._target[:] = motion.at(elapsed)
        if elapsed >= motion.duration_s:
            off = float(np.linalg.norm(motion.goal[:3] - self._tcp[:3]))
            turn = quat_multiply(motion.goal[3:], quat_conjugate(self._tcp[3:]))
            turned = float(np.linalg.norm(rotvec_from_quat(turn)))
            there = off < ARRIVED[0] and turned < ARRIVED[1]
            self._arrive(elapsed - motion.duration_s, there, f"tcp {1000 * off:.0f} mm, {turned:.2f} rad off")

    def _arrive(self, late_s: float, there: bool, off: str) -> None:
        if there and np.abs(self._qd).max() < 0.05:
            goal = self._motion.goal if isinstance(self._motion, PoseMotion) else None
            self._end_motion()
            if goal is not None:
                self._target[:] = goal
        elif late_s > SETTLE_S:
            self._end_motion()
            raise not_arrived(self.host, off, late_s)

    def _mode(self, franka: Any) -> str:
        try:
            return str(self._robot.read_once().robot_mode.name)
        except franka.NetworkException:
            return "unreachable"


@njit(cache=True)
def _limit_rate(wanted: Array, reached: Array, torque: Array) -> None:
    for j in range(wanted.shape[0]):
        torque[j] = min(max(wanted[j], reached[j] - TORQUE_STEP), reached[j] + TORQUE_STEP)


def _library() -> Any:
    try:
        import pylibfranka
    except ImportError as error:
        raise ConfigError(
            f"The Franka driver needs pylibfranka ({error}): pip install 'robot-rl[franka]'. On a machine without a "
            "real-time kernel, driver: franky runs the 1 kHz loop in C++ instead."
        ) from error
    return pylibfranka
