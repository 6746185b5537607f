"""The learning room's other commands: actor, learner, evaluator, refitter, eval, render, demo, compare, bench."""

import os
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from robot_rl.arguments import Cell, Rehearse, Run, Settings, Task, place, twin_only
from robot_rl.errors import ConfigError, DeviceError
from robot_rl.interrupts import ending_in_order

__all__ = ["actor", "bench", "compare", "demo", "evaluate_run", "evaluator", "learner", "refitter", "render"]


def actor(run: Positional[Run]) -> int:
    """Act in a run: the newest policy to the arm, every step to the store. The learner may run, or not, or die."""
    from robot_rl.actor import Actor
    from robot_rl.progress import TrainingProgress
    from robot_rl.run_directory import RunDirectory

    directory, settings = RunDirectory.open(run)
    _acts(settings, directory)
    with TrainingProgress(f"acting for {run}") as progress:
        one = Actor(settings, directory, progress)
        with ending_in_order(one):
            reason = one.act()
    print(f"The actor ended ({reason}) at step {one.state.step}; it waited {one.waited_s:.0f} s for the learner.")
    return 0


def learner(run: Positional[Run]) -> int:
    """Learn in a run: episodes in, policies out. The actor may run, or not, or die."""
    from robot_rl.async_learning import AsyncLearner
    from robot_rl.progress import TrainingProgress
    from robot_rl.run_directory import RunDirectory

    directory, settings = RunDirectory.open(run)
    _acts(settings, directory)
    os.nice(10)  # where they share a core, acting goes first
    with TrainingProgress(f"learning for {run}") as progress:
        one = AsyncLearner(settings, directory, progress)
        with ending_in_order(one):
            reason = one.learn()
    print(f"The learner ended ({reason}) at step {one.step}.")
    return 0


def evaluator(run: Positional[Run]) -> int:
    """Evaluate a run's policies as they are published, on a twin; train --eval-every STEPS starts it beside."""
    from robot_rl.evaluator import Evaluator
    from robot_rl.progress import TrainingProgress
    from robot_rl.run_directory import RunDirectory

    directory, settings = RunDirectory.open(run)
    os.nice(10)
    with TrainingProgress(f"evaluating {run}") as progress:
        one = Evaluator(settings, directory, progress)
        with ending_in_order(one):
            one.watch()
    done = (
        f"its last policy was of step {one.evaluated}" if one.evaluated >= 0 else "it had no time to evaluate a policy"
    )
    print(f"The evaluator ended; {done}.")
    return 0


def refitter(run: Positional[Run]) -> int:
    """Fit a run's learned reward anew on what it got wrong; train --refit-every EPISODES starts it beside."""
    from robot_rl.progress import TrainingProgress
    from robot_rl.rewards.refitting import Refitter
    from robot_rl.run_directory import RunDirectory

    directory, settings = RunDirectory.open(run)
    os.nice(10)
    with TrainingProgress(f"fitting the reward of {run} anew") as progress:
        one = Refitter(settings, directory, progress)
        with ending_in_order(one):
            one.watch()
    print(f"The refitter ended; it fitted the reward {one.fits} times.")
    return 0


def _acts(settings: Any, directory: Any) -> None:
    if settings.agent.kind != "sac":
        raise ConfigError(
            f"{directory.path} only clones demonstrations (agent.kind={settings.agent.kind}): nobody acts in it. Go on "
            f"with: robot-rl train --resume {directory.path}"
        )


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"--{name} is {value}; it must be at least 1.")


def evaluate_run(
    run: Positional[Run],
    episodes: Annotated[int, arg(help="Seeded episodes to run")] = 100,
    video: Annotated[bool, arg(help="Also film nine of them")] = True,
    cell: Cell = None,
    rehearse: Rehearse = False,
    json: Annotated[bool, arg(help="Print the result as JSON")] = False,
) -> int:
    """Evaluate a run's policy: success rate with its interval, time to success, a video."""
    import json as json_format

    from robot_rl.environments import make
    from robot_rl.evaluation import evaluate, film, load_policy, write_report
    from robot_rl.progress import TrainingProgress
    from robot_rl.run_directory import RunDirectory

    _at_least_one("episodes", episodes)
    directory, config = RunDirectory.open(run)
    config = replace(config, env={**twin_only(config.env), **place(cell, rehearse)})
    env = make(config.task, config.env)
    try:
        policy = load_policy(directory, config, env)
        with TrainingProgress(f"evaluating {run}") as progress:
            progress.phase("evaluating", episodes)
            result = evaluate(env, policy, episodes, lambda n, _: progress.update(step=n))
    finally:
        env.close()
    report = write_report(
        directory, config, result, f"evaluation_{Path(cell).stem.replace(':', '_')}" if cell else "evaluation"
    )
    print(json_format.dumps(result.to_json()) if json else f"{config.task}: {result}\nReport: {report}")
    if video and config.env.get("cell", "twin") == "twin":  # elsewhere it would take nine more episodes of the arm
        try:
            film_path, sheet = film(config, policy, directory.videos, "evaluation")
        except DeviceError as error:
            print(f"No video: {error}", file=sys.stderr)
        else:
            print(f"Video: {film_path}\nPictures: {sheet}", file=sys.stderr if json else sys.stdout)
    return 0


def render(
    run: Positional[Run],
    episodes: Annotated[int, arg(help="Episodes to film")] = 9,
) -> int:
    """Film a run's policy: a video grid and a contact sheet in the run's videos/."""
    from robot_rl.environments import make
    from robot_rl.evaluation import film, load_policy
    from robot_rl.run_directory import RunDirectory

    _at_least_one("episodes", episodes)
    directory, config = RunDirectory.open(run)
    config = replace(config, env=twin_only(config.env))
    env = make(config.task, config.env)
    try:
        policy = load_policy(directory, config, env)
    finally:
        env.close()
    video, sheet = film(config, policy, directory.videos, "render", episodes)
    print(f"Video: {video}\nPictures: {sheet}")
    return 0


def demo(
    task: Positional[Task],
    episodes: Annotated[int, arg(help="Successful episodes to record")] = 20,
    out: Annotated[Path | None, arg(help="Episode store to make; demos/<task> by default")] = None,
    seed: Annotated[int, arg(help="Of the first episode and of the script's noise")] = 0,
    noise: Annotated[float, arg(help="Action noise of the script, a fraction of a full action")] = 0.06,
    cell: Cell = None,
    rehearse: Rehearse = False,
    set: Annotated[  # noqa: A002 (the flag's name)
        Settings, arg(metavar="KEY=VALUE ...", help="Options of the environment, for example arm=ur5e")
    ] = (),
) -> int:
    """Record demonstrations of a task by its scripted expert into an episode store."""
    import numpy as np

    from robot_rl.assignments import assignments
    from robot_rl.demonstrations import record, scripted_expert
    from robot_rl.environments import make
    from robot_rl.progress import TrainingProgress

    _at_least_one("episodes", episodes)
    if seed < 0 or not 0.0 <= noise <= 1.0:
        raise ConfigError(f"--seed is {seed} and --noise {noise}; the seed is at least 0, the noise between 0 and 1.")
    path = Path("demos") / task.split(":")[-1].replace("/", "_") if out is None else out
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(
            f"{path} exists; nothing in it was touched. Train with --demos {path}, or record to --out OTHER."
        )
    options = {**assignments(pair.removeprefix("env.") for pair in chain.from_iterable(set)), **place(cell, rehearse)}
    env = make(task, options)
    try:
        expert = scripted_expert(env, np.random.default_rng(seed), noise)
        if expert is None:
            raise ConfigError(f"{task} has no scripted expert. Tasks that have one: robot-rl tasks")
        with TrainingProgress(f"{task}: demonstrations") as progress:
            progress.phase("recording", episodes)
            with record(
                env, expert, path, episodes=episodes, seed=seed, task=task, options=options,
                on_episode=lambda kept, _: progress.update(step=kept),
            ) as store:  # fmt: skip
                steps = sum(r.length for r in store.episode_table())
    finally:
        env.close()
    print(f"{episodes} episodes, {steps} steps: {path}\nTrain with: robot-rl train {task} --demos {path}")
    return 0


def compare(
    groups: Annotated[
        Positional[tuple[str, ...]],
        arg(metavar="LABEL=RUN[,RUN...] ...", help="Runs to compare, one for each seed; a cloned run becomes a level"),
    ],
    out: Annotated[Path, arg(metavar="PICTURE", help=".png, .svg or .pdf")] = Path("compare.png"),
    title: Annotated[str, arg(help="Of the picture; the runs' task by default")] = "",
    evaluated: Annotated[bool, arg(help="Success in evaluations (--eval-every) instead of in training")] = False,
    target: Annotated[float, arg(help="Success rate that steps are counted to")] = 0.95,
) -> int:
    """Draw learning curves of several runs in one picture: median and range over seeds, and steps to a target."""
    from robot_rl.comparing import compare_runs

    if not 0.0 < target <= 1.0:
        raise ConfigError(f"--target is {target}; it lies between 0 and 1.")
    for line in compare_runs(groups, out, title=title, evaluated=evaluated, target=target):
        print(line)
    return 0


def bench(
    names: Annotated[
        Positional[tuple[str, ...]], arg(metavar="[NAME ...]", help="Which; all quick ones by default")
    ] = (),
    json: Annotated[bool, arg(help="Print a list of {name, value, unit, reference, reference_value}")] = False,
) -> int:
    """Measure speed, each figure beside a named reference in the same run."""
    import importlib.metadata
    import json as json_format

    from rich.console import Console
    from rich.table import Table

    entries = {e.name: e for e in importlib.metadata.entry_points(group="robot_rl.benchmarks")}
    unknown = [name for name in names if name not in entries]
    if unknown:
        raise ConfigError(f"Unknown benchmark {', '.join(unknown)}. Known: {', '.join(sorted(entries))}.")
    console = Console(stderr=True)
    records: list[dict[str, Any]] = []
    for name in names or [n for n in sorted(entries) if not n.startswith(("learning_", "gpu"))]:
        console.print(f"measuring {name} ...")
        records += entries[name].load()()
    if json:
        print(json_format.dumps(records, indent=2))
        return 0
    table = Table("benchmark", "value", "unit", "reference", "reference's value", "ratio")
    for r in records:
        ratio = r["value"] / r["reference_value"] if r["reference_value"] else float("nan")
        table.add_row(
            r["name"], f"{r['value']:.4g}", r["unit"], r["reference"], f"{r['reference_value']:.4g}", f"{ratio:.2f}"
        )
    Console().print(table)
    return 0
