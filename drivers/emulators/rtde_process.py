"""An RTDE emulator in a process of its own, as ur_rtde wants it: some of its calls keep the interpreter's lock."""

import json
import subprocess
import sys
from types import TracebackType
from typing import Any

from robot_rl.errors import ConfigError, DeviceConnectionError

__all__ = ["RtdeProcess"]


class RtdeProcess:
    """Runs `python -m drivers.emulators.rtde` and talks to it. A context manager.

    Args:
        host: Address to listen on.
        flags: Further arguments, `"--speed", "4"` for example.

    Raises:
        DeviceConnectionError: It did not start.
    """

    def __init__(self, host: str, *flags: str) -> None:
        self.host = host
        self._process = subprocess.Popen(
            [sys.executable, "-m", "drivers.emulators.rtde", "--host", host, *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if "listening" not in self._line():
            self.stop()
            raise DeviceConnectionError(f"The RTDE emulator did not start on {host}; what it said stands above.")

    def __enter__(self) -> "RtdeProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def state(self) -> dict[str, Any]:
        """See `RtdeEmulator.state`."""
        return self._ask("state")

    def inject(self, fault: str, **options: float) -> None:
        """See `RtdeEmulator.inject`. Raises ConfigError."""
        self._ask(" ".join([fault, *(f"{name}={value}" for name, value in options.items())]))

    def stop(self) -> None:
        """End the process."""
        if self._process.poll() is None and self._process.stdin is not None:
            try:
                self._process.communicate("quit\n", timeout=5.0)
            except (subprocess.TimeoutExpired, OSError):
                self._process.kill()
                self._process.wait()

    def _ask(self, command: str) -> dict[str, Any]:
        if self._process.stdin is None:
            raise ConfigError("The RTDE emulator has no standard input.")
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        answer = self._line()
        if "error" in answer:
            raise ConfigError(str(answer["error"]))
        return answer

    def _line(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        return json.loads(line) if line else {}
