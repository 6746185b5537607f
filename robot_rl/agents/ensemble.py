"""A batched ensemble of multi-layer perceptrons whose parameters are one flat tensor.

On the CPU an ensemble runs through the fused kernels of `robot_rl.agents.kernels`, on as many threads as torch may use;
on any other device, and with ``fused=False``, through plain batched torch operations with the same result.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from robot_rl.agents import kernels
from robot_rl.agents.optimiser import Adam
from robot_rl.blas import prepare_blas
from robot_rl.parallel import run_in_parallel

Array = NDArray[np.float32]
_EMPTY: Array = np.zeros((0, 0, 0), np.float32)
_EMPTY_2D: Array = np.zeros((0, 0), np.float32)
_ROWS_WORTH_SPLITTING = 64


@dataclass(frozen=True)
class MLPShape:
    """Widths of a perceptron, ``(inputs, hidden..., outputs)``, and its activation, ``tanh`` or ``relu``."""

    widths: tuple[int, ...]
    activation: str = "tanh"

    @property
    def sizes(self) -> list[int]:
        """Number of elements of each parameter in the flat row, in order."""
        sizes: list[int] = []
        for k, n in zip(self.widths[:-2], self.widths[1:-1], strict=True):
            sizes += [k * n, n, n, n]
        return [*sizes, self.widths[-2] * self.widths[-1], self.widths[-1]]

    @property
    def hidden_units(self) -> int:
        return sum(self.widths[1:-1])


class _Workspace:
    """Activations of a forward pass, kept for its backward pass, then used again (new memory costs page faults)."""

    _free: ClassVar[dict[tuple[MLPShape, int, int], list["_Workspace"]]] = {}

    def __init__(self, key: tuple[MLPShape, int, int]) -> None:
        shape, networks, batch = key
        self.key = key
        self.threads = torch.get_num_threads()
        self.xhat = np.empty((networks, batch * shape.hidden_units), np.float32)
        self.h = np.empty_like(self.xhat)
        self.rstd = np.empty((networks, batch * (len(shape.widths) - 2)), np.float32)
        self._training: tuple[Array, Array, Array] | None = None

    def training_buffers(self) -> tuple[Array, Array, Array]:
        """Back-propagated signals, parameter gradients and output gradients, one of each a thread."""
        if self._training is None:
            shape, _, batch = self.key
            threads = self.threads
            self._training = (
                np.empty((threads, 2, batch * max(shape.widths[1:-1])), np.float32),
                np.empty((threads, sum(shape.sizes)), np.float32),
                np.empty((threads, batch, shape.widths[-1]), np.float32),
            )
        return self._training

    @classmethod
    def take(cls, shape: MLPShape, networks: int, batch: int) -> "_Workspace":
        key = (shape, networks, batch)
        free = cls._free.setdefault(key, [])
        try:
            work = free.pop()  # atomic under the GIL, so two learners in two threads never share one
        except IndexError:
            return cls(key)
        return work if work.threads == torch.get_num_threads() else cls(key)

    def give_back(self) -> None:
        self._free[self.key].append(self)


def _fused_forward(mlp: "EnsembleMLP", x: Array, index: NDArray[np.int64], work: _Workspace) -> Tensor:
    networks, batch = len(index), x.shape[0]
    out = torch.empty(networks, batch, mlp.shape.widths[-1])
    chunks = 2 if networks % 2 and batch >= _ROWS_WORTH_SPLITTING else 1
    arguments = (chunks, mlp.array, index, x, mlp.dims, mlp.activation, work.xhat, work.h, work.rstd, out.numpy())
    if networks * chunks == 1:
        kernels.forward(0, 1, *arguments)
    else:
        run_in_parallel(lambda _, first, last: kernels.forward(first, last, *arguments), networks * chunks)
    return out


class _FusedMLP(torch.autograd.Function):
    """Forward and backward pass of the fused kernels, as one node of torch's graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, parameters: Tensor, mlp: "EnsembleMLP") -> Tensor:  # noqa: ARG004
        work = _Workspace.take(mlp.shape, mlp.networks, x.shape[0])
        out = _fused_forward(mlp, x.detach().numpy(), mlp.all_networks, work)
        ctx.x, ctx.mlp, ctx.work = x.detach().numpy(), mlp, work
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # once_differentiable hides the first name
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None]:
        (d_out,) = grad_outputs
        mlp: EnsembleMLP = ctx.mlp
        work: _Workspace | None = ctx.work
        if work is None:
            raise RuntimeError("the fused ensemble's backward pass runs once for each forward pass")
        ctx.work = None
        want_x, want_parameters = bool(ctx.needs_input_grad[0]), bool(ctx.needs_input_grad[1])
        scratch = work.training_buffers()[0]
        networks, batch, _ = d_out.shape
        d_x = torch.empty(networks, batch, mlp.shape.widths[0]) if want_x else None
        gradient = torch.empty_like(mlp.parameters) if want_parameters else None
        arguments = (
            mlp.array,
            ctx.x,
            mlp.dims,
            mlp.activation,
            work.xhat,
            work.h,
            work.rstd,
            d_out.contiguous().numpy(),
        )
        outputs = (
            gradient.detach().numpy() if gradient is not None else _EMPTY_2D,
            d_x.numpy() if d_x is not None else _EMPTY,
            want_parameters,
            want_x,
        )
        run_in_parallel(
            lambda share, first, last: kernels.backward(first, last, *arguments, scratch[share], *outputs),
            networks,
            work.threads,
        )
        work.give_back()
        return (d_x.sum(0) if d_x is not None else None), gradient, None


class EnsembleMLP:
    """E perceptrons with LayerNorm after every hidden matrix product, evaluated together.

    Args:
        networks: E.
        shape: Widths and activation.
        generator: Source of the initial weights (Xavier uniform; a CPU generator, so that devices start alike).
        output_gain: Factor on the initial weights of the last layer.
        device: Where the parameters live.
        fused: Use the CPU kernels where the device allows it.
    """

    def __init__(
        self,
        networks: int,
        shape: MLPShape,
        generator: torch.Generator,
        output_gain: float = 1.0,
        device: str = "cpu",
        fused: bool = True,
    ) -> None:
        self.networks = networks
        self.shape = shape
        self.fused = fused and torch.device(device).type == "cpu"
        rows: list[Tensor] = []
        for k, n in zip(shape.widths[:-1], shape.widths[1:], strict=True):
            gain = output_gain if len(rows) == 4 * (len(shape.widths) - 2) else 1.0
            limit = gain * math.sqrt(6.0 / (k + n))
            rows.append((torch.rand(networks, k * n, generator=generator) * 2 - 1) * limit)
            rows.append(torch.zeros(networks, n))
            if len(rows) < 4 * (len(shape.widths) - 2):
                rows += [torch.ones(networks, n), torch.zeros(networks, n)]
        self.parameters = torch.cat(rows, 1).to(device).contiguous().requires_grad_()
        self.all_networks = np.arange(networks)
        self.dims = np.array(shape.widths, np.int64)
        self.activation = kernels.TANH if shape.activation == "tanh" else kernels.RELU
        if self.fused:
            prepare_blas()
            self.array: Array = self.parameters.detach().numpy()

    def __call__(self, x: Tensor, train: bool = True) -> Tensor:
        """Evaluate every network on the same rows.

        Args:
            x: Inputs, shape (B, inputs).
            train: Whether gradients flow into the parameters (they flow into ``x`` either way).

        Returns:
            Shape (E, B, outputs).
        """
        parameters = self.parameters if train else self.parameters.detach()
        if not self.fused:
            return self._evaluate(x, parameters)
        x = x.contiguous()
        if torch.is_grad_enabled() and (x.requires_grad or train):
            return _FusedMLP.apply(x, parameters, self)
        return self._inference(x, self.all_networks)

    def evaluate_subset(self, x: Tensor, index: Tensor) -> Tensor:
        """Evaluate the networks named by ``index``, shape (M,), without gradients; returns (M, B, outputs)."""
        with torch.no_grad():
            if not self.fused:
                return self._evaluate(x, self.parameters[index])
            return self._inference(x.contiguous(), index.numpy())

    def regress(
        self, x: Tensor, y: Tensor, adam: Adam, averaged: Tensor, tau: float, want_x: bool = False
    ) -> tuple[Tensor, Tensor]:
        """One optimiser step of all networks towards shared scalar targets, wholly inside the fused kernels.

        The same as the mean squared error's autograd gradient, `Adam.step` and its Polyak average, in that order.

        Args:
            x: Inputs, shape (B, inputs).
            y: Targets, shape (B,).
            adam: The optimiser of this ensemble's parameters.
            averaged: The Polyak-averaged copy, shape of the parameters.
            tau: Its step.
            want_x: Also give the loss's gradient by the inputs.

        Returns:
            The values before the step, shape (E, B), and that gradient, shape (B, inputs), or empty.
        """
        x, batch = x.contiguous(), x.shape[0]
        work = _Workspace.take(self.shape, torch.get_num_threads(), batch)  # a network a thread, not all of them
        scratch, grads, d_out = work.training_buffers()
        out = torch.empty(self.networks, batch, 1)
        numbers = adam.advance(tau)
        moments = (adam.m.numpy(), adam.v.numpy(), averaged.detach().numpy(), numbers)
        rows = batch if want_x else 0
        d_x, d_inputs = (np.zeros((work.threads, rows, x.shape[1]), np.float32) for _ in range(2))
        inputs = (self.array, self.all_networks, x.detach().numpy(), y.detach().contiguous().numpy())

        def run(share: int, first: int, last: int) -> None:
            own = slice(share, share + 1)
            buffers = (work.xhat[own], work.h[own], work.rstd[own], out.numpy(), d_out[own], scratch[share], grads[own])
            d = (d_x[share : share + int(want_x)], d_inputs[share])
            kernels.regression_step(first, last, *inputs, self.dims, self.activation, *buffers, *moments, *d)

        run_in_parallel(run, self.networks, work.threads)
        work.give_back()
        return out[..., 0], torch.from_numpy(d_inputs.sum(0))

    def _inference(self, x: Tensor, index: NDArray[np.int64]) -> Tensor:
        work = _Workspace.take(self.shape, len(index), x.shape[0])
        out = _fused_forward(self, x.detach().numpy(), index, work)
        work.give_back()
        return out

    def _evaluate(self, x: Tensor, parameters: Tensor) -> Tensor:
        pieces = iter(parameters.split(self.shape.sizes, dim=1))
        h = x.expand(parameters.shape[0], *x.shape)
        for k, n in zip(self.shape.widths[:-2], self.shape.widths[1:-1], strict=True):
            weight, bias, gain, shift = (next(pieces) for _ in range(4))
            z = torch.baddbmm(bias.unsqueeze(1), h, weight.view(-1, k, n))
            z = functional.layer_norm(z, (n,), eps=kernels.LAYER_NORM_EPSILON)
            z = torch.addcmul(shift.unsqueeze(1), z, gain.unsqueeze(1))
            h = torch.tanh(z) if self.shape.activation == "tanh" else torch.relu(z)
        weight, bias = pieces
        return torch.baddbmm(bias.unsqueeze(1), h, weight.view(-1, *self.shape.widths[-2:]))
