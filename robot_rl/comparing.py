"""Runs in one picture: curves of those that learnt, levels of those that only cloned."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robot_rl.config import TrainConfig
from robot_rl.errors import ConfigError
from robot_rl.metrics import MetricsRow, read_metrics
from robot_rl.plots import compare_curves
from robot_rl.run_directory import RunDirectory

__all__ = ["compare_runs"]


def compare_runs(groups: Sequence[str], out: Path, *, title: str, evaluated: bool, target: float) -> list[str]:
    """Draw groups of runs.

    Args:
        groups: Each `label=run,run,...`, or a run alone.
        out: The picture.
        title: Of the picture; empty for the runs' task.
        evaluated: Success in evaluations instead of in training episodes.
        target: Success rate that the steps are counted to.

    Returns:
        A line for each group about its final evaluations, and one with the picture's path.

    Raises:
        ConfigError: No group, a folder that is no run, or a run without what is to be drawn.
        StoreError: The picture cannot be written.
    """
    if not groups:
        raise ConfigError("Which runs? For example: robot-rl compare fast=runs/a,runs/b serl=runs/c --out curves.png")
    curves: dict[str, list[list[MetricsRow]]] = {}
    levels: dict[str, float] = {}
    lines: list[str] = []
    tasks: list[str] = []
    for group in groups:
        label, _, paths = group.rpartition("=")
        runs = [RunDirectory.open(path) for path in paths.split(",") if path]
        label = label or "/".join(Path(paths).parts[-2:])
        if label in curves or label in levels:
            raise ConfigError(f"Two groups are called {label!r}; say which is which: LABEL=RUN,RUN OTHER=RUN")
        if len({config.agent.kind == "sac" for _, config in runs}) != 1:
            raise ConfigError(f"{label}: a group is of runs that learnt or of runs that cloned, and not both or none.")
        tasks += [config.task for _, config in runs]
        results = [result for run, _ in runs if (result := _result(run)) is not None]
        if all(config.agent.kind != "sac" for _, config in runs):
            if not results:
                raise ConfigError(
                    f"{label}: cloned runs are drawn by their evaluation. Make one: robot-rl eval {paths}"
                )
            levels[label] = float(np.mean([r["success_rate"] for r in results]))
        else:
            curves[label] = [_rows(run, config, evaluated) for run, config in runs]
        lines.append(f"{label}: {', '.join(_told(r) for r in results) or 'not evaluated'}")
    if not curves:
        raise ConfigError("There is no run that learnt step by step among them; its curve is what levels compare with.")
    named = title or ", ".join(dict.fromkeys(tasks))
    picture = compare_curves(curves, out, named, evaluated=evaluated, target=target, levels=levels)
    return [*lines, f"Picture: {picture}"]


def _rows(run: RunDirectory, config: TrainConfig, evaluated: bool) -> list[MetricsRow]:
    path = run.evaluations if evaluated else run.metrics
    if not path.is_file():
        made = "with --eval-every" if evaluated else "any steps"
        raise ConfigError(f"{run.path} ({config.task}) has no {path.name}: it was not trained {made}.")
    return read_metrics(path)


def _result(run: RunDirectory) -> dict[str, Any] | None:
    path = run.path / "evaluation.json"
    if not path.is_file():
        return None
    try:
        result = json.loads(path.read_text())
        return {name: result[name] for name in ("successes", "episodes", "success_rate", "seed")}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no evaluation ({error}). Make another: robot-rl eval {run.path}") from error


def _told(result: dict[str, Any]) -> str:
    return f"{result['successes']}/{result['episodes']} (seed {result['seed']})"
