"""A simulated device: a queue with one server that is busy for a set time per frame and computes nothing.

It works without torch; encoder/simulated.py makes an encoder of it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from encoder.device.seconds import DeviceSeconds


class ServiceRecord(NamedTuple):
    """The frames of one piece of work, and when the device served it, in seconds of its clock."""

    begin: float
    end: float
    frames: int


def read_service_records(folder: Path) -> list[ServiceRecord]:
    """The records that all devices wrote to a folder, sorted by their ends."""
    lines = [line.split() for file in folder.iterdir() for line in file.read_text().splitlines()]
    records = [ServiceRecord(float(begin), float(end), int(frames)) for begin, end, frames in lines]
    return sorted(records, key=lambda record: record.end)


@dataclass(frozen=True, slots=True)
class Clock:
    """A monotonic clock and a way to sleep; tests replace both."""

    now_seconds: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class SimulatedDevice:
    """A queue with one server: work is accepted at once and served in order of arrival.

    The device appends a `ServiceRecord` for each piece of work to the file `record`, so that a measurement does not
    rely on what its user reports.
    """

    def __init__(self, seconds_per_frame: float, clock: Clock | None = None, record: Path | None = None) -> None:
        self._seconds_per_frame, self._clock, self._record = seconds_per_frame, clock or Clock(), record
        self._accepted_seconds = self._idle_seconds = self._free_at = 0.0
        self._lock = Lock()

    def occupy(self, frames: int) -> float:
        """Queues work on `frames` frames; returns the time at which it will be done."""
        with self._lock:
            begin = max(self._clock.now_seconds(), self._free_at)
            self._idle_seconds += begin - self._free_at if self._free_at else 0.0
            self._free_at = begin + frames * self._seconds_per_frame
            self._accepted_seconds += self._free_at - begin
            if self._record:
                with self._record.open("a") as file:
                    file.write(f"{begin!r} {self._free_at!r} {frames}\n")
            return self._free_at

    def wait_until(self, done_at: float) -> None:
        """Blocks until the clock reaches `done_at`."""
        while (left_seconds := done_at - self._clock.now_seconds()) > 0:
            self._clock.sleep(left_seconds)

    @property
    def accepted_seconds(self) -> float:
        """Seconds of all the work accepted so far, served or still queued."""
        with self._lock:
            return self._accepted_seconds

    @property
    def idle_seconds(self) -> float:
        """Seconds without work since the first was accepted, up to the last."""
        with self._lock:
            return self._idle_seconds

    @property
    def busy_seconds(self) -> float:
        """Seconds spent serving until now; the device is never idle while work is queued."""
        with self._lock:
            return self._accepted_seconds - max(0.0, self._free_at - self._clock.now_seconds())


class SimulatedBusy:
    """A `Busy` counter: the seconds of the work that the device accepted inside the `with` blocks."""

    def __init__(self, device: SimulatedDevice) -> None:
        self._device = device
        self._before = self._counted = DeviceSeconds(0.0, 0.0)

    def __enter__(self) -> None:
        self._before = self._now()

    def __exit__(self, *_: object) -> None:
        now, counted = self._now(), self._counted
        self._counted = DeviceSeconds(
            counted.busy + now.busy - self._before.busy, counted.idle + now.idle - self._before.idle
        )

    def take_seconds(self) -> DeviceSeconds:
        taken, self._counted = self._counted, DeviceSeconds(0.0, 0.0)
        return taken

    def _now(self) -> DeviceSeconds:
        return DeviceSeconds(self._device.accepted_seconds, self._device.idle_seconds)
