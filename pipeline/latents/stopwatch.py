"""Seconds by stage, and what was counted beside them, added up by every thread of one shard's work."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.monitor.stages import ENCODE, IDLE


class Spent(NamedTuple):
    """What the device did: frames that it encoded, and seconds in which it was busy and idle."""

    frames: int
    encode_seconds: float
    idle_seconds: float


NOTHING = Spent(0, 0.0, 0.0)


@dataclass(slots=True)
class Stopwatch:
    """`seconds` by the name of a stage. Stages beside each other may add up to more than the time that passed."""

    seconds: dict[str, float] = field(default_factory=dict)
    frames: int = 0
    convolutions_halved: int = 0
    _taken: Spent = NOTHING
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> Spent:
        """What was done since the last call."""
        with self._lock:
            total = Spent(self.frames, self.seconds.get(ENCODE, 0.0), self.seconds.get(IDLE, 0.0))
        before, self._taken = self._taken, total
        seconds = (total.encode_seconds - before.encode_seconds, total.idle_seconds - before.idle_seconds)
        return Spent(total.frames - before.frames, *seconds)

    def add(self, stage: str, seconds: float) -> None:
        with self._lock:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - began)
