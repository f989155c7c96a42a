"""Bytes, times and numbers are said in the unit that a person would take."""

import pytest

from pipeline.monitor.words import duration, number, size


@pytest.mark.parametrize(
    ("size_bytes", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1410000000, "1.41 GB"), (312.4e6, "312 MB"), (2.5e15, "2,500 TB")],
)
def test_bytes_are_said_in_decimal_units(size_bytes: float, words: str) -> None:
    assert size(size_bytes) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(12.4, "12 s"), (119, "119 s"), (240, "4 min"), (12000, "3 h 20 min"), (4e6, "1,111 h 7 min")],
)
def test_times_are_said_in_seconds_minutes_or_hours(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(("value", "words"), [(0.123, "0.12"), (14.66, "14.7"), (999.6, "1,000"), (14700, "14,700")])
def test_numbers_have_about_three_digits_and_no_exponent(value: float, words: str) -> None:
    assert number(value) == words
