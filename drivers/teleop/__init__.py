"""A person's hand on the arm: SpaceMouse, gamepad, keyboard, a browser's page, a second arm, or one of your own."""

import importlib
from typing import Any

import yaml

from drivers.teleop.clutch import Clutch
from drivers.teleop.device import BUTTONS, Raw, Shape, Source, Teleop, TeleopDevice, TeleopReading, TeleopSet
from robot_rl.errors import ConfigError

__all__ = [
    "BUTTONS",
    "DEVICES",
    "Clutch",
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
    "ros2": "drivers.teleop.ros2:Ros2Hand",
    "leader": "drivers.teleop.leader:Leader",
}
"""Name on the command line to the class of a `Source`; `your_package.module:YourSource` will do too."""
AFTER_COLON = {"leader": "cell", "spacemouse": "path"}
"""The option that `device:...` is short for."""


def open_teleop(
    device: str, *, frame: str = "base", options: dict[str, Any] | None = None, **shape: float
) -> TeleopDevice:
    """A device by name, not yet connected.

    Args:
        device: One of `DEVICES`, or your own source's `module:Class`; options may follow it: `gamepad,index=1`,
            `leader:cells/left.yaml,scale=0.5`.
        frame: What its deflections are relative to: `tcp` or `base`.
        options: Of the source: `path` of a SpaceMouse, `index` of a gamepad, `cell` of a leader.
        **shape: See `Shape`.

    Raises:
        ConfigError: No such device or option.
    """
    named, *settings = device.split(",")
    target, given = DEVICES.get(named, named), dict(options or {})
    name, _, argument = named.partition(":")
    if name in AFTER_COLON and argument:
        target, given[AFTER_COLON[name]] = DEVICES[name], argument
    if ":" not in target:
        raise ConfigError(
            f"No teleoperation device {named!r}. Known: {', '.join(DEVICES)}, or your_package.module:YourSource."
        )
    try:
        given |= {key: yaml.safe_load(value) for key, _, value in (setting.partition("=") for setting in settings)}
        module, _, kind = target.partition(":")
        source = getattr(importlib.import_module(module), kind)(**given)
        shaped = Shape(**shape)
    except (ImportError, AttributeError, TypeError, yaml.YAMLError) as error:
        raise ConfigError(f"teleop: {named} cannot be had with {given} and {shape}: {error}.") from error
    return TeleopDevice(source, frame=frame, shape=shaped)
