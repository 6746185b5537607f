"""What a ROS 2 program is started with, without ROS: `--ros-args -p rate_hz:=100 -r __ns:=/left -r joy:=/joy2`.

The grammar is that of https://design.ros2.org/articles/ros_command_line_arguments.html as far as launch_ros and people
use it: parameters (-p, --params-file), remappings (-r), `__node`, `__name` and `__ns`.
"""

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from robot_rl.errors import ConfigError

__all__ = ["Arguments", "Parameter", "Remapping", "checked", "domain_of", "in_namespace"]

_LOGS = ("rosout", "stdout", "external-lib")
FLAGS = {
    "--log-level": 1, "--log-config-file": 1, "-e": 1, "--enclave": 1,
    **{f"--{how}-{what}-logs": 0 for how in ("enable", "disable") for what in _LOGS},
}  # fmt: skip
"""Known, and not for us: each with how many words follow."""


@dataclass(frozen=True)
class Parameter:
    """A node's parameter.

    Attributes:
        name: As in `ros2 param list`.
        default: Its value, whose type is the parameter's: bool, int, float, str or a list of str.
        description: One sentence.
        low, high: Of numbers: the range.
        choices: Of strings: what it may be.
    """

    name: str
    default: Any
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Remapping:
    """Where names lead.

    Attributes:
        namespace: In front of relative names, `/` or `/left_arm`.
        names: Replaces names, both as written in the program (relative or `~/...`) or both absolute.
    """

    namespace: str = "/"
    names: tuple[tuple[str, str], ...] = ()

    def resolve(self, name: str, node: str) -> str:
        """The absolute name that a name in a program means.

        Args:
            name: Relative, absolute (`/...`) or the node's own (`~/...`).
            node: The node's name.
        """
        whole = self._absolute(name, node)
        for before, after in self.names:
            if self._absolute(before, node) == whole:
                return self._absolute(after, node)
        return whole

    def _absolute(self, name: str, node: str) -> str:
        if name.startswith("/"):
            return name
        base = self.namespace.rstrip("/")
        if name == "~" or name.startswith("~/"):
            return f"{base}/{node}{name[1:]}"
        return f"{base}/{name}"


@dataclass(frozen=True)
class Arguments:
    """The ROS part of a command line.

    Attributes:
        name: Of the node, where it is given.
        remapping: Namespace and names.
        parameters: Values by name.
        raw: All of it as it was, for rclpy.
    """

    name: str = ""
    remapping: Remapping = Remapping()
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])
    raw: tuple[str, ...] = ()

    @classmethod
    def parse(cls, argv: Sequence[str], node: str) -> "Arguments":
        """Of a program's arguments.

        Args:
            argv: Without the program's name; everything must stand behind `--ros-args`.
            node: The node's name where none is given, by which parameter files are read.

        Raises:
            ConfigError: Something that is not understood, or a parameter file that cannot be read.
        """
        words, files = list(argv), list[str]()
        rules, given = list[_Rule](), list[_Rule]()
        inside = False
        while words:
            word = words.pop(0)
            if word in ("--ros-args", "--"):
                inside = word == "--ros-args"
            elif not inside:
                raise ConfigError(
                    f"{word!r} is not understood. This is a ROS node: --ros-args -p NAME:=VALUE -r FROM:=TO"
                )
            elif word in ("-p", "--param", "-r", "--remap"):
                (given if word in ("-p", "--param") else rules).append(_pair(words, word))
            elif word == "--params-file" and words:
                files.append(words.pop(0))
            elif word in FLAGS and len(words) >= FLAGS[word]:
                del words[: FLAGS[word]]
            else:
                raise ConfigError(f"--ros-args: {word!r} is not understood.")
        own = _first(rules, ("__node", "__name"), node) or node
        namespace = "/" + _first(rules, ("__ns",), own).strip("/")
        whole = f"{namespace.rstrip('/')}/{own}"
        parameters: dict[str, Any] = {}
        for file in files:
            parameters |= _from_file(Path(file), whole)
        ours = ("", own, whole)  # rules may be another node's
        parameters |= {name: _value_of(name, value) for where, name, value in given if where in ours}
        names = tuple((name, to) for where, name, to in rules if where in ours and not name.startswith("__"))
        return cls(own, Remapping(namespace, names), parameters, tuple(argv))


_Rule = tuple[str, str, str]  # the node it is for, or nothing; name; value


def in_namespace(namespace: str) -> Arguments:
    """Of a node that a program makes by itself, with names relative to `namespace`."""
    return Arguments(remapping=Remapping(namespace if namespace.startswith("/") else f"/{namespace}"))


def _pair(words: list[str], flag: str) -> _Rule:
    if not words or ":=" not in words[0]:
        raise ConfigError(
            f"--ros-args {flag}: NAME:=VALUE is expected after it, not {words[0] if words else 'nothing'!r}."
        )
    left, _, value = words.pop(0).partition(":=")
    where, _, name = left.rpartition(":")
    return where, name, value


def _first(rules: Sequence[_Rule], names: tuple[str, ...], node: str) -> str:
    """Of several rules for the same, ROS takes the first."""
    return next((value for where, name, value in rules if name in names and where in ("", node)), "")


def _value_of(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--ros-args: {name}:={text} is no value ({' '.join(str(error).split())}).") from error


def _from_file(path: Path, node: str) -> dict[str, Any]:
    """The parameters in a file that are a node's, by its full name; `*` is any one name, `/**` any number of them."""
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"The parameter file {path} cannot be read: {' '.join(str(error).split())}") from error
    found: dict[str, Any] = {}
    for pattern, values in _sections(path, content or {}):
        if re.fullmatch(re.escape(pattern).replace(r"/\*", r"(/\w+)").replace(r"\*", "*"), node):
            found |= _flat(values)
    return found


def _sections(path: Path, content: Any, before: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node's full name, or pattern, and parameters; namespaces may be nested."""
    if not isinstance(content, dict):
        raise ConfigError(
            f"The parameter file {path} has {content!r} where NODE: {{ros__parameters: {{NAME: VALUE}}}} is expected."
        )
    for name, section in cast("dict[Any, Any]", content).items():
        whole = f"{before}/{str(name).lstrip('/')}"
        inner = cast("dict[Any, Any]", section) if isinstance(section, dict) else section
        if isinstance(inner, dict) and "ros__parameters" in inner:
            values = inner.pop("ros__parameters") or {}
            if not isinstance(values, dict):
                raise ConfigError(f"The parameter file {path} has {values!r} for {whole}; NAME: VALUE is expected.")
            yield whole, cast("dict[str, Any]", values)
        yield from _sections(path, inner, whole)


def _flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in values.items():
        out |= _flat(value, f"{before}{name}.") if isinstance(value, dict) else {f"{before}{name}": value}
    return out


def checked(parameters: Sequence[Parameter], given: dict[str, Any]) -> dict[str, Any]:
    """Every parameter's value: the given one, or the default.

    Raises:
        ConfigError: No such parameter, or a value of another type, out of range, or none of the choices.
    """
    known = {parameter.name: parameter for parameter in parameters}
    if unknown := sorted(set(given) - set(known) - {"use_sim_time"}):
        raise ConfigError(f"No parameter {', '.join(unknown)}; there is {', '.join(known)}.")
    return {name: _value(parameter, given.get(name, parameter.default)) for name, parameter in known.items()}


_KINDS = {bool: "bool", int: "int", float: "float", str: "str", list: "list of str"}


def _value(parameter: Parameter, value: Any) -> Any:
    kind = type(parameter.default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is str and value is None:  # nothing after := is YAML's null
        value = ""
    right = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    if kind is list and right:
        right = all(isinstance(one, str) for one in cast("list[Any]", value))
    if not right:
        raise ConfigError(
            f"The parameter {parameter.name} is {value!r}; it is a {_KINDS[kind]}: {parameter.description}"
        )
    low = -math.inf if parameter.low is None else parameter.low
    high = math.inf if parameter.high is None else parameter.high
    if kind in (int, float) and not (math.isfinite(value) and low <= value <= high):
        raise ConfigError(f"The parameter {parameter.name} is {value}; it lies between {low:g} and {high:g}.")
    if parameter.choices and value not in parameter.choices:
        raise ConfigError(f"The parameter {parameter.name} is {value!r}; it is one of {', '.join(parameter.choices)}.")
    return value


def domain_of(domain: int | None) -> int:
    """A node's ROS_DOMAIN_ID: the given one or the environment's. Raises ConfigError where it is none."""
    text = os.environ.get("ROS_DOMAIN_ID", "").strip() or "0" if domain is None else str(domain)
    if not text.isdecimal() or not 0 <= int(text) <= 232:
        raise ConfigError(f"ROS_DOMAIN_ID is {text!r}; it is a number from 0 to 232.")
    return int(text)
