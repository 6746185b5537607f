"""`robot-rl data`: stores out to LeRobot datasets and rosbag2 bags, and in from them."""

import json as json_format
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg, subcommand

from robot_rl.progress import TrainingProgress
from robot_rl.store import EpisodeStore

__all__ = ["data"]


@dataclass(frozen=True)
class Export:
    """Write a store as a LeRobotDataset v3.0 (parquet, mp4, statistics), or as rosbag2 bags (MCAP), one an episode."""

    store: Annotated[Positional[Path], arg(metavar="STORE", help="An episode store, or a run directory with episodes/")]
    out: Annotated[Positional[Path], arg(metavar="OUT", help="Directory to make")]
    format: Annotated[Literal["lerobot", "rosbag2"], arg(help="What to write; rosbag2 needs 'robot-rl[ros]'")] = (
        "lerobot"
    )
    robot_type: Annotated[str, arg(help="LeRobot: written into info.json; the environment's arm by default")] = ""


@dataclass(frozen=True)
class Import:
    """Write a LeRobotDataset v3.0, or rosbag2 bags of `export`, as an episode store, to train from or look at."""

    dataset: Annotated[Positional[Path], arg(metavar="DATASET", help="Its directory, or that of the bags")]
    out: Annotated[Positional[Path], arg(metavar="STORE", help="Episode store to make")]
    format: Annotated[Literal["lerobot", "rosbag2"], arg(help="What to read; rosbag2 needs 'robot-rl[ros]'")] = (
        "lerobot"
    )


@dataclass(frozen=True)
class Report:
    """How good these demonstrations are, and what to record next: numbers and a picture."""

    store: Annotated[Positional[Path], arg(metavar="STORE", help="An episode store, or a run directory with episodes/")]
    reference: Annotated[Path | None, arg(metavar="STORE", help="What SACo is counted against")] = None
    out: Annotated[Path, arg(metavar="PICTURE", help="The picture to draw")] = Path("data_report.png")
    json: Annotated[bool, arg(help="Print the numbers as JSON")] = False


def data(
    command: Annotated[Export, subcommand("export")]
    | Annotated[Import, subcommand("import")]
    | Annotated[Report, subcommand("report")],
) -> int:
    """Data out and in (LeRobot datasets v3.0, rosbag2), and a report on how good it is."""
    if isinstance(command, Report):
        return _report(command)
    from robot_rl.data import export_lerobot, export_rosbag2, import_lerobot, import_rosbag2

    with TrainingProgress(command.format) as progress:
        progress.phase("episodes")

        def count(done: int, _: int) -> None:
            progress.update(step=done)

        if isinstance(command, Import):
            read = import_rosbag2 if command.format == "rosbag2" else import_lerobot
            store = read(command.dataset, command.out, on_episode=count)
            store.close()
        elif command.format == "rosbag2":
            store = _open(command.store)
            export_rosbag2(store, command.out, on_episode=count)
        else:
            store = _open(command.store)
            export_lerobot(store, command.out, robot_type=command.robot_type, on_episode=count)
    print(f"{store.episodes} episodes: {command.out}")
    return 0


def _open(path: Path) -> EpisodeStore:
    return EpisodeStore.open(path / "episodes" if (path / "episodes").is_dir() else path)


def _report(command: Report) -> int:
    from robot_rl.data.quality import measure
    from robot_rl.data.report import draw_report

    store = _open(command.store)
    quality = measure(store, None if command.reference is None else _open(command.reference))
    picture = draw_report(store, quality, command.out)
    if command.json:
        print(json_format.dumps(quality.to_json()))
        return 0
    facts = quality.to_json()
    advice = facts.pop("advice")
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):<22} {round(value, 3) if isinstance(value, float) else value}")
    print("\n".join(["", *advice, f"Picture: {picture}"]))
    return 0
