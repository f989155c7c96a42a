"""A device that works for as long as it is told to, and nothing else: one server, a queue, and its own count.

It knows no tensors: encoder/simulated.py makes an encoder of it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import NamedTuple


class Service(NamedTuple):
    """When one piece of work is served, in seconds of the device's clock, and its frames."""

    begin: float
    end: float
    frames: int


def read_records(folder: Path) -> list[Service]:
    """What all devices noted in a folder, by their ends."""
    lines = [line.split() for file in folder.iterdir() for line in file.read_text().splitlines()]
    services = [Service(float(begin), float(end), int(frames)) for begin, end, frames in lines]
    return sorted(services, key=lambda service: service.end)


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds that only grow, and a pause."""

    now_seconds: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class SimulatedDevice:
    """A queue with one server: work is accepted at once and served in the order in which it came.

    `record`, a file, gets a line for each piece of work (`Service`): whoever measures reads what the device did, not
    what its user says.
    """

    def __init__(self, seconds_per_frame: float, clock: Clock | None = None, record: Path | None = None) -> None:
        self._seconds_per_frame, self._clock, self._record = seconds_per_frame, clock or Clock(), record
        self._accepted_seconds = self._free_at = 0.0
        self._lock = Lock()

    def occupy(self, frames: int) -> float:
        """Queues work on so many frames; returns when it will be done."""
        with self._lock:
            begin = max(self._clock.now_seconds(), self._free_at)
            self._free_at = begin + frames * self._seconds_per_frame
            self._accepted_seconds += self._free_at - begin
            if self._record:
                with self._record.open("a") as file:
                    file.write(f"{begin!r} {self._free_at!r} {frames}\n")
            return self._free_at

    def wait_until(self, done_at: float) -> None:
        """Returns when the clock says `done_at`."""
        while (left_seconds := done_at - self._clock.now_seconds()) > 0:
            self._clock.sleep(left_seconds)

    @property
    def accepted_seconds(self) -> float:
        """Seconds of all the work that it was given, served or not."""
        with self._lock:
            return self._accepted_seconds

    @property
    def busy_seconds(self) -> float:
        """Seconds in which it has served until now; it is never idle while work is queued."""
        with self._lock:
            return self._accepted_seconds - max(0.0, self._free_at - self._clock.now_seconds())


class SimulatedBusy:
    """Counts the seconds of the work that a device was given between `with` and its end."""

    def __init__(self, device: SimulatedDevice) -> None:
        self._device = device
        self._before = self._seconds = 0.0

    def __enter__(self) -> None:
        self._before = self._device.accepted_seconds

    def __exit__(self, *_: object) -> None:
        self._seconds += self._device.accepted_seconds - self._before

    def take_seconds(self) -> float:
        taken, self._seconds = self._seconds, 0.0
        return taken
