"""Calls in the background keep their order, their bounds and every exception, and end when they should."""

import threading
from collections.abc import Callable

import pytest

from pipeline.latents.background import Background

DEPTH = 3


def test_results_come_in_order_and_all_of_them() -> None:
    with Background[int]("numbers", DEPTH) as background:
        results = []
        for number in range(50):
            background.submit(lambda number=number: number)  # type: ignore[misc]
            results += background.ready()
        results += background.drain()
    assert results == list(range(50))


@pytest.mark.parametrize("threads", [1, 3])
def test_whoever_hands_over_too_much_waits(threads: int) -> None:
    gate, begun = threading.Event(), []
    with Background[None]("gated", DEPTH, threads) as background:
        for number in range(DEPTH):
            background.submit(lambda number=number: (begun.append(number), gate.wait(10))[0])  # type: ignore[misc]
        waiting = threading.Thread(target=lambda: background.submit(lambda: None), daemon=True)
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive()
        assert len(begun) <= threads
        gate.set()
        waiting.join(10)
        assert not waiting.is_alive()
        background.drain()


def test_several_threads_work_beside_each_other() -> None:
    meet = threading.Barrier(3, timeout=10)
    with Background[int]("meeting", DEPTH, 3) as background:
        for _ in range(3):
            background.submit(meet.wait)
        assert sorted(background.drain()) == [0, 1, 2]


def submit_many(background: Background[None]) -> None:
    for _ in range(DEPTH + 2):
        background.submit(lambda: None)


@pytest.mark.parametrize("use", [Background.drain, submit_many], ids=["drain", "submit"])
def test_a_failed_call_fails_the_next_use_and_what_follows_is_not_run(use: Callable[[Background[None]], None]) -> None:
    ran: list[str] = []

    def fail() -> None:
        raise KeyError("the disk is full")

    with Background[None]("failing", DEPTH) as background:
        background.submit(fail)
        background.submit(lambda: ran.append("after"))
        with pytest.raises(KeyError, match="the disk is full"):
            use(background)
    assert ran == []


def test_on_the_way_out_what_runs_is_finished_and_what_waits_is_not_begun() -> None:
    gate, ran = threading.Event(), []

    def first() -> None:
        gate.wait(10)
        ran.append("first")

    with Background[None]("leaving", DEPTH) as background:
        background.submit(first)
        background.submit(lambda: ran.append("second"))
        threading.Timer(0.05, gate.set).start()
    assert ran == ["first"]
