"""The learning room's commands: train, eval, render, demo, bench."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Generator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from robot_rl.errors import ConfigError, DeviceError
from robot_rl.processes import PARENT

INTERRUPTED = 130  # what a shell expects of a process that Ctrl-C ended

__all__ = ["actor", "bench", "demo", "evaluate_run", "evaluator", "learner", "render", "train"]

Task = Annotated[
    str, arg(metavar="TASK", help="pick_cube, reach, ... (robot-rl tasks lists them) or gymnasium:FetchReach-v4")
]
Cell = Annotated[
    str | None, arg(metavar="CELL.yaml", help="Where: a cell file (robot-rl cells new); the simulated cell by default")
]
Rehearse = Annotated[
    bool, arg(help="With --cell: emulators on this machine stand in for its devices (robot-rl emulate)")
]
Settings = UseAppendAction[tuple[tuple[str, ...], ...]]  # the flag may be given again, each time with several
Run = Annotated[Path, arg(metavar="RUN", help="A run directory, runs/<task>/<timestamp>")]


def train(  # noqa: PLR0913 (the command line's options)
    task: Annotated[
        Positional[str], arg(metavar="[TASK]", help="As listed by robot-rl tasks, or gymnasium:FetchReach-v4")
    ] = "",
    preset: Annotated[
        str | None, arg(help="Hyper-parameters: fast (the default), pixels (cameras), scratch, serl, hil_serl")
    ] = None,
    seed: Annotated[int | None, arg(help="Of everything; the same seed gives the same run")] = None,
    steps: Annotated[int | None, arg(help="Environment steps")] = None,
    demos: Annotated[
        str | None,
        arg(
            metavar="N|PATH|none",
            help="Demonstrations: record N with the task's script first, or a store's path, or none",
        ),
    ] = None,
    run: Annotated[Path | None, arg(help="Run directory to make; runs/<task>/<timestamp> by default")] = None,
    cell: Cell = None,
    rehearse: Rehearse = False,
    resume: Annotated[Path | None, arg(metavar="RUN", help="Continue this run from its last checkpoint")] = None,
    config: Annotated[
        Path | None, arg(metavar="FILE", help="YAML with any setting of config.yaml, laid over the preset")
    ] = None,
    set: Annotated[  # noqa: A002 (the flag's name)
        Settings, arg(metavar="KEY=VALUE ...", help="Any setting, for example: --set agent.critics=5 env.arm=ur5e")
    ] = (),
    asynchronous: Annotated[
        bool, arg(name="async", help="Act and learn in two processes; the arm never waits for the learner")
    ] = False,
    reward: Annotated[
        Path | None, arg(metavar="REWARD", help="Learn from this classifier alone (robot-rl reward train)")
    ] = None,
    teleop: Annotated[
        str | None,
        arg(metavar="DEVICE", help="Who may take over: spacemouse, gamepad, keyboard, or script (simulated)"),
    ] = None,
    eval_every: Annotated[
        int | None, arg(metavar="STEPS", help="Also evaluate 20 episodes every so many steps, in a process beside")
    ] = None,
    evaluate: Annotated[bool, arg(help="Evaluate and film when training ends")] = True,
) -> int:
    """Learn a task; everything about the run lies in one directory.

    Stop at any moment with Ctrl-C: the run is saved, and --resume RUN goes on with the same numbers.
    """  # fmt: skip
    from robot_rl.assignments import assignments
    from robot_rl.config import load_config, overlay
    from robot_rl.config import preset as named_preset
    from robot_rl.evaluator import check_place
    from robot_rl.preparation import resolve
    from robot_rl.run_directory import RunDirectory

    if resume is not None:
        if (
            task
            or config
            or set
            or rehearse
            or any(v is not None for v in (preset, run, seed, demos, cell, reward, teleop))
        ):
            raise ConfigError(
                "--resume continues a run as it was configured; only --steps, --eval-every and --async may be given "
                "with it."
            )
        directory, settings = _resumed(resume, steps, eval_every)
        return _train(settings, directory, f"{settings.task}, resumed", evaluate, asynchronous)
    preset = preset or "fast"
    settings = named_preset(preset, task)
    if config is not None:
        settings = load_config(config, settings)
    settings = overlay(settings, assignments(chain.from_iterable(set)), "--set")
    settings = replace(settings, env={**settings.env, **_place(cell, rehearse), **_hand(teleop)})
    chosen = {"task": task or settings.task, "seed": seed, "steps": steps, "demos": demos, "eval_every": eval_every}
    chosen["reward"] = None if reward is None else str(reward.resolve())
    settings = replace(settings, **{k: v for k, v in chosen.items() if v is not None})
    if not settings.task:
        raise ConfigError("Which task? For example: robot-rl train pick_cube. See: robot-rl tasks")
    check_place(settings)
    resolved = resolve(settings)
    if demos is not None and demos.isdigit() and int(demos) and resolved.demos == "none":
        raise ConfigError(f"{settings.task} has no script to record {demos} demonstrations; give --demos PATH or none.")
    if preset == "fast" and resolved.demos == "none":
        print("No demonstrations to start from: using preset scratch, which explores from nothing.", file=sys.stderr)
        return train(
            task, "scratch", seed=seed, steps=steps, demos="none", run=run, cell=cell, rehearse=rehearse, config=config,
            set=set, asynchronous=asynchronous, reward=reward, teleop=teleop, eval_every=eval_every,
            evaluate=evaluate,
        )  # fmt: skip
    directory = RunDirectory.create(resolved, run)
    return _train(
        resolved, directory, f"{resolved.task}, preset {preset}, seed {resolved.seed}", evaluate, asynchronous
    )


def _place(cell: str | None, rehearse: bool) -> dict[str, Any]:
    """`--cell` and `--rehearse` as options of the environment."""
    if cell is None:
        if rehearse:
            raise ConfigError(
                "--rehearse puts emulators in place of a cell file's devices; give it with --cell CELL.yaml."
            )
        return {}
    return {"cell": cell, "rehearse": True} if rehearse else {"cell": cell}


def _resumed(resume: Path, steps: int | None, eval_every: int | None) -> tuple[Any, Any]:
    """A run to go on with and its settings, changed where asked for; nothing is changed where that is refused."""
    from robot_rl.run_directory import RunDirectory

    directory, settings = RunDirectory.open(resume)
    with directory.learning():  # refused where another process learns in it
        pass
    if steps is not None and steps <= (taken := _steps_taken(directory)):
        raise ConfigError(f"--steps is {steps}, and {resume} has taken {taken} already. Ask for more, or evaluate it.")
    given = {k: v for k, v in {"steps": steps, "eval_every": eval_every}.items() if v is not None}
    if given:
        settings = replace(settings, **given)
        directory.write_config(settings)
    return directory, settings


def _steps_taken(directory: Any) -> int:
    from robot_rl.store import EpisodeStore
    from robot_rl.store_commit import COMMIT

    if not (directory.episodes / COMMIT).is_file():
        return 0
    return sum(record.length for record in EpisodeStore.open(directory.episodes).episode_table())


def _hand(teleop: str | None) -> dict[str, Any]:
    return {} if teleop is None else {"teleop": teleop}


def _twin_only(env: dict[str, Any]) -> dict[str, Any]:
    """A run's environment on the simulated cell: nothing moves a real arm that was not named in this very command.

    Nobody takes over there either.
    """
    return {key: value for key, value in env.items() if key not in ("cell", "rehearse", "teleop")}


def _train(settings: Any, directory: Any, title: str, evaluate: bool, asynchronous: bool) -> int:
    from robot_rl.evaluator import evaluating_beside
    from robot_rl.metrics import read_metrics
    from robot_rl.plots import learning_curve
    from robot_rl.progress import TrainingProgress

    print(f"Run: {directory.path}", flush=True)
    with TrainingProgress(title) as progress:
        try:
            run = _run_async if asynchronous else _run_in_step
            with evaluating_beside(settings, directory, progress):
                reason, words = run(settings, directory, progress)
        except KeyboardInterrupt:
            print(
                f"Interrupted twice: what was saved before is safe. Go on with: robot-rl train --resume "
                f"{directory.path}{' --async' if asynchronous else ''}",
                file=sys.stderr,
            )
            return INTERRUPTED
    print(words)
    rows = read_metrics(directory.metrics) if directory.metrics.is_file() else []  # none before the first step
    if directory.evaluations.is_file():
        rows = sorted(rows + read_metrics(directory.evaluations), key=lambda row: row["step"] or 0)
    if rows:
        print(f"Curve: {learning_curve(rows, directory.plots / 'learning_curve.png', title)}")
    if settings.env.get("cell", "twin") != "twin":
        print(f"Evaluate it there with: robot-rl eval {directory.path} --cell {settings.env['cell']} --episodes 20")
        return 0
    if reason != "stopped" and evaluate and settings.eval_episodes:
        try:
            return evaluate_run(directory.path, episodes=settings.eval_episodes)
        except KeyboardInterrupt:
            print(f"Training is complete and saved. Evaluate it with: robot-rl eval {directory.path}", file=sys.stderr)
            return INTERRUPTED
    return 0


def _run_in_step(settings: Any, directory: Any, progress: Any) -> tuple[str, str]:
    from robot_rl.training import Trainer, describe

    trainer = Trainer(settings, directory, progress)
    with _ending_in_order(trainer):
        reason = trainer.train()
    return reason, describe(reason, trainer)


def _run_async(settings: Any, directory: Any, progress: Any) -> tuple[str, str]:
    from robot_rl.processes import AsyncRun

    both = AsyncRun(directory, progress)
    with _ending_in_order(both):
        ended = both.watch(settings.steps)
    if ended:
        return "ended", f"Training ended; what actor and learner said: {directory.path / 'logs'}"
    return "stopped", f"You stopped it; it is saved. Go on with: robot-rl train --resume {directory.path} --async"


@contextlib.contextmanager
def _ending_in_order(work: Any) -> Generator[None]:
    """SIGINT, SIGTERM or a terminal that is closed asks it to end; a second one ends at once.

    So does, in a child of a run, the death of its parent: an arm must not go on with nobody there to stop it.
    """
    numbers = [s for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) != signal.SIG_IGN]
    handlers = {s: signal.signal(s, lambda *_: _stop(work)) for s in numbers}
    parent = os.environ.get(PARENT)
    if parent is not None:
        threading.Thread(target=_watch_parent, args=(int(parent), work), daemon=True).start()
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _watch_parent(parent: int, work: Any) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    work.stop_requested = True


def actor(run: Positional[Run]) -> int:
    """Act in a run: the newest policy to the arm, every step to the store. The learner may run, or not, or die."""
    from robot_rl.actor import Actor
    from robot_rl.progress import TrainingProgress
    from robot_rl.run_directory import RunDirectory

    directory, settings = RunDirectory.open(run)
    with TrainingProgress(f"acting for {run}") as progress:
        one = Actor(settings, directory, progress)
        with _ending_in_order(one):
            reason = one.act()
    print(f"The actor ended ({reason}) at step {one.state.step}; it waited {one.waited_s:.0f} s for the learner.")
    return 0


def learner(run: Positional[Run]) -> int:
    """Learn in a run: episodes in, policies out. The actor may run, or not, or die."""
    from robot_rl.async_learning import AsyncLearner
    from robot_rl.progress import TrainingProgress
    from robot_rl.run_directory import RunDirectory

    directory, settings = RunDirectory.open(run)
    os.nice(10)  # where they share a core, acting goes first
    with TrainingProgress(f"learning for {run}") as progress:
        one = AsyncLearner(settings, directory, progress)
        with _ending_in_order(one):
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
        with _ending_in_order(one):
            one.watch()
    done = (
        f"its last policy was of step {one.evaluated}" if one.evaluated >= 0 else "it had no time to evaluate a policy"
    )
    print(f"The evaluator ended; {done}.")
    return 0


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"--{name} is {value}; it must be at least 1.")


def _stop(work: Any) -> None:
    if work.stop_requested:
        raise KeyboardInterrupt
    work.stop_requested = True


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
    config = replace(config, env={**_twin_only(config.env), **_place(cell, rehearse)})
    env = make(config.task, config.env)
    try:
        policy = load_policy(directory, config, env)
        with TrainingProgress(f"evaluating {run}") as progress:
            progress.phase("evaluating", episodes)
            result = evaluate(env, policy, episodes, lambda n, _: progress.update(step=n))
    finally:
        env.close()
    report = write_report(directory, config, result, f"evaluation_{Path(cell).stem}" if cell else "evaluation")
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
    config = replace(config, env=_twin_only(config.env))
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
    options = {**assignments(pair.removeprefix("env.") for pair in chain.from_iterable(set)), **_place(cell, rehearse)}
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
    for name in names or [n for n in sorted(entries) if not n.startswith("learning_")]:
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
