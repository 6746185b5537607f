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

from drivers.ur_link import ROBOT_MODES, SAFE, SAFETY_MODES, Dashboard, Survey, advice, hold_inputs, survey
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
SILENT_S = 2.3  # a connection that is lost after so much silence ran into ur_rtde's own time-out, 2.5 s
TAKE_S, GIVE_UP_S = 5.0, 1.0  # to take the inputs from it; for it to find them taken
UNLOCK_S = 8.0  # UR wants 5 s between a protective stop and its unlocking
RESTART_S = 3.0
STREAMED = ("forceMode", "servoJ", "servoL", "stopScript", "reuploadScript")  # ur_rtde waits for no "done" of these
READY_S = 2.0  # below ur_rtde's own time-out, 2.5 s
READY_STATES = 3  # after a "done", the controller's "ready" is among the next states
CAUSE_S = 0.5  # for the state stream to catch up


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

    @property
    def healthy(self) -> bool:
        """Whether the arm does what our program tells it."""
        return self.safety in SAFE and self.robot_mode == "RUNNING" and self.playing


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
        self._heard_at = 0.0  # when the last new state came, on this machine's clock
        self._settled = False  # whether ur_rtde is known to have finished connecting anew

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
                        "cable and that the controller runs, then reset the environment: the driver connects anew.",
                        host=self.host,
                    )
                raise self._silent(timeout_s, after_s)
            time.sleep(POLL_S)
        self._heard_at = time.monotonic()

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
            DeviceTimeoutError: No states come from it either.
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
            reading = self._cause()
            raise DeviceFaultError(
                f"{self.host} did not do {call}: robot mode {reading.robot_mode}, safety {reading.safety}. "
                + advice(reading.robot_mode, reading.safety),
                call=call,
                robot_mode=reading.robot_mode,
                safety=reading.safety,
            )
        if call not in STREAMED:
            self._await_ready()

    def _await_ready(self) -> None:
        """Let the controller's "ready" arrive: a streamed call would wait for it without a time-out that holds."""
        for _ in range(READY_STATES):
            self.wait(self._receive.getTimestamp(), READY_S)

    def _cause(self) -> Reading:
        """The reading that explains a refusal: the two connections' states are not of the same cycle."""
        give_up = time.monotonic() + CAUSE_S
        first = reading = self.read()
        while reading.healthy and time.monotonic() < give_up:
            time.sleep(POLL_S)
            reading = self.read()
        if reading.time_s == first.time_s and reading.healthy:
            raise self._silent(CAUSE_S, first.time_s)
        return reading

    def _silent(self, waited_s: float, last_s: float) -> DeviceTimeoutError:
        return DeviceTimeoutError(
            f"No new state from {self.host} within {waited_s:g} s (UrArm.timeout_s); the last: {last_s:.3f} s. "
            "The arm stops when its watchdog notices. Check the cable, then reset the environment.",
            host=self.host,
            timeout_s=waited_s,
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

    def restart(self) -> None:
        """Start ur_rtde's program on the controller anew, and wait until both connections have seen it run."""
        self.ask("reuploadScript")
        self.until(lambda r: r.playing and bool(self._control.isProgramRunning()), "start ur_rtde's program")

    def reopen(self) -> None:
        """Connect anew after the connection broke or went silent.

        Raises:
            DeviceConnectionError: As `open`; also while the controller still sends no states.
            DeviceTimeoutError: As `open`.
        """
        if self._connecting_anew():
            self._end_reconnecting()
        self.close()
        self._settled = False
        self.open()

    def _end_reconnecting(self) -> None:
        """Make ur_rtde give up connecting anew, which it does when it is refused, so that it can be closed.

        Once its control interface has connected anew (as of 1.6.5) it does so for ever, closing it crashes, and now and
        then it crashes by itself: whoever runs the driver process must be ready to start it again.
        """
        survey(self.host)
        link = hold_inputs(self.host, TAKE_S)
        if link is None:
            raise DeviceConnectionError(
                f"{self.host} accepts connections, but ur_rtde holds on to one without states. Look at the robot's "
                "tablet; when it is well, stop this program and start it again.",
                host=self.host,
            )
        time.sleep(GIVE_UP_S)
        link.close()
        self._settled = True

    def _connecting_anew(self) -> bool:
        """Whether ur_rtde may be connecting anew in a thread of its own, as it does after a silence of 2.5 s."""
        if not self.opened or self._settled:
            return False
        while not self.fresh(0.05):
            silent_s = time.monotonic() - self._heard_at
            if not self.alive():  # soon: it was closed, ur_rtde tried at once and failed; late: its own time-out
                return silent_s > SILENT_S
            time.sleep(0.01)
        return False

    def close(self) -> None:
        """Let go of both connections. A controller that does not answer is left behind."""
        if self._connecting_anew():
            _left_behind.extend((self._control, self._receive))
            self._control, self._receive = None, None
            return
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
