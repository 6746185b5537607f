"""An agent's update as CUDA graphs: its hundred small kernels are launched by one call instead of one by one.

What an update does depends on nothing but tensors at fixed places: the batch, what was drawn, the optimisers' rates. So
the first updates are carried out as written, the next one of each kind (with and without an actor step) is recorded,
and from then on new numbers are copied into those places and the recording is replayed. A batch of another size is
carried out as written.
"""

import gc
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from robot_rl.agents.batch import Batch
from robot_rl.agents.optimiser import Adam

__all__ = ["Record", "RecordedUpdate", "record_cuda_graph"]

Metrics = dict[str, Tensor]
Record = Callable[[Callable[[], Metrics]], tuple[Callable[[], Any], Metrics]]

WARM_UPS = 3  # of each kind before it is recorded, so that libraries have what they allocate once


def record_cuda_graph(work: Callable[[], Metrics]) -> tuple[Callable[[], Any], Metrics]:
    """Record `work` on the present device and stream; returns what replays it, and where it leaves its results."""
    gc.collect()  # an older graph destroyed while this one is recorded would spoil it
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        metrics = work()
    return graph.replay, metrics


class RecordedUpdate:
    """Stands for an agent's tensor work.

    Args:
        work: Of one update, of (batch, draws).
        adams: Its optimisers by whether they move at an actor step only.
        record: Records work; `record_cuda_graph`.
        device: Of it all.
    """

    def __init__(
        self, work: Callable[[Batch, Any], Metrics], adams: Mapping[bool, Iterable[Adam]], record: Record, device: str
    ) -> None:
        self._work, self._record, self._device = work, record, torch.device(device)
        self._always, self._with_actor = list(adams[False]), list(adams[False]) + list(adams[True])
        self._rates = torch.zeros(len(self._with_actor), 3, device=device)
        self._stream = torch.cuda.Stream(device) if self._device.type == "cuda" else None
        self._carried_out = Counter[bool]()
        self._places: dict[bool, tuple[Batch, Any]] = {}
        self._recordings: dict[bool, tuple[Callable[[], Any], Metrics]] = {}

    def update(self, batch: Batch, draws: Any) -> Metrics:
        """One update; the scalars it returns are overwritten by the next of its kind."""
        actor = draws.actor is not None
        if self._carried_out[actor] < WARM_UPS:
            self._carried_out[actor] += 1
            with self._aside():
                return self._work(batch, draws)
        if actor not in self._places:
            self._places[actor] = (_map(torch.clone, batch), _map(torch.clone, draws))
        batch_place, draws_place = self._places[actor]
        if batch.reward.shape != batch_place.reward.shape:
            return self._work(batch, draws)
        _copy(batch, batch_place)
        _copy(draws, draws_place)
        moved = self._with_actor if actor else self._always
        if actor not in self._recordings:
            with self._aside():
                self._recordings[actor] = self._record(lambda: self._uncounted(moved, batch_place, draws_place))
        rates = torch.tensor([adam.count() for adam in moved])
        self._rates[: len(moved)].copy_(rates.pin_memory() if self._stream else rates, non_blocking=True)
        replay, metrics = self._recordings[actor]
        with self._on_device():
            replay()
        return metrics

    def _uncounted(self, moved: list[Adam], batch: Batch, draws: Any) -> Metrics:
        """The work, its optimisers' steps being counted where it is replayed."""
        for adam, rates in zip(moved, self._rates, strict=False):
            adam.rates = rates
        try:
            return self._work(batch, draws)
        finally:
            for adam in moved:
                adam.rates = None

    def _on_device(self) -> AbstractContextManager[Any]:
        return torch.cuda.device(self._device) if self._stream else nullcontext()

    @contextmanager
    def _aside(self) -> Generator[None]:
        """A stream beside the usual one, after what was asked for there and before what follows: recording wants it."""
        if self._stream is None:
            yield
            return
        usual = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(usual)
        with torch.cuda.stream(self._stream):  # makes its device the present one too
            yield
        usual.wait_stream(self._stream)


def _map(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """A nested tuple or mapping of tensors with each changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _map(change, part) for name, part in value.items()}
    return value if value is None else type(value)(*(_map(change, part) for part in value))


def _copy(values: Any, places: Any) -> None:
    """New numbers into the places of the old."""
    if isinstance(values, Tensor):
        places.copy_(values, non_blocking=True)
    elif isinstance(values, Mapping):
        for name, part in values.items():
            _copy(part, places[name])
    elif values is not None:
        for part, place in zip(values, places, strict=True):
            _copy(part, place)
