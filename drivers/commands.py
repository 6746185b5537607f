"""The driver room's commands: writing a cell file, and checking a cell."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from robot_rl.errors import ConfigError

__all__ = ["cells", "check_cell"]


def cells(
    action: Annotated[
        Positional[Literal["new", "watch"]],
        arg(help="new writes a commented cell file; watch shows how the arms' control loops on this machine run"),
    ],
    name: Annotated[Positional[str], arg(help="new: of the cell; the file becomes cells/NAME.yaml")] = "lab",
    arm: Annotated[Literal["franka", "franky", "ur", "ros2", "twin"], arg(help="Which arm's template")] = "franka",
) -> int:
    """Write a commented cell file to fill in: what stands on your table and how far it may move; or watch the loops."""
    from drivers.cell_templates import TEMPLATES

    if action == "watch":
        return _watch()
    path = Path(name) if name.endswith((".yaml", ".yml")) else Path("cells") / f"{name}.yaml"
    if path.exists():
        raise ConfigError(f"{path} exists; nothing in it was touched. Choose another name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(TEMPLATES[arm].format(path=path, driver=arm))
    print(f"{path}\nFill it in, then: robot-rl check-cell {path}")
    return 0


def _watch() -> int:
    """Every running loop's statistics, twice a second, until Ctrl-C."""
    import time

    from drivers.mailbox import Mailbox, running
    from drivers.realtime import LoopStatistics

    while True:
        paths = running()
        if not paths:
            print("No arm is driven on this machine.")
            return 0
        for path in paths:
            print(f"{path.name}: {LoopStatistics.of(Mailbox(path))}", flush=True)
        time.sleep(0.5)


def check_cell(
    cell: Annotated[
        Positional[str],
        arg(metavar="CELL.yaml", help="A cell file (robot-rl cells new); ros:CELL.yaml, ros:twin through ROS 2 nodes"),
    ],
    rehearse: Annotated[
        bool, arg(help="Emulators on this machine stand in for the devices (robot-rl emulate)")
    ] = False,
    host: Annotated[str, arg(help="Where those emulators listen")] = "127.0.0.1",
    wiggle: Annotated[bool, arg(help="Move the tool 2 cm up and back; keep the emergency stop at hand")] = False,
    pictures: Annotated[Path, arg(help="Where the cameras' pictures go")] = Path("check-cell.png"),
) -> int:
    """Connect to every device of a cell, measure it, and say whether you can begin. Nothing moves without --wiggle."""
    from rich.console import Console
    from rich.table import Table

    from drivers.cell import SceneRequest, cell_file, open_cell
    from drivers.check import check_cell as check

    file = cell_file(cell)
    console = Console(stderr=True)
    request = SceneRequest(cameras=tuple(file.cameras), image_size=360)
    opened = open_cell(cell, request, rehearse=host if rehearse else "")
    try:
        report = check(opened, wiggle=wiggle, tell=console.print)
    finally:
        opened.close()
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    last = ""
    for device, finding, well in report.lines:
        table.add_row(device if device != last else "", "[green]ok[/]" if well else "[red]LOOK[/]", finding)
        last = device
    own = file.limits.model_dump(exclude_none=True)
    table.add_row("limits", "", ", ".join(f"{k} {v}" for k, v in own.items()) or "none of its own: each task's apply")
    Console().print(table)
    if report.pictures:
        report.save_pictures(pictures)
        print(f"Pictures: {pictures}")
    if report.problems:
        print(
            f"Not ready: {len(report.problems)} thing(s) to look at first.",
            *report.problems,
            sep="\n  - ",
            file=sys.stderr,
        )
        return 1
    advice = "" if wiggle else f" Next, with a hand at the emergency stop: robot-rl check-cell {cell} --wiggle"
    print(f"Ready: every device answered and is well.{advice}")
    return 0
