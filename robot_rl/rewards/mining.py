"""Frames of a run from which its reward can learn: where it was wrong, or nearly so, and somebody knows better.

Who knows: the oracle on the twin, of every frame; a person at the device, of a whole episode (a failure shows success
nowhere; a success at its end). `policy` asks nobody: whatever the newest episodes show is taken for no success,
against the marked ones that are (VICE, Fu et al., arXiv 1805.11686), so that what pleases the reward ceases to.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from robot_rl.observation import ObservationLayout
from robot_rl.rewards.classifier import SuccessClassifier
from robot_rl.rewards.frames import MARK, Frames
from robot_rl.store import EpisodeStore
from robot_rl.store.records import EpisodeRecord
from robot_rl.verdicts import ORACLE, PERSON, verdict

__all__ = ["known", "mark", "mine"]

HARD = 3  # frames of each kind an episode gives at most: neighbours look alike
NEWEST = 50  # episodes that `policy` draws from


def known(store: EpisodeStore, record: EpisodeRecord) -> NDArray[np.float32]:
    """What is known of each row of an episode, shape (rows,): 1 success, 0 none, NaN unknown."""
    truth = verdict(store, record, ORACLE)
    person = float(verdict(store, record, PERSON)[-1])
    if person == 0.0:
        truth[:] = 0.0
    elif person == 1.0:
        truth[-1] = 1.0
    return truth


def mine(
    store: EpisodeStore,
    classifier: SuccessClassifier,
    *,
    teacher: str = "known",
    first: int = 0,
    last: int | None = None,
    seed: int = 0,
    on_episode: Callable[[int], None] = lambda _done: None,
) -> Frames | None:
    """The frames that teach a classifier most, of the closed episodes of a run.

    Args:
        store: The run's episodes.
        classifier: Whose mistakes; of each episode those frames that it is most wrongly sure of.
        teacher: `known` or `policy`.
        first: The first episode to look at.
        last: One past the last; all closed ones by default.
        seed: Of what `policy` draws.
        on_episode: Called after each with their number so far.

    Returns:
        None where nobody knows anything.

    Raises:
        ConfigError: The store's cameras are not the classifier's.
    """
    classifier.check_fits(store.observation_space)
    cameras = ObservationLayout(store.observation_space).images
    records = [record for record in store.episode_table() if record.closed][first:last]
    rng = np.random.default_rng(seed)
    found: list[Frames] = []
    for number, record in enumerate(records if teacher == "known" else records[-NEWEST:]):
        on_episode(number)
        truth = known(store, record)
        if teacher == "policy":
            truth = np.full(len(truth), np.nan, np.float32)
            truth[rng.choice(len(truth), min(HARD, len(truth)), replace=False)] = 0.0
        rows = np.flatnonzero(~np.isnan(truth))
        if not len(rows):
            continue
        columns = store.read(record.start, record.stop, cameras)
        where = [f"{store.path.parent.name} episode {record.index} row {record.start + row}" for row in rows]
        episode = np.full(len(rows), record.index, np.int64)
        shown = truth[rows] > 0.5
        pictures = {name: columns[name][rows] for name in cameras}
        frames = Frames(pictures, shown, episode, where, np.where(shown, classifier.stages, -(classifier.stages > 1)))
        if teacher == "known":
            frames = frames.of(_hardest(classifier.probabilities(frames), frames.success))
        found.append(frames)
    return Frames.joined(found) if found else None


def mark(store: EpisodeStore, frames: Frames) -> None:
    """Write mined frames down as marked ones, in the run's own store; the others of an episode stay unmarked.

    Raises:
        StoreError: The disk failed.
    """
    rows = np.array([int(where.rsplit(" ", 1)[-1]) for where in frames.where])
    order = np.argsort(rows)
    store.write_label(MARK, rows[order], frames.stage[order].astype(np.float32))


def _hardest(probability: NDArray[np.float64], success: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Of each kind the frames that the classifier is least right about."""
    wrong = np.where(success, 1.0 - probability, probability)
    kinds = (np.flatnonzero(success), np.flatnonzero(~success))
    return np.concatenate([rows[np.argsort(-wrong[rows])][:HARD] for rows in kinds])
