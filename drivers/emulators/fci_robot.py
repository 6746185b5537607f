"""The emulated arm controller: answers the client's commands and runs the millisecond of `fci_tick`."""

import struct
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from drivers.emulators import fci_tick
from drivers.emulators.fci_flags import fail
from drivers.emulators.fci_link import Link
from drivers.emulators.fci_memory import new_memory
from drivers.emulators.fci_model import JOINT_LIMITS, describe_arm, tool_mass, urdf_of
from drivers.emulators.fci_motion import begin, end
from drivers.emulators.fci_protocol import (
    ERRORS,
    MOVE_REQUEST,
    ROBOT_HEADER,
    ROBOT_PORT,
    Command,
    ControllerMode,
    GeneratorMode,
    MoveStatus,
    RobotMode,
    SetterStatus,
)
from drivers.emulators.fci_wire import new_wire, pack_settings
from drivers.emulators.plant import Plant
from robot_rl.errors import ConfigError

__all__ = ["FciRobot"]

Array = NDArray[np.float64]

# Ranges of setJointImpedance and setCartesianImpedance (libfranka, robot.h).
LARGEST_JOINT_STIFFNESS = 14250.0
CARTESIAN_STIFFNESS_RANGE = np.array([[10.0] * 3 + [1.0] * 3, [3000.0] * 3 + [300.0] * 3])
DAMPING_RATIO = 1.0
AT_REST = 0.01  # [rad/s], of every joint, when a recovery is over
RECOVERY_EMERGENCY_ABORTED = 5  # an answer that only AutomaticErrorRecovery has
END_OF_MOTION = {
    RobotMode.IDLE: MoveStatus.SUCCESS,
    RobotMode.REFLEX: MoveStatus.REFLEX_ABORTED,
    RobotMode.USER_STOPPED: MoveStatus.EMERGENCY_ABORTED,
}


class FciRobot:
    """An arm behind the Franka Control Interface.

    Args:
        plant: What it moves.
        host: Address to listen on.
        version: Of the robot interface it claims to speak.

    Raises:
        ConfigError: The plant's arm is not one that this interface serves.
    """

    def __init__(self, plant: Plant, host: str, version: int) -> None:
        arm = plant.twin.arm_model
        description = describe_arm(arm.path, arm.flange, arm.torque_limits)
        flange = f"arm/{arm.flange}"
        positions = np.stack([plant.limits.lower, plant.limits.upper], axis=1)
        self.plant = plant
        self.memory = new_memory(description, tool_mass(plant, flange), positions, JOINT_LIMITS)
        self.wire = new_wire()
        self.link = Link(host, ROBOT_PORT, version, ROBOT_HEADER, "<B", self._message, self._client_left)
        self._record = self.memory[0]
        self._urdf = urdf_of(description).encode()
        self._flange = description.flange
        self._move_id: int | None = None  # of the running Move, to be answered at its end
        self._recovery_id = 0
        self._setters: dict[int, Callable[[bytes], bool]] = {
            Command.SET_COLLISION_BEHAVIOR: self._set_collision_behavior,
            Command.SET_JOINT_IMPEDANCE: self._set_joint_impedance,
            Command.SET_CARTESIAN_IMPEDANCE: self._set_cartesian_impedance,
            Command.SET_GUIDING_MODE: lambda payload: len(payload) == 7,  # nobody is there to push the arm
            Command.SET_EE_TO_K: lambda payload: self._set_frame("EE_T_K", payload),
            Command.SET_NE_TO_EE: lambda payload: self._set_frame("NE_T_EE", payload),
            Command.SET_LOAD: self._set_load,
        }
        pack_settings(self.memory, self.wire)
        self._compile()
        self.hold(RobotMode.IDLE)

    def _compile(self) -> None:
        """Have everything compiled before a client waits for it."""
        begin(self._record, int(GeneratorMode.NONE), int(ControllerMode.EXTERNAL), self.plant.q)
        fail(self._record, 0)
        self._record["errors"], self._record["reflex"], self._record["aborted"] = 0, 0, 0
        fci_tick.run(self.memory, self.plant.arrays, self.wire, -1, 0, 0, 0)

    @property
    def mode(self) -> RobotMode:
        """What the robot is doing."""
        return RobotMode(int(self._record["mode"]))

    @property
    def answered(self) -> bool:
        """Whether a motion runs that its client has begun to command."""
        return bool(self._record["mode"] == RobotMode.MOVE and self._record["answered"])

    def run(self, ticks: int, spin_ns: int, *, mute: bool = False) -> int:
        """Run some milliseconds: `fci_tick.run`, and the answer to a motion that ended."""
        states = self.link.states
        connection = -1 if states is None else states.fileno()
        with self.plant.lock:
            result = fci_tick.run(self.memory, self.plant.arrays, self.wire, connection, ticks, spin_ns, int(mute))
        if result == fci_tick.STOPPED:
            self._motion_ended()
        if self.mode == RobotMode.AUTOMATIC_ERROR_RECOVERY:
            self._go_on_recovering()
        return int(result)

    def hold(self, mode: RobotMode) -> None:
        """Hold the measured joint positions, in `mode`; a running motion ends, and its client is told."""
        moving = self.mode == RobotMode.MOVE
        if self.mode == RobotMode.AUTOMATIC_ERROR_RECOVERY and mode == RobotMode.USER_STOPPED:
            self.link.reply(Command.AUTOMATIC_ERROR_RECOVERY, self._recovery_id, RECOVERY_EMERGENCY_ABORTED)
        with self.plant.lock:
            lower, upper = self._record["position_limits"].T
            end(self._record, int(mode), np.clip(self.plant.q, lower, upper))
            self._update_damping()
            fci_tick.measure(self._record, self.plant.arrays, self.wire)
        if moving:
            self._motion_ended()

    def raise_error(self, name: str) -> None:
        """Make an error of that name happen now. Raises ConfigError when there is none of that name."""
        if name not in ERRORS:
            raise ConfigError(f"The Franka Control Interface has no error {name!r}; it has {', '.join(ERRORS)}.")
        fail(self._record, ERRORS.index(name))
        if self.mode != RobotMode.MOVE:
            self._record["aborted"] = 0
            self.hold(RobotMode.REFLEX)

    def recover(self) -> None:
        """Clear every error and hold."""
        for name in ("errors", "joint_collision", "cartesian_collision", "aborted"):
            self._record[name] = 0
        self.hold(RobotMode.IDLE)

    def _motion_ended(self) -> None:
        with self.plant.lock:
            self._update_damping()
        self._answer_move(END_OF_MOTION[self.mode])

    def _answer_move(self, status: MoveStatus) -> None:
        if self._move_id is not None:
            self.link.reply(Command.MOVE, self._move_id, status)
            self._move_id = None

    def _client_left(self) -> None:
        self._move_id = None  # a later client must not get the answer
        if self.mode == RobotMode.AUTOMATIC_ERROR_RECOVERY:
            self.hold(RobotMode.REFLEX)
        if self.mode == RobotMode.MOVE:
            fail(self._record, ERRORS.index("communication_constraints_violation"))
            self._record["aborted"] = 0
            self.hold(RobotMode.REFLEX)

    def _update_damping(self) -> None:
        """Damping of the joint controller for the inertia each joint feels here, the others being free."""
        felt = 1.0 / np.diag(np.linalg.inv(self.plant.mass_matrix()))
        self._record["D_theta"] = 2.0 * DAMPING_RATIO * np.sqrt(self._record["K_theta"] * felt)

    def _message(self, command: int, command_id: int, payload: bytes) -> None:
        if command == Command.MOVE:
            self._move(command_id, payload)
        elif command == Command.GET_ROBOT_MODEL:
            self.link.reply(command, command_id, SetterStatus.SUCCESS, self._urdf)
        elif command == Command.STOP_MOVE:
            self._stop_move()
            self.link.reply(command, command_id, SetterStatus.SUCCESS)
        elif command == Command.AUTOMATIC_ERROR_RECOVERY:
            self._begin_recovery(command_id)
        elif command in self._setters:
            self.link.reply(command, command_id, self._set(self._setters[command], payload))
        else:
            self.link.drop()  # not our protocol

    def _set(self, setter: Callable[[bytes], bool], payload: bytes) -> int:
        if self.mode in (RobotMode.MOVE, RobotMode.USER_STOPPED):
            return SetterStatus.NOT_POSSIBLE
        with self.plant.lock:
            try:
                accepted = setter(payload)
            except struct.error:
                accepted = False
            pack_settings(self.memory, self.wire)
        if accepted:
            self.hold(self.mode)
        return SetterStatus.SUCCESS if accepted else SetterStatus.INVALID_ARGUMENT

    def _move(self, command_id: int, payload: bytes) -> None:
        request = MOVE_REQUEST.unpack(payload)
        controller, generator, asynchronous = request[0], request[1] + 1, request[8]
        known = controller <= ControllerMode.EXTERNAL and generator <= GeneratorMode.NONE
        pointless = generator == GeneratorMode.NONE and controller != ControllerMode.EXTERNAL
        if self.mode != RobotMode.IDLE or asynchronous or pointless or not known:
            self.link.reply(Command.MOVE, command_id, MoveStatus.NOT_POSSIBLE)
            return
        self._record["path_deviation"] = request[2:4]
        self._move_id = command_id
        with self.plant.lock:
            self._update_damping()
            begin(self._record, generator, controller, self.plant.q)
        self._discard_commands()
        self.link.reply(Command.MOVE, command_id, MoveStatus.MOTION_STARTED)

    def _discard_commands(self) -> None:
        """Throw away what a motion before this one left on the socket."""
        if self.link.states is not None:
            try:
                while self.link.states.recv(1024):
                    pass
            except OSError:
                pass

    def _stop_move(self) -> None:
        """Always granted: the vendor's client sends it when it lets go of a motion, an aborted one too."""
        if self.mode == RobotMode.MOVE:
            with self.plant.lock:
                end(self._record, RobotMode.IDLE, self.plant.q)
                self._update_damping()
            self._answer_move(MoveStatus.PREEMPTED)

    def _begin_recovery(self, command_id: int) -> None:
        """Recovery takes until the arm is at rest; so does its answer."""
        if self.mode not in (RobotMode.IDLE, RobotMode.REFLEX):
            self.link.reply(Command.AUTOMATIC_ERROR_RECOVERY, command_id, SetterStatus.NOT_POSSIBLE)
            return
        self._recovery_id = command_id
        self.hold(RobotMode.AUTOMATIC_ERROR_RECOVERY)

    def _go_on_recovering(self) -> None:
        if np.abs(self.plant.qd).max() < AT_REST:
            self.recover()
            self.link.reply(Command.AUTOMATIC_ERROR_RECOVERY, self._recovery_id, SetterStatus.SUCCESS)

    def _set_collision_behavior(self, payload: bytes) -> bool:
        numbers = np.array(struct.unpack("<52d", payload))
        thresholds = np.split(numbers, [7, 14, 21, 28, 34, 40, 46])
        if not np.isfinite(numbers).all() or (numbers < 0).any():
            return False
        names = ("torque_contact", "torque_collision"), ("force_contact", "force_collision")
        for offset, (low, high) in zip((0, 4), names, strict=True):
            for shift, when in ((0, "_acceleration"), (2, "")):
                self._record[low + when] = thresholds[offset + shift]
                self._record[high + when] = thresholds[offset + shift + 1]
        return True

    def _set_joint_impedance(self, payload: bytes) -> bool:
        stiffness = np.array(struct.unpack("<7d", payload))
        if not ((stiffness >= 0) & (stiffness <= LARGEST_JOINT_STIFFNESS)).all():
            return False
        self._record["K_theta"] = stiffness
        return True

    def _set_cartesian_impedance(self, payload: bytes) -> bool:
        stiffness = np.array(struct.unpack("<6d", payload))
        if not ((stiffness >= CARTESIAN_STIFFNESS_RANGE[0]) & (stiffness <= CARTESIAN_STIFFNESS_RANGE[1])).all():
            return False
        self._record["K_x"] = stiffness
        return True

    def _set_frame(self, name: str, payload: bytes) -> bool:
        frame = np.array(struct.unpack("<16d", payload)).reshape(4, 4, order="F")
        rotation = frame[:3, :3]
        if not np.allclose(rotation.T @ rotation, np.eye(3), atol=1e-5) or not np.allclose(frame[3], (0, 0, 0, 1)):
            return False
        self._record[name] = frame
        self._record["F_T_EE"] = self._record["F_T_NE"] @ self._record["NE_T_EE"]
        self._record["tool"] = self._flange @ self._record["F_T_EE"]
        return True

    def _set_load(self, payload: bytes) -> bool:
        numbers = np.array(struct.unpack("<13d", payload))
        if not np.isfinite(numbers).all() or numbers[0] < 0:
            return False
        self._record["m_load"], self._record["F_x_Cload"] = numbers[0], numbers[1:4]
        self._record["I_load"] = numbers[4:].reshape(3, 3, order="F")
        self._record["tau_load"] = 0.0
        return True
