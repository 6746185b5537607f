"""The emulated Franka Hand: its motions take simulated time, and a grasp succeeds by the width it ends at."""

import contextlib
import struct
import time
from dataclasses import dataclass, field
from socket import socket

from drivers.emulators.fci_link import Link
from drivers.emulators.fci_protocol import (
    GRIPPER_HEADER,
    GRIPPER_PORT,
    GRIPPER_STATE,
    GRIPPER_VERSION,
    GripperCommand,
    GripperStatus,
)
from drivers.emulators.plant import Plant

__all__ = ["FciGripper"]

PUBLISH_S = 0.01  # wall-clock time between states
STEP_S = 0.01  # simulated time between looks at a motion
AT_REST_S, AT_REST_M = 0.1, 2e-4  # a motion is over once the width has changed less than this for so long
TOLERANCE_M = 1e-3  # of a move
LARGEST_SPEED = 0.1  # [m/s] of the width: 0.05 a finger, Franka Hand data sheet
TEMPERATURE_C = 30


@dataclass
class _Motion:
    """One command under way: stages of the width to go to, one after the other."""

    command: GripperCommand
    command_id: int
    stages: list[float]
    speed: float
    grasp: tuple[float, float, float] | None = None  # smallest and largest width of success [m], force [N]
    aim: float = 0.0
    rest_width: float = 0.0
    rest_since_s: float = 0.0
    started: bool = field(default=False)


class FciGripper:
    """The hand of an emulated arm.

    Args:
        plant: Whose gripper it is.
        host: Address to listen on.
    """

    def __init__(self, plant: Plant, host: str) -> None:
        self.link = Link(host, GRIPPER_PORT, GRIPPER_VERSION, GRIPPER_HEADER, "<H", self._message, self._client_left)
        self._plant, self._gripper = plant, plant.gripper
        self._actuator = plant.twin.model.actuator("tool/gripper").id
        self._force = float(plant.twin.model.actuator_forcerange[self._actuator, 1])
        self._motion: _Motion | None = None
        self._held: tuple[float, float, float] | None = None
        self._published = self._looked = 0.0

    def update(self) -> None:
        """Carry on with the motion as far as simulated time has come, and publish the state now and then."""
        now = self._plant.time_s
        if now - self._looked >= STEP_S or now < self._looked:
            elapsed, self._looked = max(now - self._looked, 0.0), now
            if self._motion is not None:
                self._advance(self._motion, now, elapsed)
        if self.link.states is not None and time.monotonic() - self._published >= PUBLISH_S:
            self._published = time.monotonic()
            self._publish(self.link.states)

    def _publish(self, states: socket) -> None:
        width = self._gripper.opening()
        if self._held is not None and not self._held[0] < width < self._held[1]:
            self._held = None  # it slipped out
        largest, grasped = self._gripper.max_opening, self._held is not None
        time_ms = round(self._plant.time_s * 1e3)
        with contextlib.suppress(OSError):  # nobody listens, or not fast enough; the next one comes soon
            states.send(GRIPPER_STATE.pack(time_ms, width, largest, grasped, TEMPERATURE_C))

    def _advance(self, motion: _Motion, now: float, elapsed: float) -> None:
        width, goal = self._gripper.opening(), motion.stages[0]
        if not motion.started:
            motion.started, motion.aim = True, width
            motion.rest_width, motion.rest_since_s = width, now
        step = motion.speed * elapsed
        motion.aim += min(max(goal - motion.aim, -step), step)
        with self._plant.lock:
            self._gripper.command(motion.aim)
        if abs(width - motion.rest_width) > AT_REST_M or (motion.aim != goal and motion.grasp is None):
            motion.rest_width, motion.rest_since_s = width, now
        if now - motion.rest_since_s < AT_REST_S:
            return
        if len(motion.stages) > 1:
            motion.stages.pop(0)
            motion.rest_since_s = now
            return
        self._finish(motion, width, goal)

    def _finish(self, motion: _Motion, width: float, goal: float) -> None:
        reached = abs(width - goal) < TOLERANCE_M
        if motion.grasp is not None:
            low, high, force = motion.grasp
            reached = low < width < high
            self._held = motion.grasp if reached else None
            with self._plant.lock:
                self._gripper.command(0.0)
                self._limit_force(force)
        self._motion = None
        status = GripperStatus.SUCCESS if reached else GripperStatus.UNSUCCESSFUL
        self.link.reply(motion.command, motion.command_id, status)

    def _limit_force(self, force: float) -> None:
        force = min(max(force, 0.0), self._force)
        self._plant.twin.model.actuator_forcerange[self._actuator] = (-force, force)

    def _begin(self, motion: _Motion) -> None:
        self._abort()
        self._held = None
        with self._plant.lock:
            self._limit_force(self._force)
        self._motion = motion
        self._looked = self._plant.time_s

    def _abort(self) -> None:
        if self._motion is not None:
            self.link.reply(self._motion.command, self._motion.command_id, GripperStatus.ABORTED)
            self._motion = None
            with self._plant.lock:
                self._gripper.command(self._gripper.opening())

    def _client_left(self) -> None:
        self._motion = None

    def _message(self, command: int, command_id: int, payload: bytes) -> None:
        largest = self._gripper.max_opening
        try:
            if command == GripperCommand.HOMING:
                self._begin(_Motion(GripperCommand.HOMING, command_id, [0.0, largest], LARGEST_SPEED))
            elif command == GripperCommand.MOVE:
                width, speed = struct.unpack("<2d", payload)
                if not (0.0 <= width <= largest and speed > 0.0):
                    self.link.reply(command, command_id, GripperStatus.FAIL)
                    return
                self._begin(_Motion(GripperCommand.MOVE, command_id, [width], min(speed, LARGEST_SPEED)))
            elif command == GripperCommand.GRASP:
                width, inner, outer, speed, force = struct.unpack("<5d", payload)
                if not (0.0 <= width <= largest and speed > 0.0 and force > 0.0):
                    self.link.reply(command, command_id, GripperStatus.FAIL)
                    return
                window = (width - inner, width + outer, force)
                self._begin(_Motion(GripperCommand.GRASP, command_id, [0.0], min(speed, LARGEST_SPEED), window))
            elif command == GripperCommand.STOP:
                self._abort()
                self.link.reply(command, command_id, GripperStatus.SUCCESS)
            else:
                self.link.drop()  # not our protocol
        except struct.error:
            self.link.drop()
