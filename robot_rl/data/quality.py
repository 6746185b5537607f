"""How good are these demonstrations: what is in a store, in numbers that say what to record next.

Action divergence: the variance of actions at like states, as a share of all their variance. Who does it differently
each time is hard to imitate. Transition diversity: the same of what a step changes; noise of the system, which widens
what is seen. Source of both ideas: Belkhale et al., Data Quality in Imitation Learning, arXiv 2306.02437.
TQ: (mean return - worst) / (best - worst), how good the behaviour is. SACo: distinct state-action cells against a
reference's, how much of the world it saw. Source: Schweighofer et al., arXiv 2111.04714.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from robot_rl.errors import ConfigError
from robot_rl.observation import ObservationLayout
from robot_rl.store import EpisodeStore

__all__ = ["Quality", "beginnings", "measure"]

NEIGHBOURS = 8  # like states that a step is compared with, of other episodes
MOST = 3000  # steps compared
SATURATED = 0.99  # of a full action
CELL = 0.5  # standard deviations: edge of a state-action cell
COMPONENTS = 4  # principal directions that cells are made of
SMALL = 12  # pixels each way of a first picture
MOTIONS = 6  # axes of an action before the gripper's
GRID = 6  # cells each way of where episodes begin
LATE = 1.5  # control periods between two steps that count as a dropped frame

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Quality:
    """What `measure` found.

    Attributes:
        episodes: Finished ones.
        steps: Taken in them.
        success_rate: Of the episodes.
        median_length: Of the episodes [steps].
        tq: See the module's table.
        saco: Distinct cells as a share of the reference's; of the steps, without a reference.
        action_divergence: See the module's table; 0 is one action for one state.
        transition_diversity: See the module's table.
        saturation: Share of action entries at their limit, by axis.
        start_coverage: Share of a grid over where episodes begin that some episode began in.
        duplicate_episodes: Episodes whose actions are those of an earlier one.
        repeated_frames: Pictures that are the same as the one before, share, by camera.
        late_steps: Share of steps that came late by half a control period or more.
        sources: Steps by whose they were.
        advice: What to record next, or better.
    """

    episodes: int
    steps: int
    success_rate: float
    median_length: float
    tq: float
    saco: float
    action_divergence: float
    transition_diversity: float
    saturation: list[float]
    start_coverage: float
    duplicate_episodes: int
    repeated_frames: dict[str, float]
    late_steps: float
    sources: dict[str, int]
    advice: list[str] = field(default_factory=list[str])

    def to_json(self) -> dict[str, Any]:
        """By name."""
        return asdict(self)


def measure(
    store: EpisodeStore, reference: EpisodeStore | None = None, worst: float = 0.0, best: float = 1.0
) -> Quality:
    """Measure a store.

    Args:
        store: Demonstrations, or a run's episodes.
        reference: What SACo is counted against.
        worst: Return of a random policy.
        best: Return of the best there is.

    Raises:
        ConfigError: There is no finished episode.
    """
    records = [r for r in store.episode_table() if r.closed and r.length]
    if not records:
        raise ConfigError(f"{store.path} has no finished episode to report on.")
    parts = [_episode(store, r.start, r.length) for r in records]
    states, actions, changes = (np.concatenate([p[i] for p in parts]) for i in range(3))
    owner = np.repeat(np.arange(len(parts)), [len(p[0]) for p in parts])
    divergence, diversity = _spread(states, owner, actions), _spread(states, owner, changes)
    period = store.metadata.get("control_period_s")
    gaps = np.concatenate([np.diff(store.read(r.start, r.start + r.length, ["time"])["time"]) for r in records])
    late = float((gaps > LATE * period).mean()) if period and len(gaps) else 0.0
    returns = [r.total_reward for r in records]
    cells = _cells(states, actions, states, actions)
    quality = Quality(
        episodes=len(records),
        steps=len(states),
        success_rate=float(np.mean([r.success for r in records])),
        median_length=float(np.median([r.length for r in records])),
        tq=float((np.mean(returns) - worst) / (best - worst)),
        saco=len(cells) / len(states) if reference is None else _against(reference, states, actions),
        action_divergence=divergence,
        transition_diversity=diversity,
        saturation=(np.abs(actions) >= SATURATED).mean(0).round(4).tolist(),
        start_coverage=_coverage(beginnings(store, records)),
        duplicate_episodes=len(parts) - len({p[1].tobytes() for p in parts}),
        repeated_frames={n.rsplit("/", 1)[-1]: _repeated(store, n, records) for n in _cameras(store)},
        late_steps=late,
        sources=_sources(records),
    )
    quality.advice.extend(_advise(quality))
    return quality


def beginnings(store: EpisodeStore, records: list[Any]) -> Array:
    """What tells where episodes begin, shape (episodes, D): first pictures, small and grey, or first states."""
    layout = ObservationLayout(store.observation_space)
    names = list(layout.images) or list(layout.vectors)
    firsts: list[Array] = []
    for record in records:
        rows = store.read(record.start, record.start + 1, names)
        if layout.images:
            small = [cv2.resize(rows[n][0].mean(-1), (SMALL, SMALL), interpolation=cv2.INTER_AREA) for n in names]
            firsts.append(np.concatenate([s.ravel() for s in small]).astype(np.float64))
        else:
            firsts.append(layout.flatten_columns(rows, (1,))[0].astype(np.float64))
    return np.array(firsts)


def _cameras(store: EpisodeStore) -> list[str]:
    return list(ObservationLayout(store.observation_space).images)


def _episode(store: EpisodeStore, start: int, length: int) -> tuple[Array, Array, Array]:
    """States, actions and what each step changed, shapes (T, D), (T, A), (T, D)."""
    layout = ObservationLayout(store.observation_space)
    columns = store.read(start, start + length + 1, [*layout.vectors, "action"])
    state = layout.flatten_columns({n: columns[n] for n in layout.vectors}, (length + 1,)).astype(np.float64)
    return state[:-1], columns["action"][:-1].astype(np.float64), np.diff(state, axis=0)


def _spread(states: Array, owner: NDArray[np.int64], values: Array) -> float:
    """Variance of values among like states of other episodes, as a share of their variance over all."""
    rows = np.linspace(0, len(states) - 1, min(MOST, len(states))).astype(int)
    states, owner, values = _standard(states)[rows], owner[rows], values[rows]
    if len(np.unique(owner)) < 3:
        return float("nan")
    near = np.asarray(KDTree(states).query(states, min(len(states), 4 * NEIGHBOURS))[1])
    within: list[float] = []
    for i, candidates in enumerate(near):
        others = [j for j in candidates if owner[j] != owner[i]][:NEIGHBOURS]
        if len(others) >= 2:
            within.append(float(np.sum((values[i] - values[others].mean(0)) ** 2)) * len(others) / (len(others) + 1))
    total = float(values.var(0).sum())
    return float(np.clip(np.mean(within) / total, 0.0, 2.0)) if within and total > 0 else float("nan")


def _standard(values: Array) -> Array:
    std = values.std(0)
    return (values - values.mean(0)) / np.where(std > 1e-9, std, 1.0)


def _cells(states: Array, actions: Array, ref_states: Array, ref_actions: Array) -> set[bytes]:
    """State-action cells that were visited, along the reference's principal directions."""
    both, ref = np.hstack([states, actions]), np.hstack([ref_states, ref_actions])
    mean, std = ref.mean(0), np.where(ref.std(0) > 1e-9, ref.std(0), 1.0)
    directions = np.linalg.svd((ref - mean) / std, full_matrices=False)[2][:COMPONENTS]
    return {cell.tobytes() for cell in np.floor((both - mean) / std @ directions.T / CELL).astype(np.int16)}


def _against(reference: EpisodeStore, states: Array, actions: Array) -> float:
    parts = [_episode(reference, r.start, r.length) for r in reference.episode_table() if r.closed and r.length]
    ref_states, ref_actions = (np.concatenate([p[i] for p in parts]) for i in range(2))
    theirs = _cells(ref_states, ref_actions, ref_states, ref_actions)
    return len(_cells(states, actions, ref_states, ref_actions)) / max(1, len(theirs))


def _coverage(starts: Array) -> float:
    """Of a grid over the two directions in which episodes' first states differ most."""
    varied = starts - starts.mean(0)
    if len(starts) < 3 or np.abs(varied).max() < 1e-6:
        return 0.0
    place = varied @ np.linalg.svd(varied, full_matrices=False)[2][:2].T
    low, high = place.min(0), place.max(0)
    cells = np.minimum((GRID * (place - low) / np.where(high > low, high - low, 1.0)).astype(int), GRID - 1)
    return len({tuple(cell) for cell in cells.tolist()}) / GRID**2


def _repeated(store: EpisodeStore, camera: str, records: list[Any]) -> float:
    same = total = 0
    for record in records:
        pictures = store.read(record.start, record.stop, [camera])[camera]
        same += int((pictures[1:] == pictures[:-1]).reshape(len(pictures) - 1, -1).all(1).sum())
        total += len(pictures) - 1
    return same / max(1, total)


def _sources(records: list[Any]) -> dict[str, int]:
    whole: dict[str, int] = {}
    for record in records:
        for source, steps in record.sources.items():
            whole[source] = whole.get(source, 0) + steps
    return whole


def _advise(q: Quality) -> list[str]:
    """What to do about it; the figures are of demonstrations that clone well here, and of the cited papers."""
    said: list[str] = []
    if q.episodes < 20:
        said.append(f"{q.episodes} episodes are few: record 20, which is what the presets are tuned for.")
    if q.success_rate < 0.9:
        said.append(f"{1 - q.success_rate:.0%} of the episodes fail: leave those out to clone from.")
    if q.start_coverage < min(0.4, 0.5 * q.episodes / GRID**2):
        said.append("Episodes begin in few places: move the objects about more between them; variety beats number.")
    if q.action_divergence > 0.6:
        said.append("Like states are acted on differently: decide on one way to do it, and keep to it.")
    if max(q.saturation[:MOTIONS], default=0.0) > 0.5:
        said.append("Actions are at their limit most of the time: move more slowly, or raise the task's action_scale.")
    if q.duplicate_episodes:
        said.append(f"{q.duplicate_episodes} episodes are copies of others: record with another --seed.")
    if any(share > 0.1 for share in q.repeated_frames.values()):
        said.append("Pictures repeat: the camera is slower than the control period, or drops frames.")
    if q.late_steps > 0.05:
        said.append(f"{q.late_steps:.0%} of the steps came late: something else keeps the machine busy.")
    return said or ["Nothing stands out. More kinds of objects and places help more than more of the same."]
