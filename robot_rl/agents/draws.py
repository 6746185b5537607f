"""What an update draws: taken on the CPU, whose random stream a checkpoint keeps, before any of its tensor work."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Draw", "Draws", "draw"]


class Draw(NamedTuple):
    """Noise of a sampled action, shape (B, A), and which critics its value is taken from, shape (M,); None for all."""

    noise: Tensor
    subset: Tensor | None


class Draws(NamedTuple):
    """For an update's targets and, where one is due, for its actor step."""

    target: Draw
    actor: Draw | None


def draw(
    generator: torch.Generator, noise: tuple[int, int], subset: tuple[int, int] | None, device: str = "cpu"
) -> Draw:
    """Draw noise of shape (B, A) and, given (M, E), M of E critics; both are moved to the device."""
    drawn = torch.randn(*noise, generator=generator).to(device)
    if subset is None:
        return Draw(drawn, None)
    some, of_all = subset
    return Draw(drawn, torch.randperm(of_all, generator=generator)[:some].to(device))
