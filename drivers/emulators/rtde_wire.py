"""RTDE protocol version 2 as bytes: message types, the variables a controller offers, and their packing.

Source: Universal Robots, "Real-Time Data Exchange (RTDE) Guide" (packages, variable names and types, mode numbers).
Everything is big-endian; a message is its size (uint16, header included), its type (uint8) and its payload.
"""

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "INPUTS", "OUTPUTS", "Message", "Recipe", "RobotMode", "RuntimeState", "SafetyMode", "Value", "frame",
    "take_frames",
]  # fmt: skip

Value = float | Sequence[float] | NDArray[np.float64]

HEADER = struct.Struct(">HB")
FORMATS = {
    "BOOL": "?", "UINT8": "B", "UINT32": "I", "UINT64": "Q", "INT32": "i", "DOUBLE": "d",
    "VECTOR3D": "3d", "VECTOR6D": "6d", "VECTOR6INT32": "6i", "VECTOR6UINT32": "6I",
}  # fmt: skip


class Message(IntEnum):
    """Package types: the ASCII codes of the letters in the guide."""

    PROTOCOL_VERSION = 86
    CONTROLLER_VERSION = 118
    TEXT = 77
    DATA = 85
    SETUP_OUTPUTS = 79
    SETUP_INPUTS = 73
    START = 83
    PAUSE = 80


class RobotMode(IntEnum):
    """`robot_mode`."""

    POWER_OFF = 3
    POWER_ON = 4
    IDLE = 5
    RUNNING = 7


class SafetyMode(IntEnum):
    """`safety_mode`."""

    NORMAL = 1
    PROTECTIVE_STOP = 3
    ROBOT_EMERGENCY_STOP = 7


class RuntimeState(IntEnum):
    """`runtime_state`: what the controller's program does."""

    STOPPED = 1
    PLAYING = 2


def _names(kind: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), kind)


def _registers(direction: str) -> dict[str, str]:
    ints = {f"{direction}_int_register_{i}": "INT32" for i in range(48)}
    doubles = {f"{direction}_double_register_{i}": "DOUBLE" for i in range(48)}
    bits = {f"{direction}_bit_registers{r}": "UINT32" for r in ("0_to_31", "32_to_63")}
    return ints | doubles | bits


OUTPUTS: dict[str, str] = (
    _names(
        "DOUBLE",
        "timestamp actual_execution_time speed_scaling target_speed_fraction actual_momentum actual_main_voltage "
        "actual_robot_voltage actual_robot_current standard_analog_input0 standard_analog_input1 "
        "standard_analog_output0 standard_analog_output1 payload",
    )
    | _names(
        "VECTOR6D",
        "target_q target_qd target_qdd target_current target_moment actual_q actual_qd actual_current "
        "joint_control_output actual_TCP_pose actual_TCP_speed actual_TCP_force target_TCP_pose target_TCP_speed "
        "joint_temperatures actual_joint_voltage ft_raw_wrench payload_inertia tcp_offset actual_current_as_torque",
    )
    | _names("VECTOR3D", "actual_tool_accelerometer payload_cog")
    | _names("UINT64", "actual_digital_input_bits actual_digital_output_bits")
    | _names("UINT32", "runtime_state robot_status_bits safety_status_bits")
    | _names("INT32", "robot_mode safety_mode")
    | _names("VECTOR6INT32", "joint_mode")
    | _registers("output")
)
"""What can be asked for, with its type."""

INPUTS: dict[str, str] = (
    _names(
        "UINT8",
        "standard_digital_output_mask standard_digital_output configurable_digital_output_mask "
        "configurable_digital_output tool_digital_output_mask tool_digital_output standard_analog_output_mask "
        "standard_analog_output_type",
    )
    | _names("UINT32", "speed_slider_mask")
    | _names("DOUBLE", "speed_slider_fraction standard_analog_output_0 standard_analog_output_1 payload")
    | _names("VECTOR6D", "external_force_torque payload_inertia")
    | _names("VECTOR3D", "payload_cog")
    | _registers("input")
)
"""What can be written, with its type."""


class Recipe:
    """An agreed list of variables, packed in one data package.

    Args:
        names: Of variables in `known`.
        known: `OUTPUTS` or `INPUTS`.

    Attributes:
        types: Of each, `NOT_FOUND` where there is none of that name.
    """

    def __init__(self, names: Sequence[str], known: dict[str, str]) -> None:
        self.names = list(names)
        self.types = [known.get(name, "NOT_FOUND") for name in names]
        self.complete = "NOT_FOUND" not in self.types
        formats = [FORMATS.get(kind, "") for kind in self.types]
        self._struct = struct.Struct(">B" + "".join(formats))
        self._widths = [int(f[:-1] or 1) for f in formats if f]

    def pack(self, number: int, values: dict[str, Value]) -> bytes:
        """The payload of a data package: the recipe's number, then every variable."""
        flat: list[float] = []
        for name, width in zip(self.names, self._widths, strict=True):
            value = values[name]
            if width == 1:
                flat.append(value)  # pyright: ignore[reportArgumentType]
            else:
                flat.extend(value)  # pyright: ignore[reportArgumentType]
        return self._struct.pack(number, *flat)

    def unpack(self, payload: bytes) -> dict[str, float | tuple[float, ...]]:
        """Every variable of a data package. Raises struct.error when the size is not the recipe's."""
        flat = self._struct.unpack(payload)
        values: dict[str, float | tuple[float, ...]] = {}
        at = 1
        for name, width in zip(self.names, self._widths, strict=True):
            values[name] = flat[at] if width == 1 else flat[at : at + width]
            at += width
        return values


def frame(kind: int, payload: bytes = b"") -> bytes:
    """A message with its header."""
    return HEADER.pack(HEADER.size + len(payload), kind) + payload


def take_frames(buffer: bytearray) -> Iterator[tuple[int, bytes]]:
    """Every complete message at the buffer's start, as type and payload; they are removed from it.

    Raises:
        ValueError: A header states a size smaller than itself: the stream is not RTDE.
    """
    while len(buffer) >= HEADER.size:
        size, kind = HEADER.unpack_from(buffer)
        if size < HEADER.size:
            raise ValueError(f"an RTDE header states {size} bytes, at least {HEADER.size} expected")
        if len(buffer) < size:
            return
        payload = bytes(buffer[HEADER.size : size])
        del buffer[:size]
        yield kind, payload
