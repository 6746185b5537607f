"""What acting leaves behind: the run's episodes, on a disk that may be full, until the run has what it wants."""

import shutil
import time
from collections.abc import Callable, Sequence

import numpy as np

from robot_rl.config import TrainConfig
from robot_rl.environments import Env, store_metadata
from robot_rl.errors import ConfigError, StoreError
from robot_rl.progress import TrainingProgress
from robot_rl.run_directory import RunDirectory
from robot_rl.store import EpisodeStore
from robot_rl.store.layout import TABLE
from robot_rl.store.writer import COMMIT

__all__ = ["STOP_WINDOW", "checkpoint_if_room", "commit_patiently", "open_episodes", "reason_to_end"]

STOP_WINDOW = 100  # training episodes over which stop_at_success is judged
TRY_AGAIN_S = 2.0  # between attempts to write to a full disk


def open_episodes(run: RunDirectory, config: TrainConfig, env: Env, resuming: bool) -> EpisodeStore:
    """The run's episodes for writing; made first where the run begins.

    Raises:
        ConfigError: A run that begins already has steps.
        StoreError: There are steps, and nothing says how many count.
    """
    path = run.episodes
    if not (path / COMMIT).is_file() and any(path.glob(f"{TABLE}/c*")):
        raise StoreError(
            f"{path} holds steps but has lost its {COMMIT}; nothing was touched. Mend it with: "
            f"robot-rl store repair {path}",
            path=path,
        )
    if resuming:
        return EpisodeStore.open(path, write=True)
    if path.is_dir():
        if (path / COMMIT).is_file() and EpisodeStore.open(path).rows:
            raise ConfigError(f"{run.path} holds episodes but no checkpoint. Begin anew in another --run.")
        shutil.rmtree(path)  # its making was cut short before the first step
    return EpisodeStore.create(
        path,
        observation_space=env.observation_space,
        action_space=env.action_space,
        metadata=store_metadata(env, config.task, config.env),
    )


def commit_patiently(
    store: EpisodeStore, progress: TrainingProgress, stop: Callable[[], bool], hold: Callable[[], None] | None = None
) -> None:
    """Commit; on a full disk hold the arm, say so once, and go on as soon as there is room.

    Args:
        store: Where.
        progress: Told about it.
        stop: Whether to give up, for example because a person pressed Ctrl-C.
        hold: Makes the arm hold where it is.

    Raises:
        StoreError: The disk failed in another way, or waiting was given up. The rows stay in memory.
    """
    told = False
    while True:
        try:
            store.commit()
        except StoreError as error:
            if not error.fields.get("disk_full") or stop():
                raise
            if not told:
                if hold is not None:
                    hold()
                progress.log(f"{error} Training pauses, the arm holds; nothing is lost. It goes on when there is room.")
            told = True
            time.sleep(TRY_AGAIN_S)
        else:
            if told:
                progress.log("There is room on the disk again: going on.")
            return


def checkpoint_if_room(save: Callable[[], None], progress: TrainingProgress) -> bool:
    """Save; on a full disk say so and go on, for what was saved before still stands and so do all episodes.

    Returns:
        Whether it was saved.
    """
    try:
        save()
    except StoreError as error:
        if not error.fields.get("disk_full"):
            raise
        progress.log(f"{error} Saving is left out this time; training goes on.")
        return False
    return True


def reason_to_end(config: TrainConfig, step: int, successes: Sequence[bool]) -> str:
    """Why a run has what it wants: `steps`, `success`, or empty while it has not."""
    if step >= config.steps:
        return "steps"
    return "success" if len(successes) == STOP_WINDOW and np.mean(successes) >= config.stop_at_success else ""
