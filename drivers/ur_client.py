"""ur_rtde behind one door: its connections, one reading of the arm, and its refusals as our errors.

Frames are turned here and nowhere else: a UR's Base is our `base` (ROS's base_link) turned by pi about z. An e-Series
reports `actual_TCP_force` as the world's wrench on the robot, at the flange, along Base (UR's ROS 2 driver, pull
requests 1287 and 1615; "external wrench" in its URScript manual); ours is what the robot exerts on the world, at the
tcp. To check the sign on metal: lift the tool gently by hand; `wrench_tcp`, turned into `base`, has a negative z.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivers.ur_link import ROBOT_MODES, SAFE, SAFETY_MODES, Dashboard, Survey, advice, survey
from robot_rl.errors import ConfigError, DeviceConnectionError, DeviceFaultError, DeviceTimeoutError
from robot_rl.geometry import compose, invert, quat_from_rotvec, quat_multiply, rotvec_from_quat

__all__ = ["HALF_TURN", "Reading", "UrClient", "to_ur_pose"]

Array = NDArray[np.float64]

HALF_TURN = np.array([0.0, 0.0, 1.0, 0.0])  # pi about z, quat_xyzw; its own inverse up to sign
FLIP = np.array([-1.0, -1.0, 1.0])  # the same on vectors
VARIABLES = [
    "timestamp", "actual_q", "actual_qd", "target_moment", "actual_TCP_pose", "actual_TCP_speed", "actual_TCP_force",
    "robot_mode", "safety_mode", "runtime_state", "joint_temperatures",
]  # fmt: skip
PLAYING = 2
POLL_S = 5e-5  # between looks for a new reading
CLOSE_S = 3.0  # for ur_rtde to let go
UNLOCK_S = 8.0  # UR wants 5 s between a protective stop and its unlocking
RESTART_S = 3.0


@dataclass(frozen=True)
class Reading:
    """One state of the arm, in our frames.

    Attributes:
        time_s: The controller's own [s].
        q, qd, torque: Per joint [rad, rad/s, N m], shape (6,).
        tcp_pose: In `base`, shape (7,).
        twist: Of the tcp in `base`, shape (6,).
        wrench: That the robot exerts on the world, at the tcp, in `base`, shape (6,).
        robot_mode, safety: As the controller names them.
        playing: Whether a program runs on the controller.
    """

    time_s: float
    q: Array
    qd: Array
    torque: Array
    tcp_pose: Array
    twist: Array
    wrench: Array
    robot_mode: str
    safety: str
    playing: bool


def to_ur_pose(pose: Array) -> list[float]:
    """A controller's six numbers, in its Base, of a pose in our `base`, shape (7,)."""
    return [*(pose[:3] * FLIP), *rotvec_from_quat(quat_multiply(HALF_TURN, pose[3:]))]


class UrClient:
    """The two connections of ur_rtde to one controller.

    Args:
        host: The controller.
        frequency_hz: Of its state stream.
        tcp_flange: Pose of the tcp in the flange, shape (7,).
    """

    def __init__(self, host: str, frequency_hz: float, tcp_flange: Array) -> None:
        self.host, self._frequency = host, frequency_hz
        self._flange_tcp = invert(tcp_flange)
        self._receive: Any = None
        self._control: Any = None
        self.survey: Survey | None = None

    def open(self) -> None:
        """Reach the controller and start ur_rtde's program on it; the arm does not move.

        Raises:
            ConfigError: ur_rtde is not installed.
            DeviceConnectionError: The controller is not there, not ready, or in use by another program.
            DeviceTimeoutError: It does not answer in time.
        """
        receive, control = _libraries()
        self.survey = survey(self.host)
        if self.survey.robot_mode != "RUNNING" or self.survey.safety not in SAFE:
            raise DeviceConnectionError(
                f"The robot at {self.host} is not ready: robot mode {self.survey.robot_mode}, safety status "
                f"{self.survey.safety}. {advice(self.survey.robot_mode, self.survey.safety)}",
                robot_mode=self.survey.robot_mode,
                safety=self.survey.safety,
            )
        try:
            self._receive = receive.RTDEReceiveInterface(self.host, self._frequency, VARIABLES)
            self._control = control.RTDEControlInterface(self.host, self._frequency)
        except (RuntimeError, ValueError) as error:  # std::runtime_error, logic_error; std::exception likewise
            self.close()
            in_use = "already in use" in str(error)
            what = (
                "Another program or a fieldbus (EtherNet/IP, PROFINET, MODBUS) holds its RTDE inputs. Stop it; "
                "only one "
                "program can drive the robot."
                if in_use
                else "Look at the robot's tablet for what it reports, then try again."
            )
            raise DeviceConnectionError(
                f"The robot at {self.host} refused to be controlled: {error} {what}", host=self.host, in_use=in_use
            ) from error

    @property
    def opened(self) -> bool:
        """Whether `open` succeeded and `close` was not called since."""
        return self._control is not None

    def alive(self) -> bool:
        """Whether the state stream is still connected."""
        return self.opened and bool(self._receive.isConnected())

    def wait(self, after_s: float, timeout_s: float) -> None:
        """Wait for a reading newer than a time stamp. Raises DeviceTimeoutError, DeviceConnectionError."""
        give_up = time.monotonic() + timeout_s
        while self._receive.getTimestamp() == after_s:
            if time.monotonic() > give_up:
                if not self._receive.isConnected():
                    raise DeviceConnectionError(
                        f"The connection to {self.host} broke. The arm stops when its watchdog notices. Check the "
                        "cable and "
                        "that the controller runs, then reset the environment: the driver connects anew.",
                        host=self.host,
                    )
                raise DeviceTimeoutError(
                    f"No new state from {self.host} within {timeout_s:g} s (UrArm.timeout_s); the last is stamped "
                    f"{after_s:.3f} s. The arm stops when its watchdog notices. Check the cable, then reset the "
                    "environment.",
                    host=self.host,
                    timeout_s=timeout_s,
                )
            time.sleep(POLL_S)

    def read(self) -> Reading:
        """The newest reading, all of one cycle."""
        r = self._receive
        for _ in range(10):
            stamp = r.getTimestamp()
            raw = (
                r.getActualQ(), r.getActualQd(), r.getTargetMoment(), r.getActualTCPPose(), r.getActualTCPSpeed(),
                r.getActualTCPForce(), r.getRobotMode(), r.getSafetyMode(), r.getRuntimeState(),
            )  # fmt: skip
            if r.getTimestamp() == stamp:
                break
        else:
            raise DeviceTimeoutError(
                f"The states of {self.host} change faster than they can be read. Is this machine busy?"
            )
        q, qd, torque, pose, twist, force = (np.array(v) for v in raw[:6])
        tcp = np.concatenate([pose[:3] * FLIP, quat_multiply(HALF_TURN, quat_from_rotvec(pose[3:]))])
        both = np.concatenate([FLIP, FLIP])
        exerted = -force * both
        exerted[3:] += np.cross(compose(tcp, self._flange_tcp)[:3] - tcp[:3], exerted[:3])
        mode, safety, runtime = raw[6:]
        return Reading(
            time_s=stamp, q=q, qd=qd, torque=torque, tcp_pose=tcp, twist=twist * both, wrench=exerted,
            robot_mode=ROBOT_MODES.get(mode, str(mode)), safety=SAFETY_MODES.get(safety, str(safety)),
            playing=runtime == PLAYING,
        )  # fmt: skip

    def temperatures(self) -> list[float]:
        """Of the joints [degrees Celsius]."""
        return list(self._receive.getJointTemperatures())

    def ask(self, call: str, *arguments: Any) -> None:
        """One call of ur_rtde's control interface, by name.

        Raises:
            ConfigError: ur_rtde refuses an argument as out of range.
            DeviceFaultError: The controller did not do it: no program, a stop, or it took too long.
        """
        try:
            done = getattr(self._control, call)(*arguments)
        except (IndexError, ValueError, TypeError) as error:  # std::range_error, invalid_argument; a wrong type
            raise ConfigError(f"ur_rtde refuses {call}{arguments}: {error}") from error
        except RuntimeError as error:
            raise DeviceFaultError(
                f"{self.host} did not do {call}: {error}. Reset the environment.", call=call
            ) from error
        if done is False:
            reading = self.read()
            raise DeviceFaultError(
                f"{self.host} did not do {call}: robot mode {reading.robot_mode}, safety {reading.safety}, program "
                f"{'running' if reading.playing else 'stopped'}. {advice(reading.robot_mode, reading.safety)}",
                call=call,
                robot_mode=reading.robot_mode,
                safety=reading.safety,
            )

    def fresh(self, timeout_s: float) -> bool:
        """Whether states still arrive."""
        if not self.alive():
            return False
        try:
            self.wait(self.read().time_s, timeout_s)
        except (DeviceTimeoutError, DeviceConnectionError):
            return False
        return True

    def unlock(self) -> None:
        """Unlock a protective stop: ask until the controller agrees; it wants some seconds to pass since the stop."""
        give_up = time.monotonic() + UNLOCK_S
        with Dashboard(self.host) as dashboard:
            while "releasing" not in (answer := dashboard.ask("unlock protective stop")):
                if time.monotonic() > give_up:
                    raise DeviceFaultError(
                        f"{self.host} does not unlock its protective stop within {UNLOCK_S:g} s: {answer}. "
                        "Free the arm by hand on the tablet, then reset the environment.",
                        answer=answer,
                    )
                time.sleep(0.1)
            dashboard.ask("close safety popup")

    def until(self, reached: Callable[[Reading], bool], what: str) -> Reading:
        """The first reading that is as wanted. Raises DeviceFaultError when none comes."""
        give_up = time.monotonic() + RESTART_S
        while not reached(reading := self.read()):
            if time.monotonic() > give_up:
                raise DeviceFaultError(
                    f"{self.host} did not {what} within {RESTART_S:g} s: robot mode {reading.robot_mode}, safety "
                    f"{reading.safety}. {advice(reading.robot_mode, reading.safety)}"
                )
            time.sleep(0.01)
        return reading

    def close(self) -> None:
        """Let go of both connections. A controller that does not answer is left behind."""
        threads = [
            threading.Thread(target=client.disconnect, daemon=True)
            for client in (self._control, self._receive)
            if client is not None
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(CLOSE_S)
            if thread.is_alive():  # its destructor would wait for ever, holding the interpreter's lock
                _left_behind.extend((self._control, self._receive))
        self._control, self._receive = None, None


_left_behind: list[Any] = []


def _libraries() -> tuple[ModuleType, ModuleType]:
    try:
        import rtde_control
        import rtde_receive
    except ImportError as error:
        raise ConfigError(
            f"The UR driver needs ur_rtde ({error}): pip install 'robot-rl[ur]', or drive another arm (arm.driver)."
        ) from error
    return rtde_receive, rtde_control
