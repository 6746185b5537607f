"""What is asked of a UR controller before and beside ur_rtde: versions, modes, unlocking; with time-outs.

ur_rtde has no time-out while it connects and keeps the interpreter's lock meanwhile, so everything that can be wrong is
found out here first. Sources: Universal Robots, "Real-Time Data Exchange (RTDE) Guide" and "Dashboard Server e-Series".
"""

import contextlib
import socket
import struct
import time
from dataclasses import dataclass

from robot_rl.errors import DeviceConnectionError, DeviceTimeoutError

__all__ = ["ROBOT_MODES", "SAFE", "SAFETY_MODES", "Dashboard", "Survey", "advice", "hold_inputs", "survey"]

RTDE, DASHBOARD, SCRIPT = 30004, 29999, 30003
OLDEST = (5, 6)  # first with "is in remote control"
TIMEOUT_S = 1.0  # for an answer; three ports and their questions stay below 3 s in all
ASK_VERSION, ASK_CONTROLLER, ASK_INPUTS = 86, 118, 73
ROBOT_MODES = {
    0: "DISCONNECTED", 1: "CONFIRM_SAFETY", 2: "BOOTING", 3: "POWER_OFF", 4: "POWER_ON", 5: "IDLE", 6: "BACKDRIVE",
    7: "RUNNING", 8: "UPDATING_FIRMWARE",
}  # fmt: skip
SAFETY_MODES = {
    1: "NORMAL", 2: "REDUCED", 3: "PROTECTIVE_STOP", 4: "RECOVERY", 5: "SAFEGUARD_STOP", 6: "SYSTEM_EMERGENCY_STOP",
    7: "ROBOT_EMERGENCY_STOP", 8: "VIOLATION", 9: "FAULT", 10: "VALIDATE_JOINT_ID", 11: "UNDEFINED_SAFETY_MODE",
}  # fmt: skip
SAFE = ("NORMAL", "REDUCED")


@dataclass(frozen=True)
class Survey:
    """What a controller said of itself: `version` as in 5.13.0.0, modes as its dashboard names them."""

    version: tuple[int, int, int, int]
    robot_mode: str
    safety: str


class Dashboard:
    """The dashboard server, one line at a time. A context manager.

    Args:
        host: The controller.

    Raises:
        DeviceConnectionError: It does not answer.
    """

    def __init__(self, host: str, timeout_s: float = TIMEOUT_S) -> None:
        self.host = host
        self._socket = _reach(host, DASHBOARD, time.monotonic() + timeout_s)
        self._buffer = b""
        self._line()  # its greeting

    def __enter__(self) -> "Dashboard":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, command: str) -> str:
        """The answer to one command. Raises DeviceTimeoutError, DeviceConnectionError."""
        try:
            self._socket.sendall(command.encode() + b"\n")
        except OSError as error:
            raise self._lost(error) from error
        return self._line()

    def close(self) -> None:
        """Let go."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def _line(self) -> str:
        while b"\n" not in self._buffer:
            try:
                received = self._socket.recv(4096)
            except TimeoutError as error:
                raise DeviceTimeoutError(
                    f"The dashboard server of {self.host}:{DASHBOARD} did not answer within {TIMEOUT_S:g} s. "
                    "Look at the robot's tablet; restart the controller if it hangs.",
                    host=self.host,
                ) from error
            except OSError as error:
                raise self._lost(error) from error
            if not received:
                raise self._lost(None)
            self._buffer += received
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode("utf-8", "replace").strip()

    def _lost(self, error: OSError | None) -> DeviceConnectionError:
        return DeviceConnectionError(
            f"The dashboard server of {self.host}:{DASHBOARD} closed the connection ({error or 'end of stream'}). "
            "Is the controller restarting? Wait for its tablet, then try again.",
            host=self.host,
        )


def survey(host: str) -> Survey:
    """Ask a controller what it is and whether it may be driven, in less than 3 s. Nothing moves.

    Raises:
        DeviceConnectionError: Nobody is there, it is not a UR, its version is not supported, or it is in local control.
        DeviceTimeoutError: It is there and does not answer.
    """
    deadline = time.monotonic() + TIMEOUT_S
    version = _controller_version(host, deadline)
    shown = ".".join(str(v) for v in version)
    if not OLDEST <= version[:2] < (10, 0):
        raise DeviceConnectionError(
            f"The controller of {host} runs version {shown}; this driver needs PolyScope {OLDEST[0]}.{OLDEST[1]} "
            "or newer, "
            "and not PolyScope X (10). Update the controller, or pip install a driver of your own (arm.driver).",
            host=host,
            version=version,
        )
    _reach(host, SCRIPT, time.monotonic() + TIMEOUT_S).close()
    with Dashboard(host) as dashboard:
        if "true" not in dashboard.ask("is in remote control").lower():
            raise DeviceConnectionError(
                f"The robot at {host} is in local control: it takes no programs from the network. "
                "Switch its tablet to Remote Control (top right), then try again.",
                host=host,
            )
        mode = dashboard.ask("robotmode").rpartition(":")[2].strip()
        safety = dashboard.ask("safetystatus").rpartition(":")[2].strip()
    return Survey(version, mode, safety)


def advice(robot_mode: str, safety: str) -> str:
    """What a person does about a mode."""
    if "EMERGENCY" in safety:
        return (
            "Release the emergency stop, switch the robot on and release its brakes on the tablet, then reset the "
            "environment."
        )
    if safety == "PROTECTIVE_STOP":
        return "Look what it ran into and free it, then reset the environment: the stop is unlocked once."
    if safety == "SAFEGUARD_STOP":
        return "Close the safeguard (gate, light curtain), then reset the environment."
    if safety not in SAFE:
        return "Follow what the robot's tablet says, then reset the environment."
    if robot_mode != "RUNNING":
        return "Switch it on and release the brakes on the tablet, then try again."
    return "Its program was stopped, on the tablet or by another client; reset the environment: it is started anew."


def hold_inputs(host: str, timeout_s: float) -> socket.socket | None:
    """A connection that has reserved the register which ur_rtde's clients write commands to; None when it stays in use.

    A client that connects anew is refused meanwhile, as any second one is.

    Raises:
        DeviceConnectionError: The controller does not answer.
    """
    give_up = time.monotonic() + timeout_s
    link = _reach(host, RTDE, time.monotonic() + TIMEOUT_S)
    try:
        _exchange(link, ASK_VERSION, struct.pack(">H", 2))
        while b"IN_USE" in _exchange(link, ASK_INPUTS, b"input_int_register_0"):
            if time.monotonic() > give_up:
                link.close()
                return None
            time.sleep(0.0005)
    except (OSError, struct.error) as error:
        link.close()
        raise DeviceConnectionError(
            f"{host}:{RTDE} stopped answering ({error}). Look at its tablet.", host=host
        ) from error
    return link


def _controller_version(host: str, deadline: float) -> tuple[int, int, int, int]:
    with _reach(host, RTDE, deadline) as link:
        try:
            accepted = _exchange(link, ASK_VERSION, struct.pack(">H", 2))
            if accepted[:1] != b"\x01":
                raise DeviceConnectionError(
                    f"{host}:{RTDE} does not speak RTDE protocol version 2. Update the controller to PolyScope "
                    f"{OLDEST[0]}.{OLDEST[1]} or newer.",
                    host=host,
                )
            major, minor, bugfix, build = struct.unpack(">4I", _exchange(link, ASK_CONTROLLER, b""))
        except (OSError, struct.error) as error:
            raise DeviceConnectionError(
                f"{host}:{RTDE} answers, but not as a UR controller does ({error or type(error).__name__}). Check "
                "arm.host in "
                "the cell file; restart the controller if it is the robot's.",
                host=host,
            ) from error
    return major, minor, bugfix, build


def _exchange(link: socket.socket, kind: int, payload: bytes) -> bytes:
    link.sendall(struct.pack(">HB", 3 + len(payload), kind) + payload)
    for _ in range(10):  # text messages may come in between
        size, answered = struct.unpack(">HB", _exactly(link, 3))
        body = _exactly(link, size - 3)
        if answered == kind:
            return body
    raise struct.error("no answer among ten messages")


def _exactly(link: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        received = link.recv(count - len(data))
        if not received:
            raise ConnectionError("the connection was closed")
        data += received
    return data


def _reach(host: str, port: int, deadline: float) -> socket.socket:
    try:
        link = socket.create_connection((host, port), max(deadline - time.monotonic(), 0.05))
    except OSError as error:
        raise DeviceConnectionError(
            f"Nothing answers at {host}:{port} ({error}). Check arm.host in the cell file, the cable (ping "
            f"{host}), that the "
            "controller is switched on, and that its firewall (Settings, Security) leaves ports 29999, 30003 and "
            "30004 open.",
            host=host,
            port=port,
        ) from error
    link.settimeout(TIMEOUT_S)
    return link
