"""Reading ahead and writing behind keep their order, their bounds and every exception, and end when they should."""

import threading
from collections.abc import Callable, Iterator

import pytest

from pipeline.latents.background import WriteBehind, read_ahead

DEPTH = 3


def threads_named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


def test_items_come_in_order_and_end() -> None:
    assert list(read_ahead(iter(range(100)), DEPTH)) == list(range(100))
    assert list(read_ahead(iter(()), DEPTH)) == []
    assert not threads_named("read-ahead")


def test_the_reader_goes_ahead_and_no_further_than_asked() -> None:
    made, one_more = [], threading.Semaphore(0)

    def items() -> Iterator[int]:
        for number in range(50):
            made.append(number)
            one_more.release()
            yield number

    reader = read_ahead(items(), DEPTH)
    for taken in range(1, 50 - DEPTH):
        next(reader)
        for _ in range(DEPTH + 2 if taken == 1 else 1):
            one_more.acquire()
        assert len(made) == taken + DEPTH + 1  # those that wait, and the one in its hands
    assert len(list(reader)) == DEPTH + 1


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_exception_of_the_reader_arrives_in_its_place(kind: type[BaseException]) -> None:
    def items() -> Iterator[int]:
        yield from (1, 2)
        raise kind("broken")

    ahead = read_ahead(items(), DEPTH)
    assert (next(ahead), next(ahead)) == (1, 2)
    with pytest.raises(kind, match="broken"):
        next(ahead)
    assert not threads_named("read-ahead")


def test_the_reader_ends_when_the_consumer_stops() -> None:
    read = []

    def items() -> Iterator[int]:
        for number in range(1_000_000):
            read.append(number)
            yield number

    ahead = read_ahead(items(), DEPTH)
    assert next(ahead) == 0
    ahead.close()
    assert not threads_named("read-ahead")
    assert len(read) < 1_000_000


def test_calls_run_one_after_the_other_in_the_order_given() -> None:
    running, done = threading.Lock(), []

    def call(number: int) -> int:
        assert running.acquire(blocking=False)
        done.append(number)
        running.release()
        return number

    with WriteBehind[int](DEPTH) as behind:
        ready = [result for number in range(50) for result in behind.submit(lambda number=number: call(number))]
        ready += behind.drain()
    assert ready == done == list(range(50))
    assert not threads_named("write-behind")


def test_no_more_than_asked_wait() -> None:
    gate = threading.Event()
    with WriteBehind[bool](DEPTH) as behind:
        for _ in range(DEPTH):
            assert behind.submit(gate.wait) == []
        threading.Timer(0.05, gate.set).start()
        assert len(behind.submit(gate.wait)) >= 1  # it had to wait for the first


def submit_many(behind: WriteBehind[None]) -> None:
    for _ in range(DEPTH + 1):
        behind.submit(lambda: None)


@pytest.mark.parametrize("use", [WriteBehind.drain, submit_many])
def test_a_failed_call_fails_the_next_use_and_what_follows_is_not_run(use: Callable[[WriteBehind[None]], None]) -> None:
    gate, done = threading.Event(), []

    def fail() -> None:
        gate.wait()
        raise ValueError("disk full")

    with WriteBehind[None](DEPTH) as behind:
        behind.submit(fail)
        behind.submit(lambda: done.append("committed"))
        gate.set()
        for _ in range(2):
            with pytest.raises(ValueError, match="disk full"):
                use(behind)
    assert done == []


def test_what_waits_is_dropped_when_the_consumer_fails() -> None:
    gate, done = threading.Event(), []

    def consume() -> None:
        with WriteBehind[None](DEPTH) as behind:
            behind.submit(lambda: gate.wait() and None)
            behind.submit(lambda: done.append("written"))
            threading.Timer(0.05, gate.set).start()
            raise ValueError("stopped")

    with pytest.raises(ValueError, match="stopped"):
        consume()
    assert done == []
    assert not threads_named("write-behind")
