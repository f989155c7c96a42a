"""Items that are looked at lie evenly spread, over all there are."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipeline.spread import evenly


@given(st.integers(0, 50), st.integers(0, 50))
def test_gaps_are_equal_but_for_rounding(count: int, among: int) -> None:
    chosen = evenly(range(among), count)
    assert len(set(chosen)) == len(chosen) == min(count, among)
    steps = [after - before for before, after in pairwise([*chosen, among])] if chosen else [0]
    assert max(steps) - min(steps) <= 1


def test_the_end_is_reached_where_nearly_all_are_taken() -> None:
    assert evenly("abcdefghijklmno", 10) == list("abdeghjkmn")
