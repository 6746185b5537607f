"""Universal Robots e-Series arms through ur_rtde: our law's wrench, exerted by the controller's own force mode.

A UR is position controlled; there are two ways to make it compliant from outside.

- Force mode, used here: every cycle the law's wrench K clip(e) - D v, in `base`, is handed to the controller, which
  moves all six axes until the arm exerts it. The force loop closes inside the controller, next to the sensor.
- An admittance of our own over servoL, v = (K clip(e) - measured wrench) / D: closes the force loop over the network
  and through servoJ's lookahead, at least 30 ms, and is stable on stiff surfaces only while stiffness x delay < D.

Measured against the emulator (whose force mode is a model of ours, see `drivers.emulators.rtde_motion`) at K = 1000
N/m, D = 60 N s/m, clip 5 cm for the step, 2 cm (20 N) onto the table:

|                             | force mode            | servoL admittance                                   |
| --------------------------- | --------------------- | --------------------------------------------------- |
| 5 cm step: 90 %, overshoot  | 0.57 s, 0.01 mm       | 0.28 s, 0.9 mm                                      |
| table at 0.11 m/s: peak     | 52 N                  | 67 N                                                |
| table, speed limit 0.25 m/s | as above (0.11 m/s)   | protective stop; needs D = 300, then 5 times slower |

The clip bounds the force: at rest the arm pushes with K x clip at most; what it hits at speed adds its inertia. In free
space the controller's damping adds to the law's, so the arm is slower than the twin at the same gains. `force_gain` and
`force_damping` are the controller's own parameters; a stiffer surface wants a smaller gain or more damping.

A watchdog on the controller stops its program when this process stops sending. Runs in the driver process.
"""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivers.impedance import ImpedanceGains, ImpedanceLaw, JointLimits
from drivers.interfaces import ArmState
from drivers.motions import JointMotion, PoseMotion, check_home
from drivers.safety_limits import SafetyLimits
from drivers.ur_client import Reading, UrClient, to_ur_pose
from drivers.ur_link import SAFE, advice
from robot_rl.errors import (
    ConfigError,
    DeviceConnectionError,
    DeviceError,
    DeviceFaultError,
    DeviceTimeoutError,
    SafetyError,
)
from robot_rl.geometry import IDENTITY_XYZW, matrix_from_quat, quat_conjugate, quat_multiply, rotvec_from_quat

__all__ = ["UR5E_HOME", "UR5E_LIMITS", "UrArm"]

Array = NDArray[np.float64]

UR5E_HOME = (-0.269864, -1.538540, 1.887982, -1.920238, -1.570796, -1.055262)
UR5E_LIMITS = JointLimits(
    lower=np.array([-2.0, -2.0, -1.0, -2.0, -2.0, -2.0]) * np.pi,
    upper=np.array([2.0, 2.0, 1.0, 2.0, 2.0, 2.0]) * np.pi,
    torque=np.array([150.0, 150, 150, 28, 28, 28]),
    posture=np.array(UR5E_HOME),
)
ALL_AXES, AS_GIVEN = [1] * 6, 2  # force mode: every axis compliant; the force frame is taken as it is
FASTEST = (0.25, 1.0)  # speed limits of force mode until set_limits [m/s, rad/s]
MOTION_JOINT_SPEED = np.full(6, 1.0)  # [rad/s]
MOTION_SPEED = (0.25, 1.0)  # [m/s, rad/s]
LOOKAHEAD_S, SERVO_GAIN, SERVO_STOP = 0.05, 500.0, 2.0
ARRIVED, ARRIVED_JOINTS, AT_REST = (0.002, 0.01), 0.003, 0.01  # [m, rad], [rad], [rad/s]
SETTLE_S = 2.0  # a motion may end this much later than planned
FOLLOW_S = 0.1  # a motion left alone for longer than this waits, and goes on from where it was instead of leaping


class UrArm:
    """A UR e-Series arm as a `ServoArm`.

    Args:
        host: The controller's address.
        home: Joint posture to begin episodes at [rad], shape (6,).
        frequency_hz: Of the control loop: 500, or 125.
        tcp_flange: Pose of the tcp in the flange (tool0), shape (7,); by default where the twin's gripper has it.
        payload_kg: Mass of gripper and load; None leaves what is set on the tablet.
        payload_centre: Its centre of mass in the flange [m], shape (3,).
        force_gain: Gain scaling of force mode, 0 to 2.
        force_damping: Damping of force mode, 0 to 1.
        zero_sensor: Take the force sensor's reading for zero at connect and after joint motions, as UR advises before
            force mode; the tool touches nothing then.
        watchdog_hz: The controller stops its program when commands come less often.
        timeout_s: How long a state may take to arrive.

    Raises:
        ConfigError: A number is out of its range.
    """

    max_step_s = 0.02

    def __init__(  # noqa: PLR0913 (a cell file's options, each with its default)
        self, host: str, *, home: tuple[float, ...] = UR5E_HOME, frequency_hz: float = 500.0,
        tcp_flange: tuple[float, ...] = (0.0, 0.0, 0.1034, 0.0, 0.0, -0.3826834323650898, 0.9238795325112867),
        payload_kg: float | None = None, payload_centre: tuple[float, float, float] = (0.0, 0.0, 0.0),
        force_gain: float = 1.0, force_damping: float = 0.025, zero_sensor: bool = True, watchdog_hz: float = 5.0,
        timeout_s: float = 0.25,
    ) -> None:  # fmt: skip
        if frequency_hz not in (125.0, 500.0) or not 0.0 < force_gain <= 2.0 or not 0.0 <= force_damping <= 1.0:
            raise ConfigError(
                f"UrArm: frequency_hz {frequency_hz:g}, force_gain {force_gain:g}, force_damping "
                f"{force_damping:g}; expected "
                "125 or 500, above 0 to 2, and 0 to 1 (arm.options in the cell file)."
            )
        self.host, self.period_s, self.law_s = host, 1.0 / frequency_hz, 0.0
        self.timeout_s = timeout_s
        self.joint_limits = JointLimits(
            lower=UR5E_LIMITS.lower,
            upper=UR5E_LIMITS.upper,
            torque=UR5E_LIMITS.torque,
            posture=check_home(np.array(home), UR5E_LIMITS.lower, UR5E_LIMITS.upper),
        )
        self._tcp_flange = np.array(tcp_flange)
        self._payload = (payload_kg, payload_centre)
        self._force = (force_gain, force_damping)
        self._zero_sensor, self._watchdog_hz = zero_sensor, watchdog_hz
        self._law = ImpedanceLaw(self.joint_limits, self.period_s)
        self._speed_limits = [FASTEST[0]] * 3 + [FASTEST[1]] * 3
        self._client = UrClient(host, frequency_hz, self._tcp_flange)
        self._reading: Reading | None = None
        self._target = np.zeros(7)
        self._motion: JointMotion | PoseMotion | None = None
        self._motion_s = self._followed = 0.0  # how far along it is; when it was last led on
        self._armed = False  # whether the controller's watchdog runs: from the first tick on
        self._mode = "none"  # what the controller is doing for us: none, idle, force, servo

    def __enter__(self) -> "UrArm":
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Connection

    def connect(self) -> None:
        """Reach the arm and hold the measured pose.

        Raises:
            ConfigError: ur_rtde is not installed.
            DeviceConnectionError: Within 3 s: not there, not ready, another version, local control, or in use.
        """
        if self._client.opened:
            return
        self._client.open()
        try:
            self._prepare()
        except (DeviceFaultError, DeviceTimeoutError):
            self.close()
            raise

    def close(self) -> None:
        """End the program on the controller; the arm stands still by itself."""
        if self._client.opened and self._mode != "none" and self._client.alive():
            for call in (("forceModeStop",) if self._mode == "force" else (), ("stopScript",)):
                try:
                    if call:
                        self._client.ask(*call)
                except (DeviceFaultError, DeviceTimeoutError):
                    break
        self._mode, self._motion = "none", None
        self._client.close()

    def recover(self) -> None:
        """Unlock a protective stop, start the program anew, and hold the measured pose.

        Raises:
            DeviceFaultError: It persists, or is not for a program to clear (emergency stop, safeguard, power).
            DeviceConnectionError: The controller is gone.
        """
        self._mode, self._motion = "none", None
        if not self._client.fresh(self.timeout_s):
            self._client.reopen()
            self._prepare()
            return
        reading = self._client.read()
        if reading.safety == "PROTECTIVE_STOP":
            self._client.unlock()
            reading = self._client.until(lambda r: r.safety in SAFE, "unlock")
        if reading.safety in SAFE and reading.robot_mode != "RUNNING":  # brakes take a moment
            reading = self._client.until(lambda r: r.robot_mode == "RUNNING", "release its brakes")
        if reading.safety not in SAFE or reading.robot_mode != "RUNNING":
            raise DeviceFaultError(
                f"{self.host} cannot be recovered from here: robot mode {reading.robot_mode}, safety {reading.safety}. "
                + advice(reading.robot_mode, reading.safety),
                robot_mode=reading.robot_mode,
                safety=reading.safety,
            )
        self._client.restart()
        self._prepare()

    # Commands

    @property
    def moving(self) -> bool:
        """Whether a motion is under way."""
        return self._motion is not None

    @property
    def time_s(self) -> float:
        """Of the last reading, on the controller's own clock [s]."""
        return self._now().time_s

    def state(self) -> ArmState:
        """The reading of the last tick; `time_s` is the controller's own clock. Raises DeviceConnectionError."""
        r = self._now()
        to_tcp = matrix_from_quat(r.tcp_pose[3:]).T
        return ArmState(
            time_s=r.time_s,
            q=r.q.copy(),
            qd=r.qd.copy(),
            torque=r.torque.copy(),
            tcp_pose=r.tcp_pose.copy(),
            twist_tcp=np.concatenate([to_tcp @ r.twist[:3], to_tcp @ r.twist[3:]]),
            wrench_tcp=np.concatenate([to_tcp @ r.wrench[:3], to_tcp @ r.wrench[3:]]),
        )

    def command(self, target_pose: Array) -> None:
        """Follow a target pose in `base`, shape (7,). Raises SafetyError when it is no pose."""
        if target_pose.shape != (7,) or not np.isfinite(target_pose).all():
            raise SafetyError(
                f"Target pose {target_pose.tolist()} is not 7 finite numbers. The arm keeps its last target."
            )
        self._motion = None
        self._target[:] = target_pose

    def set_impedance(self, gains: ImpedanceGains) -> None:
        """Change stiffness, damping and clips."""
        self._law.set_gains(gains)

    def set_limits(self, limits: SafetyLimits) -> None:
        """Walls, speed and wrench bounds in the law; the speed also in the controller."""
        self._law.set_limits(limits)
        self._speed_limits = [limits.max_speed[0]] * 3 + [limits.max_speed[1]] * 3

    def move_to_joints(self, q: Array, duration_s: float) -> None:
        """Begin a joint motion; slower than asked where a joint would be too fast."""
        self._begin(JointMotion.plan(self._now().q, np.asarray(q, dtype=np.float64), duration_s, MOTION_JOINT_SPEED))

    def move_to_pose(self, pose: Array, duration_s: float) -> None:
        """Begin a straight motion of the tcp; slower than asked where it would be too fast."""
        self._begin(PoseMotion.plan(self._now().tcp_pose, np.asarray(pose, dtype=np.float64), duration_s, MOTION_SPEED))

    def stop(self) -> None:
        """Hold the measured pose."""
        self._motion = None
        self._target[:] = self._now().tcp_pose
        self._law.reset(self._target)

    def tick(self) -> None:
        """One cycle: wait for a state, answer it. After a fault it only reads."""
        last = self._now().time_s
        try:
            self._client.wait(last, self.timeout_s)
        except (DeviceTimeoutError, DeviceConnectionError):
            self._mode, self._motion = "none", None
            raise
        begun = time.perf_counter()
        self._reading = self._client.read()
        if self._mode == "none":
            return
        try:
            self._check()
            if not self._armed:
                self._client.ask("setWatchdog", self._watchdog_hz)
                self._armed = True
            if self._motion is None:
                self._push()
            else:
                self._follow(self._motion)
        except DeviceError:
            self._mode, self._motion = "none", None
            raise
        self.law_s = time.perf_counter() - begun

    def facts(self) -> dict[str, Any]:
        """What `check-cell` shows: version, modes, temperatures."""
        reading, survey = self._now(), self._client.survey
        return {
            "controller": ".".join(str(v) for v in survey.version) if survey else "?",
            "mode": f"{reading.robot_mode}, safety {reading.safety}",
            "warmest joint": f"{max(self._client.temperatures()):.0f} degC",
        }

    # One cycle

    def _now(self) -> Reading:
        if self._reading is None:
            raise DeviceConnectionError(f"UrArm {self.host} is not connected. Call connect() first.")
        return self._reading

    def _check(self) -> None:
        r = self._now()
        if r.healthy:
            return
        what = (
            f"safety {r.safety}" if r.safety not in SAFE
            else f"robot mode {r.robot_mode}" if r.robot_mode != "RUNNING" else "its program was stopped"
        )  # fmt: skip
        raise DeviceFaultError(
            f"{self.host}: {what}. The arm stands still. {advice(r.robot_mode, r.safety)}",
            robot_mode=r.robot_mode,
            safety=r.safety,
        )

    def _push(self) -> None:
        """The law's wrench into force mode; its frame is at the tcp, along our `base`."""
        if self._mode == "servo":
            self._client.ask("servoStop", SERVO_STOP)
            self._mode = "idle"
        r = self._now()
        self._law.contact[:] = r.wrench
        wrench = self._law.wrench(self._target, r.tcp_pose, r.twist)
        frame = to_ur_pose(np.concatenate([r.tcp_pose[:3], IDENTITY_XYZW]))
        self._client.ask("forceMode", frame, ALL_AXES, wrench.tolist(), AS_GIVEN, self._speed_limits)
        self._mode = "force"

    def _follow(self, motion: JointMotion | PoseMotion) -> None:
        if self._mode == "force":
            self._client.ask("forceModeStop")
        self._mode = "servo"
        r = self._now()
        self._motion_s += min(r.time_s - self._followed, FOLLOW_S)
        self._followed, elapsed = r.time_s, self._motion_s
        settings = (0.0, 0.0, self.period_s, LOOKAHEAD_S, SERVO_GAIN)
        if isinstance(motion, JointMotion):
            self._client.ask("servoJ", motion.at(elapsed)[0].tolist(), *settings)
            away = float(np.abs(motion.goal - r.q).max())
            there, off = away < ARRIVED_JOINTS, f"joints {away:.3f} rad"
        else:
            self._client.ask("servoL", to_ur_pose(motion.at(elapsed)), *settings)
            away = float(np.linalg.norm(motion.goal[:3] - r.tcp_pose[:3]))
            turned = _turn(motion.goal, r.tcp_pose)
            there, off = away < ARRIVED[0] and turned < ARRIVED[1], f"tcp {1000 * away:.0f} mm, {turned:.2f} rad"
        if elapsed < motion.duration_s:
            return
        if there and float(np.abs(r.qd).max()) < AT_REST:
            self._finish(motion)
        elif elapsed > motion.duration_s + SETTLE_S:
            raise DeviceFaultError(
                f"A motion of {self.host} did not arrive: {off} off, {SETTLE_S:g} s later than planned. The arm "
                "stands still. "
                "Look for what is in its way, then reset the environment."
            )

    # Motions

    def _begin(self, motion: JointMotion | PoseMotion) -> None:
        self._motion, self._motion_s, self._followed = motion, 0.0, self._now().time_s

    def _finish(self, motion: JointMotion | PoseMotion) -> None:
        """Rest where the motion ended."""
        self._client.ask("servoStop", SERVO_STOP)
        self._mode, self._motion = "idle", None
        if isinstance(motion, JointMotion):
            self._zero()
        self._target[:] = self._now().tcp_pose if isinstance(motion, JointMotion) else motion.goal
        self._law.reset(self._target)

    def _zero(self) -> None:
        if self._zero_sensor:
            self._client.ask("zeroFtSensor")

    # Faults

    def _prepare(self) -> None:
        """Tool, payload, force-mode parameters and watchdog; the target is the measured pose."""
        offset = [*self._tcp_flange[:3], *rotvec_from_quat(self._tcp_flange[3:])]
        self._client.ask("setTcp", offset)
        mass, centre = self._payload
        if mass is not None:
            self._client.ask("setPayload", mass, list(centre))
        self._client.ask("forceModeSetGainScaling", self._force[0])
        self._client.ask("forceModeSetDamping", self._force[1])
        self._zero()
        stamp = self._client.read().time_s
        self._client.wait(stamp, self.timeout_s)
        self._reading = self._client.read()
        self._motion, self._mode = None, "idle"
        self._armed = False
        self.stop()
        self._law.wrench(self._target, self._target, np.zeros(6))  # compiled before the watchdog watches


def _turn(a: Array, b: Array) -> float:
    return float(np.linalg.norm(rotvec_from_quat(quat_multiply(a[3:], quat_conjugate(b[3:])))))
