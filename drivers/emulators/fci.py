"""A robot that is not there: the Franka Control Interface, served to the vendor's own clients, moving the twin.

    with FciEmulator(Plant("fr3"), "127.0.0.1"):
        ...  # in another process: pylibfranka.Robot("127.0.0.1", pylibfranka.RealtimeConfig.kIgnore)

The client belongs in a process of its own: pylibfranka holds Python's lock while it waits for the robot. Alone, without
a task: `python -m drivers.emulators.fci --host 127.0.0.1`; a line typed there, such as `reflex`, is a fault to happen.

What is the robot's: layouts, signs, units, limits, reflexes, error names, what is refused when. What is ours, because
it is not published: stiffness and damping of the controllers inside, the filter of the estimated wrench (20 ms), how
far off a first command may be (1 cm, 0.01 rad). Not served: the asynchronous position interface (refused as
impossible), guiding by hand, self-collision, and the vacuum gripper.
"""

import argparse
import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from socket import socket
from typing import Any

from drivers.emulators import fci_tick
from drivers.emulators.fci_gripper import FciGripper
from drivers.emulators.fci_protocol import ERRORS, ROBOT_VERSION, RobotMode
from drivers.emulators.fci_robot import FciRobot
from drivers.emulators.plant import Plant
from robot_rl.errors import ConfigError, RobotRLError

__all__ = ["FAULTS", "FciEmulator", "serve"]

TICK_S = 1e-3
SPIN_S = 1.5e-4  # of a tick: sleeping is not exact
PRIORITY = 20  # of SCHED_FIFO, 1 to 99
SWITCH_INTERVAL_S = 5e-4  # how long another Python thread may keep us waiting
LOCKSTEP_TICKS = 16  # between looks at the other sockets
LOCKSTEP_SPIN_NS = 200_000
LOCKSTEP_PATIENCE_S = 3600.0  # a client that computes is no lost packet: its time stands still meanwhile
LOCKSTEP_START_S = 0.01  # between states until a motion's first command: a slow start must not leave several unanswered
LOCKSTEP_IDLE_TICKS = 10  # simulated milliseconds in one of the clock's while nobody commands

FAULTS: dict[str, str] = {
    "reflex": "a reflex now; error=<name of an FCI error>, cartesian_reflex unless told",
    "drop_packets": "no state is sent for ticks=<n> milliseconds",
    "delay_packets": "states arrive seconds=<s> late for ticks=<n> milliseconds (1000 unless told)",
    "user_stop": "the stop button, until release_stop",
    "emergency_stop": "as user_stop: on this interface both look the same",
    "release_stop": "the stop button is released",
    "restart": "the controller goes away and is back after seconds=<s> (2 unless told)",
}
"""What `FciEmulator.inject` can make happen. The name of an error alone is a reflex with that error."""


class FciEmulator:
    """The controller of an arm and its hand, on TCP ports 1337 and 1338, in a thread of its own.

    In real time it ticks by the clock whether or not the client answers. In lockstep a motion's every tick waits for
    the client's command (a quarter of a second, then it counts as lost), so both run as fast as they can; while nobody
    commands, ten simulated milliseconds pass in one of the clock's.

    Args:
        plant: The simulated cell; hold its `lock` to read or change it while this runs.
        host: Address to listen on.
        lockstep: Wait for the client instead of the clock.
        version: Of the robot interface to claim; a client of another is refused as by a robot with other firmware.

    Attributes:
        robot: The arm's side.
        gripper: The hand's side.
        late_ticks: Ticks in real time that came more than half a millisecond late.
        has_priority: Whether the system gave the thread real-time priority, which is asked for in real time only.

    Raises:
        ConfigError: The plant's arm is not one that this interface serves.
    """

    def __init__(
        self, plant: Plant, host: str = "127.0.0.1", *, lockstep: bool = False, version: int = ROBOT_VERSION
    ) -> None:
        self.robot = FciRobot(plant, host, version)
        self.gripper = FciGripper(plant, host)
        self.late_ticks = 0
        self.has_priority = False
        self._links = (self.robot.link, self.gripper.link)
        self._lockstep = lockstep
        self._requests: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._running = False
        self._muted = self._delayed = 0  # ticks left
        self._delay_s = 0.0
        self._in_flight: deque[tuple[float, bytes]] = deque()
        self._back_at: float | None = None  # when a restart is over

    def __enter__(self) -> "FciEmulator":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to serve. Raises DeviceConnectionError when an address or port cannot be had."""
        self._open()
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL_S))
        self._running = True
        self._thread = threading.Thread(target=self._loop, name="fci", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let go of the clients and of the ports."""
        self._running = False
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._close()

    def inject(
        self, name: str, *, error: str = "cartesian_reflex", ticks: int | None = None, seconds: float = 0.0
    ) -> None:
        """Make a fault happen at the next tick, from any thread.

        Args:
            name: One of `FAULTS`, or the name of an FCI error.
            error: Of a `reflex`.
            ticks: Of `drop_packets` (default 10) and `delay_packets` (default 1000) [ms].
            seconds: Of `delay_packets` (default 0.005) and `restart` (default 2).

        Raises:
            ConfigError: No such fault or error.
        """
        if name in ERRORS:
            name, error = "reflex", name
        if name not in FAULTS or error not in ERRORS:
            raise ConfigError(
                f"The emulated Franka has no fault {error if name == 'reflex' else name!r}; it has {', '.join(FAULTS)} "
                f"and the errors of the interface: {', '.join(ERRORS)}."
            )
        actions: dict[str, Callable[[], None]] = {
            "reflex": lambda: self.robot.raise_error(error),
            "drop_packets": lambda: self._mute(10 if ticks is None else ticks),
            "delay_packets": lambda: self._delay(1000 if ticks is None else ticks, seconds or 0.005),
            "user_stop": lambda: self.robot.hold(RobotMode.USER_STOPPED),
            "emergency_stop": lambda: self.robot.hold(RobotMode.USER_STOPPED),
            "release_stop": self._release,
            "restart": lambda: self._restart(seconds or 2.0),
        }
        self._requests.put(actions[name])

    def _open(self) -> None:
        try:
            for link in self._links:
                link.open()
        except RobotRLError:
            self._close()
            raise

    def _close(self) -> None:
        for link in self._links:
            link.close()

    def _mute(self, ticks: int) -> None:
        self._muted = ticks

    def _delay(self, ticks: int, seconds: float) -> None:
        self._delayed, self._delay_s = ticks, seconds

    def _release(self) -> None:
        if self.robot.mode == RobotMode.USER_STOPPED:
            self.robot.hold(RobotMode.IDLE)

    def _restart(self, seconds: float) -> None:
        self._close()
        self.robot.recover()
        self._back_at = time.monotonic() + seconds

    def _ask_for_priority(self) -> None:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))  # of this thread
            self.has_priority = True
        except (AttributeError, OSError):
            pass  # another system, or not allowed; late_ticks tells how it went

    def _loop(self) -> None:
        if not self._lockstep:
            self._ask_for_priority()
        due = asked_at = time.monotonic()
        while self._running:
            self._housekeeping()
            if self._lockstep and self.robot.answered:
                if self._answered_tick(patient=time.monotonic() - asked_at < LOCKSTEP_PATIENCE_S):
                    asked_at = time.monotonic()
                due = time.monotonic()
                continue
            starting = self._lockstep and self.robot.mode == RobotMode.MOVE
            self._wait_until(due, self.robot.link.states if starting else None)
            self.late_ticks += time.monotonic() - due > 0.5 * TICK_S
            if self._lockstep and self.robot.mode != RobotMode.MOVE:
                self.robot.run(LOCKSTEP_IDLE_TICKS - 1, 0, mute=True)
            self._tick(0)
            # A controller that was held up carries on; it does not catch up.
            due = max(due + (LOCKSTEP_START_S if starting else TICK_S), time.monotonic())
            asked_at = due

    def _wait_until(self, due: float, states: socket | None) -> None:
        """Look after the sockets until `due`, or until a command comes to `states`."""
        while (left := due - time.monotonic()) > 0.0:
            if left > SPIN_S and self._serve(left - SPIN_S, states):
                return

    def _answered_tick(self, *, patient: bool) -> bool:
        """Ticks of a lockstep motion; False when the client has not answered yet."""
        undisturbed = not (self._muted or self._delayed)
        spin_ns = LOCKSTEP_SPIN_NS if patient else 0
        result = self._tick(spin_ns, LOCKSTEP_TICKS if undisturbed and patient else 1)
        waiting = result == fci_tick.WAITING
        self._serve(TICK_S if waiting else 0.0, self.robot.link.states if waiting else None)
        return not waiting

    def _tick(self, spin_ns: int, ticks: int = 1) -> int:
        """Run ticks, with the states they send lost or late where a fault wants it."""
        if not self._muted and not self._delayed:
            return self.robot.run(ticks, spin_ns)
        result = self.robot.run(1, spin_ns, mute=True)
        if result == fci_tick.WAITING:
            return result
        if self._delayed:
            self._delayed -= 1
            self._in_flight.append((time.monotonic() + self._delay_s, self.robot.wire.state.tobytes()))
            return result
        while self._muted:  # what is not asked is not answered: in lockstep, too, these commands are lost
            self._muted -= 1
            if not self._lockstep:
                return result
            result = self.robot.run(1, 0, mute=self._muted > 0)
        return result

    def _housekeeping(self) -> None:
        try:
            while True:
                self._requests.get_nowait()()
        except Empty:
            pass
        self.gripper.update()
        while self._in_flight and self._in_flight[0][0] <= time.monotonic():
            _, state = self._in_flight.popleft()
            if self.robot.link.states is not None:
                with contextlib.suppress(OSError):
                    self.robot.link.states.send(state)
        if self._back_at is not None and time.monotonic() >= self._back_at:
            self._back_at = None
            self._open()

    def _serve(self, pause_s: float, extra: socket | None = None) -> bool:
        """Look after the sockets, waiting at most `pause_s` [s] for something to come; whether it came to `extra`."""
        sockets = [s for link in self._links for s in link.sockets]
        ready, _, _ = select.select(sockets if extra is None else [*sockets, extra], [], [], pause_s)
        if ready:
            for link in self._links:
                if any(s in ready for s in link.sockets):
                    link.serve()
        return extra in ready


def serve(emulator: FciEmulator) -> None:
    """Serve until interrupted; a line on the standard input is a fault to happen, as `drop_packets ticks=30`."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    with emulator, contextlib.suppress(KeyboardInterrupt):
        sys.stdout.write("Listening on ports 1337 (robot) and 1338 (gripper). Ctrl-C ends it.\n")
        sys.stdout.flush()
        for line in sys.stdin:
            name, *options = line.split() or [""]
            try:
                emulator.inject(name, **_read_options(options))
            except (RobotRLError, ValueError) as error:
                sys.stderr.write(f"{error}\n")
        threading.Event().wait()  # nobody types any more


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _read_options(options: list[str]) -> dict[str, Any]:
    kinds: dict[str, Callable[[str], object]] = {"error": str, "ticks": int, "seconds": float}
    pairs = [option.partition("=")[::2] for option in options]
    return {key: kinds.get(key, str)(value) for key, value in pairs if key in kinds}


def main() -> None:
    """Serve an arm on an empty table."""
    parser = argparse.ArgumentParser(
        prog="python -m drivers.emulators.fci", description="An emulated Franka on a table."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--lockstep", action="store_true", help="wait for the client instead of the clock")
    parser.add_argument("--version", type=int, default=ROBOT_VERSION, help="robot interface version to claim")
    arguments = parser.parse_args()
    try:
        serve(FciEmulator(Plant("fr3"), arguments.host, lockstep=arguments.lockstep, version=arguments.version))
    except RobotRLError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
