"""A gamepad, through SDL (pygame): any pad that SDL knows as a game controller, laid out as an Xbox one."""

import os
import threading
from typing import Any

from drivers.teleop.device import Raw
from robot_rl.errors import DeviceConnectionError, DeviceFaultError

__all__ = ["Gamepad"]

FULL = 32767.0  # of an axis
_SDL = threading.RLock()  # SDL is one for the whole process


class Gamepad:
    """The first gamepad found, or the n-th.

    Args:
        index: Which, where there are several.
    """

    name = "gamepad"
    controls = {  # noqa: RUF012 (never changed)
        "left stick": "forward and back, left and right",
        "right trigger, left trigger": "up, down",
        "right stick": "turn about the vertical axis, tilt forward and back",
        "cross left, right": "tilt sideways",
        "A": "open or close the gripper",
        "Y, X, B": "success, failure, re-record",
        "START, BACK": "pause, stop",
        "RB held": "drive, even while standing still",
    }

    def __init__(self, index: int = 0) -> None:
        self._index = index
        self._pad: Any = None
        self._sdl: Any = None

    def open(self) -> None:
        """Find and open it.

        Raises:
            DeviceConnectionError: pygame is missing, or there is no such pad.
        """
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # no window is wanted, and none is needed over SSH
        os.environ.setdefault("SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS", "1")
        try:
            import pygame
            from pygame._sdl2 import controller
        except ImportError as error:
            raise DeviceConnectionError("A gamepad needs pygame: pip install 'robot-rl[teleop]'.") from error
        with _SDL:
            if not pygame.display.get_init():
                pygame.display.init()
            controller.init()
            pygame.event.pump()
            pads = [i for i in range(controller.get_count()) if controller.is_controller(i)]
            if len(pads) <= self._index:
                raise DeviceConnectionError(
                    f"No gamepad number {self._index}: SDL sees {len(pads)}. Plug it in or pair it; your user must be "
                    "able to read /dev/input/event* (sudo usermod -aG input $USER, then log in anew)."
                )
            self.close()
            self._pad, self._sdl = controller.Controller(pads[self._index]), pygame

    def poll(self) -> Raw:
        """Its state now.

        Raises:
            DeviceFaultError: It was unplugged.
        """
        sdl = self._sdl
        with _SDL:
            sdl.event.pump()
            if self._pad is None or not self._pad.attached():
                raise DeviceFaultError("it was unplugged or switched off")
            axis = {
                name: self._pad.get_axis(getattr(sdl, f"CONTROLLER_AXIS_{name}")) / FULL
                for name in ("LEFTX", "LEFTY", "RIGHTX", "RIGHTY", "TRIGGERLEFT", "TRIGGERRIGHT")
            }
            down = {
                name: bool(self._pad.get_button(getattr(sdl, f"CONTROLLER_BUTTON_{name}")))
                for name in ("A", "B", "X", "Y", "BACK", "START", "RIGHTSHOULDER", "DPAD_LEFT", "DPAD_RIGHT")
            }
        deflection = (
            -axis["LEFTY"], -axis["LEFTX"], axis["TRIGGERRIGHT"] - axis["TRIGGERLEFT"],
            float(down["DPAD_RIGHT"]) - float(down["DPAD_LEFT"]), -axis["RIGHTY"], -axis["RIGHTX"],
        )  # fmt: skip
        said = {
            "A": "gripper", "Y": "success", "X": "failure", "B": "rerecord", "BACK": "stop", "START": "pause",
            "RIGHTSHOULDER": "engage",
        }  # fmt: skip
        return Raw(tuple(max(-1.0, min(1.0, v)) for v in deflection), frozenset(m for n, m in said.items() if down[n]))

    def close(self) -> None:
        """Let go of it."""
        with _SDL:
            if self._pad is not None:
                self._pad.quit()
                self._pad = None
