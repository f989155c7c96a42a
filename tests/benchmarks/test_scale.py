"""The simulated cluster: it ends, and the decisions that it is there to measure have the effect that they claim."""

import pytest

from benchmarks.scale import SLICES, Simulation, resume


@pytest.mark.parametrize("seed", range(3))
def test_helpers_shorten_the_tail_at_the_price_of_few_parts(seed: int) -> None:
    alone, helped = (Simulation(shards=200, replicas=40, helping=helping, seed=seed) for helping in (False, True))
    before, after = alone.run(), helped.run()
    tail = "tail_seconds_after_the_queue_is_dry"
    assert after[tail] < 0.7 * before[tail]
    assert after["slices_made_twice_fraction"] < 0.1
    assert helped.made >= 200 * SLICES


def test_resuming_finds_what_is_left_among_many() -> None:
    assert resume(shards=1000)["left"] == 10
