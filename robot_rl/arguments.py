"""Arguments that several commands take, and what they mean to an environment."""

from pathlib import Path
from typing import Annotated, Any

from tyro.conf import UseAppendAction, arg

from robot_rl.errors import ConfigError

__all__ = ["Cell", "Rehearse", "Run", "Settings", "Task", "place", "twin_only"]

Task = Annotated[
    str, arg(metavar="TASK", help="pick_cube, reach, ... (robot-rl tasks lists them) or gymnasium:FetchReach-v4")
]
Cell = Annotated[
    str | None,
    arg(metavar="CELL.yaml", help="Where: a cell file (robot-rl cells new), ros:CELL; the simulated cell by default"),
]
Rehearse = Annotated[
    bool, arg(help="With --cell: emulators on this machine stand in for its devices (robot-rl emulate)")
]
Settings = UseAppendAction[tuple[tuple[str, ...], ...]]  # the flag may be given again, each time with several
Run = Annotated[Path, arg(metavar="RUN", help="A run directory, runs/<task>/<timestamp>")]


def place(cell: str | None, rehearse: bool) -> dict[str, Any]:
    """`--cell` and `--rehearse` as options of the environment."""
    if cell is None:
        if rehearse:
            raise ConfigError(
                "--rehearse puts emulators in place of a cell file's devices; give it with --cell CELL.yaml."
            )
        return {}
    return {"cell": cell, "rehearse": True} if rehearse else {"cell": cell}


def twin_only(env: dict[str, Any]) -> dict[str, Any]:
    """A run's environment on the simulated cell: nothing moves a real arm that was not named in this very command.

    Nobody takes over there either, or says what success is.
    """
    own = {key: value for key, value in env.items() if key not in ("cell", "rehearse", "teleop")}
    return {key: value for key, value in own.items() if (key, value) != ("reward", "human")}
