"""Decoding ahead of the encoder: every started sample is drained by a thread, and what is ready is encoded first."""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from pipeline.latents.encode import Urgency
from pipeline.latents.pace import POLL_SECONDS, Pace
from pipeline.latents.walk import Place, Step, Steps
from pipeline.output.accounts import CommittedSlice
from pipeline.records import Chunk, DecodeItem, Opened

# One is encoded, one waits here, one where it was decoded, and one is on its way out of the object store.
OBJECTS_OF_A_SAMPLE = 4
MOST_OPEN = 2  # samples with a clip begun: each holds a state on the device


@dataclass(frozen=True, slots=True)
class Begun:
    """The walk came to a sample. Its items follow where it is decoded."""

    step: Step


@dataclass(frozen=True, slots=True)
class Item:
    """The next item of a sample; `taken` must be called once it is no longer needed. None: the sample's end."""

    step: Step
    item: DecodeItem | None
    taken: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Failed:
    """The walk or a decoder failed, which ends the work on this shard."""

    error: BaseException


class WalkEnded:
    """The shard was read to its end; what is on its way still comes."""


Message = Begun | Item | Failed | WalkEnded | CommittedSlice


class Feed:
    """Walks a shard's steps in a thread, decodes as many at once as the pace allows, and passes on what comes.

    Of each sample one item waits in this process, and one more where it was decoded.
    """

    def __init__(
        self,
        steps: Steps,
        start: Callable[[Step], Generator[DecodeItem | None, None, None]],
        pace: Pace,
        object_bytes: int,
    ) -> None:
        self._steps, self._start, self._pace, self._object_bytes = steps, start, pace, object_bytes
        self._on_their_way: dict[Place, int] = {}  # samples, with their bytes
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._walker = threading.Thread(target=self._or_failure, args=(self._walk,), name="walk", daemon=True)
        self._drains: list[threading.Thread] = []  # the walker alone adds to them

    def take(self, wait: bool) -> Message | None:
        """The next message; None where there is none now and `wait` is false."""
        try:
            return self._messages.get(block=wait)
        except queue.Empty:
            return None

    def finish(self, step: Step) -> None:
        """Makes room for another sample."""
        self._pace.end(self._on_their_way.pop(step.place))

    def __enter__(self) -> "Feed":
        self._walker.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopped.set()
        self._walker.join()
        for thread in self._drains:
            thread.join()
        for size_bytes in self._on_their_way.values():
            self._pace.end(size_bytes)

    def _or_failure(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
        except BaseException as error:  # raised again by whoever takes the message
            self._messages.put(Failed(error))

    def _walk(self) -> None:
        for step in self._steps:
            if step is None:
                self._stopped.wait(POLL_SECONDS)
            elif isinstance(step, CommittedSlice):
                self._messages.put(step)
            elif not step.is_wanted:
                self._messages.put(Begun(_without_video(step)))
            elif not self._begin(step):
                return
            if self._stopped.is_set():
                return
        self._messages.put(WalkEnded())

    def _begin(self, step: Step) -> bool:
        """Starts to decode a sample once there is room for it. Returns whether it did."""
        size_bytes = len(step.sample.video) + OBJECTS_OF_A_SAMPLE * self._object_bytes
        if not self._pace.begin(size_bytes, self._stopped):
            return False
        self._on_their_way[step.place] = size_bytes
        items, known = self._start(step), _without_video(step)
        self._messages.put(Begun(known))
        drain = threading.Thread(target=self._or_failure, args=(self._drain, known, items), name="drain", daemon=True)
        drain.start()
        self._drains = [*(thread for thread in self._drains if thread.is_alive()), drain]
        return True

    def _drain(self, step: Step, items: Generator[DecodeItem | None, None, None]) -> None:
        turn, began, idle_seconds = threading.Semaphore(), time.monotonic(), 0.0
        try:
            while not self._stopped.is_set():
                asked = time.monotonic()
                if not turn.acquire(timeout=POLL_SECONDS):
                    idle_seconds += time.monotonic() - asked
                    continue
                idle_seconds += time.monotonic() - asked
                item = next(items, self)
                if item is self:
                    break
                if isinstance(item, Opened):
                    began, idle_seconds = time.monotonic(), 0.0
                if isinstance(item, Chunk):
                    self._messages.put(Item(step, item, turn.release))
                    item = None  # or its frames would stay in the object store until the next ones come
                    continue
                turn.release()
                if item is not None:
                    self._messages.put(Item(step, item, _nothing))  # type: ignore[arg-type]
        finally:
            items.close()
        self._pace.decoded(time.monotonic() - began - idle_seconds)
        self._messages.put(Item(step, None, _nothing))


def _without_video(step: Step) -> Step:
    """Whoever decodes it has the video; rows need the rest."""
    return replace(step, sample=replace(step.sample, video=b""))


def _nothing() -> None:
    pass


def choose(samples: Iterable[tuple[Place, Urgency, bool]]) -> Place | None:
    """The sample whose next item is to be taken; None where it is better to wait for another.

    Args:
        samples: in the order in which they began, with the urgency of the next item, and whether a clip of the sample
            is begun. A clip that comes in several objects is begun only where few samples have one begun.
    """
    samples = list(samples)
    has_room = sum(has_begun for _, _, has_begun in samples) < MOST_OPEN
    for wanted in ("free", "continues", "whole", "begins"):
        for place, urgency, has_begun in samples:
            if urgency == wanted and (urgency != "begins" or has_begun or has_room):
                return place
    return None
