"""Statistics of latents are those of all values, however they are merged, and come back through JSON."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from support.makers import made_latent

from pipeline.output.statistics import (
    LatentStatistics,
    channels,
    merged,
    statistics_from_json,
    statistics_of,
    statistics_to_json,
)
from pipeline.records import FloatLatent

LATENTS = st.lists(npst.arrays(np.float32, (2, 1, 1, 3), elements=st.floats(-100, 100, width=32)), min_size=1)


def of_all(latents: list[FloatLatent]) -> LatentStatistics:
    total = LatentStatistics()
    for latent in latents:
        total = merged(total, statistics_of(latent))
    return total


@given(LATENTS, st.data())
def test_merged_statistics_are_those_of_all_values(latents: list[FloatLatent], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(latents)))
    flat = np.concatenate([latent.reshape(2, -1) for latent in latents], axis=1).astype(np.float64)
    for found in (merged(of_all(latents[:cut]), of_all(latents[cut:])), of_all(latents)):
        assert found.count == flat.shape[1]
        np.testing.assert_allclose(found.sum, flat.sum(1), atol=1e-6)
        np.testing.assert_allclose(found.sum_squares, (flat**2).sum(1), atol=1e-6)
        assert (found.min, found.max) == (tuple(flat.min(1)), tuple(flat.max(1)))


def test_merging_with_nothing_changes_nothing() -> None:
    some, nothing = statistics_of(made_latent(1)), LatentStatistics()
    assert merged(nothing, nothing) == nothing
    assert merged(some, nothing) == merged(nothing, some) == some


def test_statistics_come_back_through_json() -> None:
    for statistics in (statistics_of(made_latent(1)), LatentStatistics()):
        assert statistics_from_json(json.loads(json.dumps(statistics_to_json(statistics)))) == statistics
    assert statistics_to_json(LatentStatistics()) == {}
    assert list(statistics_to_json(statistics_of(made_latent(1)))) == ["count", "sum", "sum_squares", "min", "max"]


def test_a_channel_has_its_mean_deviation_and_range() -> None:
    latent = made_latent(1)
    expected = [(channel.mean(), channel.std(), channel.min(), channel.max()) for channel in latent.astype(np.float64)]
    np.testing.assert_allclose(list(channels(statistics_of(latent))), expected)
    assert list(channels(LatentStatistics())) == []
