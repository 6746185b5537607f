"""How many steps of the arm a person who steps in saves: a scripted one on the twin against nobody, same seeds."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from robot_rl.config import TrainConfig, preset
from robot_rl.environments import make
from robot_rl.evaluation import evaluate, load_policy
from robot_rl.metrics import MetricsRow
from robot_rl.plots import compare_curves
from robot_rl.preparation import resolve
from robot_rl.progress import TrainingProgress
from robot_rl.run_directory import RunDirectory
from robot_rl.store import EpisodeStore
from robot_rl.training import Trainer

__all__ = ["peg_insert_intervention"]

SEEDS = 3
DEMONSTRATIONS = 5  # few, so that there is something left to learn
STEPS, EVERY = 2_500, 100
EPISODES = 50  # of each evaluation, by the policy alone
TARGET = 0.9


def peg_insert_intervention() -> list[dict[str, Any]]:
    """Environment steps until the policy alone succeeds in 90% of 50 episodes, with and without a person; peg_insert.

    The curves are written to runs/bench_intervention.png. Takes about a quarter of an hour on two cores.
    """
    helped = {"nobody": {}, "a scripted person": {"teleop": "script"}}
    curves = {
        name: [_evaluated(name, replace(preset("fast", "peg_insert"), env=env, seed=seed)) for seed in range(SEEDS)]
        for name, env in helped.items()
    }
    needed = {name: [steps_to(rows) for rows in runs] for name, runs in curves.items()}
    picture = compare_curves(
        curves, Path("runs") / "bench_intervention.png",
        f"peg_insert, {DEMONSTRATIONS} demonstrations, sparse reward: the policy alone", evaluated=True, target=TARGET,
    )  # fmt: skip
    alone, together = (float(np.median(needed[name])) for name in helped)
    told = "; ".join(f"{name}: {[int(steps) for steps in each]}" for name, each in needed.items())
    return [
        {
            "name": "intervention_steps_to_90",
            "value": together,
            "unit": "environment steps",
            "reference": f"nobody steps in ({told}; {STEPS} is a bound); curves: {picture}",
            "reference_value": alone,
        }
    ]


def steps_to(rows: list[MetricsRow]) -> float:
    """Steps of the first evaluation that reached the target; all there were where none did."""
    reached = [row["step"] for row in rows if (row["eval_success_rate"] or 0.0) >= TARGET]
    return float(reached[0] or 0.0) if reached else float(STEPS)


def _evaluated(name: str, config: TrainConfig) -> list[MetricsRow]:
    """A run's evaluations, every so many steps, up to the target.

    Between them it goes on from its checkpoint, with the numbers that it would have had anyway.
    """
    config = replace(config, demos=str(DEMONSTRATIONS), stop_at_success=2.0)
    alone = make(config.task, {})
    rows: list[MetricsRow] = []
    title = f"{name}, seed {config.seed}"
    try:
        with tempfile.TemporaryDirectory() as folder, TrainingProgress(title) as progress:
            run = RunDirectory.create(resolve(config), Path(folder) / "run")
            for steps in range(EVERY, STEPS + 1, EVERY):
                now: TrainConfig = replace(resolve(config), steps=steps)
                Trainer(now, run, progress).train()
                progress.phase(f"evaluating after {steps} steps", EPISODES)
                result = evaluate(alone, load_policy(run, now, alone), EPISODES)
                rows.append({"step": float(steps), "eval_success_rate": float(np.mean(result.successes))})
                if steps_to(rows) <= steps < STEPS:
                    break
            progress.log(f"{title}: {_facts(rows, EpisodeStore.open(run.episodes))}")
    finally:
        alone.close()
    return rows


def _facts(rows: list[MetricsRow], store: EpisodeStore) -> Mapping[str, float]:
    sources = store.read(columns=["source"])["source"]
    return {"steps to 90%": steps_to(rows), "share of steps by a person": round(float(np.mean(sources == 1)), 3)}
