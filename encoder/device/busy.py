"""How long a device spent computing and how long it had nothing to do, measured without waiting for it."""

import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from encoder.device.seconds import DeviceSeconds


class Busy(Protocol):
    """Counts the seconds that a device computes for calls inside `with`, which may return before it has finished."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def take_seconds(self) -> DeviceSeconds:
        """Seconds of the blocks that the device has finished since the last call, and those idle before each."""


@dataclass(slots=True)
class LastEnd:
    """When a device finished its last block: a time of the host, or an event of CUDA. None before the first."""

    at: Any = None


def busy_on(device: torch.device, last: LastEnd) -> Busy:
    """Returns a counter for `device`, of which all counters share `last`."""
    return CudaBusy(last) if device.type == "cuda" else HostBusy(last)


class HostBusy:
    """For a CPU, where calls return when they have finished."""

    def __init__(self, last: LastEnd) -> None:
        self._last = last
        self._began = self._busy = self._idle = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()
        self._idle += 0.0 if self._last.at is None else self._began - self._last.at

    def __exit__(self, *_: object) -> None:
        self._last.at = time.perf_counter()
        self._busy += self._last.at - self._began

    def take_seconds(self) -> DeviceSeconds:
        taken = DeviceSeconds(self._busy, self._idle)
        self._busy = self._idle = 0.0
        return taken


class CudaBusy:
    """By events in the stream, before and after the kernels of each block."""

    def __init__(self, last: LastEnd) -> None:
        self._last = last
        self._intervals: deque[tuple[Any, Any, Any]] = deque()  # the end of the block before, begin and end of this
        self._begin: Any = None

    def __enter__(self) -> None:
        self._begin = _recorded()

    def __exit__(self, *_: object) -> None:
        end = _recorded()
        self._intervals.append((self._last.at, self._begin, end))
        self._last.at = end

    def take_seconds(self) -> DeviceSeconds:
        busy_ms = idle_ms = 0.0
        while self._intervals and self._intervals[0][2].query():
            before, begin, end = self._intervals.popleft()
            busy_ms += begin.elapsed_time(end)
            idle_ms += 0.0 if before is None else before.elapsed_time(begin)
        return DeviceSeconds(busy_ms / 1000, idle_ms / 1000)


def _recorded() -> Any:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
