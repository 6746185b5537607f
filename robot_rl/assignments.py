"""`KEY=VALUE` pairs of a command line."""

from collections.abc import Iterable
from typing import Any

import yaml

from robot_rl.errors import ConfigError

__all__ = ["assignments"]


def assignments(pairs: Iterable[str]) -> dict[str, Any]:
    """`KEY=VALUE` pairs as a nested mapping: `agent.critics=5` gives {"agent": {"critics": 5}}. Values are YAML.

    Raises:
        ConfigError: A pair is not of that form, or two contradict each other.
    """
    tree: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(f"--set {pair}: expected KEY=VALUE, for example --set agent.critics=5")
        node = tree
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"--set {pair}: {parent!r} was given a value of its own before.")
        try:
            node[last] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {pair}: {text!r} is no value ({' '.join(str(error).split())}).") from error
    return tree
