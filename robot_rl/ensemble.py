"""A batched ensemble of multi-layer perceptrons whose parameters are one flat tensor, and the Adam that moves it.

On the CPU an ensemble runs through the fused kernels of `robot_rl.kernels`, on as many threads as torch may use; on any
other device, and with ``fused=False``, through plain batched torch operations with the same result.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from robot_rl import kernels
from robot_rl.blas import prepare_blas

Array = NDArray[np.float32]
_EMPTY: Array = np.zeros((0, 0, 0), np.float32)
_EMPTY_2D: Array = np.zeros((0, 0), np.float32)
_EMPTY_FLAT: Array = np.zeros(0, np.float32)
_ROWS_WORTH_SPLITTING = 64


@cache
def _pool() -> ThreadPoolExecutor:
    prepare_blas()
    return ThreadPoolExecutor(max(1, torch.get_num_threads() - 1), thread_name_prefix="robot_rl.ensemble")


def run_in_parallel(work: Callable[[int, int, int], None], items: int) -> None:
    """Call ``work(share, first, last)`` on contiguous shares of ``range(items)``, the last share on this thread."""
    pool = _pool()
    shares = min(torch.get_num_threads(), items)
    edges = [items * i // shares for i in range(shares + 1)]
    others = [pool.submit(work, i, edges[i], edges[i + 1]) for i in range(shares - 1)]
    work(shares - 1, edges[-2], edges[-1])
    for other in others:
        other.result()


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
    """Activations of one forward pass, kept for its backward pass and then used again (a fresh one costs page faults)."""

    _free: dict[tuple[MLPShape, int, int], list["_Workspace"]] = {}

    def __init__(self, key: tuple[MLPShape, int, int]) -> None:
        shape, networks, batch = key
        self.key = key
        self.xhat = np.empty((networks, batch * shape.hidden_units), np.float32)
        self.h = np.empty_like(self.xhat)
        self.rstd = np.empty((networks, batch * (len(shape.widths) - 2)), np.float32)
        self._training: tuple[Array, Array, Array] | None = None

    def training_buffers(self) -> tuple[Array, Array, Array]:
        """Back-propagated signals, parameter gradients and output gradients, one of each a thread."""
        if self._training is None:
            shape, _, batch = self.key
            threads = torch.get_num_threads()
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
            return free.pop()  # atomic under the GIL, so two learners in two threads never share one
        except IndexError:
            return cls(key)

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
    def forward(ctx: Any, x: Tensor, parameters: Tensor, mlp: "EnsembleMLP") -> Tensor:  # pyright: ignore
        work = _Workspace.take(mlp.shape, mlp.networks, x.shape[0])
        out = _fused_forward(mlp, x.detach().numpy(), mlp.all_networks, work)
        ctx.x, ctx.mlp, ctx.work = x.detach().numpy(), mlp, work
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # pyright: ignore
        mlp: EnsembleMLP = ctx.mlp
        work: _Workspace | None = ctx.work
        if work is None:
            raise RuntimeError("the fused ensemble's backward pass runs once for each forward pass")
        ctx.work = None
        want_x, want_parameters = bool(ctx.needs_input_grad[0]), bool(ctx.needs_input_grad[1])
        scratch = work.training_buffers()[0]
        networks, batch, _ = d_out.shape
        d_x = torch.empty(networks, batch, mlp.shape.widths[0]) if want_x else None
        gradient = mlp.gradient if want_parameters else None
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
            gradient.numpy() if gradient is not None else _EMPTY_2D,
            d_x.numpy() if d_x is not None else _EMPTY,
            want_parameters,
            want_x,
        )
        run_in_parallel(
            lambda share, first, last: kernels.backward(first, last, *arguments, scratch[share], *outputs), networks
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
            self.array: Array = self.parameters.detach().numpy()
            # The kernels write gradients here: valid until the next backward pass of this ensemble.
            self.gradient = torch.zeros_like(self.parameters)

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
            return _FusedMLP.apply(x, parameters, self)  # pyright: ignore
        return self._inference(x, self.all_networks)

    def evaluate_subset(self, x: Tensor, index: Tensor) -> Tensor:
        """Evaluate the networks named by ``index``, shape (M,), without gradients; returns (M, B, outputs)."""
        with torch.no_grad():
            if not self.fused:
                return self._evaluate(x, self.parameters[index])
            return self._inference(x.contiguous(), index.numpy())

    def regress(self, x: Tensor, y: Tensor, adam: "Adam", averaged: Tensor, tau: float) -> Tensor:
        """One optimiser step of all networks towards shared scalar targets, wholly inside the fused kernels.

        The same as the mean squared error's autograd gradient, `Adam.step` and its Polyak average, in that order.

        Args:
            x: Inputs, shape (B, inputs).
            y: Targets, shape (B,).
            adam: The optimiser of this ensemble's parameters.
            averaged: The Polyak-averaged copy, shape of the parameters.
            tau: Its step.

        Returns:
            The values before the step, shape (E, B).
        """
        x, batch = x.contiguous(), x.shape[0]
        work = _Workspace.take(self.shape, torch.get_num_threads(), batch)
        scratch, grads, d_out = work.training_buffers()
        out = torch.empty(self.networks, batch, 1)
        numbers = adam.advance(tau)
        moments = (adam.m.numpy(), adam.v.numpy(), averaged.detach().numpy(), numbers)
        inputs = (self.array, self.all_networks, x.detach().numpy(), y.detach().contiguous().numpy())

        def run(share: int, first: int, last: int) -> None:
            own = slice(share, share + 1)
            buffers = (work.xhat[own], work.h[own], work.rstd[own], out.numpy(), d_out[own], scratch[share], grads[own])
            kernels.regression_step(first, last, *inputs, self.dims, self.activation, *buffers, *moments)

        run_in_parallel(run, self.networks)
        work.give_back()
        return out[..., 0]

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


class Adam:
    """Adam on one flat tensor, with linear learning-rate warm-up and, in the same pass, a Polyak-averaged target.

    Args:
        parameter: The tensor that is moved, of any shape.
        learning_rate: Step size after warm-up.
        warmup_steps: Steps over which the rate rises linearly from zero; 0 means none.
        fused: Use the CPU kernel.
    """

    def __init__(self, parameter: Tensor, learning_rate: float, warmup_steps: int = 0, fused: bool = True) -> None:
        self.parameter = parameter.detach()
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.fused = fused and parameter.device.type == "cpu"
        self.m = torch.zeros_like(self.parameter)
        self.v = torch.zeros_like(self.parameter)
        self.steps = 0

    def advance(self, tau: float = 0.0) -> tuple[np.float32, ...]:
        """Count one step; returns the last five arguments of `kernels.adam` for it."""
        self.steps += 1
        beta1, beta2, epsilon = 0.9, 0.999, 1e-8
        rate = self.learning_rate * (min(1.0, self.steps / self.warmup_steps) if self.warmup_steps else 1.0)
        root = math.sqrt(1 - beta2**self.steps)
        rate *= root / (1 - beta1**self.steps)
        return tuple(np.float32(number) for number in (rate, beta1, beta2, epsilon * root, tau))

    def step(self, gradient: Tensor, target: Tensor | None = None, tau: float = 0.0) -> None:
        """One step along ``gradient``; then ``target += tau (parameter - target)``."""
        numbers = self.advance(tau)
        if self.fused:
            flat = [t.detach().view(-1).numpy() for t in (self.parameter, gradient.contiguous(), self.m, self.v)]
            averaged = _EMPTY_FLAT if target is None else target.detach().view(-1).numpy()
            size = flat[0].size
            if size < 4096:
                kernels.adam(0, size, *flat, averaged, *numbers)
                return
            shares = 64  # fixed, so that the thread count changes nothing
            run_in_parallel(
                lambda _, first, last: kernels.adam(
                    size * first // shares, size * last // shares, *flat, averaged, *numbers
                ),
                shares,
            )
            return
        rate, beta1, beta2, epsilon, _ = (float(number) for number in numbers)
        self.m.lerp_(gradient, 1 - beta1)
        self.v.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        self.parameter.addcdiv_(self.m, self.v.sqrt().add_(epsilon), value=-rate)
        if target is not None:
            target.detach().lerp_(self.parameter, tau)

    def state(self) -> dict[str, Tensor]:
        return {"m": self.m.clone(), "v": self.v.clone(), "steps": torch.tensor(self.steps)}

    def load(self, state: dict[str, Tensor]) -> None:
        self.m.copy_(state["m"])
        self.v.copy_(state["v"])
        self.steps = int(state["steps"])
