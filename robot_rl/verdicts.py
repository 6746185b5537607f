"""What others say of an episode than the reward it was learnt from: the task's oracle, a person. Labels of the store.

On the twin the oracle knows at every step; a person says it once, at an episode's end. Neither is learnt from: they
score a learned reward, and tell it later where it was wrong (`robot_rl.rewards.mining`).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_rl.errors import StoreError
from robot_rl.progress import TrainingProgress
from robot_rl.store import EpisodeStore
from robot_rl.store.labels import label_names
from robot_rl.store.records import EpisodeRecord

__all__ = ["ORACLE", "PERSON", "Verdicts", "verdict", "wrongly_called"]

ORACLE, PERSON = "success/oracle", "success/person"


class Verdicts:
    """Of the episode under way, written down when it is over."""

    def __init__(self) -> None:
        self._oracle: list[float] = []
        self._person: float | None = None

    def hear(self, info: dict[str, Any]) -> None:
        """What a step's `info` says of the observation that the step led to."""
        if "oracle_success" in info:
            self._oracle.append(float(info["oracle_success"]))
        if "label" in info:
            self._person = float(info["label"] == "success")

    def write(self, store: EpisodeStore, progress: TrainingProgress) -> None:
        """Label the newest episode, which is committed; on a disk that fails say so and go on."""
        last = store.rows - 1
        heard = {ORACLE: self._oracle, PERSON: [] if self._person is None else [self._person]}
        self._oracle, self._person = [], None
        for name, values in heard.items():
            if values:
                rows = np.arange(last + 1 - len(values), last + 1)
                try:
                    store.write_label(name, rows, np.array(values, np.float32))
                except StoreError as error:
                    progress.log(f"{error} What was said of this episode is not kept; training goes on.")


def verdict(store: EpisodeStore, record: EpisodeRecord, labeller: str) -> NDArray[np.float32]:
    """Of each row of an episode, shape (rows,): 1 success, 0 none, NaN where nothing was said."""
    if labeller not in label_names(store.path):
        return np.full(record.stop - record.start, np.nan, np.float32)
    return store.read(record.start, record.stop, [labeller])[labeller]


def wrongly_called(store: EpisodeStore, record: EpisodeRecord) -> dict[str, float]:
    """The oracle's view of an episode's end, as metrics: whether it succeeded, and whether that was only claimed.

    Empty where there is no oracle.
    """
    said = float(verdict(store, record, ORACLE)[-1])
    if np.isnan(said):
        return {}
    return {"oracle_success": said, "reward_hacked": float(record.success and said == 0.0)}
