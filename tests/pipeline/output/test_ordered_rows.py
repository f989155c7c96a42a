"""Rows come in any order and leave in one, as early as their samples allow."""

import random
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.output.ordered_rows import OrderedRows

Passed = list[tuple[str, int, int]]


@pytest.fixture
def passed() -> Passed:
    return []


@pytest.fixture
def rows(passed: Passed) -> Iterator[OrderedRows]:
    def write(bucket: str, values: Any) -> None:
        passed.append((bucket, values["sample_index"], values["window_index"]))

    ordered = OrderedRows(10, write)
    yield ordered
    ordered.close()


def add(rows: OrderedRows, sample_index: int, window_index: int = 0, bucket: str = "wide") -> None:
    values = {"sample_index": sample_index, "window_index": window_index}
    rows.add(bucket, values)


def test_a_row_leaves_when_its_sample_and_all_before_it_have_ended(rows: OrderedRows, passed: Passed) -> None:
    add(rows, 11)
    rows.end(11)
    assert passed == []
    add(rows, 10)
    assert passed == []
    rows.end(10)
    assert passed == [("wide", 10, 0), ("wide", 11, 0)]


def test_windows_of_a_sample_leave_in_order_whatever_their_bucket(rows: OrderedRows, passed: Passed) -> None:
    add(rows, 10, 2, "tall")
    add(rows, 10, 0, "wide")
    add(rows, 10, 1, "tall")
    rows.end(10)
    assert passed == [("wide", 10, 0), ("tall", 10, 1), ("tall", 10, 2)]


def test_a_sample_without_rows_holds_nothing_up(rows: OrderedRows, passed: Passed) -> None:
    rows.end(10)
    add(rows, 11)
    rows.end(11)
    assert passed == [("wide", 11, 0)]


def test_every_order_of_coming_is_one_order_of_leaving(rows: OrderedRows, passed: Passed) -> None:
    places = [(sample, window) for sample in range(10, 30) for window in range(3)]
    random.Random(0).shuffle(places)
    for sample, window in places:
        add(rows, sample, window)
    for sample in sorted(range(10, 29), key=lambda sample: sample * 7 % 19):
        rows.end(sample)
    assert passed == [("wide", sample, window) for sample in range(10, 29) for window in range(3)]
    rows.end_all()
    assert passed == [("wide", *place) for place in sorted(places)]


def test_what_nobody_waits_for_takes_no_disk(rows: OrderedRows, passed: Passed) -> None:
    add(rows, 10)
    add(rows, 12)
    rows.end(10)
    assert rows._file is not None
    assert rows._file.seek(0, 2) > 0, "the other row still waits"
    rows.end(11)
    rows.end(12)
    assert rows._file.seek(0, 2) == 0
    add(rows, 13)
    rows.end(13)
    assert passed == [("wide", number, 0) for number in (10, 12, 13)]
