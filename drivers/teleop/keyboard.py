"""The keyboard of a terminal, over SSH too. A terminal tells of presses and not of releases: a press lasts a moment."""

import contextlib
import os
import select
import sys
import termios
import time
import tty
from typing import Any

from drivers.teleop.device import Raw
from robot_rl.errors import DeviceConnectionError, DeviceFaultError

__all__ = ["KEYS", "SAID", "TerminalKeyboard"]

HELD_S = 0.2  # that a press is taken to last; the terminal's own repetition prolongs it
SAID_S = 0.05  # that a word is: said once, however often it repeats

KEYS = {
    "w": (0, 1.0), "s": (0, -1.0), "a": (1, 1.0), "d": (1, -1.0), "r": (2, 1.0), "f": (2, -1.0),
    "l": (3, 1.0), "j": (3, -1.0), "i": (4, 1.0), "k": (4, -1.0), "u": (5, 1.0), "o": (5, -1.0),
}  # fmt: skip
"""Key to the axis of a deflection and its sign."""

SAID = {
    " ": "gripper", "enter": "success", "backspace": "failure", "z": "rerecord", "p": "pause", "escape": "stop",
}  # fmt: skip
"""Key to what it says (`drivers.teleop.device.BUTTONS`)."""

_CODES = {"\n": "enter", "\r": "enter", "\x7f": "backspace", "\b": "backspace", "\x1b": "escape"}


class TerminalKeyboard:
    """Keys typed into this terminal.

    Args:
        descriptor: Of the terminal; standard input by default.
    """

    name = "keyboard"
    controls = {  # noqa: RUF012 (never changed)
        "W S, A D, R F": "forward back, left right, up down",
        "U O, I K, J L": "turn, tilt forward back, tilt sideways",
        "space": "open or close the gripper",
        "enter, backspace, Z": "success, failure, re-record",
        "P, escape": "pause, stop",
    }

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = descriptor
        self._before: Any = None
        self._until: dict[str, float] = {}

    def open(self) -> None:
        """Take the terminal's keys one by one, unseen.

        Raises:
            DeviceConnectionError: This is no terminal.
        """
        try:
            descriptor = sys.stdin.fileno() if self._descriptor is None else self._descriptor
            before = termios.tcgetattr(descriptor)
            tty.setcbreak(descriptor)
        except (OSError, ValueError, termios.error) as error:
            raise DeviceConnectionError(
                f"The keyboard needs a terminal, and standard input is none ({error}). Use a browser's: --teleop page."
            ) from error
        self._descriptor, self._before = descriptor, self._before or before

    def poll(self) -> Raw:
        """What is held down now, as far as a terminal lets one know.

        Raises:
            DeviceFaultError: The terminal is gone.
        """
        now, descriptor = time.monotonic(), self._descriptor or 0
        try:
            while select.select([descriptor], [], [], 0.0)[0]:
                typed = os.read(descriptor, 64)
                if not typed:
                    raise DeviceFaultError("the terminal was closed")
                self._press(typed.decode(errors="ignore"), now)
        except (OSError, ValueError) as error:
            raise DeviceFaultError(f"the terminal was closed ({error})") from error
        held = {key for key, until in self._until.items() if until > now}
        deflection = [0.0] * 6
        for key in held & KEYS.keys():
            axis, sign = KEYS[key]
            deflection[axis] += sign
        return Raw(tuple(deflection), frozenset(SAID[key] for key in held & SAID.keys()))

    def close(self) -> None:
        """Give the terminal back as it was."""
        if self._before is not None and self._descriptor is not None:
            with contextlib.suppress(termios.error, OSError):
                termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)
        self._before = None

    def _press(self, typed: str, now: float) -> None:
        if typed.startswith("\x1b") and len(typed) > 1:  # an arrow or function key
            return
        for character in typed:
            key = _CODES.get(character, character.lower())
            if key in KEYS or key in SAID:
                self._until[key] = now + (HELD_S if key in KEYS else SAID_S)
