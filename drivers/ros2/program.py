"""A node as a program: arguments, parameters, signals and errors, the same for every node."""

import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from drivers.ros2.arguments import Arguments, Parameter
from drivers.ros2.node import Node
from drivers.ros2.opening import open_node
from robot_rl.errors import RobotRLError

__all__ = ["Running", "run_node"]


class Running(Protocol):
    """What a node does."""

    def run(self, ended: threading.Event) -> None:
        """Until `ended` is set, or until it cannot go on (RobotRLError)."""
        ...


def run_node(
    name: str, purpose: str, parameters: Sequence[Parameter], build: Callable[[Node, dict[str, Any]], Running],
    argv: Sequence[str] | None = None,
) -> int:  # fmt: skip
    """Run a node until SIGINT or SIGTERM.

    Args:
        name: Of the node, where the command line gives none.
        purpose: One sentence, for --help.
        parameters: What it takes.
        build: Makes what it does, of the node and the parameters' values.
        argv: The command line; this process's by default.

    Returns:
        The exit code: 0 when asked to end, 2 when something was wrong, which is then said in one message.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(words):
        print(_help(name, purpose, parameters))
        return 0
    logging.getLogger("robot_rl").setLevel(logging.INFO)
    logging.basicConfig(format=f"[%(levelname)s] [{name}]: %(message)s", stream=sys.stderr)
    ended = threading.Event()
    before = {number: signal.signal(number, lambda *_: ended.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    node: Node | None = None
    try:
        arguments = Arguments.parse(words, name)
        node = open_node(name, arguments)
        build(node, node.declare(parameters)).run(ended)
    except RobotRLError as error:
        print(f"[{name}] {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return 2
    finally:
        if node is not None:
            node.close()
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def _help(name: str, purpose: str, parameters: Sequence[Parameter]) -> str:
    lines = [
        purpose,
        "",
        f"  ros2 run robot_rl {name} --ros-args -p NAME:=VALUE ... -r FROM:=TO ...",
        "",
        "Parameters:",
    ]
    for one in parameters:
        limits = f" [{one.low:g} to {one.high:g}]" if one.low is not None and one.high is not None else ""
        limits += f" [{' | '.join(one.choices)}]" if one.choices else ""
        lines.append(f"  {one.name:<18} {one.description}{limits} (default: {one.default!r})")
    return "\n".join(lines)
