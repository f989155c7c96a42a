"""Chunks whose shape comes again are recorded once and replayed: on CUDA one launch instead of some thousand.

It does not know the model. How a recording is made is handed in: `CudaCapture` makes CUDA graphs.
"""

import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from encoder.engines import Engine
from encoder.layers import State

Replay = Callable[[], None]
Capture = Callable[[Callable[[], None]], Replay]  # takes note of what a call does on the device, and does not do it
Key = tuple[tuple[int, ...], bool]  # the shape of a chunk, and whether it begins a clip

EAGER_CALLS = 2  # of each shape: the first sets up what libraries set up once, from the second on all is as it stays
MOST_GRAPHS = 16  # of more shapes than that, those are dropped that were not used for longest


class Carried:
    """A clip's state between its chunks: tensors of its own, or those of the seat that it has."""

    def __init__(self, tensors: State) -> None:
        self.tensors = tensors


class Seat:
    """Where the state of one clip lies for the graphs of a picture: they read and write these tensors and no others.

    Clips take turns. One that must leave takes a copy along; one that goes on where it sits copies nothing.
    """

    def __init__(self, like: State) -> None:
        self.tensors: State = tuple(tuple(torch.empty_like(frames) for frames in past) for past in like)
        self._sits: weakref.ref[Carried] | None = None

    def clear(self) -> None:
        """Nobody sits here any more; who did and is still wanted has tensors of its own then."""
        sits = self._sits() if self._sits is not None else None
        if sits is not None:
            sits.tensors = tuple(tuple(frames.clone() for frames in past) for past in sits.tensors)
        self._sits = None

    def holds(self, carried: Carried) -> bool:
        return self._sits is not None and self._sits() is carried

    def take(self, carried: Carried | None) -> Carried:
        """Seats a clip with its state, or, given None, a new one whose state the next replay writes."""
        if carried is not None and self.holds(carried):
            return carried
        self.clear()
        if carried is None:
            carried = Carried(self.tensors)
        else:
            copy_state(carried.tensors, self.tensors)
            carried.tensors = self.tensors
        self._sits = weakref.ref(carried)
        return carried


@dataclass(frozen=True, slots=True)
class Graph:
    """A recorded chunk. Its input and output are its own memory, which no other recording uses."""

    x: Tensor
    moments: Tensor
    seat: Seat
    replay: Replay

    def run(self, x: Tensor, carried: Carried | None) -> tuple[Tensor, Carried]:
        carried = self.seat.take(carried)
        self.x.copy_(x)
        self.replay()
        return self.moments.clone(), carried


@dataclass(slots=True)
class Graphed:
    """An engine that streams, its chunks replayed from the third of a shape on; the results are the same to the bit.

    Where the device has not the memory for a recording, that shape goes on as before. Where it has not enough for a
    chunk beside the recordings, they are dropped, and no more are made.
    """

    engine: Engine
    capture: Capture
    most_graphs: int = MOST_GRAPHS
    _graphs: OrderedDict[Key, Graph] = field(default_factory=OrderedDict)
    _seats: "weakref.WeakValueDictionary[tuple[int, ...], Seat]" = field(default_factory=weakref.WeakValueDictionary)
    _calls: Counter[Key] = field(default_factory=Counter)

    @property
    def streams(self) -> bool:
        return self.engine.streams

    def plan(self, frames: int) -> tuple[int, ...]:
        return self.engine.plan(frames)

    def encode_chunk(self, x: Tensor, state: Carried | None) -> tuple[Tensor, Carried]:
        key = (tuple(x.shape), state is None)
        if key in self._graphs:
            self._graphs.move_to_end(key)
            return self._graphs[key].run(x, state)
        moments, carried = self._eagerly(x, state)
        self._calls[key] += 1
        if self._calls[key] == EAGER_CALLS and self.most_graphs:
            self._record(key, x, moments, carried)
        return moments, carried

    def _eagerly(self, x: Tensor, state: Carried | None) -> tuple[Tensor, Carried]:
        seat = self._seats.get(_picture(x))
        try:
            if seat is not None and state is not None and seat.holds(state):
                seat.clear()  # the engine may write to what it is given, or leave it
            return self._of_engine(x, state)
        except torch.cuda.OutOfMemoryError:
            if not self._graphs:
                raise
            self._graphs.clear()
            self.most_graphs = 0
            if state is not None:
                raise  # its state may be used up
        return self._of_engine(x, state)

    def _of_engine(self, x: Tensor, state: Carried | None) -> tuple[Tensor, Carried]:
        moments, after = self.engine.encode_chunk(x, None if state is None else state.tensors)
        return moments, Carried(after)

    def _record(self, key: Key, x: Tensor, moments: Tensor, carried: Carried) -> None:
        """Makes the graph of a shape, given what an eager call took and gave."""
        try:
            seat = self._seats.get(_picture(x)) or Seat(carried.tensors)
            here, made, begins = torch.empty_like(x), torch.empty_like(moments), key[1]

            def chunk() -> None:
                new, after = self.engine.encode_chunk(here, None if begins else seat.tensors)
                made.copy_(new)
                copy_state(after, seat.tensors)

            graph = Graph(here, made, seat, self.capture(chunk))
        except torch.cuda.OutOfMemoryError:
            return
        self._seats[_picture(x)] = seat
        self._graphs[key] = graph
        if len(self._graphs) > self.most_graphs:
            dropped, _ = self._graphs.popitem(last=False)
            del self._calls[dropped]


class CudaCapture:
    """Records CUDA graphs, whose temporary memory is shared: they are replayed one after the other on one stream."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._pool = device, torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # memory is shared on one alone

    def __call__(self, call: Callable[[], None]) -> Replay:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device), torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            call()
        return graph.replay


def copy_state(of: State, to: State) -> None:
    """Copies a state to another one's memory; what lies there already stays."""
    for frames, place in ((a, b) for pasts in zip(of, to, strict=True) for a, b in zip(*pasts, strict=True)):
        if frames is not place:
            place.copy_(frames)


def _picture(x: Tensor) -> tuple[int, ...]:
    """What the shapes of a state depend on: batch, height and width."""
    return (x.shape[0], *x.shape[3:])
