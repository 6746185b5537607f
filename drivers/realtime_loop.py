"""The driver process: one arm, its control loop, the safety supervisor and the watchdog, and nothing else.

Started by `drivers.realtime.ArmProcess`; talks JSON lines over the socket it inherits (requests, answered in order) and
a `Mailbox` (targets in, states and statistics out). Whatever happens to the process that started it, it goes on
ticking: it holds the measured pose when no target came for `hold_after_s`, and closes the arm's control when none came
for `stop_after_s`.
"""

import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from drivers.impedance import ImpedanceGains
from drivers.interfaces import ArmState, ServoArm
from drivers.loading import load
from drivers.mailbox import Mailbox, Mode
from drivers.motions import PoseMotion
from drivers.safety import SafeServoArm, SafetyLimits
from robot_rl.errors import DeviceConnectionError, DeviceFaultError, RobotRLError, SafetyError
from robot_rl.geometry import matrix_from_quat, quat_from_matrix

__all__ = ["Loop", "main"]

SERVE_EVERY = 20  # cycles of an arm in lockstep between looks at requests: nobody asks while it waits for the arm
IDLE_WAIT_S = 0.01  # between looks at an arm that is not connected
PRIORITY = 80
MLOCK_CURRENT_AND_FUTURE = 3


class Loop:
    """Ticks an arm and answers requests.

    Args:
        arm: Connected on request only.
        mailbox: Shared with the commanding process.
        link: A socket of JSON lines to it.
        clock: `wall`; `arm`: time is what the arm says it is; `lockstep`: the same, and the arm moves only while a
            request `run_until` allows it to.
        hold_after_s, stop_after_s: The watchdog's times, on that clock.
    """

    def __init__(
        self, arm: SafeServoArm, mailbox: Mailbox, link: socket.socket, *,
        clock: str, hold_after_s: float, stop_after_s: float,
    ) -> None:  # fmt: skip
        self.arm, self.mailbox, self.link = arm, mailbox, link
        self.clock, self.hold_after_s, self.stop_after_s = clock, hold_after_s, stop_after_s
        self.mode, self.message = Mode.STOPPED, "not connected"
        self._connected, self._closing, self._orphan = False, False, False
        self._until = -np.inf  # in lockstep: how far the arm may run
        self._waiting: tuple[int, float | None] | None = None  # request to answer when a motion or a run has ended
        self._taken = 0  # number of the last target taken
        self._taken_at, self._last_tick, self._arm_time = 0.0, 0.0, 0.0
        self._cycles = 0
        self._buffer = b""

    def run(self) -> None:
        """Until asked to close, or until the other side is gone and the arm was stopped."""
        try:
            while not self._closing:
                if self.clock != "lockstep" or self._cycles % SERVE_EVERY == 0 or not self._may_run():
                    self._serve()
                if not self._connected:
                    if self._orphan:
                        return
                    select.select([self.link], [], [], IDLE_WAIT_S)
                elif self._may_run():
                    self._cycle()
                else:
                    select.select([self.link], [], [], IDLE_WAIT_S)
        finally:
            if self._connected:
                self.arm.close()

    def _may_run(self) -> bool:
        return self.clock != "lockstep" or self._orphan or self.mode == Mode.MOVING or self._arm_time < self._until

    def _cycle(self) -> None:
        self._cycles += 1
        try:
            self._follow()
            if not self._connected:  # the watchdog stopped it
                return
            self.arm.tick()
            self._arm_time = self.arm.time_s
            self._count()
            self._settle_motion()
        except SafetyError as error:
            self._refuse(error)
        except RobotRLError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 (the process's edge: a vendor's odd exception must not cost the watchdog)
            traceback.print_exc()
            self._fail(
                DeviceFaultError(f"{type(error).__name__}: {error}. Reset the environment: recovery is tried once.")
            )
        self._finish_run()
        if self._connected and (self.clock != "lockstep" or not self._may_run()):
            self._publish()

    def _follow(self) -> None:
        """Take a new target, or let the watchdog see that there is none."""
        if self._taken != int(self.mailbox.target["count"]):
            newest = self.mailbox.read_target()
            if newest is not None and newest[0] != self._taken:
                self._taken, pose = newest
                self._taken_at = self._now()
                if self.mode == Mode.HOLDING:
                    self._say(Mode.FOLLOWING)
                if self.mode == Mode.FOLLOWING:
                    self.arm.command(pose)
        if self.mode in (Mode.FOLLOWING, Mode.WATCHDOG) or (self._orphan and self.mode != Mode.MOVING):
            self._watch()

    def _watch(self) -> None:
        silent = self._now() - self._taken_at
        if silent > self.stop_after_s and self._connected:
            self._say(
                Mode.STOPPED,
                "SafetyError",
                f"No command for {silent:.2f} s, limit {self.stop_after_s:g} s (watchdog.stop_after_s). The arm's "
                "control was closed; it stands still by itself. Reset the environment, or start the program again.",
            )
            self.arm.close()
            self._connected = False
        elif silent > self.hold_after_s and self.mode != Mode.WATCHDOG:
            self.arm.stop()
            self._say(
                Mode.WATCHDOG,
                "SafetyError",
                f"No command for {silent:.2f} s, limit {self.hold_after_s:g} s (watchdog.hold_after_s). The arm holds "
                "its measured pose. Reset the environment; if it happens often, the learner is slowing the actor down.",
            )

    def _settle_motion(self) -> None:
        if self.mode == Mode.MOVING and not self.arm.moving:
            self._say(Mode.HOLDING)
            self._answer_waiting()

    def _finish_run(self) -> None:
        if (
            self._connected
            and self._waiting is not None
            and self._waiting[1] is not None
            and self._arm_time >= self._until
        ):
            self._publish()
            self._answer_waiting()

    def _refuse(self, error: SafetyError) -> None:
        self._say(Mode.HOLDING, type(error).__name__, str(error), refused=self._taken)

    def _fail(self, error: RobotRLError) -> None:
        if self.mode == Mode.FAULT or isinstance(error, DeviceConnectionError):
            self.arm.close()  # not even readings come any more; recovery connects anew
            self._connected = False
        if self.mode != Mode.FAULT:
            self._say(Mode.FAULT, type(error).__name__, str(error))
        if self._waiting is not None:
            number, _ = self._waiting
            self._waiting = None
            self._answer(number, error)

    def _say(self, mode: int, kind: str = "", message: str = "", refused: int = 0) -> None:
        self.mode, self.message = mode, message
        self.mailbox.say(mode, kind, message, refused)

    def _publish(self) -> None:
        state, now = self.arm.state(), time.monotonic()
        if self.clock == "wall":
            state = replace(state, time_s=now)
        self.mailbox.publish(state, now_s=now)

    def _count(self) -> None:
        """Period, missed ticks and the law's own time, into the shared histograms."""
        now = time.monotonic()
        if self._last_tick:
            self.mailbox.count_tick(now - self._last_tick, self.arm.law_s, self.arm.period_s)
        self._last_tick = now

    def _now(self) -> float:
        """The watchdog's clock; an orphan's arm may have stopped telling the time."""
        return time.monotonic() if self.clock == "wall" or self._orphan else self._arm_time

    # Requests

    def _serve(self) -> None:
        while not self._orphan:
            try:
                received = self.link.recv(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                received = b""
            if not received:
                self._orphan, self._taken_at = True, time.monotonic()
                self._until = np.inf
                return
            *lines, self._buffer = (self._buffer + received).split(b"\n")
            for line in lines:
                self._request(json.loads(line))

    def _request(self, request: dict[str, Any]) -> None:
        number, name = int(request["number"]), str(request["name"])
        handlers: dict[str, Callable[[dict[str, Any]], Any]] = {
            "connect": self._connect, "gains": self._gains, "limits": self._limits, "recover": self._recover,
            "stop": self._stop, "close": self._close, "facts": self._facts,
        }  # fmt: skip
        try:
            if name in ("joints", "pose"):
                self._begin_motion(request)
                self._waiting = (number, None)
            elif name == "run_until":
                self._until = float(request["time_s"])
                self._waiting = (number, self._until)
                self._finish_run()
            else:
                self._answer(number, handlers[name](request))
        except RobotRLError as error:
            self._answer(number, error)
        except Exception as error:  # noqa: BLE001 (as in _cycle)
            traceback.print_exc()
            self._answer(number, DeviceFaultError(f"{name}: {type(error).__name__}: {error}."))

    def _connect(self, _: dict[str, Any]) -> dict[str, Any]:
        if not self._connected:
            self.arm.connect()
            self._connected = True
        self._arm_time = self.arm.time_s
        self._hold()
        return {"period_s": self.arm.period_s, "joints": len(self.arm.state().q)}

    def _gains(self, request: dict[str, Any]) -> None:
        self.arm.set_impedance(ImpedanceGains(**{k: _tuple(v) for k, v in request["value"].items()}))

    def _limits(self, request: dict[str, Any]) -> None:
        self.arm.set_limits(SafetyLimits(**{k: _tuple(v) for k, v in request["value"].items()}))

    def _begin_motion(self, request: dict[str, Any]) -> None:
        self._need_control()
        move = self.arm.move_to_joints if request["name"] == "joints" else self.arm.move_to_pose
        move(np.array(request["target"]), float(request["duration_s"]))
        self._say(Mode.MOVING)

    def _need_control(self) -> None:
        if not self._connected or self.mode == Mode.FAULT:
            raise SafetyError(f"The arm does not move: {self.message}", mode=self.mode)

    def _recover(self, _: dict[str, Any]) -> None:
        if self._connected:
            self.arm.recover()
        else:
            self.arm.connect()
            self._connected = True
        self._hold()

    def _stop(self, _: dict[str, Any]) -> None:
        self._need_control()
        self.arm.stop()
        if self.mode == Mode.MOVING and self._waiting is not None:  # whoever waits for the motion is told
            number, self._waiting = self._waiting[0], None
            self._answer(number, SafetyError("The motion was stopped; the arm holds its measured pose."))
        self._hold()

    def _facts(self, _: dict[str, Any]) -> dict[str, Any]:
        facts: Callable[[], dict[str, Any]] = getattr(self.arm.arm, "facts", dict)
        return facts()

    def _close(self, _: dict[str, Any]) -> None:
        self._closing = True
        if self._connected:
            self.arm.close()
            self._connected = False

    def _hold(self) -> None:
        self._say(Mode.HOLDING)
        self._taken = int(self.mailbox.target["count"])
        self._last_tick = 0.0
        self._publish()

    def _answer_waiting(self) -> None:
        if self._waiting is not None:
            number, _ = self._waiting
            self._waiting = None
            self._publish()
            self._answer(number, None)

    def _answer(self, number: int, result: Any) -> None:
        reply: dict[str, Any] = {"number": number}
        if isinstance(result, RobotRLError):
            reply.update(error=type(result).__name__, message=str(result))
        else:
            reply["result"] = result
        try:
            self.link.sendall(json.dumps(reply).encode() + b"\n")
        except OSError:
            self._orphan, self._taken_at, self._until = True, time.monotonic(), np.inf


def warm_up(mailbox: Mailbox) -> None:
    """Load all compiled code that a cycle may need: milliseconds each, and a robot waits for twenty at most."""
    pose = np.array([0.0, 0, 0, 0, 0, 0, 1])
    motion = PoseMotion.plan(pose, pose, 1.0, (1.0, 1.0))
    limits = SafetyLimits(position_low=(-1.0, -1, -1), position_high=(1.0, 1, 1), orientation_xyzw=(0.0, 0, 0, 1))
    limits.pack()
    still = ArmState(0.0, np.zeros(7), np.zeros(7), np.zeros(7), pose, np.zeros(6), np.zeros(6))
    SafeServoArm(cast("ServoArm", None), limits).admit(motion.at(0.5), still)
    quat_from_matrix(matrix_from_quat(pose[3:]))
    mailbox.count_tick(0.0, 0.0, 1.0)
    mailbox.forget_ticks()


def prefer_realtime(core: int | None) -> list[str]:
    """Ask the kernel for real-time scheduling and locked memory; returns, in words, what it did not grant."""
    missing: list[str] = []
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    except OSError as error:
        missing.append(f"real-time scheduling ({error.strerror}; give the user rtprio 99 in /etc/security/limits.conf)")
    if ctypes.CDLL(None, use_errno=True).mlockall(MLOCK_CURRENT_AND_FUTURE):
        reason = os.strerror(ctypes.get_errno())
        missing.append(f"locked memory ({reason}; give the user memlock unlimited in /etc/security/limits.conf)")
    if core is not None:
        try:
            os.sched_setaffinity(0, {core})
        except OSError as error:
            missing.append(f"core {core} ({error.strerror})")
    realtime = Path("/sys/kernel/realtime")
    if not (realtime.is_file() and realtime.read_text().strip() == "1"):
        missing.append("a PREEMPT_RT kernel")
    gc.collect()
    gc.freeze()
    gc.disable()
    return missing


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def main() -> None:
    """Entry of the process: `python -m drivers.realtime_loop SOCKET_FD MAILBOX`, its configuration the first line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program in front; it tells us what to do
    link = socket.socket(fileno=int(sys.argv[1]))
    mailbox = Mailbox(Path(sys.argv[2]))
    line = b""
    while not line.endswith(b"\n"):
        received = link.recv(1)
        if not received:
            return
        line += received
    config = json.loads(line)
    try:
        arm = SafeServoArm(load(config["driver"], config["options"]))
        warm_up(mailbox)
        missing = prefer_realtime(config["core"])
        answer: dict[str, Any] = {"result": missing}
    except RobotRLError as error:
        arm, answer = None, {"error": type(error).__name__, "message": str(error)}
    link.sendall(json.dumps({"number": 0, **answer}).encode() + b"\n")
    if arm is not None:
        Loop(
            arm, mailbox, link, clock=config["clock"], hold_after_s=config["hold_after_s"],
            stop_after_s=config["stop_after_s"],
        ).run()  # fmt: skip


if __name__ == "__main__":
    main()
