"""`robot-rl reward`: collect marked frames, train a success classifier, test it."""

import json as json_format
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg, subcommand

from robot_rl.arguments import Settings
from robot_rl.errors import ConfigError

__all__ = ["reward"]

_Stores = Annotated[Positional[tuple[Path, ...]], arg(metavar="STORE [STORE ...]", help="Episode stores with pictures")]


@dataclass(frozen=True)
class Collect:
    """Drive about the goal and mark the frames that show success; on the twin a script can."""

    task: Annotated[Positional[str], arg(metavar="TASK", help="As listed by robot-rl tasks")]
    out: Annotated[Path | None, arg(metavar="STORE", help="rewards/<task>/frames by default")] = None
    episodes: Annotated[int, arg(help="Each ends when time is up, or when you say failure or stop")] = 30
    device: Annotated[
        str, arg(help="Of your hand: page, gamepad, spacemouse; `success` begins and ends a marked stretch")
    ] = "script"
    stages: Annotated[
        int, arg(help="Of the task: each press of `success` marks the next, after the last none; the last is success")
    ] = 1
    seed: Annotated[int, arg(help="Of the first episode and of the script")] = 0
    set: Annotated[Settings, arg(metavar="KEY=VALUE ...", help="Options of the environment, for example arm=ur5e")] = ()


@dataclass(frozen=True)
class Train:
    """Learn what success looks like; judged on episodes that were left out."""

    stores: _Stores
    out: Annotated[Path, arg(metavar="REWARD", help="Directory to write it into")]
    false_positives: Annotated[float, arg(help="Share of other frames that may be called success")] = 0.001
    when: Annotated[
        tuple[str, ...],
        arg(
            metavar="CONDITION ...",
            help='What else must hold, for example: --when "gripper_opening < 0.05" "tcp_pose.2 > 0.1"',
        ),
    ] = ()
    seed: Annotated[int, arg(help="Of everything")] = 0


@dataclass(frozen=True)
class Mine:
    """Find what a reward got wrong in a run's episodes, as pictures and as marked frames to train on."""

    path: Annotated[Positional[Path], arg(metavar="REWARD", help="As robot-rl reward train wrote it")]
    run: Annotated[
        Positional[Path], arg(metavar="RUN", help="Whose episodes; on the twin the oracle knows, else people")
    ]


@dataclass(frozen=True)
class Test:
    """Judge a reward on stores that it was not trained on."""

    path: Annotated[Positional[Path], arg(metavar="REWARD", help="As robot-rl reward train wrote it")]
    stores: _Stores
    json: Annotated[bool, arg(help="Print the scores as JSON")] = False


def reward(
    command: Annotated[Collect, subcommand("collect")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Mine, subcommand("mine")]
    | Annotated[Test, subcommand("test")],
) -> int:
    """Learned rewards: collect marked frames, train a success classifier, test it, mine its mistakes.

    Then: robot-rl train TASK --preset pixels --reward REWARD.
    """
    if isinstance(command, Collect):
        return _collect(command)
    if isinstance(command, Train):
        return _train(command)
    return _mine(command) if isinstance(command, Mine) else _test(command)


def _collect(command: Collect) -> int:
    from robot_rl.assignments import assignments
    from robot_rl.progress import TrainingProgress
    from robot_rl.rewards.collecting import collect_frames

    if command.episodes < 1:
        raise ConfigError(f"--episodes is {command.episodes}; it must be at least 1.")
    if command.seed < 0 or command.stages < 1:
        raise ConfigError(f"--seed is {command.seed} and --stages {command.stages}; at least 0 and 1.")
    options = assignments(pair.removeprefix("env.") for pair in chain.from_iterable(command.set))
    out = Path("rewards") / command.task / "frames" if command.out is None else command.out
    out.parent.mkdir(parents=True, exist_ok=True)
    with TrainingProgress(f"{command.task}: frames for a reward") as progress:
        progress.phase("episodes", command.episodes)
        store = collect_frames(
            command.task, out, episodes=command.episodes, device=command.device, stages=command.stages,
            seed=command.seed, options=options,
            on_episode=lambda done, shown: progress.update(step=done, frames_of_success=shown),
        )  # fmt: skip
        rows = store.rows
        store.close()
    print(f"{rows} frames: {out}\nTrain with: robot-rl reward train {out} --out rewards/{command.task}/reward")
    return 0


def _train(command: Train) -> int:
    from robot_rl.progress import TrainingProgress
    from robot_rl.rewards.conditions import parse_conditions
    from robot_rl.rewards.frames import read_frames
    from robot_rl.rewards.mistakes import draw_mistakes
    from robot_rl.rewards.stages import fit_stages, save_stages
    from robot_rl.vision.config import VisionConfig

    if not 0.0 <= command.false_positives < 1.0:
        raise ConfigError(f"--false-positives is {command.false_positives}; it lies between 0 and 1.")
    if command.seed < 0:
        raise ConfigError(f"--seed is {command.seed}; it is at least 0.")
    if command.out.exists() and not command.out.is_dir():
        raise ConfigError(f"--out {command.out} is a file; a reward is a directory.")
    frames, store = read_frames(command.stores)
    task = str(store.metadata.get("task", ""))
    parse_conditions(command.when, store.metadata.get("state_layout", {}))
    with TrainingProgress(f"{task}: what success looks like") as progress:
        phase = ""

        def tell(what: str, done: int, of: int) -> None:
            nonlocal phase
            if what != phase:
                phase = what
                progress.phase(what, of)
            progress.update(step=done)

        fitted = fit_stages(
            frames, store.observation_space, VisionConfig(dropout=0.1), task, seed=command.seed,
            false_positive_rate=command.false_positives, on_progress=tell,
        )  # fmt: skip
    one, _, left_out = fitted[-1]
    facts = {
        "frames": len(frames), "stores": [str(path.resolve()) for path in command.stores],
        "false_positives": command.false_positives, "conditions": list(command.when),
    }  # fmt: skip
    file = save_stages(fitted, command.out, facts)
    sheet = draw_mistakes(frames, left_out, one.threshold, command.out / "mistakes.png")
    for stage, (_, scores, _) in enumerate(fitted, start=1):
        print(f"On episodes that were left out{f', stage {stage}' if len(fitted) > 1 else ''}: {scores}")
    print(f"Reward: {file}\nMost confident mistakes: {sheet}")
    print(f"Train with: robot-rl train {task} --preset pixels --reward {command.out}")
    return 0


def _mine(command: Mine) -> int:
    from robot_rl.progress import TrainingProgress
    from robot_rl.rewards.classifier import SuccessClassifier
    from robot_rl.rewards.mining import mark, mine
    from robot_rl.rewards.mistakes import draw_mistakes
    from robot_rl.run_directory import RunDirectory
    from robot_rl.store import EpisodeStore
    from robot_rl.store.commit import COMMIT

    one, facts = SuccessClassifier.load(command.path)
    directory, _ = RunDirectory.open(command.run)
    if not (directory.episodes / COMMIT).is_file():
        raise ConfigError(f"{command.run} has no episodes yet.")
    store = EpisodeStore.open(directory.episodes)
    with TrainingProgress(f"mining {command.run}") as progress:
        progress.phase("episodes", len(store.episode_table()))
        frames = mine(store, one, on_episode=lambda done: progress.update(step=done))
    if frames is None:
        raise ConfigError(
            f"Nobody has said of any episode of {command.run} whether it succeeded. On the twin the oracle does, in "
            "runs with --reward; else say success or failure from the device (--teleop)."
        )
    mark(store, frames)
    probability = one.probabilities(frames)
    sheet = draw_mistakes(frames, probability, one.threshold, command.path / "mined.png")
    wrong = (probability >= one.threshold) != frames.success
    print(f"{len(frames)} frames, {int(wrong.sum())} of them wrongly called: marked in {store.path}\nPictures: {sheet}")
    also = f" --false-positives {facts.get('false_positives', 0.001)}"
    if facts.get("conditions"):
        also += " --when " + " ".join(f'"{condition}"' for condition in facts["conditions"])
    stores = " ".join([*facts["stores"], str(store.path)])
    print(f"Train anew with: robot-rl reward train {stores} --out {command.path}-2{also}")
    return 0


def _test(command: Test) -> int:
    from robot_rl.rewards.classifier import SuccessClassifier
    from robot_rl.rewards.frames import read_frames
    from robot_rl.rewards.mistakes import draw_mistakes
    from robot_rl.rewards.scores import score

    one, facts = SuccessClassifier.load(command.path)
    known = {str(Path(path).resolve()) for path in facts.get("stores", ())}
    again = [str(path) for path in command.stores if str(path.resolve()) in known]
    if again:
        raise ConfigError(f"{', '.join(again)} was trained on; a test needs episodes that it has never seen.")
    frames, store = read_frames(command.stores)
    one.check_fits(store.observation_space)
    probability = one.probabilities(frames)
    scores = score(probability, frames.success, one.threshold)
    sheet = draw_mistakes(frames, probability, one.threshold, command.path / "test_mistakes.png")
    result: dict[str, Any] = scores.to_json()
    print(json_format.dumps(result) if command.json else f"{scores}\nMost confident mistakes: {sheet}")
    return 0
