"""Devices by name: `module:Class` and keyword arguments, so that a third party's driver needs nothing of us."""

import importlib
from typing import Any

from robot_rl.errors import ConfigError

__all__ = ["load"]


def load(driver: str, options: dict[str, Any]) -> Any:
    """A device from `module:Class` and keyword arguments.

    Raises:
        ConfigError: No such module or class, or it does not take these options.
    """
    module, _, name = driver.partition(":")
    try:
        made = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"The driver {driver!r} cannot be loaded ({error}). Expected your_package.module:Class."
        ) from error
    try:
        return made(**options)
    except TypeError as error:
        raise ConfigError(f"The driver {driver!r} does not take {sorted(options)} ({error}).") from error
