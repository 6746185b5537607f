"""A USB bus of Intel's SDK that only virtual cameras are on."""

import threading
from typing import Any

from drivers.realsense_sdk import load_sdk
from robot_rl.errors import ConfigError, DeviceTimeoutError

__all__ = ["VirtualBus"]

ARRIVAL_S = 2.0  # longest the SDK takes to notice a new device [s]


class VirtualBus:
    """A USB bus of the SDK's (`context`), into which virtual cameras are plugged.

    The SDK has no way to take a software device off again, and crashes when one is destroyed under a pipeline. So an
    unplugged device stays where it is, silent, and is left out of what the bus lists.
    """

    def __init__(self) -> None:
        self._rs = load_sdk()
        self._devices: set[str] = set()
        self._unplugged: set[str] = set()
        self._arrival = threading.Condition()
        self.context: Any = self._make_context()
        self.context.set_devices_changed_callback(self._changed)

    def add(self, serial: str, device: Any) -> None:
        """Put a software device on the bus. Raises ConfigError when one of this serial number is on it already."""
        if serial in self._devices:
            raise ConfigError(f"A camera with serial {serial} is on this bus already; it has {sorted(self._devices)}.")
        # The context holds neither the device nor what makes it visible, and crashes when one of them is gone.
        self.context.kept.append(device)
        device.add_to(self.context)
        with self._arrival:
            if not self._arrival.wait_for(lambda: serial in self._devices, ARRIVAL_S):
                raise DeviceTimeoutError(f"The SDK has not taken up virtual camera {serial} within {ARRIVAL_S} s.")

    def unplug(self, serial: str) -> None:
        """The bus no longer lists it."""
        self._unplugged.add(serial)

    def replug(self, serial: str) -> None:
        """The bus lists it again."""
        self._unplugged.discard(serial)

    def _make_context(self) -> Any:
        base, unplugged, serial_number = self._rs.context, self._unplugged, self._rs.camera_info.serial_number

        class Context(base):
            """The SDK's, less what is unplugged."""

            def __init__(self) -> None:
                super().__init__()
                self.kept: list[Any] = []

            def query_devices(self) -> list[Any]:
                return [d for d in base.query_devices(self) if d.get_info(serial_number) not in unplugged]

        return Context()

    def _changed(self, event: Any) -> None:
        devices = event.get_new_devices()
        self.context.kept.append(devices)
        with self._arrival:
            for device in devices:
                self._devices.add(device.get_info(self._rs.camera_info.serial_number))
            self._arrival.notify_all()
