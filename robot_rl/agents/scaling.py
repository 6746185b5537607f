"""Observations scaled by what was seen in the demonstrations."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robot_rl.errors import ShapeError

__all__ = ["ObservationScale"]


class ObservationScale:
    """The affine normalisation (observation - mean) / std, and its clip.

    Args:
        size: D, width of a flat observation.
        clip: Largest magnitude of a normalised entry.
        device: Where observations lie.

    Attributes:
        mean: Shape (D,); zero until `set`.
        std: Shape (D,); one until `set`.
    """

    def __init__(self, size: int, clip: float = math.inf, device: str = "cpu") -> None:
        self.size, self.clip = size, clip
        self.mean, self.std = torch.zeros(size, device=device), torch.ones(size, device=device)

    def __call__(self, observation: Tensor) -> Tensor:
        """Flat observations, shape (..., D), normalised."""
        vector = (observation - self.mean) / self.std
        return vector.clamp(-self.clip, self.clip) if self.clip < math.inf else vector

    def set(self, mean: NDArray[np.float32], std: NDArray[np.float32]) -> None:
        """Fix mean and std, each of shape (D,), std positive.

        Raises:
            ShapeError: Another shape, a number that is not finite, or a std that is not positive.
        """
        for name, value in (("mean", mean), ("std", std)):
            if np.shape(value) != (self.size,) or not np.isfinite(value).all():
                raise ShapeError(f"{name} must be finite, shape ({self.size},); got shape {np.shape(value)}")
        if np.min(std) <= 0:
            raise ShapeError(f"std must be positive; its smallest entry is {np.min(std)} at index {np.argmin(std)}")
        self.mean.copy_(torch.as_tensor(mean))
        self.std.copy_(torch.as_tensor(std))

    def row(self, observation: NDArray[np.float32]) -> Tensor:
        """One checked observation, shape (D,), as a batch of one on the device, shape (1, D), not normalised.

        Raises:
            ShapeError: Another shape, or a number that is not finite.
        """
        if observation.shape != (self.size,) or not np.isfinite(observation).all():
            raise ShapeError(
                f"observation must be finite, shape ({self.size},); got shape {observation.shape} with"
                f" {int((~np.isfinite(observation)).sum())} non-finite numbers"
            )
        return torch.from_numpy(np.ascontiguousarray(observation, np.float32)).unsqueeze(0).to(self.mean.device)
