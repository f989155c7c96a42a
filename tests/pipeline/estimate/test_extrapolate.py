"""Estimates are plain sums whose error falls to nothing as more of the input is read."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.estimate.extrapolate import (
    Quantity,
    SamplePreview,
    Shape,
    ShardPreview,
    affordable,
    count_samples,
    estimate,
    shares,
    sizes_to_time,
)

WIDE: Shape = (5, 32, 48)
TALL: Shape = (9, 48, 32)
BYTES = {WIDE: 100, TALL: 300}
SECONDS = {WIDE[1:]: 0.5, TALL[1:]: 1.0}


def test_the_whole_is_the_sample_scaled() -> None:
    previewed = [
        SamplePreview((WIDE,)),
        SamplePreview((WIDE, TALL)),
        SamplePreview((), ("probe/not_a_video",)),
        SamplePreview((TALL,), ("clip/x",)),
    ]
    found = estimate(previewed, (400, False), BYTES, SECONDS)
    assert (found.previewed, found.samples, found.samples_are_counted) == (4, 400, False)
    assert (found.clips.value, found.frames.value) == (400, 2800)
    assert found.size_bytes.value == 80_000
    assert found.device_hours is not None
    assert found.device_hours.value == pytest.approx(100 * (2 * 2.5 + 2 * 9) / 3600)
    assert {shape: figure.value for shape, figure in found.buckets.items()} == {WIDE: 200, TALL: 200}
    assert found.left_out == {"clip/x": 1, "probe/not_a_video": 1}


def test_the_error_is_the_standard_error_of_the_mean() -> None:
    found = estimate([SamplePreview((WIDE,)), SamplePreview((WIDE,) * 3)], (1e9, False), BYTES, SECONDS)
    assert found.clips.error / 1e9 == pytest.approx(math.sqrt(2) / math.sqrt(2), rel=1e-6)
    assert str(Quantity(1234.5, 67.8)) == "1,234 ± 68"


def test_the_error_is_zero_where_every_sample_was_read() -> None:
    found = estimate([SamplePreview((WIDE,)), SamplePreview(())], (2, True), BYTES, SECONDS)
    assert found.clips == Quantity(1.0, 0.0)


def test_hours_are_not_known_where_a_picture_was_not_timed() -> None:
    assert estimate([SamplePreview((WIDE,))], (1, True), {WIDE: 1}, {}).device_hours is None


def test_no_sample_is_an_estimate_of_nothing() -> None:
    found = estimate([], (0, True), {}, {})
    assert (found.clips, found.size_bytes, found.device_hours) == (Quantity(0, 0),) * 3


@pytest.mark.parametrize(
    ("shards", "left", "known", "samples"),
    [
        ([ShardPreview((SamplePreview(()),) * 4, 400, None)], 3, None, (120.0, False)),
        (
            [ShardPreview((SamplePreview(()),) * 4, 400, 4), ShardPreview((SamplePreview(()),), 9, 1)],
            2,
            None,
            (5, True),
        ),
        ([ShardPreview((SamplePreview(()),), 1, None)], 3, 77, (77, True)),
        ([], 3, None, (0.0, False)),
        ([ShardPreview((), 0, 0)], 1, None, (0, True)),
    ],
)
def test_samples_are_counted_where_that_is_possible(
    shards: list[ShardPreview], left: int, known: int | None, samples: tuple[float, bool]
) -> None:
    assert count_samples(shards, left, 12_000, known) == samples


@given(st.integers(1, 50), st.integers(1, 50))
def test_shares_add_up(count: int, among: int) -> None:
    dealt = shares(count, among)
    assert (sum(dealt), max(dealt) - min(dealt) <= 1) == (count, True)


@pytest.mark.parametrize("shape", [(49, 480, 720), (5, 32, 48), (1, 8, 8), (9, 16, 400)])
def test_what_is_timed_grows_to_the_clip_itself_and_can_be_encoded(shape: Shape) -> None:
    sizes = sizes_to_time(shape, min(9, shape[0]), 8)
    assert sizes[-1] == shape
    assert [math.prod(size) for size in sizes] == sorted(math.prod(size) for size in sizes)
    assert all(side_px % 8 == 0 and side_px >= 8 for _, *sides in sizes for side_px in sides)


def test_time_grows_with_pixels() -> None:
    assert affordable((9, 16, 16), 1.0, (9, 32, 32), 4.0)
    assert not affordable((9, 16, 16), 1.0, (9, 32, 32), 3.9)
