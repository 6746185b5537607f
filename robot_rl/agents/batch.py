"""What one gradient step learns from."""

from typing import NamedTuple

import torch


class Batch(NamedTuple):
    """B transitions of up to n steps each; float32, C-contiguous, all on one device.

    With a history of h > 1 an observation is the h newest of its episode, the oldest first, along the first axis after
    B; before there are h of them the oldest is repeated.

    Attributes:
        observation: Where each transition starts, flat (see `robot_rl.observation`), shape (B, h * D).
        action: The action executed there, policy frame, shape (B, A).
        reward: Discounted sum of the k <= n rewards of the transition, shape (B,).
        discount: What the value of `next_observation` is multiplied by: gamma**k, or 0 where the task
            terminated within the k steps, shape (B,).
        next_observation: The observation k steps on, shape (B, h * D).
        is_demo: 1 where the transition comes from the demonstrations, else 0, shape (B,).
        images: Pictures of `observation` by camera, as replay keeps them, one of the cached shifts each; uint8, shape
            (B, h * channels, cells) of features or (B, h * H, W, 3) of pixels. None without cameras.
        next_images: The same of `next_observation`, shifted independently.
        chunks: For learners of action chunks: `action` and what followed it in the episode, shape (B, H, A).
        chunks_there: 1 where the episode still went on, shape (B, H).
    """

    observation: torch.Tensor
    action: torch.Tensor
    reward: torch.Tensor
    discount: torch.Tensor
    next_observation: torch.Tensor
    is_demo: torch.Tensor
    images: dict[str, torch.Tensor] | None = None
    next_images: dict[str, torch.Tensor] | None = None
    chunks: torch.Tensor | None = None
    chunks_there: torch.Tensor | None = None
