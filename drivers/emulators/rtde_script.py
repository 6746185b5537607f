"""What ur_rtde's control script does on the controller, as a program that runs one cycle at a time.

The client writes a command number and its arguments to input registers and reads from output register 0 whether the
script is ready (1) or done (2). Numbers and register use as in ur_rtde 1.6 (its rtde_control.script); a command without
an entry here is answered as done and does nothing.
"""

import re
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from drivers.emulators.rtde_controller import Controller, ScriptError
from drivers.emulators.rtde_kinematics import FLANGE, forward, from_ur, inverse, to_ur
from drivers.emulators.rtde_motion import Force, Hold, Motion, MoveJ, MoveL, Reference, Servo, Speed, Stop
from robot_rl.geometry import compose

__all__ = ["ControlScript", "program_from"]

Array = NDArray[np.float64]

READY, DONE, STOP_SCRIPT = 1, 2, 255
STEADY = 1e-3  # [rad/s] below which the arm is steady
STARTUP_CYCLES = 5  # a controller takes a moment to compile what it is sent
REALTIME = {6, 9, 10, 11, 24, 25, 26, 27, 38, 58, 66, 67, 68, 69, 70, 71}  # taken every cycle, never "done"
OFFSET = re.compile(r"reg_offset_int = # int register offset\s*(\d+)")
PATH_MOVE = re.compile(r"(movej|movel)\((p?)\[([^\]]+)\],\s*a=([\d.e+-]+),\s*v=([\d.e+-]+)")
REGISTER_WRITE = re.compile(r"write_output_integer_register\(([\d+ ]+),\s*(\d+)\)")


def program_from(controller: Controller, text: str) -> Iterator[None]:
    """The program a script's text stands for: ur_rtde's control script, or one that writes registers and ends."""
    offset = OFFSET.search(text)
    if offset is None:
        return _simple(controller, text)
    path = text.partition("# inject move path\n")[2].partition("\n    end")[0]
    moves = [(m[1], m[2] == "p", [float(v) for v in m[3].split(",")], float(m[4]), float(m[5]))
             for m in PATH_MOVE.finditer(path)]  # fmt: skip
    return ControlScript(controller, int(offset[1]), moves).run()


def _simple(controller: Controller, text: str) -> Iterator[None]:
    for match in REGISTER_WRITE.finditer(text):
        register = sum(int(part) for part in match[1].split("+"))
        controller.int_out[register] = int(match[2])
        for _ in range(STARTUP_CYCLES):
            yield


class ControlScript:
    """The register protocol.

    Args:
        controller: Whose arm is moved.
        offset: Of the registers used: 0, or 24 for the upper range.
        path: Moves that were written into the script: name, whether to a pose, target, acceleration, speed.
    """

    def __init__(
        self, controller: Controller, offset: int, path: list[tuple[str, bool, list[float], float, float]]
    ) -> None:
        self.c, self.offset, self.path = controller, offset, path
        self._background: Motion | None = None  # an asynchronous motion under way
        self._operations, self._writes = 0, 0
        c = controller
        self._plain: dict[int, Callable[[], None]] = {
            6: self._force_mode, 8: c.zero_sensor, 9: lambda: self._speed(tool=False),
            10: lambda: self._speed(tool=True), 11: self._servo_joints, 17: self._payload, 18: lambda: self._free(True),
            19: lambda: self._free(False), 20: self._force_damping, 21: self._force_gain, 24: self._servo_pose,
            25: lambda: self._answer_int(0), 26: lambda: self._answer([c.period_s]),
            27: lambda: self._answer(c.plant.q), 28: lambda: self._answer(to_ur(c.reference.pose()[0])),
            29: self._set_tcp, 30: self._inverse, 31: lambda: c.protective_stop("program: protective_stop()"),
            35: self._watchdog, 36: self._pose_allowed, 37: self._joints_allowed,
            38: lambda: self._answer(-c.plant.jacobian.T @ c.plant.wrench_base()), 39: self._pose_trans,
            40: lambda: self._answer(to_ur(c.reference.tcp)),
            43: lambda: self._answer(to_ur(forward(c.plant.q, c.reference.tcp)[0])), 44: self._forward,
            46: self._inverse, 47: lambda: self._answer_int(int(np.abs(c.plant.qd).max() < STEADY)),
            52: lambda: self._free(True), 53: lambda: self._free(False), 54: lambda: self._answer_int(0),
            58: lambda: self._answer(to_ur(forward(c.plant.q, FLANGE)[0])), 60: self._has_inverse,
            61: self._has_inverse, 65: self._payload, 67: lambda: self._answer_matrix(c.plant.mass_matrix()),
            68: lambda: self._answer(c.plant.bias), 69: lambda: self._answer(np.zeros(6)),
            70: lambda: self._answer_matrix(forward(c.plant.q, c.reference.tcp)[1]),
        }  # fmt: skip
        self._blocking: dict[int, Callable[[], Iterator[None]]] = {
            1: self._move_joints, 2: self._move_joints_to_pose, 3: self._move_line, 4: self._move_line_to_joints,
            7: self._force_mode_stop, 15: self._speed_stop, 16: lambda: self._stop(tool=True),
            33: lambda: self._stop(tool=True, may_return=True), 34: lambda: self._stop(tool=False, may_return=True),
            45: self._move_path,
        }  # fmt: skip

    def run(self) -> Iterator[None]:
        """One cycle per item, until the client stops the script."""
        c = self.c
        for _ in range(STARTUP_CYCLES):
            yield
        c.force_gain, c.force_damping = 0.5, 0.025  # the script's own defaults
        self._progress(-1)
        self._signal(READY)
        executing = False
        while True:
            command = c.int_in(self.offset)
            if command == STOP_SCRIPT:
                return
            c.streaming = command in REALTIME
            if command in REALTIME:
                self._plain.get(command, lambda: None)()
                self._signal(READY)
            elif command == 0:
                executing = False
                self._signal(READY)
            elif not executing:
                if command in self._blocking:
                    yield from self._blocking[command]()
                else:
                    self._plain.get(command, lambda: None)()
                self._signal(DONE)
                executing = True
            if self._background is not None and c.motion is not self._background:
                self._background = None
                self._progress(-1)
            yield

    # Registers

    def _numbers(self, first: int, count: int = 6) -> Array:
        return np.array([self.c.double_in(self.offset + first + i) for i in range(count)])

    def _number(self, register: int) -> float:
        return self.c.double_in(self.offset + register)

    def _integer(self, register: int) -> int:
        return self.c.int_in(self.offset + register)

    def _signal(self, state: int) -> None:
        self.c.int_out[self.offset] = state

    def _answer(self, values: Array | list[float]) -> None:
        for i, value in enumerate(values):
            self.c.double_out[self.offset + i] = float(value)

    def _answer_int(self, value: int) -> None:
        self.c.int_out[self.offset + 1] = value

    def _answer_matrix(self, matrix: Array) -> None:
        columns = matrix.T.ravel()
        self.c.double_out[0:24] = columns[:24].tolist()
        self.c.double_out[36:48] = columns[24:].tolist()

    def _progress(self, value: int) -> None:
        """Register 2: bits 24-30 number the operation, 16-22 count writes, 15 says running, below is the progress."""
        self._writes = (self._writes + 1) % 128
        self._operations = (self._operations + int(value == 0)) % 128
        running = min(value, 32767) + 32768 if value >= 0 else 0
        self.c.int_out[self.offset + 2] = self._writes << 16 | self._operations << 24 | running

    # Motions

    def _finish(self, motion: Motion) -> Iterator[None]:
        """Until a motion is at its end; whoever starts another one ends it, too."""
        c = self.c
        c.start(_Then(motion, c))
        mine = c.motion
        while c.motion is mine:
            yield

    def _move(self, motion: Motion) -> Iterator[None]:
        if self._integer(1) == 1:
            self._background = self.c.start(_Then(motion, self.c))
            self._progress(0)
            return
        yield from self._finish(motion)

    def _move_joints(self) -> Iterator[None]:
        q = self._numbers(0)
        return self._move(MoveJ(self.c.reference.q, q, self._number(6), self._number(7)))

    def _move_joints_to_pose(self) -> Iterator[None]:
        q = self._joints_of(self._numbers(0))
        return self._move(MoveJ(self.c.reference.q, q, self._number(6), self._number(7)))

    def _move_line(self) -> Iterator[None]:
        goal = from_ur(self._numbers(0))
        self._joints_of(self._numbers(0))
        return self._move(MoveL(self.c.reference.pose()[0], goal, self._number(6), self._number(7)))

    def _move_line_to_joints(self) -> Iterator[None]:
        goal = forward(self._numbers(0), self.c.reference.tcp)[0]
        return self._move(MoveL(self.c.reference.pose()[0], goal, self._number(6), self._number(7)))

    def _move_path(self) -> Iterator[None]:
        for name, is_pose, target, acceleration, speed in self.path:
            values = np.array(target)
            if name == "movej":
                q = self._joints_of(values) if is_pose else values
                yield from self._finish(MoveJ(self.c.reference.q, q, speed, acceleration))
            else:
                goal = from_ur(values) if is_pose else forward(values, self.c.reference.tcp)[0]
                yield from self._finish(MoveL(self.c.reference.pose()[0], goal, speed, acceleration))

    def _servo_joints(self) -> None:
        self._servo(self._numbers(0))

    def _servo_pose(self) -> None:
        self._servo(self._joints_of(self._numbers(0)))

    def _servo(self, q: Array) -> None:
        lookahead, gain = self._number(9), self._number(10)
        if isinstance(self.c.motion, Servo):
            self.c.motion.set(q, lookahead, gain)
        else:
            self.c.start(Servo(q, lookahead, gain))

    def _speed(self, *, tool: bool) -> None:
        target, acceleration = self._numbers(0), self._number(6)
        if isinstance(self.c.motion, Speed) and self.c.motion.tool == tool:
            self.c.motion.set(target, acceleration, tool=tool)
        else:
            self.c.start(Speed(target, acceleration, tool=tool))

    def _speed_stop(self) -> Iterator[None]:
        tool = isinstance(self.c.motion, Speed) and self.c.motion.tool
        return self._finish(Stop(self._number(0), tool=tool))

    def _stop(self, *, tool: bool, may_return: bool = False) -> Iterator[None]:
        motion = Stop(self._number(0), tool=tool)
        return self._move(motion) if may_return else self._finish(motion)

    # Force mode and the rest

    def _force_mode(self) -> None:
        c = self.c
        if c.force is None:
            c.force = Force(c.reference.pose()[0])
        compliant = np.array([self._integer(i) == 1 for i in range(2, 8)])
        c.force.set(from_ur(self._numbers(0)), compliant, self._numbers(6), self._numbers(12))

    def _force_mode_stop(self) -> Iterator[None]:
        self.c.force = None
        return self._finish(Stop(10.0, tool=True))

    def _force_damping(self) -> None:
        self.c.force_damping = min(max(self._number(0), 0.0), 1.0)

    def _force_gain(self) -> None:
        self.c.force_gain = min(max(self._number(0), 0.0), 2.0)

    def _free(self, free: bool) -> None:
        self.c.freedrive = free

    def _watchdog(self) -> None:
        self.c.watchdog_hz = self._number(0)

    def _payload(self) -> None:
        self.c.payload = self._number(0)
        self.c.payload_cog = self._numbers(1, 3).tolist()

    def _set_tcp(self) -> None:
        self.c.reference.tcp = from_ur(self._numbers(0))

    def _pose_trans(self) -> None:
        self._answer(to_ur(compose(from_ur(self._numbers(0)), from_ur(self._numbers(6)))))

    def _forward(self) -> None:
        self._answer(to_ur(forward(self._numbers(0), from_ur(self._numbers(6)))[0]))

    def _joints_of(self, pose: Array) -> Array:
        q, reached = inverse(from_ur(pose), self.c.reference.tcp, self.c.reference.q)
        if not reached:
            raise ScriptError(f"C208: no inverse kinematics for {np.round(pose, 3).tolist()}")
        return q

    def _inverse(self) -> None:
        near = self._numbers(6) if self._integer(0) == 30 else self.c.plant.q
        q, reached = inverse(from_ur(self._numbers(0)), self.c.reference.tcp, near)
        if not reached:
            raise ScriptError("C208: get_inverse_kin found no solution")
        self._answer(q)

    def _has_inverse(self) -> None:
        self._answer_int(int(inverse(from_ur(self._numbers(0)), self.c.reference.tcp, self.c.plant.q)[1]))

    def _pose_allowed(self) -> None:
        self._has_inverse()

    def _joints_allowed(self) -> None:
        limits = self.c.plant.limits
        q = self._numbers(0)
        self._answer_int(int(((q >= limits.lower) & (q <= limits.upper)).all()))


class _Then:
    """A motion after which the controller stands still."""

    def __init__(self, motion: Motion, controller: Controller) -> None:
        self.motion, self.controller = motion, controller

    def step(self, reference: Reference, dt: float) -> bool:
        if self.motion.step(reference, dt):
            reference.qd = np.zeros(6)
            self.controller.start(Hold())
            return True
        return False
