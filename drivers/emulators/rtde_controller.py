"""The controller behind the ports: power, safety, reference, stiff joint tracking and what it reports, in cycles."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivers.emulators.plant import Plant
from drivers.emulators.rtde_kinematics import FLANGE, forward, inverse, move_to, to_ur, tracking_torque, wrench_of
from drivers.emulators.rtde_motion import Force, Hold, Motion, Reference
from drivers.emulators.rtde_wire import RobotMode, RuntimeState, SafetyMode, Value

__all__ = ["Controller", "ControllerOptions", "ScriptError"]

Array = NDArray[np.float64]

# Tracking by computed torque, ours: UR publishes no stiffness; this one stops an impact within 20 ms.
TRACKING = 60.0  # [1/s]
MAX_ACCELERATION = 40.0  # [rad/s^2] that the tracking feeds forward; ur_rtde's own limit for moves
SENSOR_BLEND = (
    0.2  # low-pass per tick of 1 ms of what force mode feels: about 5 ms; what is reported has the plant's 20 ms
)
SENSOR_DAMPING = 1e-4  # lambda^2 of the inverse that turns joint torques into a wrench
POSITION_TOLERANCE = 0.1  # [rad] between reference and joint, beyond which the arm stops itself
UNLOCK_AFTER_S = 5.0  # UR: a protective stop cannot be unlocked sooner
INT_OUT = [f"output_int_register_{i}" for i in range(48)]
DOUBLE_OUT = [f"output_double_register_{i}" for i in range(48)]
SAFETY_BITS = {SafetyMode.NORMAL: 1, SafetyMode.PROTECTIVE_STOP: 0x404, SafetyMode.ROBOT_EMERGENCY_STOP: 0x4C0}


class ScriptError(Exception):
    """What ends a program on the controller: no inverse kinematics, for example."""


@dataclass(frozen=True, kw_only=True)
class ControllerOptions:
    """What can be rehearsed.

    Attributes:
        frequency: Of the controller's cycle [Hz]: 500 as an e-Series, 125 as a CB3.
        version: Reported controller version: major, minor, bugfix, build.
        remote_control: Whether the pendant is switched to remote control.
        collision_force: Force on the flange [N] that is taken for a collision.
        collision_torque: Torque about the flange [N m], likewise.
    """

    frequency: float = 500.0
    version: tuple[int, int, int, int] = (5, 13, 0, 0)
    remote_control: bool = True
    collision_force: float = 150.0
    collision_torque: float = 40.0


class Controller:
    """One arm, seen from its own cabinet. Not thread-safe: one loop calls everything.

    Args:
        plant: The arm.
        options: What to be.
    """

    def __init__(self, plant: Plant, options: ControllerOptions) -> None:
        self.plant, self.options = plant, options
        self.period_s = 1.0 / options.frequency
        self.ticks = round(self.period_s / plant.tick_s)
        self.time_s = 0.0  # since the controller was started
        self.reference = Reference(plant.q.copy(), np.zeros(6), FLANGE.copy())
        self.motion: Motion = Hold()
        self.force: Force | None = None
        self.force_gain, self.force_damping = 1.0, 0.005
        self.freedrive = False
        self.robot_mode, self.safety_mode = RobotMode.RUNNING, SafetyMode.NORMAL
        self.program: Iterator[None] | None = None
        self.streaming = False  # whether the program takes a new command every cycle
        self.message = ""  # why the program ended, or the arm stopped
        self.inputs: dict[str, Value] = {}
        self.int_out, self.double_out = [0] * 48, [0.0] * 48
        self.digital_out, self.digital_in = 0, 0
        self.payload, self.payload_cog, self.payload_inertia = 0.0, [0.0] * 3, [0.0] * 6
        self.speed_slider = 1.0
        self.watchdog_hz = 0.0
        self.wrench, self.sensor_zero = np.zeros(6), np.zeros(6)  # on the flange: measured, and what zeroing takes off
        self._velocity = np.zeros(6)  # of the reference in the last cycle
        self._contact, self._felt = np.zeros(6), np.zeros(6)
        self._stopped_at = -UNLOCK_AFTER_S
        self._compile()

    # What programs and people do

    def start(self, motion: Motion) -> Motion:
        """Do this from now on."""
        self.motion = motion
        return motion

    def run(self, program: Iterator[None] | None) -> None:
        """Start a program in place of the one that runs, or stop it; the arm stands still."""
        self.program = program if self.ready else None
        self.watchdog_hz, self.freedrive, self.streaming = 0.0, False, False
        self.force_gain, self.force_damping = 1.0, 0.005
        self._stand()

    @property
    def ready(self) -> bool:
        """Powered, brakes released, not stopped by the safety system."""
        return self.robot_mode == RobotMode.RUNNING and self.safety_mode == SafetyMode.NORMAL

    def protective_stop(self, why: str) -> None:
        """Stand still, end the program, wait for an operator."""
        if self.safety_mode == SafetyMode.NORMAL:
            self.safety_mode, self._stopped_at = SafetyMode.PROTECTIVE_STOP, self.time_s
            self.run(None)
            self.message = why

    def unlock(self) -> str:
        """Answer of the dashboard to "unlock protective stop"."""
        if self.time_s - self._stopped_at < UNLOCK_AFTER_S:
            return (
                "Cannot unlock protective stop until 5s after occurrence. "
                "Always inspect cause of protective stop before unlocking"
            )
        if self.safety_mode == SafetyMode.PROTECTIVE_STOP:
            self.safety_mode = SafetyMode.NORMAL
        return "Protective stop releasing"

    def emergency_stop(self, pressed: bool) -> None:
        """The button: pressed cuts the power, released leaves the arm to be powered on again."""
        if pressed:
            self.safety_mode, self.robot_mode = SafetyMode.ROBOT_EMERGENCY_STOP, RobotMode.POWER_OFF
            self.run(None)
        elif self.safety_mode == SafetyMode.ROBOT_EMERGENCY_STOP:
            self.safety_mode = SafetyMode.NORMAL

    def power(self, on: bool, brakes_released: bool) -> None:
        """As the dashboard's power and brake commands; nothing while stopped by the safety system."""
        if self.safety_mode == SafetyMode.NORMAL:
            self.robot_mode = (
                RobotMode.POWER_OFF if not on else RobotMode.RUNNING if brakes_released else RobotMode.IDLE
            )
            if not self.ready:
                self.run(None)

    def zero_sensor(self) -> None:
        """Take what the force sensor feels now for nothing."""
        self.sensor_zero = self.wrench.copy()

    # One cycle

    def cycle(self) -> None:
        """Run the program, move the reference, and track it with joint torques for one cycle."""
        with self.plant.lock:
            if self.ready and self.program is not None:
                self._run_program()
            before = self.reference.q
            if self.freedrive or not self.ready:
                self._stand_if_free()
            else:
                self._move(before)
            self._track(before)
            self.time_s += self.period_s
        self._watch_safety()

    def _run_program(self) -> None:
        try:
            if self.program is not None:
                next(self.program)
        except StopIteration:
            self.run(None)
        except ScriptError as error:
            self.run(None)
            self.message = str(error)

    def _move(self, before: Array) -> None:
        try:
            self.motion.step(self.reference, self.period_s)
        except ValueError as error:
            self.run(None)
            self.message = str(error)
        if self.force is not None:
            self.force.gain, self.force.damping = self.force_gain, self.force_damping
            self.force.step(self.reference, before, -self.external_at_tcp(), self.period_s)

    def _compile(self) -> None:
        """Have everything compiled before a client waits for it."""
        tcp, _ = forward(self.plant.q, FLANGE)
        inverse(tcp, FLANGE, self.plant.q)
        Force(tcp).step(Reference(self.plant.q.copy(), np.zeros(6), FLANGE.copy()), self.plant.q, np.zeros(6), 0.002)
        self._track(self.reference.q)
        self.external_at_tcp()

    def _stand(self) -> None:
        self.motion, self.force = Hold(), None
        self.reference.q, self.reference.qd = self.plant.q.copy(), np.zeros(6)

    def _stand_if_free(self) -> None:
        if self.freedrive:
            self.reference.q = self.plant.q.copy()
        self.reference.qd = np.zeros(6)

    def _track(self, before: Array) -> None:
        plant, mass = self.plant, self.plant.mass_matrix()
        step = (self.reference.q - before) / self.ticks
        velocity = step / plant.tick_s
        forward_acceleration = np.clip((velocity - self._velocity) / self.period_s, -MAX_ACCELERATION, MAX_ACCELERATION)
        self._velocity = velocity
        for tick in range(1, self.ticks + 1):
            if self.freedrive:
                torque = plant.bias - 5.0 * plant.qd
            else:
                wanted = before + tick * step
                torque = tracking_torque(
                    mass, plant.q, plant.qd, plant.bias, wanted, velocity, forward_acceleration, TRACKING
                )
            plant.step(torque)
            self._contact += SENSOR_BLEND * (plant.contact_torque_now - self._contact)
        self.wrench = wrench_of(plant.q, plant.contact_torque, SENSOR_DAMPING)
        self._felt = wrench_of(plant.q, self._contact, SENSOR_DAMPING)

    def _watch_safety(self) -> None:
        if not self.ready:
            return
        external = self.wrench
        force, torque = float(np.linalg.norm(external[:3])), float(np.linalg.norm(external[3:]))
        away = float(np.abs(self.reference.q - self.plant.q).max())
        if force > self.options.collision_force or torque > self.options.collision_torque:
            self.protective_stop(f"C157: collision, {force:.0f} N and {torque:.0f} N m on the flange")
        elif away > POSITION_TOLERANCE:
            self.protective_stop(f"C153: position deviates from path by {away:.2f} rad")

    # What it reports

    def external_at_tcp(self) -> Array:
        """Wrench of the world on the robot at the tcp, in Base, shape (6,), zeroed, as force mode feels it."""
        return move_to(self._felt - self.sensor_zero, self.plant.q, self.reference.tcp)

    def values(self) -> dict[str, Value]:
        """Every variable of `rtde_wire.OUTPUTS`.

        `actual_TCP_force` is the external wrench, so of the world on the robot, at the flange, along the axes of Base:
        so an e-Series reports it (UR's ROS 2 driver, pull requests 1287 and 1615).
        """
        plant, reference = self.plant, self.reference
        tcp, jacobian = forward(plant.q, reference.tcp)
        target, target_jacobian = reference.pose()
        moment, zero6 = plant.torque + plant.gravity, [0.0] * 6
        playing = self.program is not None
        values: dict[str, Value] = {
            "timestamp": self.time_s, "actual_execution_time": 0.1, "speed_scaling": 1.0,
            "target_speed_fraction": self.speed_slider, "actual_momentum": 0.0, "actual_main_voltage": 48.0,
            "actual_robot_voltage": 48.0, "actual_robot_current": 1.0, "standard_analog_input0": 0.0,
            "standard_analog_input1": 0.0, "standard_analog_output0": 0.0, "standard_analog_output1": 0.0,
            "payload": self.payload, "payload_cog": self.payload_cog, "payload_inertia": self.payload_inertia,
            "target_q": reference.q, "target_qd": reference.qd, "target_qdd": zero6, "target_current": zero6,
            "target_moment": moment, "actual_q": plant.q, "actual_qd": plant.qd, "actual_current": zero6,
            "actual_current_as_torque": moment, "joint_control_output": zero6, "actual_TCP_pose": to_ur(tcp),
            "actual_TCP_speed": jacobian @ plant.qd, "actual_TCP_force": self.wrench - self.sensor_zero,
            "target_TCP_pose": to_ur(target), "target_TCP_speed": target_jacobian @ reference.qd,
            "joint_temperatures": [30.0] * 6, "actual_joint_voltage": [48.0] * 6, "ft_raw_wrench": self.wrench,
            "tcp_offset": to_ur(reference.tcp), "actual_tool_accelerometer": [0.0, 0.0, -9.81],
            "actual_digital_input_bits": self.digital_in, "actual_digital_output_bits": self.digital_out,
            "runtime_state": RuntimeState.PLAYING if playing else RuntimeState.STOPPED,
            "robot_status_bits": int(self.robot_mode >= RobotMode.POWER_ON) | int(playing) << 1,
            "safety_status_bits": SAFETY_BITS[self.safety_mode], "robot_mode": self.robot_mode,
            "safety_mode": self.safety_mode, "joint_mode": [253 if self.robot_mode == RobotMode.RUNNING else 239] * 6,
            "output_bit_registers0_to_31": 0, "output_bit_registers32_to_63": 0,
        }  # fmt: skip
        values.update(zip(INT_OUT, self.int_out, strict=True))
        values.update(zip(DOUBLE_OUT, self.double_out, strict=True))
        return values

    # Inputs

    def write(self, values: dict[str, float | tuple[float, ...]]) -> None:
        """Take a client's input package."""
        self.inputs.update(values)
        for name, shift, width in (("standard", 0, 8), ("configurable", 8, 8), ("tool", 16, 2)):
            mask = int(values.get(f"{name}_digital_output_mask", 0)) & ((1 << width) - 1)  # pyright: ignore[reportArgumentType]
            wanted = int(values.get(f"{name}_digital_output", 0))  # pyright: ignore[reportArgumentType]
            self.digital_out = self.digital_out & ~(mask << shift) | (wanted & mask) << shift
        if values.get("speed_slider_mask"):
            self.speed_slider = float(values["speed_slider_fraction"])  # pyright: ignore[reportArgumentType]

    def int_in(self, register: int) -> int:
        """An input register of the program."""
        return int(self.inputs.get(f"input_int_register_{register}", 0))  # pyright: ignore[reportArgumentType]

    def double_in(self, register: int) -> float:
        """An input register of the program."""
        return float(self.inputs.get(f"input_double_register_{register}", 0.0))  # pyright: ignore[reportArgumentType]
