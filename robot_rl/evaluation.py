"""How good is a policy: seeded episodes, a success rate with its interval, and a video."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from robot_rl.config import TrainConfig
from robot_rl.demonstrations import succeeded
from robot_rl.environments import Env, make, task_ids
from robot_rl.errors import ConfigError, DeviceError, RobotRLError, StoreError
from robot_rl.operators import Operator, begin_episode
from robot_rl.policy import Policy
from robot_rl.run_directory import RunDirectory, load_tensors
from robot_rl.statistics import wilson_interval
from robot_rl.store.files import write_whole
from robot_rl.video import contact_sheet, grid, write_video

__all__ = ["Evaluation", "evaluate", "film", "load_policy"]

EVALUATION_SEED = 2_000_000
FILMED = 9
FILM_SIZE = 240


@dataclass(frozen=True)
class Evaluation:
    """What happened in the evaluation's episodes, one entry each.

    Attributes:
        successes: Whether it succeeded.
        lengths: Environment steps.
        returns: Undiscounted sum of rewards.
        control_period_s: Of one step; None where the environment does not say.
        instructions: What was asked for.
    """

    successes: list[bool]
    lengths: list[int]
    returns: list[float]
    control_period_s: float | None
    instructions: list[str] = field(default_factory=list[str])

    def to_json(self) -> dict[str, Any]:
        """The numbers to publish: rate, 95% Wilson interval, time to success."""
        n, k = len(self.successes), sum(self.successes)
        low, high = wilson_interval(k, n)
        steps = [length for length, success in zip(self.lengths, self.successes, strict=True) if success]
        median = float(np.median(steps)) if steps else None
        period = self.control_period_s
        return {
            "episodes": n,
            "successes": k,
            "success_rate": k / n if n else None,
            "interval_95": [round(low, 4), round(high, 4)],
            "median_steps_to_success": median,
            "median_time_to_success_s": None if median is None or period is None else round(median * period, 3),
            "mean_return": float(np.mean(self.returns)) if n else None,
            "first_seed": EVALUATION_SEED,
            "by_instruction": self.by_instruction(),
        }

    def by_instruction(self) -> dict[str, str]:
        """Successes out of episodes of each instruction, where there were several."""
        outcomes: dict[str, list[bool]] = {}
        for instruction, success in zip(self.instructions, self.successes, strict=False):
            outcomes.setdefault(instruction, []).append(success)
        return {text: f"{sum(s)}/{len(s)}" for text, s in outcomes.items()} if len(outcomes) > 1 else {}

    def __str__(self) -> str:
        facts = self.to_json()
        low, high = facts["interval_95"]
        text = f"{facts['successes']}/{facts['episodes']} episodes succeeded (95% interval {low:.1%} to {high:.1%})"
        if facts["median_time_to_success_s"] is not None:
            seconds, steps = facts["median_time_to_success_s"], facts["median_steps_to_success"]
            text += f", in {seconds:.1f} s ({steps:.0f} steps) at the median"
        for instruction, outcome in self.by_instruction().items():
            text += f"\n  {instruction}: {outcome}"
        return text


def evaluate(
    env: Env, operator: Operator, episodes: int, on_episode: Callable[[int, bool], None] = lambda _n, _success: None
) -> Evaluation:
    """Run seeded episodes; the same operator and environment give the same result.

    Args:
        env: Where.
        operator: Who acts.
        episodes: How many; seeds count up from 2,000,000, which training never uses.
        on_episode: Called after each with its number and success.
    """
    result = Evaluation([], [], [], _control_period(env))
    for index in range(episodes):
        observation, _ = env.reset(seed=EVALUATION_SEED + index)
        begin_episode(operator)
        instruction = str(getattr(env.unwrapped, "instruction", ""))
        total, steps, over, success = 0.0, 0, False, False
        while not over:
            observation, reward, terminated, truncated, info = env.step(operator.act(observation, instruction))
            total, steps, over = total + float(reward), steps + 1, terminated or truncated
            success = succeeded(info)
        result.successes.append(success)
        result.lengths.append(steps)
        result.returns.append(total)
        result.instructions.append(instruction)
        on_episode(index + 1, success)
    return result


def load_policy(run: RunDirectory, config: TrainConfig, env: Env) -> Policy:
    """The policy a run last published.

    Raises:
        StoreError: Nothing was published yet, or the file is damaged.
        ShapeError: It was trained on other observations or actions.
    """
    tensors, _ = load_tensors(run.policy)
    return Policy.load(config, env, tensors)


def film(config: TrainConfig, operator: Operator, folder: Path, name: str, episodes: int = FILMED) -> tuple[Path, Path]:
    """Film the first seeded episodes: a video grid (`name`.mp4) and a contact sheet (`name`.png) in `folder`.

    Raises:
        DeviceError: The environment cannot render here.
    """
    options = {**config.env, "render_mode": "rgb_array"}
    if task_ids().get(config.task, "").startswith("robot_rl/") and options.get("observations") != "vision":
        options["image_size"] = FILM_SIZE
    try:
        env = make(config.task, options)
    except ConfigError as error:  # it was made without the camera before
        raise DeviceError(f"{config.task} renders no pictures here: {error}") from error
    videos: list[NDArray[np.uint8]] = []
    outcomes: list[bool | None] = []
    try:
        for index in range(episodes):
            observation, _ = env.reset(seed=EVALUATION_SEED + index)
            begin_episode(operator)
            instruction = str(getattr(env.unwrapped, "instruction", ""))
            frames, over, success = [_frame(env)], False, False
            while not over:
                observation, _, terminated, truncated, info = env.step(operator.act(observation, instruction))
                frames.append(_frame(env))
                over, success = terminated or truncated, succeeded(info)
            videos.append(np.stack(frames))
            outcomes.append(success)
        period = _control_period(env)
    finally:
        env.close()
    video = write_video(folder / f"{name}.mp4", grid(videos, 3, outcomes), 10.0 if period is None else 1.0 / period)
    sheet = contact_sheet(videos, folder / f"{name}.png", outcomes)
    return video, sheet


def write_report(run: RunDirectory, config: TrainConfig, evaluation: Evaluation, name: str = "evaluation") -> Path:
    """Write the numbers to <name>.json in the run.

    Raises:
        StoreError: The disk failed or is full.
    """
    path = run.path / f"{name}.json"
    facts = {"task": config.task, "seed": config.seed, **evaluation.to_json()}
    try:
        write_whole(path, (json.dumps(facts, indent=2) + "\n").encode(), sync=True)
    except OSError as error:
        raise StoreError(f"Cannot write {path}: {error.strerror}.", path=path) from error
    return path


def _frame(env: Env) -> NDArray[np.uint8]:
    try:
        frame: Any = env.render()
    except RobotRLError:
        raise
    except Exception as error:
        raise DeviceError(f"The environment cannot render here ({type(error).__name__}: {error}).") from error
    if not isinstance(frame, np.ndarray):
        raise DeviceError("The environment renders no pictures (render_mode='rgb_array' gave none).")
    if len(frame) < FILM_SIZE:  # what a policy sees is small
        size = (FILM_SIZE * frame.shape[1] // frame.shape[0], FILM_SIZE)
        frame = np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    return frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]  # H.264 wants even sizes


def _control_period(env: Env) -> float | None:
    task = getattr(env.unwrapped, "task", None)
    return getattr(getattr(task, "spec", None), "control_period_s", None) or getattr(env.unwrapped, "dt", None)
