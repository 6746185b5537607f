"""How many environment steps a preset needs, several seeds of two presets in one run."""

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from robot_rl.config import preset
from robot_rl.metrics import MetricsRow, read_metrics
from robot_rl.plots import compare_curves, steps_to_success
from robot_rl.preparation import resolve
from robot_rl.progress import TrainingProgress
from robot_rl.run_directory import RunDirectory
from robot_rl.training import Trainer

__all__ = ["pick_cube_steps_to_95"]

SEEDS = 5
FAST_STEPS = 1_000
REFERENCE_STEPS = 1_500
"""A reference that has not reached 95% by then counts as needing that many: a lower bound on its steps."""


def pick_cube_steps_to_95() -> list[dict[str, Any]]:
    """Environment steps to 95% success over 20 training episodes: `fast` against `serl`, median of five seeds.

    The curves are written to runs/bench_pick_cube.png. Takes about a quarter of an hour on two cores.
    """
    curves: dict[str, list[list[MetricsRow]]] = {}
    medians: dict[str, float] = {}
    for name, steps in (("fast", FAST_STEPS), ("serl", REFERENCE_STEPS)):
        curves[name] = [_curve(name, seed, steps) for seed in range(SEEDS)]
        needed = [min(steps_to_success(rows) or steps, steps) for rows in curves[name]]
        medians[name] = float(np.median(needed))
    picture = compare_curves(
        curves, Path("runs") / "bench_pick_cube.png", "pick_cube, 20 demonstrations, sparse reward"
    )
    return [
        {
            "name": "pick_cube_steps_to_95",
            "value": medians["fast"],
            "unit": "environment steps",
            "reference": f"serl preset (cut off at {REFERENCE_STEPS} steps); curves: {picture}",
            "reference_value": medians["serl"],
        }
    ]


def _curve(name: str, seed: int, steps: int) -> list[MetricsRow]:
    config = replace(preset(name, "pick_cube"), seed=seed, steps=steps, stop_at_success=2.0)
    with tempfile.TemporaryDirectory() as folder, TrainingProgress(f"{name}, seed {seed}") as progress:
        run = RunDirectory.create(resolve(config), Path(folder) / "run")
        started = time.monotonic()
        Trainer(resolve(config), run, progress).train()
        progress.log(f"{name}, seed {seed}: {time.monotonic() - started:.0f} s")
        return read_metrics(run.metrics)
