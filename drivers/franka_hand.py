"""The Franka hand, through franky's asynchronous gripper: a motion never keeps the environment waiting."""

from contextlib import suppress
from typing import Any

from drivers.franka_link import probe
from robot_rl.errors import ConfigError, DeviceConnectionError, DeviceFaultError

__all__ = ["FrankaHand"]

PORT = 1338
SAME = 0.002  # [m]; a command closer than this to the last one is the same command
CLOSING = 0.01  # [m]; commands below grasp, whatever is between
ANY_WIDTH = 0.1  # [m]


class FrankaHand:
    """A `Gripper`. Connects at once.

    Args:
        host: The robot's address.
        speed: Of the fingers [m/s].
        force: Of a grasp [N].

    Raises:
        DeviceConnectionError: It does not answer.
    """

    def __init__(self, host: str, *, speed: float = 0.1, force: float = 30.0) -> None:
        try:
            import franky
        except ImportError as error:
            raise ConfigError(
                f"The Franka hand needs franky-control ({error}): pip install 'robot-rl[franka]'"
            ) from error
        probe(host, PORT)
        self._franky, self._host, self._speed, self._force = franky, host, speed, force
        try:
            self._gripper: Any = franky.Gripper(host)
            self.max_opening = float(self._gripper.max_width)
        except (franky.Exception, RuntimeError) as error:
            raise DeviceConnectionError(
                f"The hand of {host} refused the connection: {error}. Is it in use elsewhere?"
            ) from error
        if self.max_opening < 0.01:
            raise DeviceConnectionError(f"The hand of {host} does not know its width: home it once in Desk.")
        self._asked: float | None = None
        self._future: Any = None

    def opening(self) -> float:
        """Measured distance between the fingers [m]. Raises DeviceFaultError."""
        try:
            return float(self._gripper.width)
        except (self._franky.Exception, RuntimeError) as error:
            raise DeviceFaultError(
                f"The hand of {self._host} does not answer: {error}. Look at its cable and Desk."
            ) from error

    def command(self, opening: float) -> None:
        """Move towards an opening [m]; near 0, grasp what is between. Returns at once. Raises DeviceFaultError."""
        opening = min(max(opening, 0.0), self.max_opening)
        if self._asked is not None and abs(opening - self._asked) < SAME:
            return
        self._asked = opening
        try:
            if self._future is not None and not self._future.wait(0.0):
                self._gripper.stop()
            if opening < CLOSING:
                self._future = self._gripper.grasp_async(
                    opening, self._speed, self._force, epsilon_inner=ANY_WIDTH, epsilon_outer=ANY_WIDTH
                )
            else:
                self._future = self._gripper.move_async(opening, self._speed)
        except (self._franky.Exception, RuntimeError) as error:
            raise DeviceFaultError(f"The hand of {self._host} refused a command: {error}. Look at Desk.") from error

    def close(self) -> None:
        """Let go of the connection; the fingers stay as they are."""
        with suppress(self._franky.Exception, RuntimeError):
            if self._future is not None and not self._future.wait(0.0):
                self._gripper.stop()
        self._gripper = None
