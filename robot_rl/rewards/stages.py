"""A reward of several stages: a classifier for each, that look through the same eyes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from robot_rl.rewards.classifier import OnProgress, SuccessClassifier
from robot_rl.rewards.frames import Frames
from robot_rl.rewards.scores import Scores
from robot_rl.vision.config import VisionConfig

__all__ = ["fit_stages", "load_stages", "save_stages"]

Fitted = tuple[SuccessClassifier, Scores, NDArray[np.float64]]
"""A classifier, its scores on episodes that were left out, and their probabilities, shape (N,)."""


def fit_stages(
    frames: Frames,
    space: gym.Space[Any],
    vision: VisionConfig,
    task: str,
    *,
    seed: int,
    false_positive_rate: float,
    on_progress: OnProgress,
) -> list[Fitted]:
    """Fit a classifier for each stage that frames show; the last one's is success.

    Args:
        frames: Marked, up to stage K.
        space: Of their observations.
        vision: How pictures are seen.
        task: What it is for.
        seed: Of everything.
        false_positive_rate: That each threshold is chosen for.
        on_progress: Called with what is done, how much of it, and of how much.

    Returns:
        K of them.

    Raises:
        ConfigError: Fewer than two episodes reach one of the stages.
    """
    last = SuccessClassifier(space, vision, seed, task)
    last.fit_eyes(frames)
    seen = last.look_at(frames, on_progress)
    last.stages = int(frames.stage.max())
    fitted: list[Fitted] = []
    for stage in range(1, last.stages + 1):
        one = last if stage == last.stages else SuccessClassifier(space, vision, seed, task, last.eyes)
        told = f"stage {stage}: " if last.stages > 1 else ""
        known = np.flatnonzero((frames.stage >= 0) | (stage == last.stages))
        scores, left_out = one.learn(
            replace(seen, success=frames.stage >= stage).of(known),
            false_positive_rate,
            lambda what, done, of, told=told: on_progress(told + what, done, of),
        )
        fitted.append((one, scores, left_out))
    return fitted


def save_stages(fitted: list[Fitted], path: Path, facts: Mapping[str, Any]) -> Path:
    """Write a reward: the last classifier, which is success, in `path`, those before it in folders there.

    Raises:
        StoreError: The disk failed or is full.
    """
    for stage, (one, scores, _) in enumerate(fitted[:-1], start=1):
        one.save(path / f"stage_{stage}", {"scores": scores.to_json()})
    last, scores, _ = fitted[-1]
    return last.save(path, {**facts, "scores": scores.to_json()})


def load_stages(path: Path) -> tuple[list[SuccessClassifier], dict[str, Any]]:
    """The classifiers that `save_stages` wrote, in order, and what is said of the last.

    Raises:
        StoreError: One is missing or damaged.
    """
    last, facts = SuccessClassifier.load(path)
    before = [SuccessClassifier.load(path / f"stage_{stage}", last.eyes)[0] for stage in range(1, last.stages)]
    return [*before, last], facts
