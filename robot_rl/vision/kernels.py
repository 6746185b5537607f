"""Spatial learned embeddings of eight-bit features, compiled: read once as they lie in replay, never unpacked."""

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robot_rl.parallel import run_in_parallel

__all__ = ["embed"]

ZERO = 128  # the eight-bit value that stands for 0


@numba.njit(inline="always")
def _unpack(x: NDArray[Any], values: NDArray[Any]) -> None:
    """One channel's map, eight-bit, to steps from zero."""
    for p in range(len(values)):
        values[p] = np.int32(x[p]) - ZERO


@numba.njit(cache=True, nogil=True, fastmath=True)
def _forward(
    first: int, last: int, x: NDArray[Any], places: NDArray[Any], spread: NDArray[Any], out: NDArray[Any]
) -> None:
    embeddings, cells = places.shape[1], places.shape[2]
    values = np.empty(cells, np.float32)
    for c in range(first, last):
        for b in range(x.shape[0]):
            _unpack(x[b, c], values)
            for k in range(embeddings):
                total = np.float32(0.0)
                for p in range(cells):
                    total += values[p] * places[c, k, p]
                out[b, c, k] = spread[c] * total


@numba.njit(cache=True, nogil=True, fastmath=True)
def _backward(
    first: int, last: int, x: NDArray[Any], d_out: NDArray[Any], spread: NDArray[Any], d_places: NDArray[Any]
) -> None:
    embeddings, cells = d_places.shape[1], d_places.shape[2]
    values = np.empty(cells, np.float32)
    for c in range(first, last):
        d_places[c] = 0.0
        for b in range(x.shape[0]):
            _unpack(x[b, c], values)
            for k in range(embeddings):
                weight = spread[c] * d_out[b, c, k]
                for p in range(cells):
                    d_places[c, k, p] += values[p] * weight


class _Embed(torch.autograd.Function):
    """The two kernels as one node of torch's graph; features take no gradient."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, places: Tensor, spread: Tensor) -> Tensor:
        x, weights, worth = features.numpy(), places.detach().numpy(), spread.numpy()
        out = torch.empty(x.shape[0], x.shape[1], weights.shape[1])
        into = out.numpy()
        run_in_parallel(lambda _, first, last: _forward(first, last, x, weights, worth, into), x.shape[1])
        ctx.x, ctx.spread, ctx.shape = x, worth, weights.shape
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        d_out, d_places = grad_outputs[0].contiguous().numpy(), torch.empty(ctx.shape)
        into = d_places.numpy()
        run_in_parallel(lambda _, a, b: _backward(a, b, ctx.x, d_out, ctx.spread, into), ctx.shape[0])
        return None, d_places, None


def embed(features: Tensor, places: Tensor, spread: Tensor) -> Tensor:
    """Weigh each channel's map in K learned ways.

    Args:
        features: Eight-bit, 128 being zero, shape (B, C, P).
        places: Weights, shape (C, K, P).
        spread: What one step of each channel is worth, shape (C,).

    Returns:
        Sums over the P places, shape (B, C, K); gradients reach `places`.
    """
    if features.device.type == "cpu":
        return _Embed.apply(features, places, spread)  # pyright: ignore[reportReturnType]
    return embed_anywhere(features, places, spread)


def embed_anywhere(features: Tensor, places: Tensor, spread: Tensor) -> Tensor:
    """`embed` in plain torch, on any device."""
    values = (features.float() - ZERO) * spread[:, None]
    return torch.einsum("bcp,ckp->bck", values, places)
