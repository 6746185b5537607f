"""A SpaceMouse by 3Dconnexion, through pyspacemouse and hidapi."""

import contextlib
import ctypes.util
import io
from typing import Any

from drivers.teleop.device import Raw
from robot_rl.errors import DeviceConnectionError, DeviceFaultError

__all__ = ["SpaceMouse"]

KERNEL_KEEPS = 63  # reports that nobody has read; what comes after them is dropped (HIDRAW_BUFFER_SIZE)
PERMISSION = (
    "Plug it in, and let your user read it: put\n"
    '  KERNEL=="hidraw*", KERNELS=="*:256F:*|*:046D:C62?.*", MODE="0660", GROUP="input", TAG+="uaccess"\n'
    "into /etc/udev/rules.d/70-spacemouse.rules, run: sudo udevadm control --reload, and plug it in again (over SSH "
    "also: sudo usermod -aG input $USER, then log in anew)."
)


class SpaceMouse:
    """The first SpaceMouse found, or the one at a path.

    Its left button works the gripper, its right one says that the episode succeeded; on a mouse with more of them ESC
    stops, 2 fails, 3 re-records and MENU pauses. What a mouse cannot say, the terminal or the page can.

    Args:
        path: Of its hidraw device, where there are several; for example /dev/hidraw3.
    """

    name = "SpaceMouse"
    controls = {  # noqa: RUF012 (never changed)
        "knob": "push, pull, tilt and turn it: the arm follows",
        "left, right button": "gripper; success",
        "ESC, 2, 3, MENU": "stop, failure, re-record, pause, where it has them",
    }
    _named = {"esc": "stop", "1": "success", "2": "failure", "3": "rerecord", "menu": "pause"}  # noqa: RUF012

    def __init__(self, path: str = "") -> None:
        self._path = path
        self._device: Any = None
        self._names: list[str] = []

    def open(self) -> None:
        """Find and open it.

        Raises:
            DeviceConnectionError: pyspacemouse or hidapi is missing, or no mouse is there or may be read.
        """
        if ctypes.util.find_library("hidapi-hidraw") is None:
            raise DeviceConnectionError(
                "A SpaceMouse needs the hidapi library: sudo apt-get install libhidapi-hidraw0."
            )
        try:
            import pyspacemouse
        except ImportError as error:
            raise DeviceConnectionError("A SpaceMouse needs pyspacemouse: pip install 'robot-rl[teleop]'.") from error
        self.close()
        ros: Any = pyspacemouse.AxisConvention.ROS
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # it prints what it found
                if self._path:
                    self._device = pyspacemouse.open_by_path(self._path, nonblocking=True, axis_convention=ros)
                else:
                    self._device = pyspacemouse.open(nonblocking=True, axis_convention=ros)
        except Exception as error:  # it raises RuntimeError, ValueError, FileNotFoundError and easyhid's own
            raise DeviceConnectionError(
                f"No SpaceMouse{f' at {self._path}' if self._path else ''}: {error}. {PERMISSION}"
            ) from error
        self._names = [self._device.get_button_name(i).lower() for i in range(len(self._device.info.button_specs))]

    def poll(self) -> Raw:
        """All events that have come since the last poll. After more than the kernel keeps, it counts as at rest.

        Raises:
            DeviceFaultError: It was unplugged.
        """
        try:
            state, stamp = self._device.read(), None
            for _ in range(KERNEL_KEEPS):
                if state.t == stamp:
                    break
                stamp, state = state.t, self._device.read()
            else:
                self.open()  # anew: that it was let go of may be among the reports that were dropped
                return Raw()
        except Exception as error:
            self.close()  # while it is open, nothing plugged in gets its path
            raise DeviceFaultError(f"reading failed: {error}") from error
        deflection = (state.x, state.y, state.z, state.roll, state.pitch, state.yaw)
        return Raw(tuple(float(v) for v in deflection), self._held(list(state.buttons)))

    def close(self) -> None:
        """Let go of it."""
        if self._device is not None:
            with contextlib.suppress(Exception):  # it may be gone already
                self._device.close()
            self._device = None

    def _held(self, buttons: list[int]) -> frozenset[str]:
        held = {
            self._named[name] for name, down in zip(self._names, buttons, strict=False) if down and name in self._named
        }
        held |= {name for name, down in zip(("gripper", "success"), buttons, strict=False) if down}
        return frozenset(held)
