"""The most confident mistakes, as pictures: what a person looks at before trusting a reward."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from robot_rl.plots import save_figure
from robot_rl.rewards.frames import Frames

__all__ = ["draw_mistakes"]

SHOWN = 6  # of each kind


def draw_mistakes(frames: Frames, probability: NDArray[np.float64], threshold: float, path: Path) -> Path:
    """Draw frames that were wrongly called success, and successes that were missed, the most confident first.

    Args:
        frames: N of them.
        probability: Of success, shape (N,).
        threshold: At which they are called.
        path: The picture to write.

    Raises:
        StoreError: The file cannot be written.
    """
    called = probability >= threshold
    alarms = np.flatnonzero(called & ~frames.success)
    misses = np.flatnonzero(~called & frames.success)
    groups = (
        (f"called success, and is none: {len(alarms)}", alarms[np.argsort(-probability[alarms])]),
        (f"success that was missed: {len(misses)}", misses[np.argsort(probability[misses])]),
        ("success that was found, the least sure first", _sorted(np.flatnonzero(called & frames.success), probability)),
    )
    figure = Figure(figsize=(2.0 * SHOWN, 9.0), layout="constrained")
    thirds: Any = figure.subfigures(3, 1)
    for rows, (title, chosen) in zip(thirds, groups, strict=True):
        rows.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        for axes, index in zip(rows.subplots(1, SHOWN), [*chosen[:SHOWN], *[-1] * SHOWN], strict=False):
            axes.set_axis_off()
            if index >= 0:
                axes.imshow(np.concatenate([pictures[index] for pictures in frames.pictures.values()], axis=0))
                axes.set_title(f"{probability[index]:.3f}\n{frames.where[index]}", fontsize=6.5)
    return save_figure(figure, path)


def _sorted(rows: NDArray[np.int64], by: NDArray[np.float64]) -> NDArray[np.int64]:
    return rows[np.argsort(by[rows])]
