"""A SpaceMouse and a gamepad without metal: the kernel makes them of what is written to /dev/uhid and /dev/uinput.

Numbers and layouts: linux/uhid.h, linux/uinput.h, linux/input-event-codes.h.
"""

import fcntl
import struct
from pathlib import Path

USB = 3  # BUS_USB


class _Virtual:
    """What is there as long as its file is open."""

    def __init__(self, node):
        self._file = Path(node).open("r+b", buffering=0)  # noqa: SIM115

    def unplug(self):
        """Nothing to do the second time."""
        self._file.close()


class SpaceMouse(_Virtual):
    """A SpaceMouse Compact; counts as it sends them, 350 for fully deflected."""

    CREATE, START, INPUT = 11, 2, 12  # UHID_CREATE2, UHID_START, UHID_INPUT2
    EVENT_BYTES = 4380  # sizeof(struct uhid_event)
    # A multi-axis controller: report 1 is X, Y, Z, report 2 is Rx, Ry, Rz, report 3 two buttons, report 4 its light.
    DESCRIPTOR = bytes.fromhex(
        "05 01 09 08 a1 01"  # generic desktop, multi-axis controller, application
        "16 a2 fe 26 5e 01 36 88 fa 46 78 05 75 10 95 03"  # logical +-350, physical +-1400, 3 fields of 16 bits
        "a1 00 85 01 09 30 09 31 09 32 81 02 c0"
        "a1 00 85 02 09 33 09 34 09 35 81 02 c0"
        "a1 02 85 03 05 09 19 01 29 02 15 00 25 01 35 00 45 01 75 01 95 02 81 02 95 0e 81 03 c0"
        "a1 02 85 04 05 08 09 4b 95 01 91 02 95 07 91 03 c0"
        "c0"
    )

    def __init__(self):
        super().__init__("/dev/uhid")
        names = struct.pack("128s64s64s", b"3Dconnexion SpaceMouse Compact", b"", b"")
        numbers = struct.pack("=HHIIII", len(self.DESCRIPTOR), USB, 0x256F, 0xC635, 0x0100, 0)
        self._file.write(struct.pack("=I", self.CREATE) + names + numbers + self.DESCRIPTOR)
        while struct.unpack_from("=I", self._file.read(self.EVENT_BYTES))[0] != self.START:
            pass

    def push(self, x, y, z):
        """To the right, towards the person, down."""
        self._report(struct.pack("<Bhhh", 1, x, y, z))

    def twist(self, x, y, z):
        """Right-handed about the axes of `push`."""
        self._report(struct.pack("<Bhhh", 2, x, y, z))

    def hold(self, *down):
        """What is down now, of LEFT and RIGHT."""
        self._report(struct.pack("<BH", 3, ("LEFT" in down) | ("RIGHT" in down) << 1))

    def _report(self, report):
        self._file.write(struct.pack("=IH", self.INPUT, len(report)) + report)


class Gamepad(_Virtual):
    """An Xbox 360 pad as the kernel's driver `xpad` shows it."""

    SET_EVBIT, SET_KEYBIT, SET_ABSBIT = 0x40045564, 0x40045565, 0x40045567  # UI_...
    SETUP, ABS_SETUP, CREATE = 0x405C5503, 0x401C5504, 0x5501
    KEY, ABS = 1, 3
    STICK, TRIGGER, CROSS = (-32768, 32767), (0, 255), (-1, 1)
    # Code and range; a stick's y is positive towards the person.
    AXES = {  # noqa: RUF012
        "left_x": (0, STICK), "left_y": (1, STICK), "right_x": (3, STICK), "right_y": (4, STICK),
        "left_trigger": (2, TRIGGER), "right_trigger": (5, TRIGGER), "cross_x": (16, CROSS), "cross_y": (17, CROSS),
    }  # fmt: skip
    BUTTONS = {  # noqa: RUF012
        "A": 0x130, "B": 0x131, "X": 0x133, "Y": 0x134, "LB": 0x136, "RB": 0x137, "BACK": 0x13A, "START": 0x13B,
        "GUIDE": 0x13C, "LEFT_STICK": 0x13D, "RIGHT_STICK": 0x13E,
    }  # fmt: skip

    def __init__(self):
        super().__init__("/dev/uinput")
        for kind in (self.KEY, self.ABS):
            fcntl.ioctl(self._file, self.SET_EVBIT, kind)
        for code in self.BUTTONS.values():
            fcntl.ioctl(self._file, self.SET_KEYBIT, code)
        for code, (low, high) in self.AXES.values():
            fcntl.ioctl(self._file, self.SET_ABSBIT, code)
            fcntl.ioctl(self._file, self.ABS_SETUP, struct.pack("Hxx6i", code, 0, low, high, 0, 0, 0))
        identity = struct.pack("HHHH80sI", USB, 0x045E, 0x028E, 0x0114, b"Microsoft X-Box 360 pad", 0)
        fcntl.ioctl(self._file, self.SETUP, identity)
        fcntl.ioctl(self._file, self.CREATE)

    def move(self, **axes):
        """From -1 to 1, triggers from 0 to 1, by the names of `AXES`."""
        for name, value in axes.items():
            code, (_, high) = self.AXES[name]
            self._event(self.ABS, code, round(value * high))
        self._event(0, 0, 0)  # SYN_REPORT

    def push(self, x, y, z):
        """The left stick as far as a SpaceMouse would be pushed; it has no z."""
        self.move(left_x=x / 350, left_y=y / 350)

    def hold(self, *down):
        """What is down now, by the names of `BUTTONS`."""
        for name, code in self.BUTTONS.items():
            self._event(self.KEY, code, name in down)
        self._event(0, 0, 0)

    def _event(self, kind, code, value):
        self._file.write(struct.pack("llHHi", 0, 0, kind, code, value))
