"""How long a device spent computing, measured without waiting for it."""

import time
from collections import deque
from typing import Any, Protocol

import torch


class Busy(Protocol):
    """Counts the seconds that a device computes for calls inside `with`, which may return before it has finished."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def take_seconds(self) -> float:
        """Seconds of the blocks that the device has finished since the last call."""


def busy_on(device: torch.device) -> Busy:
    """Returns a counter for `device`."""
    return CudaBusy() if device.type == "cuda" else HostBusy()


class HostBusy:
    """For a CPU, where calls return when they have finished."""

    def __init__(self) -> None:
        self._began = self._seconds = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._seconds += time.perf_counter() - self._began

    def take_seconds(self) -> float:
        taken, self._seconds = self._seconds, 0.0
        return taken


class CudaBusy:
    """By events in the stream, before and after the kernels of each block."""

    def __init__(self) -> None:
        self._intervals: deque[tuple[Any, Any]] = deque()
        self._begin: Any = None

    def __enter__(self) -> None:
        self._begin = _recorded()

    def __exit__(self, *_: object) -> None:
        self._intervals.append((self._begin, _recorded()))

    def take_seconds(self) -> float:
        milliseconds = 0.0
        while self._intervals and self._intervals[0][1].query():
            begin, end = self._intervals.popleft()
            milliseconds += begin.elapsed_time(end)
        return milliseconds / 1000


def _recorded() -> Any:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
