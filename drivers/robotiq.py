"""Robotiq 2F grippers on a UR, through the text socket of their URCap (port 63352).

Source: Robotiq 2F-85 instruction manual (registers and their meaning). Positions are counts from 0 to 255, of which a
2F-85 reaches about 3 (open) to 230 (closed).
"""

import contextlib
import socket
import time

from robot_rl.errors import ConfigError, DeviceConnectionError, DeviceFaultError, DeviceTimeoutError

__all__ = ["RobotiqGripper"]

CONNECT_TIMEOUT_S = 2.5
ANSWER_TIMEOUT_S = 1.0
ACTIVATION_TIMEOUT_S = 10.0
ACTIVE, STOPPED_OPENING, STOPPED_CLOSING = 3, 1, 2
FAULTS = {
    5: "it waits for its activation", 7: "it must be activated first", 8: "it is too hot", 9: "it does not communicate",
    10: "its supply voltage is low", 11: "it is being released automatically", 12: "its motor is faulty",
    13: "activation failed: is something between the fingers?", 14: "its current is too high",
    15: "an automatic release has ended",
}  # fmt: skip


class RobotiqGripper:
    """A `Gripper`. Connects at once; one that was not active yet opens and closes once, as its activation demands.

    Args:
        host: The robot's address.
        port: Of the URCap.
        speed: Of the fingers, 0 (20 mm/s) to 255 (150 mm/s).
        force: 0 (20 N) to 255 (235 N).
        max_opening: Between open fingers [m]: 0.085 for a 2F-85, 0.140 for a 2F-140.
        counts: Positions of open and closed fingers, as the gripper reports them.
        activate: Activate a gripper that is not; otherwise that is an error.

    Raises:
        ConfigError: A number is out of its range.
        DeviceConnectionError: It does not answer.
        DeviceFaultError: It does not become active.
    """

    def __init__(
        self, host: str, port: int = 63352, *, speed: int = 255, force: int = 50, max_opening: float = 0.085,
        counts: tuple[int, int] = (3, 230), activate: bool = True,
    ) -> None:  # fmt: skip
        if not (0 <= speed <= 255 and 0 <= force <= 255 and max_opening > 0.0 and 0 <= counts[0] < counts[1] <= 255):
            raise ConfigError(
                f"RobotiqGripper: speed {speed}, force {force}, max_opening {max_opening:g}, counts {counts}; "
                "expected 0 to "
                "255, above 0 m, and open below closed (gripper.options in the cell file)."
            )
        self.host, self.port, self.max_opening = host, port, max_opening
        self._settings, self._counts = (speed, force), counts
        self._asked: int | None = None
        self._buffer = b""
        try:
            self._socket = socket.create_connection((host, port), CONNECT_TIMEOUT_S)
        except OSError as error:
            raise DeviceConnectionError(
                f"No gripper answers at {host}:{port} ({error}). Check gripper.host in the cell file, and that the "
                "Robotiq "
                "URCap is installed and shows the gripper as connected on the robot's tablet.",
                host=host,
                port=port,
            ) from error
        self._socket.settimeout(ANSWER_TIMEOUT_S)
        try:
            self._activate(activate)
        except (DeviceConnectionError, DeviceTimeoutError, DeviceFaultError):
            self.close()
            raise

    def opening(self) -> float:
        """Measured distance between the fingers [m]."""
        open_at, closed_at = self._counts
        part = (closed_at - self._get("POS")) / (closed_at - open_at)
        return min(max(part, 0.0), 1.0) * self.max_opening

    def command(self, opening: float) -> None:
        """Move towards an opening [m], gripping whatever is between. Returns at once."""
        open_at, closed_at = self._counts
        part = min(max(opening / self.max_opening, 0.0), 1.0)
        asked = 255 if part == 0.0 else 0 if part == 1.0 else round(closed_at - part * (closed_at - open_at))
        if asked == self._asked:
            return
        speed, force = self._settings
        self._set(f"SET SPE {speed} FOR {force} GTO 1 POS {asked}")
        self._asked = asked

    def holding(self) -> bool:
        """Whether the fingers were stopped by something: closing on it, or opening inside it."""
        return self._get("OBJ") in (STOPPED_OPENING, STOPPED_CLOSING)

    def facts(self) -> dict[str, str]:
        """What `check-cell` shows."""
        fault = self._get("FLT")
        return {
            "status": "active" if self._get("STA") == ACTIVE else "not active",
            "fault": FAULTS.get(fault, str(fault)),
        }

    def close(self) -> None:
        """Let go of the connection; the fingers stay as they are."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def _activate(self, allowed: bool) -> None:
        if self._get("STA") == ACTIVE:
            return
        if not allowed:
            raise DeviceFaultError(
                f"The gripper of {self.host} is not active, and gripper.options.activate is false. Activate it on "
                "the tablet."
            )
        self._set("SET ACT 0")
        self._set("SET ACT 1")
        give_up = time.monotonic() + ACTIVATION_TIMEOUT_S
        while self._get("STA") != ACTIVE:
            if time.monotonic() > give_up:
                fault = self._get("FLT")
                raise DeviceFaultError(
                    f"The gripper of {self.host} did not become active within {ACTIVATION_TIMEOUT_S:g} s: fault "
                    f"{fault}, "
                    f"{FAULTS.get(fault, 'none it names')}. Free its fingers, then try again.",
                    fault=fault,
                )
            time.sleep(0.02)

    def _get(self, name: str) -> int:
        answer = self._ask(f"GET {name}")
        key, _, value = answer.partition(" ")
        if key != name or not value.isdigit():
            raise DeviceFaultError(
                f"The gripper of {self.host} answered {answer!r} when asked for {name}. Is the robot stopped, or "
                "the gripper "
                "without power? Look at the tablet, then reset the environment.",
                answer=answer,
            )
        return int(value)

    def _set(self, command: str) -> None:
        answer = self._ask(command)
        if answer != "ack":
            raise DeviceFaultError(
                f"The gripper of {self.host} answered {answer!r} to {command!r}, expected 'ack'. Look at the tablet.",
                answer=answer,
            )

    def _ask(self, line: str) -> str:
        try:
            self._socket.sendall(line.encode() + b"\n")
            while not self._buffer.endswith((b"\n", b"ack")):  # some versions of the URCap end no line
                received = self._socket.recv(1024)
                if not received:
                    raise ConnectionError("the connection was closed")
                self._buffer += received
        except TimeoutError as error:
            if self._buffer:  # an answer without its end
                return self._take()
            raise DeviceTimeoutError(
                f"The gripper of {self.host}:{self.port} did not answer {line!r} within {ANSWER_TIMEOUT_S:g} s. "
                "Look at its "
                "cable, then reset the environment.",
                host=self.host,
            ) from error
        except OSError as error:
            raise DeviceConnectionError(
                f"The connection to the gripper at {self.host}:{self.port} broke ({error}). Is the controller "
                "restarting?",
                host=self.host,
            ) from error
        return self._take()

    def _take(self) -> str:
        answer, self._buffer = self._buffer.decode("ascii", "replace").strip(), b""
        return answer
