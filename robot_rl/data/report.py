"""`robot-rl data report`: the picture that goes with the numbers."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from robot_rl.data.quality import Quality, beginnings
from robot_rl.observation import ObservationLayout
from robot_rl.plots import save_figure
from robot_rl.store import EpisodeStore

__all__ = ["draw_report"]

SHOWN = 40  # ways
GOOD, BAD, INK = "#0072b2", "#d55e00", "#24292f"


def draw_report(store: EpisodeStore, quality: Quality, path: Path) -> Path:
    """Draw lengths, actions, where episodes begin, and the numbers.

    Raises:
        StoreError: The file cannot be written.
    """
    records = [r for r in store.episode_table() if r.closed and r.length]
    layout = ObservationLayout(store.observation_space)
    success = np.array([r.success for r in records])
    figure = Figure(figsize=(12.0, 7.0), layout="constrained")
    axes = figure.subplots(2, 3)
    figure.suptitle(f"{store.path.name}: {quality.episodes} episodes, {quality.steps} steps", x=0.01, ha="left")

    lengths = np.array([r.length for r in records])
    axes[0, 0].hist([lengths[success], lengths[~success]], bins=20, stacked=True, color=[GOOD, BAD],
                    label=["succeeded", "failed"])  # fmt: skip
    axes[0, 0].set(title="length of episodes", xlabel="steps")
    axes[0, 0].legend(frameon=False)

    actions = np.concatenate([store.read(r.start, r.start + r.length, ["action"])["action"] for r in records])
    axes[0, 1].violinplot(actions, showextrema=False)
    axes[0, 1].set(title="actions, by axis", ylim=(-1.05, 1.05), xticks=range(1, actions.shape[1] + 1))

    axes[0, 2].bar(range(1, actions.shape[1] + 1), quality.saturation, color=GOOD)
    axes[0, 2].set(title="share of actions at their limit", ylim=(0, 1), xticks=range(1, actions.shape[1] + 1))

    first = beginnings(store, records)
    varied = first - first.mean(0)
    place = np.pad(varied @ np.linalg.svd(varied, full_matrices=False)[2][:2].T, ((0, 0), (0, 2)))
    for kind, colour, label in ((success, GOOD, "succeeded"), (~success, BAD, "failed")):
        axes[1, 0].scatter(place[kind, 0], place[kind, 1], s=22, color=colour, label=label)
    axes[1, 0].set(title=f"where episodes begin: {quality.start_coverage:.0%} of the grid")

    ways = [_states(store, layout, r.start, r.stop) for r in records[:SHOWN]]
    every = np.concatenate(ways)
    std = np.where(every.std(0) > 1e-6, every.std(0), np.inf)
    directions = np.linalg.svd((every - every.mean(0)) / std, full_matrices=False)[2][:2].T
    for record, way in zip(records, ways, strict=False):
        x, y = np.pad((way - every.mean(0)) / std @ directions, ((0, 0), (0, 2)))[:, :2].T
        axes[1, 1].plot(x, y, color=GOOD if record.success else BAD, alpha=0.5, linewidth=0.9)
    axes[1, 1].set(title="their ways through the state, two main directions")

    axes[1, 2].set_axis_off()
    numbers = [
        f"success {quality.success_rate:.0%}, TQ {quality.tq:.2f}", f"SACo {quality.saco:.2f}",
        f"action divergence {quality.action_divergence:.2f}",
        f"transition diversity {quality.transition_diversity:.2f}",
        f"late steps {quality.late_steps:.1%}", "", *(_wrap(text) for text in quality.advice),
    ]  # fmt: skip
    axes[1, 2].text(0, 1, "\n".join(numbers), va="top", fontsize=9, color=INK)
    return save_figure(figure, path)


def _states(store: EpisodeStore, layout: ObservationLayout, start: int, stop: int) -> np.ndarray:
    return layout.flatten_columns(store.read(start, stop, list(layout.vectors)), (stop - start,))


def _wrap(text: str, width: int = 52) -> str:
    lines, line = [], ""
    for word in text.split():
        if len(line) + len(word) > width:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    return "\n  ".join([*lines, line])
