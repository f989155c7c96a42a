"""The seconds of a device: those in which it computes, and those between two pieces of work of any clip."""

import pytest
import torch

from encoder.device import busy
from encoder.device.busy import CudaBusy, LastEnd, busy_on
from encoder.device.seconds import DeviceSeconds
from encoder.device.simulated import Clock, SimulatedBusy, SimulatedDevice


class Now:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Now:
    now = Now()
    monkeypatch.setattr(busy.time, "perf_counter", now)
    return now


def test_a_cpu_is_idle_between_the_work_of_two_clips(now: Now) -> None:
    last = LastEnd()
    one, other = busy_on(torch.device("cpu"), last), busy_on(torch.device("cpu"), last)
    with one:
        now.seconds += 3
    now.seconds += 2
    with other:
        now.seconds += 4
    with one:
        now.seconds += 1
    assert (one.take_seconds(), other.take_seconds()) == ((4, 0), (4, 2))
    assert one.take_seconds() == (0, 0)


class Event:
    """One of CUDA, as far as it is used: `is_done` once the device has come to it."""

    def __init__(self, at_ms: float) -> None:
        self.at_ms, self.is_done = at_ms, False

    def query(self) -> bool:
        return self.is_done

    def elapsed_time(self, later: "Event") -> float:
        return later.at_ms - self.at_ms


def test_cuda_says_what_it_has_finished_and_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [Event(at_ms) for at_ms in (0, 3000, 5000, 9000)]
    coming = iter(events)
    monkeypatch.setattr(busy, "_recorded", lambda: next(coming))
    last = LastEnd()
    one, other = CudaBusy(last), CudaBusy(last)
    with one:
        pass
    with other:
        pass
    assert one.take_seconds() == other.take_seconds() == (0, 0)
    for event in events:
        event.is_done = True
    assert (one.take_seconds(), other.take_seconds()) == ((3, 0), (4, 2))


def test_a_simulated_device_is_idle_from_the_end_of_its_queue() -> None:
    now = Now()
    device = SimulatedDevice(0.5, Clock(now, lambda _: None))
    counter = SimulatedBusy(device)
    with counter:
        device.occupy(4)  # until 102
    now.seconds = 101.0
    with counter:
        device.occupy(2)  # 102 to 103
    now.seconds = 107.0
    with counter:
        device.occupy(2)
    assert counter.take_seconds() == DeviceSeconds(busy=4.0, idle=4.0)
