"""`robot-rl`: the commands that every installed room brings (entry points `robot_rl.commands`), assembled."""

import importlib.metadata
import os
import sys
from collections.abc import Callable
from typing import Any

from robot_rl.errors import ConfigError, RobotRLError

__all__ = ["main"]

USAGE_ERROR = 2
INTERRUPTED = 130
ORDER = ("train", "eval", "render", "demo", "tasks", "bench")


def commands() -> dict[str, Callable[[], Callable[..., Any]]]:
    """What loads each installed command, by name, the main ones first. A third party's package adds its own.

    Raises:
        ConfigError: None is installed.
    """
    found = {entry.name: entry for entry in importlib.metadata.entry_points(group="robot_rl.commands")}
    if not found:
        raise ConfigError(
            "robot-rl is not installed in this Python: its commands are found by what pip wrote down. In the source "
            "tree: pip install -e ."
        )
    names = [n for n in ORDER if n in found] + sorted(set(found) - set(ORDER))
    return {name: found[name].load for name in names}


def main(arguments: list[str] | None = None) -> int:
    """Run a command. A RobotRLError becomes one message on standard error and exit code 2."""
    import tyro

    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        table = commands()
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_overview(table), flush=True)  # a reader that went away is noticed here, not at the interpreter's end
            return 0
        if arguments[0] not in table:
            raise ConfigError(f"Unknown command {arguments[0]!r}. Known: {', '.join(table)}. See: robot-rl --help")
        name = arguments[0]
        result = tyro.cli(
            table[name](), args=arguments[1:], prog=f"robot-rl {name}", config=(tyro.conf.OmitSubcommandPrefixes,)
        )
        sys.stdout.flush()
        return int(result or 0)
    except RobotRLError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _overview(table: dict[str, Callable[[], Callable[..., Any]]]) -> str:
    lines = ["robot-rl: teach a robot arm a skill, on a MuJoCo twin first.", "", "Commands (each has --help):"]
    width = max(map(len, table))
    for name, load in table.items():
        summary = (load().__doc__ or "").strip().splitlines()[0]
        lines.append(f"  robot-rl {name:<{width}}  {summary}")
    return "\n".join([*lines, "", "Start with:  robot-rl train reach"])


if __name__ == "__main__":
    sys.exit(main())
