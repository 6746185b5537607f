"""Figures of runs: one run's learning at a glance, and configurations compared over seeds."""

import math
import statistics
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
    StrMethodFormatter,
)

from robot_rl.errors import ConfigError, StoreError
from robot_rl.metrics import MetricsRow

Floats = npt.NDArray[np.float64]

SUCCESS_WINDOW = 20
"""Training episodes in the running success rate; SERL's convention."""
TARGET_SUCCESS = 0.95

_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)  # Okabe-Ito, for the colour-blind
_INK = "#24292f"
_MUTED = "#6e7781"
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": "#8c959f",
    "axes.labelcolor": _MUTED,
    "axes.labelsize": 8.5,
    "axes.titlecolor": _INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#d8dee4",
    "grid.linewidth": 0.6,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


def running_success(rows: Sequence[MetricsRow], window: int = SUCCESS_WINDOW) -> tuple[Floats, Floats]:
    """Success rate over the last training episodes.

    Args:
        rows: Metrics of one run, with `episode_success` in the row that ends an episode.
        window: Episodes averaged over; the first ones have fewer before them.

    Returns:
        Environment steps and success rate in [0, 1] at each episode's end, each of shape (episodes,).
    """
    steps, successes = _series(rows, "episode_success")
    return steps, _smooth(successes, window)


def steps_to_success(
    rows: Sequence[MetricsRow], threshold: float = TARGET_SUCCESS, window: int = SUCCESS_WINDOW
) -> float | None:
    """Environment steps until the success rate of `window` whole training episodes first reaches a threshold.

    Args:
        rows: Metrics of one run.
        threshold: Success rate in [0, 1].
        window: Episodes that have to be there, and are averaged over.

    Returns:
        Environment steps, or None where the run never got there.
    """
    first = _first_reached(*running_success(rows, window), threshold, window)
    return first if math.isfinite(first) else None


def _first_reached(steps: Floats, rates: Floats, target: float, window: int) -> float:
    """Steps at which a rate over `window` whole episodes first reached a target; infinite where it never did."""
    reached = np.flatnonzero(rates[window - 1 :] >= target - 1e-9)
    return float(steps[window - 1 + reached[0]]) if len(reached) else math.inf


def learning_curve(
    runs: Sequence[MetricsRow] | Mapping[str, Sequence[MetricsRow]], path: str | Path, title: str
) -> Path:
    """Draw how a run learnt: success, return, critic loss, exploration, UTD ratio and speed over environment steps.

    Args:
        runs: The rows of one run (`read_metrics`), or of several by label.
        path: The picture (`.png`, `.svg` or `.pdf`); its folder is made where missing.
        title: Task, preset and seed, for example "pick_cube, state preset, seed 0".

    Returns:
        The path written.

    Raises:
        ConfigError: There is no run, or matplotlib does not know the file's ending.
        StoreError: The file cannot be written.
    """
    by_label = dict(runs) if isinstance(runs, Mapping) else {"": runs}
    if not by_label:
        raise ConfigError("There are no runs to draw.")
    panels: list[tuple[str, Callable[[Axes, Sequence[MetricsRow], str, str], None]]] = [
        (f"success, last {SUCCESS_WINDOW} episodes", _draw_success),
        ("episode return", _draw_return),
        ("critic loss", _draw_critic_loss),
        ("exploration", _draw_exploration),
        ("critic updates per environment step", _draw_utd),
        ("environment steps per second", _draw_speed),
    ]
    with _figure(path, title, _summary(by_label), rows=2, columns=3, size=(11.5, 6.2)) as axes:
        for ax, (name, draw) in zip(axes, panels, strict=True):
            ax.set_title(name)
            for (label, rows), colour in zip(by_label.items(), _cycle(), strict=False):
                draw(ax, rows, label, colour)
            if not ax.lines:
                ax.text(0.5, 0.5, "not recorded", transform=ax.transAxes, ha="center", color=_MUTED)
                ax.set_yticks([])
                ax.grid(visible=False)
            if len(ax.get_legend_handles_labels()[1]):
                ax.legend(loc="best")
        _share_steps(axes, max(_last_step(rows) for rows in by_label.values()))
        for ax in axes[3:]:
            ax.set_xlabel("environment steps")
    return Path(path)


def cloning_curve(rows: Sequence[MetricsRow], path: str | Path, title: str) -> Path:
    """Draw how well demonstrations were imitated, over gradient updates.

    Args:
        rows: Of one run (`read_metrics`).
        path: The picture; its folder is made where missing.
        title: Task, preset and seed.

    Raises:
        ConfigError: matplotlib does not know the file's ending.
        StoreError: The file cannot be written.
    """
    pairs = [(u, v) for r in rows if (u := r.get("update")) is not None and (v := r.get("imitation_loss")) is not None]
    updates, losses = np.array(pairs, np.float64).reshape(-1, 2).T
    rates = _series(rows, "eval_success_rate")[1]
    summary = f"{len(pairs) and updates[-1]:,.0f} updates" + (f"   ·   evaluated {rates[-1]:.0%}" if len(rates) else "")
    with _figure(path, title, summary, rows=1, columns=1, size=(8.6, 4.2)) as (ax,):
        _draw_smoothed(ax, updates, losses, next(_cycle()))
        _from_zero(ax)
        ax.set_title("imitation loss")
        ax.set_xlabel("updates")
    return Path(path)


def compare_curves(
    groups: Mapping[str, Sequence[Sequence[MetricsRow]]],
    path: str | Path,
    title: str,
    *,
    evaluated: bool = False,
    target: float = TARGET_SUCCESS,
    levels: Mapping[str, float] | None = None,
) -> Path:
    """Compare configurations over seeds: median success rate, its range, and the steps each takes to a target.

    The line is the median over a group's runs, the band reaches from the worst to the best. A run that ended
    before the group's longest one counts with its last rate from there on; from the first such end the line is dashed.

    Args:
        groups: Runs (rows of `read_metrics`) by label, one run for each seed.
        path: The picture (`.png`, `.svg` or `.pdf`); its folder is made where missing.
        title: What is compared, for example "pick_cube, five seeds".
        evaluated: Success in evaluations (`eval_success_rate`) instead of in training episodes.
        target: Success rate that the steps are counted to.
        levels: Success rates to compare with that need no steps, by label, for example of behaviour cloning.

    Returns:
        The path written.

    Raises:
        ConfigError: There is no group, a group has no run, or matplotlib does not know the file's ending.
        StoreError: The file cannot be written.
    """
    if not groups or not all(groups.values()):
        raise ConfigError(
            f"Nothing to compare: groups and their runs are { ({k: len(v) for k, v in groups.items()}) }."
        )
    what = "success in evaluations" if evaluated else f"success over the last {SUCCESS_WINDOW} training episodes"
    subtitle = f"{what}; median and range over seeds"
    curve = _evaluated_success if evaluated else running_success
    with _figure(path, title, subtitle, rows=1, columns=1, size=(8.6, 4.8)) as axes:
        ax = axes[0]
        end = max(_last_step(rows) for runs in groups.values() for rows in runs)
        ax.axhline(target, color=_MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        at_right: Any = ax.get_yaxis_transform()
        ax.text(1.008, target, f"{target:.0%}", transform=at_right, va="center", color=_MUTED)
        colours = _cycle()
        for (label, runs), colour in zip(groups.items(), colours, strict=False):
            _draw_group(ax, label, [curve(rows) for rows in runs], colour, 1 if evaluated else SUCCESS_WINDOW, target)
        for (label, level), colour in zip((levels or {}).items(), colours, strict=False):
            ax.axhline(level, color=colour, linewidth=1.6, linestyle=(0, (1, 1.2)), label=f"{label}: {level:.0%}")
        _success_axis(ax)
        _share_steps(axes, end)
        ax.set_xlabel("environment steps")
        ax.legend(loc="upper left", bbox_to_anchor=(-0.01, -0.13), borderaxespad=0)
    return Path(path)


def _evaluated_success(rows: Sequence[MetricsRow]) -> tuple[Floats, Floats]:
    return _series(rows, "eval_success_rate")


def _draw_group(
    ax: Axes, label: str, curves: Sequence[tuple[Floats, Floats]], colour: str, window: int, target: float
) -> None:
    ends = [float(steps[-1]) if len(steps) else 0.0 for steps, _ in curves]
    longest, first_end = max(ends), min(ends)
    begin = max((float(steps[0]) for steps, _ in curves if len(steps)), default=0.0) if window == 1 else 0.0
    grid = np.linspace(begin, longest, 400)  # before its first evaluation nothing is known of a run
    rates = np.array([_hold(grid, *curve) for curve in curves])
    low, median, high = np.min(rates, axis=0), np.median(rates, axis=0), np.max(rates, axis=0)
    median_steps = statistics.median(_first_reached(*curve, target, window) for curve in curves)
    seeds = "1 seed" if len(curves) == 1 else f"{len(curves)} seeds"
    never = f"{target:.0%} not reached"
    text = f"{target:.0%} after {_steps_text(median_steps)} steps" if math.isfinite(median_steps) else never
    if len(curves) > 1:
        ax.fill_between(grid, low, high, color=colour, alpha=0.15, linewidth=0, step="post")
    whole = grid <= first_end
    line: dict[str, Any] = {"color": colour, "linewidth": 2, "drawstyle": "steps-post"}
    ax.plot(grid[whole], median[whole], label=f"{label} ({seeds}): {text}", **line)
    ax.plot(grid[~whole], median[~whole], linestyle=(0, (1.5, 1.5)), **line)
    if math.isfinite(median_steps):
        ax.vlines(median_steps, 0, target, color=colour, linewidth=1, alpha=0.6)
        ax.plot([median_steps], [target], "o", color=colour, markersize=6, markeredgecolor="white", zorder=5)


def _draw_success(ax: Axes, rows: Sequence[MetricsRow], label: str, colour: str) -> None:
    steps, rates = running_success(rows)
    if len(steps):
        ax.plot(steps, rates, color=colour, label=label or None, drawstyle="steps-post")
        if not label:
            ax.fill_between(steps, rates, color=colour, alpha=0.10, linewidth=0, step="post")
    steps, rates = _series(rows, "eval_success_rate")
    if len(steps):
        marker: dict[str, Any] = {
            "color": colour if label else _INK,
            "markersize": 5,
            "markeredgecolor": "white",
            "zorder": 5,
        }
        ax.plot(steps, rates, "D", label=None if label else "evaluated", clip_on=False, **marker)
    _success_axis(ax)


def _draw_return(ax: Axes, rows: Sequence[MetricsRow], _label: str, colour: str) -> None:
    steps, returns = _series(rows, "episode_return")
    if len(steps):
        ax.scatter(steps, returns, s=4, color=colour, alpha=0.25, linewidths=0)
        ax.plot(steps, _smooth(returns, SUCCESS_WINDOW), color=colour)


def _draw_critic_loss(ax: Axes, rows: Sequence[MetricsRow], _label: str, colour: str) -> None:
    steps, losses = _series(rows, "critic_loss")
    _draw_smoothed(ax, steps, losses, colour)
    if len(losses) and losses.min() > 0 and losses.max() / losses.min() > 30:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())


def _draw_exploration(ax: Axes, rows: Sequence[MetricsRow], _label: str, colour: str) -> None:
    steps, entropies = _series(rows, "entropy")
    if len(steps):
        ax.plot(steps, _smooth(entropies, _span(entropies)), color=colour)
        ax.set_ylabel("entropy (solid)")
    steps, temperatures = _series(rows, "temperature")
    if len(steps):
        right = _right_axes(ax)
        right.plot(
            steps, _smooth(temperatures, _span(temperatures)), color=colour, linestyle=(0, (2, 1.5)), linewidth=1.3
        )
        _from_zero(right)


def _right_axes(ax: Axes) -> Axes:
    """The axes that share x with `ax` and have their scale on the right; the same ones for each run."""
    for sibling in ax.get_shared_x_axes().get_siblings(ax):
        if sibling is not ax:
            return sibling
    right = ax.twinx()
    right.spines["right"].set_visible(True)
    right.grid(visible=False)
    right.set_ylabel("temperature (dashed)")
    return right


def _draw_utd(ax: Axes, rows: Sequence[MetricsRow], _label: str, colour: str) -> None:
    _draw_smoothed(ax, *_series(rows, "utd_ratio"), colour)
    _from_zero(ax)


def _draw_speed(ax: Axes, rows: Sequence[MetricsRow], _label: str, colour: str) -> None:
    _draw_smoothed(ax, *_series(rows, "env_steps_per_s"), colour)
    _from_zero(ax)


def _draw_smoothed(ax: Axes, steps: Floats, values: Floats, colour: str) -> None:
    if len(steps):
        ax.plot(steps, values, color=colour, alpha=0.2, linewidth=0.8)
        ax.plot(steps, _smooth(values, _span(values)), color=colour, marker="." if len(steps) == 1 else None)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure; its folder is made where missing.

    Raises:
        StoreError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130, facecolor="white")
    except OSError as error:
        raise StoreError(f"Cannot write the figure {path}: {error.strerror}.", path=path) from error
    return path


@contextmanager
def _figure(
    path: str | Path, title: str, subtitle: str, *, rows: int, columns: int, size: tuple[float, float]
) -> Generator[list[Axes]]:
    """Hand out axes in the house's style, and save the figure afterwards. No pyplot: it keeps global state."""
    path = Path(path)
    with mpl.rc_context(_STYLE):
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08, wspace=0.03, hspace=0.06)
        figure = Figure(figsize=size, layout=layout)
        axes: Any = figure.subplots(rows, columns, squeeze=False)
        yield list(axes.flat)
        # The layout engine keeps room for one title; the empty line in it is the subtitle's.
        figure.suptitle(f"{title}\n", x=0.014, ha="left", fontsize=13, fontweight="bold", color=_INK)
        figure.text(0.014, 1 - 0.45 / size[1], subtitle, va="center", fontsize=9, color=_MUTED)
        if path.suffix.lstrip(".") not in figure.canvas.get_supported_filetypes():
            raise ConfigError(f"Cannot draw to {path.name!r}; use .png, .svg or .pdf.", path=path)
        save_figure(figure, path)


def _series(rows: Sequence[MetricsRow], name: str) -> tuple[Floats, Floats]:
    """Steps and values of the rows that have a finite value."""
    pairs = [
        (step, value) for row in rows if (value := row.get(name)) is not None and (step := row.get("step")) is not None
    ]
    array = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def _hold(grid: Floats, steps: Floats, values: Floats) -> Floats:
    """Values at `grid` of a quantity that keeps its last one, and is 0 before the first."""
    index = np.searchsorted(steps, grid, side="right")
    return np.concatenate([[0.0], values])[index]


def _smooth(values: Floats, window: int) -> Floats:
    """Mean over the last `window` values; nothing of the future leaks into the past."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (total[ends] - total[starts]) / (ends - starts)


def _span(values: Floats) -> int:
    return max(1, len(values) // 50)


def _last_step(rows: Sequence[MetricsRow]) -> float:
    return max((row.get("step") or 0.0 for row in rows), default=0.0)


def _summary(by_label: Mapping[str, Sequence[MetricsRow]]) -> str:
    """One line of what a single run came to."""
    if len(by_label) > 1:
        return f"{len(by_label)} runs"
    rows = next(iter(by_label.values()))
    parts = [f"{_last_step(rows):,.0f} environment steps"]
    times = [time for row in rows if (time := row.get("wall_time")) is not None]
    if len(times) > 1:
        parts.append(f"{(times[-1] - times[0]) / 60:.1f} min")
    reached = steps_to_success(rows)
    if reached is not None:
        parts.append(f"{TARGET_SUCCESS:.0%} success after {_steps_text(reached)} steps")
    rates = _series(rows, "eval_success_rate")[1]
    if len(rates):
        parts.append(f"last evaluation {rates[-1]:.0%}")
    return "   ·   ".join(parts)


def _success_axis(ax: Axes) -> None:
    ax.set_ylim(0, 1.03)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _from_zero(ax: Axes) -> None:
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def _share_steps(axes: Sequence[Axes], end: float) -> None:
    for ax in axes:
        ax.set_xlim(0, max(end, 1.0) * 1.01)
        ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], integer=True))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda steps, _: _steps_text(steps)))


def _steps_text(steps: float) -> str:
    if steps < 1000:
        return f"{steps:.0f}"
    return f"{steps / 1000:.3g}k" if steps < 1e6 else f"{steps / 1e6:.3g}M"


def _cycle() -> Iterator[str]:
    while True:
        yield from _COLOURS
