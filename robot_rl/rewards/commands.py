"""`robot-rl reward`: collect marked frames, train a success classifier, test it."""

import json as json_format
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg, subcommand

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
    seed: Annotated[int, arg(help="Of the first episode and of the script")] = 0


@dataclass(frozen=True)
class Train:
    """Learn what success looks like; judged on episodes that were left out."""

    stores: _Stores
    out: Annotated[Path, arg(metavar="REWARD", help="Directory to write it into")]
    false_positives: Annotated[float, arg(help="Share of other frames that may be called success")] = 0.001
    seed: Annotated[int, arg(help="Of everything")] = 0


@dataclass(frozen=True)
class Test:
    """Judge a reward on stores that it was not trained on."""

    path: Annotated[Positional[Path], arg(metavar="REWARD", help="As robot-rl reward train wrote it")]
    stores: _Stores
    json: Annotated[bool, arg(help="Print the scores as JSON")] = False


def reward(
    command: Annotated[Collect, subcommand("collect")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Test, subcommand("test")],
) -> int:
    """Learned rewards: collect marked frames, train a success classifier, test it. Then: robot-rl train --reward."""
    if isinstance(command, Collect):
        return _collect(command)
    return _train(command) if isinstance(command, Train) else _test(command)


def _collect(command: Collect) -> int:
    from robot_rl.progress import TrainingProgress
    from robot_rl.rewards.collecting import collect_frames

    if command.episodes < 1:
        raise ConfigError(f"--episodes is {command.episodes}; it must be at least 1.")
    out = Path("rewards") / command.task / "frames" if command.out is None else command.out
    out.parent.mkdir(parents=True, exist_ok=True)
    with TrainingProgress(f"{command.task}: frames for a reward") as progress:
        progress.phase("episodes", command.episodes)
        store = collect_frames(
            command.task, out, episodes=command.episodes, device=command.device, seed=command.seed,
            on_episode=lambda done, shown: progress.update(step=done, frames_of_success=shown),
        )  # fmt: skip
        rows = store.rows
        store.close()
    print(f"{rows} frames: {out}\nTrain with: robot-rl reward train {out} --out rewards/{command.task}/reward")
    return 0


def _train(command: Train) -> int:
    from robot_rl.progress import TrainingProgress
    from robot_rl.rewards.classifier import SuccessClassifier
    from robot_rl.rewards.frames import read_frames
    from robot_rl.rewards.mistakes import draw_mistakes
    from robot_rl.vision_config import VisionConfig

    if not 0.0 <= command.false_positives < 1.0:
        raise ConfigError(f"--false-positives is {command.false_positives}; it lies between 0 and 1.")
    frames, store = read_frames(command.stores)
    task = str(store.metadata.get("task", ""))
    one = SuccessClassifier(store.observation_space, VisionConfig(dropout=0.1), command.seed, task)
    with TrainingProgress(f"{task}: what success looks like") as progress:
        phase = ""

        def tell(what: str, done: int, of: int) -> None:
            nonlocal phase
            if what != phase:
                phase = what
                progress.phase(what, of)
            progress.update(step=done)

        scores, left_out = one.fit(frames, command.false_positives, tell)
    stores = [str(path) for path in command.stores]
    file = one.save(command.out, {"scores": scores.to_json(), "stores": stores, "frames": len(frames)})
    sheet = draw_mistakes(frames, left_out, one.threshold, command.out / "mistakes.png")
    print(f"On episodes that were left out: {scores}\nReward: {file}\nMost confident mistakes: {sheet}")
    print(f"Train with: robot-rl train {task} --preset pixels --reward {command.out}")
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
