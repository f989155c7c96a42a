"""A simulated device serves one piece of work after the other, and counts exactly when it did."""

from pathlib import Path

import pytest

from encoder.device.simulated import Clock, ServiceRecord, SimulatedDevice, read_service_records


class Time:
    """A clock that moves when somebody sleeps, or is told to."""

    def __init__(self) -> None:
        self.now, self.slept = 100.0, list[float]()

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now, self.sleep)


def test_work_is_accepted_at_once_and_served_in_turn() -> None:
    time = Time()
    device = SimulatedDevice(0.5, time.clock)
    assert [device.occupy(frames) for frames in (9, 8, 1)] == [104.5, 108.5, 109.0]
    assert time.slept == []


def test_who_waits_sleeps_once_until_his_work_is_done() -> None:
    time = Time()
    device = SimulatedDevice(0.5, time.clock)
    first, second = device.occupy(2), device.occupy(4)
    device.wait_until(second)
    device.wait_until(first)
    assert time.slept == [3.0]


def test_busy_seconds_leave_out_what_is_queued_and_the_time_between() -> None:
    time = Time()
    device = SimulatedDevice(0.5, time.clock)
    assert device.busy_seconds == 0
    device.occupy(4)
    device.occupy(4)
    assert device.busy_seconds == 0
    time.now += 3
    assert device.busy_seconds == 3
    time.now += 7
    assert device.busy_seconds == 4
    device.occupy(2)
    time.now += 0.25
    assert device.busy_seconds == 4.25


def test_its_record_tells_when_it_served_what(tmp_path: Path) -> None:
    time = Time()
    for name, frames in (("a", 3), ("b", 1)):
        device = SimulatedDevice(0.5, time.clock, tmp_path / name)
        device.occupy(frames)
        device.occupy(frames)
    assert read_service_records(tmp_path) == [
        ServiceRecord(100.0, 100.5, 1),
        ServiceRecord(100.5, 101.0, 1),
        ServiceRecord(100.0, 101.5, 3),
        ServiceRecord(101.5, 103.0, 3),
    ]


def test_a_device_that_takes_no_time_is_never_waited_for() -> None:
    time = Time()
    device = SimulatedDevice(0.0, time.clock)
    device.wait_until(device.occupy(49))
    assert (time.slept, device.busy_seconds) == ([], pytest.approx(0))
