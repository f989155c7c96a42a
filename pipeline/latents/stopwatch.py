"""Seconds by stage, and what was counted beside them, added up by every thread of one shard's work."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Stopwatch:
    """`seconds` by the name of a stage. Stages beside each other may add up to more than the time that passed."""

    seconds: dict[str, float] = field(default_factory=dict)
    frames: int = 0
    convolutions_halved: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take_frames(self) -> int:
        """Frames encoded since the last call."""
        taken, self.frames = self.frames, 0
        return taken

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
