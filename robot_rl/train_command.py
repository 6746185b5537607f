"""`robot-rl train`."""

import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from robot_rl.arguments import Cell, Rehearse, Settings, place
from robot_rl.errors import ConfigError
from robot_rl.interrupts import INTERRUPTED, ending_in_order

__all__ = ["train"]


def train(  # noqa: PLR0913 (the command line's options)
    task: Annotated[
        Positional[str], arg(metavar="[TASK]", help="As listed by robot-rl tasks, or gymnasium:FetchReach-v4")
    ] = "",
    preset: Annotated[
        str | None, arg(help="Hyper-parameters: fast (the default), pixels (cameras), scratch, serl, hil_serl")
    ] = None,
    agent: Annotated[
        str | None,
        arg(help="sac (the default); bc or flow: only clone demonstrations (100 by default), Gaussian or chunks"),
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
    init: Annotated[
        Path | None,
        arg(metavar="RUN", help="Begin with this run's policy instead of cloning (a bc run's, for example)"),
    ] = None,
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
        str | None,
        arg(
            metavar="REWARD|human",
            help="Learn from this classifier alone (robot-rl reward train), or from what the person at --teleop says",
        ),
    ] = None,
    refit_every: Annotated[
        int | None, arg(metavar="EPISODES", help="Fit the --reward anew every so many episodes, in a process beside")
    ] = None,
    teleop: Annotated[
        str | None,
        arg(
            metavar="DEVICE",
            help="Who may take over: spacemouse, gamepad, keyboard, leader:CELL.yaml, or script (simulated)",
        ),
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
    from robot_rl.config import cloned, load_config, overlay
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
            or any(v is not None for v in (preset, agent, init, run, seed, demos, cell, reward, refit_every, teleop))
        ):
            raise ConfigError(
                "--resume continues a run as it was configured; only --steps, --eval-every and --async may be given "
                "with it."
            )
        directory, settings = _resumed(resume, steps, eval_every, asynchronous)
        return _train(settings, directory, f"{settings.task}, resumed", evaluate, asynchronous)
    preset = preset or "fast"
    settings = named_preset(preset, task)
    if agent not in (None, "sac"):
        settings = cloned(settings, agent)
    if config is not None:
        settings = load_config(config, settings)
    settings = overlay(settings, assignments(chain.from_iterable(set)), "--set")
    if agent is not None:  # whatever the file says
        settings = replace(settings, agent=replace(settings.agent, kind=agent))
    settings = replace(settings, env={**settings.env, **place(cell, rehearse), **_hand(teleop)})
    chosen = {
        "task": task or settings.task, "seed": seed, "steps": steps, "demos": demos, "eval_every": eval_every,
        "reward_refit": refit_every,
    }  # fmt: skip
    chosen["init"] = None if init is None else str(init.resolve())
    if reward == "human":
        if refit_every or settings.env.get("reward", "human") != "human":
            raise ConfigError(
                "--reward human: a person's word is the reward; nothing is fitted and env.reward says no other."
            )
        settings = replace(settings, env={**settings.env, "reward": "human"})
    elif reward is not None:
        chosen["reward"] = str(Path(reward).resolve())
    settings = replace(settings, **{k: v for k, v in chosen.items() if v is not None})
    if not settings.task:
        raise ConfigError("Which task? For example: robot-rl train pick_cube. See: robot-rl tasks")
    check_place(settings)
    resolved = resolve(settings)
    if demos is not None and demos.isdigit() and int(demos) and resolved.demos == "none":
        raise ConfigError(f"{settings.task} has no script to record {demos} demonstrations; give --demos PATH or none.")
    _check_cloning(resolved, asynchronous)
    cloning = resolved.agent.kind != "sac"
    if preset == "fast" and resolved.demos == "none" and not cloning:
        print("No demonstrations to start from: using preset scratch, which explores from nothing.", file=sys.stderr)
        return train(
            task, "scratch", init=init, seed=seed, steps=steps, demos="none", run=run, cell=cell, rehearse=rehearse,
            config=config, set=set, asynchronous=asynchronous, reward=reward, refit_every=refit_every, teleop=teleop,
            eval_every=eval_every, evaluate=evaluate,
        )  # fmt: skip
    directory = RunDirectory.create(resolved, run)
    learns = f"agent {resolved.agent.kind}" if cloning else f"preset {preset}"
    return _train(resolved, directory, f"{resolved.task}, {learns}, seed {resolved.seed}", evaluate, asynchronous)


def _check_cloning(settings: Any, asynchronous: bool) -> None:
    """Whether what is asked for makes sense where demonstrations are only cloned."""
    kind = settings.agent.kind
    if kind == "sac":
        return
    if asynchronous or settings.eval_every or settings.reward_refit or settings.env.get("teleop"):
        raise ConfigError(
            f"--agent {kind} only clones demonstrations: nobody acts meanwhile, so --async, --teleop, --refit-every "
            "and --eval-every have no meaning."
        )
    if settings.demos == "none":
        raise ConfigError(
            f"--agent {kind} clones demonstrations, and there are none. Give --demos PATH (robot-rl record, robot-rl "
            "demo), or --demos N where the task has a script."
        )


def _resumed(resume: Path, steps: int | None, eval_every: int | None, asynchronous: bool) -> tuple[Any, Any]:
    """A run to go on with and its settings, changed where asked for; nothing is changed where that is refused."""
    from robot_rl.run_directory import RunDirectory

    directory, settings = RunDirectory.open(resume)
    with directory.learning():  # refused where another process learns in it
        pass
    if steps is not None and steps <= (taken := _steps_taken(directory)):
        raise ConfigError(f"--steps is {steps}, and {resume} has taken {taken} already. Ask for more, or evaluate it.")
    given = {k: v for k, v in {"steps": steps, "eval_every": eval_every}.items() if v is not None}
    settings = replace(settings, **given)
    _check_cloning(settings, asynchronous)
    if given:
        directory.write_config(settings)
    return directory, settings


def _steps_taken(directory: Any) -> int:
    from robot_rl.store import EpisodeStore
    from robot_rl.store.commit import COMMIT

    if not (directory.episodes / COMMIT).is_file():
        return 0
    return sum(record.length for record in EpisodeStore.open(directory.episodes).episode_table())


def _hand(teleop: str | None) -> dict[str, Any]:
    return {} if teleop is None else {"teleop": teleop}


def _train(settings: Any, directory: Any, title: str, evaluate: bool, asynchronous: bool) -> int:
    from robot_rl.beside import working_beside
    from robot_rl.metrics import read_metrics
    from robot_rl.plots import cloning_curve, learning_curve
    from robot_rl.progress import TrainingProgress
    from robot_rl.rewards.refitting import reward_of

    print(f"Run: {directory.path}", flush=True)
    reward_of(settings, directory)  # copied before there is anyone to read it
    with TrainingProgress(title) as progress:
        try:
            run = _run_async if asynchronous else _run_in_step if settings.agent.kind == "sac" else _clone
            with working_beside(settings, directory, progress):
                reason, words = run(settings, directory, progress)
        except KeyboardInterrupt:
            print(
                f"Interrupted: what was saved before is safe. Go on with: robot-rl train --resume "
                f"{directory.path}{' --async' if asynchronous else ''}",
                file=sys.stderr,
            )
            return INTERRUPTED
    print(words)
    rows = read_metrics(directory.metrics) if directory.metrics.is_file() else []  # none before the first step
    if directory.evaluations.is_file():
        rows = sorted(rows + read_metrics(directory.evaluations), key=lambda row: row["step"] or 0)
    if rows:
        draw = learning_curve if settings.agent.kind == "sac" else cloning_curve
        print(f"Curve: {draw(rows, directory.plots / 'learning_curve.png', title)}")
    if settings.env.get("cell", "twin") != "twin":
        print(f"Evaluate it there with: robot-rl eval {directory.path} --cell {settings.env['cell']} --episodes 20")
        return 0
    if reason != "stopped" and evaluate and settings.eval_episodes:
        try:
            from robot_rl.commands import evaluate_run

            return evaluate_run(directory.path, episodes=settings.eval_episodes)
        except KeyboardInterrupt:
            print(f"Training is complete and saved. Evaluate it with: robot-rl eval {directory.path}", file=sys.stderr)
            return INTERRUPTED
    return 0


def _clone(settings: Any, directory: Any, progress: Any) -> tuple[str, str]:
    from robot_rl.cloning import Cloning

    one = Cloning(settings, directory, progress)
    with ending_in_order(one):
        reason = one.train()
    if reason == "stopped":
        return reason, f"You stopped it; it is saved. Go on with: robot-rl train --resume {directory.path}"
    return reason, f"Cloned in {settings.bc_updates} updates."


def _run_in_step(settings: Any, directory: Any, progress: Any) -> tuple[str, str]:
    from robot_rl.training import Trainer, describe

    trainer = Trainer(settings, directory, progress)
    with ending_in_order(trainer):
        reason = trainer.train()
    return reason, describe(reason, trainer)


def _run_async(settings: Any, directory: Any, progress: Any) -> tuple[str, str]:
    from robot_rl.processes import AsyncRun

    both = AsyncRun(directory, progress)
    with ending_in_order(both):
        ended = both.watch(settings.steps)
    if ended:
        return "ended", f"Training ended; what actor and learner said: {directory.path / 'logs'}"
    return "stopped", f"You stopped it; it is saved. Go on with: robot-rl train --resume {directory.path} --async"
