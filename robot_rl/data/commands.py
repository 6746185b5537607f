"""`robot-rl data`: stores out to LeRobot datasets, and in from them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg, subcommand

from robot_rl.progress import TrainingProgress
from robot_rl.store import EpisodeStore

__all__ = ["data"]


@dataclass(frozen=True)
class Export:
    """Write a store as a LeRobotDataset v3.0: parquet, mp4, statistics."""

    store: Annotated[Positional[Path], arg(metavar="STORE", help="An episode store, or a run directory with episodes/")]
    out: Annotated[Positional[Path], arg(metavar="DATASET", help="Directory to make")]
    robot_type: Annotated[str, arg(help="Written into info.json; the environment's arm by default")] = ""


@dataclass(frozen=True)
class Import:
    """Write a LeRobotDataset v3.0 as an episode store, to train from or to look through."""

    dataset: Annotated[Positional[Path], arg(metavar="DATASET", help="Its directory")]
    out: Annotated[Positional[Path], arg(metavar="STORE", help="Episode store to make")]


def data(command: Annotated[Export, subcommand("export")] | Annotated[Import, subcommand("import")]) -> int:
    """Data out and in: LeRobot datasets (v3.0)."""
    from robot_rl.data import export_lerobot, import_lerobot

    with TrainingProgress("LeRobot dataset") as progress:
        progress.phase("episodes")
        if isinstance(command, Export):
            path = command.store / "episodes" if (command.store / "episodes").is_dir() else command.store
            store = EpisodeStore.open(path)
            export_lerobot(
                store, command.out, robot_type=command.robot_type, on_episode=lambda done, _: progress.update(step=done)
            )
        else:
            store = import_lerobot(command.dataset, command.out, on_episode=lambda done, _: progress.update(step=done))
            store.close()
    print(f"{store.episodes} episodes: {command.out}")
    return 0
