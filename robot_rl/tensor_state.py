"""Named tensors of an agent: copied out for others to keep, copied in where they fit."""

from collections.abc import Mapping

import torch
from torch import Tensor

from robot_rl.errors import ShapeError


def to_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies on the CPU, which later updates do not touch."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}


def copy_into(own: dict[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Copy every tensor of ``state`` that ``own`` names; all checks come before the first copy.

    Raises:
        ShapeError: A tensor is missing or has another shape. Nothing was copied.
    """
    for name, tensor in own.items():
        if name not in state:
            raise ShapeError(f"the saved agent has no {name!r}; it has {', '.join(sorted(state))}")
        if state[name].shape != tensor.shape:
            raise ShapeError(
                f"{name!r} is {tuple(state[name].shape)} in the saved agent and {tuple(tensor.shape)} in this one:"
                " observation, action or agent.* settings differ between them"
            )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])
