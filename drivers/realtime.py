"""An arm in a process of its own, so that nothing the learner or the actor does can make its control loop late.

`ArmProcess` is the arm as the environment sees it. Behind it a driver process (`drivers.realtime_loop`) ticks the
vendor's client, supervises every target and watches whether commands still come:

| commands stop for      | the arm                                                    | until                    |
| ---------------------- | ---------------------------------------------------------- | ------------------------ |
| `watchdog.hold_after_s`| holds its measured pose; the next command raises SafetyError | the environment is reset |
| `watchdog.stop_after_s`| control is closed, the arm stands by its vendor's own means  | the environment is reset |
"""

import atexit
import contextlib
import dataclasses
import json
import select
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

import robot_rl.errors
from drivers.impedance import ImpedanceGains
from drivers.interfaces import ArmState
from drivers.mailbox import Mailbox, Mode, percentile_us
from drivers.safety import SafetyLimits
from robot_rl.errors import (
    ConfigError,
    DeviceFaultError,
    DeviceTimeoutError,
    LinkError,
    RobotRLError,
    StaleStateError,
)

__all__ = ["ArmClock", "ArmProcess", "LoopStatistics", "WallClock"]

Array = NDArray[np.float64]

START_TIMEOUT_S = 60.0  # the interpreter and compiled code of the driver process, on a slow machine
CONNECT_TIMEOUT_S = 30.0  # the drivers themselves give up after 3 s, of an arm in ROS 2 after 15
REPLY_TIMEOUT_S = 5.0
HEAR_S = 0.05  # that one thread listens for all before another may
RECOVER_TIMEOUT_S = 30.0
_KINDS: dict[str, type[RobotRLError]] = {
    name: kind
    for name, kind in vars(robot_rl.errors).items()
    if isinstance(kind, type) and issubclass(kind, RobotRLError)
}
CLOCKS = ("wall", "arm", "lockstep")


@dataclasses.dataclass(frozen=True)
class LoopStatistics:
    """How the control loop has run since it started.

    Attributes:
        ticks, missed: Cycles done, and cycles that came too late to be in time.
        period_p50_us, period_p999_us: Between ticks.
        law_p50_us, law_p999_us: Computing the command, without waiting for the arm.
    """

    ticks: int
    missed: int
    period_p50_us: float
    period_p999_us: float
    law_p50_us: float
    law_p999_us: float

    @classmethod
    def of(cls, mailbox: Mailbox) -> "LoopStatistics":
        """Of a loop while it runs, in whatever process."""
        loop = mailbox.loop
        period, law = loop["period_us"].copy(), loop["law_us"].copy()
        return cls(
            int(loop["counters"][0]), int(loop["counters"][1]),
            percentile_us(period, 50), percentile_us(period, 99.9), percentile_us(law, 50), percentile_us(law, 99.9),
        )  # fmt: skip

    def __str__(self) -> str:
        return (
            f"{self.ticks} ticks, {self.missed} missed; period p50 {self.period_p50_us:.0f} us, p99.9 "
            f"{self.period_p999_us:.0f} us; law p50 {self.law_p50_us:.0f} us, p99.9 {self.law_p999_us:.0f} us"
        )


class ArmProcess:
    """An `Arm` driven by a process of its own.

    Args:
        driver: `module:Class` of a `ServoArm`.
        options: Its keyword arguments (what JSON can say).
        name: What messages call it.
        clock: `wall`, `arm` or `lockstep`; see `drivers.realtime_loop.Loop`.
        hold_after_s, stop_after_s: The watchdog's times [s].
        max_state_age_s: Older readings are refused [s].
        core: A processor core of its own, where one is set aside.

    Attributes:
        missing: What the operating system did not grant the process, in words; empty when all is well.
    """

    def __init__(
        self, driver: str, options: dict[str, Any], *, name: str = "arm", clock: str = "wall",
        hold_after_s: float = 0.3, stop_after_s: float = 5.0, max_state_age_s: float = 0.1, core: int | None = None,
    ) -> None:  # fmt: skip
        if clock not in CLOCKS:
            raise ConfigError(f"clock={clock!r} is not known; use one of {', '.join(CLOCKS)}.")
        self.name, self.clock, self.max_state_age_s = name, clock, max_state_age_s
        self._config = {
            "driver": driver, "options": options, "clock": clock, "hold_after_s": hold_after_s,
            "stop_after_s": stop_after_s, "core": core,
        }  # fmt: skip
        self.missing: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._mailbox: Mailbox | None = None
        self._number, self._commands = 0, 0
        self._buffer = b""
        self._sending, self._hearing = threading.Lock(), threading.Lock()  # several threads may ask at once
        self._replies: dict[int, dict[str, Any]] = {}
        self._connected = False
        self._settings: dict[str, Any] = {}

    def __enter__(self) -> "ArmProcess":
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(self) -> None:
        """Start the process and reach the arm; it holds its measured pose. Raises DeviceConnectionError."""
        if self._process is None:
            self._start()
        if not self._connected:
            self._ask("connect", timeout_s=CONNECT_TIMEOUT_S)
            self._connected = True
            for name, value in self._settings.items():  # of a driver process that died
                self._ask(name, value=value)

    @property
    def fault(self) -> str:
        """Why the arm would not follow a command now; empty when it would."""
        record = self._opened.status
        if self._process is not None and self._process.poll() is not None:
            return self._died()
        return record["message"].decode() if int(record["mode"]) in (Mode.WATCHDOG, Mode.STOPPED, Mode.FAULT) else ""

    def state(self) -> ArmState:
        """The newest reading.

        Raises:
            StaleStateError: It is too old.
            DeviceFaultError: The arm reports a fault.
            SafetyError: The supervisor refused the last command, or the watchdog holds the arm.
            LinkError: The driver process died.
        """
        state, record = self._opened.read_state()
        self._check(record)
        refused = int(record["refused"])
        if refused and refused == self._commands:
            raise _error(record)
        age = time.monotonic() - float(record["published_s"])
        if age > self.max_state_age_s and self.clock != "lockstep":
            raise StaleStateError(
                f"The state of {self.name!r} is {age:.3f} s old, limit {self.max_state_age_s:g} s "
                "(arm.max_state_age_s). The driver process holds the arm on its own. Look at its network and at the "
                "load "
                "of this computer: robot-rl check-cell.",
                age=age,
                limit=self.max_state_age_s,
            )
        return state

    @property
    def time_s(self) -> float:
        """Of the newest reading, whatever its state [s]."""
        return self._opened.read_state()[0].time_s

    def command(self, target_pose: Array) -> None:
        """Follow a target pose in `base`, shape (7,). A refusal by the supervisor is raised by the next `state`."""
        mailbox = self._opened
        self._check(mailbox.status)
        self._commands = mailbox.send_target(np.asarray(target_pose, dtype=np.float64), time.monotonic())

    def set_impedance(self, gains: ImpedanceGains) -> None:
        """Change stiffness, damping and clips."""
        self._set("gains", dataclasses.asdict(gains))

    def set_limits(self, limits: SafetyLimits) -> None:
        """What the supervisor in the driver process lets pass from now on."""
        self._set("limits", dataclasses.asdict(limits))

    def move_to_joints(self, q: Array, duration_s: float) -> None:
        """Move to joint angles [rad], shape (n,), and rest there."""
        self._move("joints", q, duration_s)

    def move_to_pose(self, pose: Array, duration_s: float) -> None:
        """Move the tcp to a pose in `base`, shape (7,), and rest there."""
        self._move("pose", pose, duration_s)

    def recover(self) -> None:
        """Clear a fault, a watchdog's hold or stop, once; the arm then holds its measured pose."""
        if self._process is not None and self._process.poll() is not None:
            self._let_go()
            self.connect()
            return
        self._ask("recover", timeout_s=RECOVER_TIMEOUT_S)

    def stop(self) -> None:
        """Hold the measured pose."""
        self._ask("stop")

    def facts(self) -> dict[str, Any]:
        """What the vendor's controller says of itself (mode, temperatures, load), for a person."""
        return self._ask("facts")

    def run_until(self, time_s: float) -> None:
        """In lockstep: let the arm run up to its own time `time_s`."""
        self._ask("run_until", timeout_s=60.0, time_s=time_s)
        self._check(self._opened.status)

    def statistics(self) -> LoopStatistics:
        """How the loop has run, read while it runs."""
        return LoopStatistics.of(self._opened)

    def close(self) -> None:
        """Stop the arm and end the process."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            with contextlib.suppress(DeviceTimeoutError, LinkError):
                self._ask("close")
            try:
                process.wait(5.0)
            except subprocess.TimeoutExpired:
                process.kill()
        self._let_go()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self._mailbox, self._link = Mailbox(), ours
        command = [sys.executable, "-m", "drivers.realtime_loop", str(theirs.fileno()), str(self._mailbox.path)]
        # A session of its own: a Ctrl-C or a closed terminal must not take the arm's control loop with it.
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True)
        theirs.close()
        atexit.register(self.close)
        ours.sendall(json.dumps(self._config).encode() + b"\n")
        try:
            self.missing = self._reply(0, "start", START_TIMEOUT_S)
        except Exception:
            self.close()
            raise

    def _let_go(self) -> None:
        atexit.unregister(self.close)
        if self._process is not None:
            self._process.wait()
            self._link.close()
        if self._mailbox is not None:
            self._mailbox.close()
        self._process, self._connected, self._buffer = None, False, b""
        self._replies.clear()

    def _set(self, name: str, value: dict[str, Any]) -> None:
        self._settings[name] = value
        self._ask(name, value=value)

    def _move(self, kind: str, target: Array, duration_s: float) -> None:
        numbers = [float(v) for v in target]
        self._ask(kind, timeout_s=3.0 * duration_s + 20.0, target=numbers, duration_s=duration_s)

    @property
    def _opened(self) -> Mailbox:
        if self._mailbox is None or self._process is None:
            raise LinkError(f"The arm {self.name!r} is not connected. Call connect() first.")
        return self._mailbox

    def _check(self, record: Any) -> None:
        if self._process is not None and self._process.poll() is not None:
            raise LinkError(self._died())
        if int(record["mode"]) in (Mode.FAULT, Mode.WATCHDOG, Mode.STOPPED):
            raise _error(record)

    def _died(self) -> str:
        code = self._process.poll() if self._process is not None else None
        return (
            f"The driver process of {self.name!r} died (exit code {code}). The arm was left to its vendor's own stop. "
            "Look at the messages above, then reset: a new one is started."
        )

    def _ask(self, name: str, *, timeout_s: float = REPLY_TIMEOUT_S, **fields: Any) -> Any:
        if self._process is None:
            raise LinkError(f"The arm {self.name!r} is not connected. Call connect() first.")
        with self._sending:
            self._number += 1
            number = self._number
            try:
                self._link.sendall(json.dumps({"number": number, "name": name, **fields}).encode() + b"\n")
            except OSError as error:
                raise LinkError(self._died()) from error
        return self._reply(number, name, timeout_s)

    def _reply(self, number: int, name: str, timeout_s: float) -> Any:
        deadline = time.monotonic() + timeout_s
        while True:
            with self._hearing:  # whoever has it hears for all
                if number in self._replies:
                    return _result(self._replies.pop(number))
                left = deadline - time.monotonic()
                if left <= 0.0:
                    raise DeviceTimeoutError(
                        f"The driver process of {self.name!r} did not answer {name!r} within {timeout_s:g} s. It goes "
                        "on guarding the arm by itself. Run: robot-rl check-cell.",
                        timeout_s=timeout_s,
                    )
                if select.select([self._link], [], [], min(left, HEAR_S))[0]:
                    self._hear()

    def _hear(self) -> None:
        try:
            received = self._link.recv(65536)
        except ConnectionResetError:
            received = b""
        if not received:
            if self._process is not None:
                self._process.wait()
            raise LinkError(self._died())
        *lines, self._buffer = (self._buffer + received).split(b"\n")
        for reply in map(json.loads, lines):
            self._replies[reply["number"]] = reply


def _error(record: Any) -> RobotRLError:
    return _KINDS.get(record["kind"].decode(), DeviceFaultError)(record["message"].decode())


def _result(reply: dict[str, Any]) -> Any:
    if "error" in reply:
        raise _KINDS.get(reply["error"], DeviceFaultError)(reply["message"])
    return reply["result"]


class WallClock:
    """Real time. Counts how often it was asked to wait for a moment already past.

    Attributes:
        overruns: How often, by more than a millisecond.
    """

    def __init__(self) -> None:
        self.overruns = 0

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def wait_until(self, time_s: float) -> None:
        """Sleep until then."""
        left = time_s - time.monotonic()
        if left > 0.0:
            time.sleep(left)
        elif left < -0.001:
            self.overruns += 1


class ArmClock:
    """Time as the arm tells it, so that a vendor's client at an emulator may run faster than real time.

    Args:
        arm: Whose clock; in lockstep, waiting is what lets it run.
    """

    def __init__(self, arm: ArmProcess) -> None:
        self._arm = arm

    def now(self) -> float:
        """The arm's own time [s]."""
        return self._arm.time_s

    def wait_until(self, time_s: float) -> None:
        """Return when the arm's time has come to `time_s`."""
        if self._arm.clock == "lockstep":
            self._arm.run_until(time_s)
            return
        while self._arm.state().time_s < time_s:
            time.sleep(0.0002)
