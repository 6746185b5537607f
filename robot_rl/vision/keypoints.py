"""Keypoints: where in the picture something is, as numbers (spatial softmax, Levine et al., arXiv 1504.00702).

Each keypoint is a learned mixture of the trunk's channels; where in the map it is strong, that is where the point is. A
thing seen in another place moves the point by as much, whether or not it was ever seen there: what spatial weightings
learnt from twenty demonstrations cannot know.
"""

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robot_rl.agents.kernels import FAST
from robot_rl.blas import prepare_blas
from robot_rl.parallel import run_in_parallel
from robot_rl.vision.kernels import ZERO

__all__ = ["Keypoints", "locate"]

SHARPNESS = 4.0  # of a fresh mixture, so that its points move with what is seen
LOG2_E, LN_2 = np.float32(1.4426950408889634), np.float32(0.6931471805599453)
SMALLEST_EXPONENT = np.float32(-126.0)


class Keypoints(nn.Module):
    """K learned keypoints of one camera's map.

    Args:
        channels: C.
        shape: Rows and columns of the map.
        count: K.
        generator: Source of the initial weights.
    """

    def __init__(self, channels: int, shape: tuple[int, int], count: int, generator: torch.Generator) -> None:
        super().__init__()
        prepare_blas()
        rows, columns = (torch.linspace(-1.0, 1.0, n) if n > 1 else torch.zeros(1) for n in shape)
        self.places: Tensor
        self.register_buffer("places", torch.cartesian_prod(rows, columns).T.contiguous())
        self.mixture = nn.Parameter(SHARPNESS * torch.randn(count, channels, generator=generator) / channels**0.5)

    def forward(self, features: Tensor, spread: Tensor) -> Tensor:
        """Eight-bit features, shape (B, C, P), with the worth of their steps, (C,), to row and column of each keypoint.

        Returns:
            Shape (B, 2 K), each from -1 (top, left) to 1.
        """
        return locate(features, self.mixture * spread, self.places).flatten(1)


@numba.njit(fastmath=FAST, error_model="numpy", inline="always")
def _softmax(x: NDArray[Any], bits: NDArray[Any], scale: NDArray[Any], weights: NDArray[Any]) -> None:
    """Softmax of a short vector. `scale` views `bits` as floats: powers of two are written as exponents.

    exp(x) = 2^i exp(f) with |f| <= ln(2)/2, exp(f) by its Taylor series (relative error 2e-7): the loop is made of SIMD
    instructions, where numba's own exp is a call for each number.
    """
    largest = x[0]
    for p in range(len(x)):
        largest = max(largest, x[p])
    total = np.float32(0.0)
    for p in range(len(x)):
        t = (x[p] - largest) * LOG2_E
        t = max(t, SMALLEST_EXPONENT)  # so written that NaN stays NaN
        i = np.floor(t + np.float32(0.5))
        f = (t - i) * LN_2
        bits[p] = (np.int32(i) + np.int32(127)) << np.int32(23)
        series = np.float32(1 / 120) + f * np.float32(1 / 720)
        series = np.float32(1 / 6) + f * (np.float32(1 / 24) + f * series)
        weights[p] = np.float32(1.0) + f * (np.float32(1.0) + f * (np.float32(0.5) + f * series))
    for p in range(len(x)):
        weights[p] *= scale[p]
        total += weights[p]
    for p in range(len(x)):
        weights[p] /= total


@numba.njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _forward(
    first: int, last: int, x: NDArray[Any], mixture: NDArray[Any], places: NDArray[Any], weights: NDArray[Any],
    out: NDArray[Any],
) -> None:  # fmt: skip
    count, (channels, cells) = mixture.shape[0], x.shape[1:]
    values, logits = np.empty((channels, cells), np.float32), np.empty((count, cells), np.float32)
    bits = np.empty(cells, np.int32)
    scale = bits.view(np.float32)
    for b in range(first, last):
        for c in range(channels):
            for p in range(cells):
                values[c, p] = np.int32(x[b, c, p]) - ZERO
        np.dot(mixture, values, logits)
        for k in range(count):
            _softmax(logits[k], bits, scale, weights[b, k])
            for axis in range(2):
                total = np.float32(0.0)
                for p in range(cells):
                    total += weights[b, k, p] * places[axis, p]
                out[b, k, axis] = total


@numba.njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _backward(
    first: int, last: int, x: NDArray[Any], places: NDArray[Any], weights: NDArray[Any], out: NDArray[Any],
    d_out: NDArray[Any], d_mixture: NDArray[Any],
) -> None:  # fmt: skip
    """Gradients of keypoints `first` to `last`, over all samples in their order, whatever the threads."""
    channels, cells = x.shape[1:]
    values, d_logits = np.empty((channels, cells), np.float32), np.empty(cells, np.float32)
    d_mixture[first:last] = 0.0
    for b in range(x.shape[0]):
        for c in range(channels):
            for p in range(cells):
                values[c, p] = np.int32(x[b, c, p]) - ZERO
        for k in range(first, last):
            d_row, d_column = d_out[b, k, 0], d_out[b, k, 1]
            row, column = out[b, k, 0], out[b, k, 1]
            for p in range(cells):
                d_logits[p] = weights[b, k, p] * ((places[0, p] - row) * d_row + (places[1, p] - column) * d_column)
            for c in range(channels):
                total = np.float32(0.0)
                for p in range(cells):
                    total += d_logits[p] * values[c, p]
                d_mixture[k, c] += total


class _Locate(torch.autograd.Function):
    """The two kernels as one node of torch's graph; features take no gradient."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, mixture: Tensor, places: Tensor) -> Tensor:
        x, mixed, grid = features.numpy(), mixture.detach().contiguous().numpy(), places.numpy()
        batch, count = len(x), len(mixed)
        out, weights = torch.empty(batch, count, 2), np.empty((batch, count, x.shape[2]), np.float32)
        found = out.numpy()
        run_in_parallel(lambda _, a, b: _forward(a, b, x, mixed, grid, weights, found), batch)
        ctx.kept = (x, grid, weights, found)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, grid, weights, found = ctx.kept
        d_out = grad_outputs[0].contiguous().numpy()
        d_mixture = torch.empty(d_out.shape[1], x.shape[1])
        into = d_mixture.numpy()
        run_in_parallel(lambda _, a, b: _backward(a, b, x, grid, weights, found, d_out, into), len(into))
        return None, d_mixture, None


def locate(features: Tensor, mixture: Tensor, places: Tensor) -> Tensor:
    """Expected places under the softmax of each mixture.

    Args:
        features: Eight-bit, 128 being zero, shape (B, C, P).
        mixture: Weights of one step of each channel, shape (K, C).
        places: Row and column of each cell, shape (2, P).

    Returns:
        Shape (B, K, 2); gradients reach `mixture`.
    """
    if features.device.type == "cpu":
        return _Locate.apply(features, mixture, places)  # pyright: ignore[reportReturnType]
    return locate_anywhere(features, mixture, places)


def locate_anywhere(features: Tensor, mixture: Tensor, places: Tensor) -> Tensor:
    """`locate` in plain torch, on any device."""
    weights = torch.softmax(torch.matmul(mixture, features.float() - ZERO), -1)
    return torch.matmul(weights, places.T)
