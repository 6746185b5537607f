"""Does learning slow the arm down? Environment steps a second on a twin paced at 10 Hz, in step and asynchronously."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from robot_rl.errors import LinkError
from robot_rl.metrics import read_metrics
from robot_rl.run_directory import RunDirectory
from robot_rl.store import EpisodeStore

__all__ = ["async_benchmarks"]

TASK, STEPS, PACE_HZ = "pick_cube", 300, 10.0
SETTINGS = ("env.observations=vision", "eval_episodes=0", "bc_updates=200", "utd=free", "actor_starts=0")


def async_benchmarks() -> list[dict[str, Any]]:
    """Steps a second while updates run, from two cameras; every step of every episode, resets left out."""
    with tempfile.TemporaryDirectory() as folder:
        demos = Path(folder) / "demos"
        _run("demo", TASK, "--episodes", "4", "--out", str(demos), "--set", "observations=vision")
        paces: dict[str, float] = {}
        late: dict[str, float] = {}
        updates: dict[str, float] = {}
        for name, flags in (("async", ["--async"]), ("sync", [])):
            path = Path(folder) / name
            settings = [*SETTINGS, "env.real_time=true", f"steps={STEPS}"]
            _run("train", TASK, *flags, "--demos", str(demos), "--run", str(path), "--set", *settings)
            periods = _periods(EpisodeStore.open(RunDirectory(path).episodes))
            paces[name], late[name] = 1 / float(periods.mean()), float(np.quantile(periods, 0.99))
            updates[name] = float(read_metrics(RunDirectory(path).metrics)[-1]["updates_per_s"] or 0.0)
    keys = ("name", "value", "unit", "reference", "reference_value")
    rows = (
        ("async_steps_per_s", paces["async"], "1/s, updates beside", "the twin's pace", PACE_HZ),
        ("sync_steps_per_s", paces["sync"], "1/s, updates between steps", "the twin's pace", PACE_HZ),
        ("async_period_p99_ms", 1e3 * late["async"], "ms between steps", "in step", 1e3 * late["sync"]),
        ("async_updates_per_s", updates["async"], "1/s, free-running", "in step", updates["sync"]),
    )
    return [dict(zip(keys, row, strict=True)) for row in rows]


def _periods(store: EpisodeStore) -> np.ndarray:
    """Seconds between consecutive steps of the same episode."""
    times = (store.read(r.start, r.start + r.length, ["time"])["time"] for r in store.episode_table())
    return np.concatenate([np.diff(of_one) for of_one in times])


def _run(*arguments: str) -> None:
    command = [sys.executable, "-m", "robot_rl.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=False)
    if done.returncode:
        raise LinkError(f"robot-rl {' '.join(arguments)} failed: {done.stderr.strip().splitlines()[-1:]}")
