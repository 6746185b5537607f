"""A person's hand on the arm: SpaceMouse, gamepad, keyboard, a browser's page, or a device of your own."""

import importlib
from typing import Any

from drivers.teleop.device import BUTTONS, Raw, Shape, Source, Teleop, TeleopDevice, TeleopReading, TeleopSet
from robot_rl.errors import ConfigError

__all__ = [
    "BUTTONS",
    "DEVICES",
    "Raw",
    "Shape",
    "Source",
    "Teleop",
    "TeleopDevice",
    "TeleopReading",
    "TeleopSet",
    "open_teleop",
]

DEVICES = {
    "spacemouse": "drivers.teleop.spacemouse:SpaceMouse",
    "gamepad": "drivers.teleop.gamepad:Gamepad",
    "keyboard": "drivers.teleop.keyboard:TerminalKeyboard",
    "page": "drivers.teleop.page:Page",
}
"""Name on the command line to the class of a `Source`; `your_package.module:YourSource` will do too."""


def open_teleop(
    device: str, *, frame: str = "base", options: dict[str, Any] | None = None, **shape: float
) -> TeleopDevice:
    """A device by name, not yet connected.

    Args:
        device: One of `DEVICES`, or your own source's `module:Class`.
        frame: What its deflections are relative to: `tcp` or `base`.
        options: Of the source: `path` of a SpaceMouse, `index` of a gamepad.
        **shape: See `Shape`.

    Raises:
        ConfigError: No such device or option.
    """
    target = DEVICES.get(device, device)
    if ":" not in target:
        raise ConfigError(
            f"No teleoperation device {device!r}. Known: {', '.join(DEVICES)}, or your_package.module:YourSource."
        )
    module, _, name = target.partition(":")
    try:
        source = getattr(importlib.import_module(module), name)(**(options or {}))
        shaped = Shape(**shape)
    except (ImportError, AttributeError, TypeError) as error:
        raise ConfigError(f"teleop: {device} cannot be had with {options or {}} and {shape}: {error}.") from error
    return TeleopDevice(source, frame=frame, shape=shaped)
