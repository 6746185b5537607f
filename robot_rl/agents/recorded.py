"""An agent's update as CUDA graphs: its hundred small kernels are launched by one call instead of one by one.

What an update does depends on nothing but tensors at fixed places: the batch, what was drawn, the optimisers' rates. So
the first updates are carried out as written, the next one of each kind (with and without an actor step) is recorded,
and from then on new numbers are copied into those places and the recording is replayed. A batch of another size is
carried out as written.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
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
    """Record `work`; returns what replays it, and where it leaves its results."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        metrics = work()
    return graph.replay, metrics


class RecordedUpdate:
    """Stands for an agent's tensor work.

    Args:
        work: Of one update, of (batch, draws).
        adams: Its optimisers by whether they move at an actor step only.
        record: Records work; `record_cuda_graph`.
    """

    def __init__(
        self, work: Callable[[Batch, Any], Metrics], adams: Mapping[bool, Iterable[Adam]], record: Record
    ) -> None:
        self._work, self._record = work, record
        self._adams = {actor: list(some) for actor, some in adams.items()}
        self._carried_out = Counter[bool]()
        self._places: dict[bool, tuple[Batch, Any]] = {}
        self._recordings: dict[bool, tuple[Callable[[], Any], Metrics]] = {}

    def update(self, batch: Batch, draws: Any) -> Metrics:
        """One update; the scalars it returns are overwritten by the next of its kind."""
        actor = draws.actor is not None
        if self._carried_out[actor] < WARM_UPS:
            self._carried_out[actor] += 1
            return self._beside(batch, draws)
        if actor not in self._places:
            self._places[actor] = (_map(torch.clone, batch), _map(torch.clone, draws))
        batch_place, draws_place = self._places[actor]
        if batch.reward.shape != batch_place.reward.shape:
            return self._work(batch, draws)
        _copy(batch, batch_place)
        _copy(draws, draws_place)
        moved = [*self._adams[False], *(self._adams[True] if actor else [])]
        if actor not in self._recordings:
            self._recordings[actor] = self._record(lambda: self._uncounted(moved, batch_place, draws_place))
        for adam in moved:
            adam.advance()
        replay, metrics = self._recordings[actor]
        replay()
        return metrics

    def _uncounted(self, moved: list[Adam], batch: Batch, draws: Any) -> Metrics:
        """The work, its optimisers' steps being counted where it is replayed."""
        for adam in moved:
            adam.counted_outside = True
        try:
            return self._work(batch, draws)
        finally:
            for adam in moved:
                adam.counted_outside = False

    def _beside(self, batch: Batch, draws: Any) -> Metrics:
        """Carried out on a stream of its own, as recording wants it before."""
        if not batch.reward.is_cuda:
            return self._work(batch, draws)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            metrics = self._work(batch, draws)
        torch.cuda.current_stream().wait_stream(stream)
        return metrics


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
