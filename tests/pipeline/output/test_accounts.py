"""Records of one slice by several writers become one, in which each sample is a row or a reject."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.makers import TALL_BUCKET, WIDE_BUCKET, made_record, made_reject

from pipeline.output.accounts import (
    SliceNumbers,
    SliceRecord,
    merge_records,
    record_from_json,
    record_to_json,
    slice_numbers,
)

A, B = WIDE_BUCKET, TALL_BUCKET


def test_a_single_record_is_kept_as_it_is() -> None:
    record = made_record({A: ((0, 0),), B: ((1, 0),)}, made_reject(2))
    assert merge_records({A: record}) == record
    assert merge_records({}, [record]) == record


def test_a_reject_is_dropped_where_a_part_holds_the_row() -> None:
    slow, later = made_record({A: ((0, 0),)}, made_reject(1, 0), made_reject(2)), made_record({A: ((0, 0), (1, 0))})
    merged = merge_records({A: later}, [slow])
    assert merged.clips == {A: ((0, 0), (1, 0))}
    assert [reject.sample_index for reject in merged.rejects] == [2]


def test_a_reject_of_a_whole_sample_is_dropped_where_a_part_holds_any_row_of_it() -> None:
    crashed, later = made_record({A: ((0, 0),)}, made_reject(1)), made_record({B: ((1, 0), (1, 1))})
    assert merge_records({A: crashed, B: later}).rejects == ()


def test_the_record_of_a_part_decides_its_rows() -> None:
    mine, theirs = made_record({A: ((0, 0),)}, made_reject(1)), made_record({A: ((0, 0), (1, 0))})
    merged = merge_records({A: mine}, [theirs])
    assert (merged.clips, [reject.sample_index for reject in merged.rejects]) == ({A: ((0, 0),)}, [1])


def test_a_bucket_without_a_part_keeps_the_clips_that_any_record_claims() -> None:
    first, second = made_record({A: ((0, 0),), B: ((1, 0),)}), made_record({A: ((0, 0),), B: ((2, 0),)})
    assert merge_records({A: first}, [second]).clips == {A: ((0, 0),), B: ((1, 0), (2, 0))}


@pytest.mark.parametrize("window_index", [0, -1])
def test_a_claimed_clip_that_another_writer_rejected_is_no_longer_awaited(window_index: int) -> None:
    claims = made_record({A: ((0, 0),), B: ((1, 0),)})
    gave_up = made_record({A: ((0, 0),)}, made_reject(1, window_index))
    merged = merge_records({A: claims}, [gave_up])
    assert (merged.clips, [reject.sample_index for reject in merged.rejects]) == ({A: ((0, 0),)}, [1])


def test_a_slice_without_a_record_was_not_begun() -> None:
    with pytest.raises(AssertionError, match="not begun"):
        merge_records({})


@st.composite
def accounts(draw: st.DrawFn) -> tuple[dict[str, SliceRecord], list[SliceRecord]]:
    """Accounts of five samples by several writers, of whom each gave up on other samples."""
    buckets = draw(st.lists(st.sampled_from([A, B]), min_size=5, max_size=5))
    faults = st.dictionaries(st.integers(0, 4), st.sampled_from([0, -1]))
    records = []
    for given_up in draw(st.lists(faults, min_size=1, max_size=4)):
        clips = {
            bucket: tuple((i, 0) for i in range(5) if buckets[i] == bucket and i not in given_up) for bucket in (A, B)
        }
        rejects = [made_reject(sample, window) for sample, window in sorted(given_up.items())]
        records.append(made_record({bucket: pairs for bucket, pairs in clips.items() if pairs}, *rejects))
    writers = {bucket: [record for record in records if bucket in record.clips] for bucket in (A, B)}
    own = {bucket: draw(st.sampled_from(of)) for bucket, of in writers.items() if of and draw(st.booleans())}
    return own, records


@given(accounts())
def test_whatever_writers_saw_each_sample_is_a_row_or_a_reject_and_not_both(
    found: tuple[dict[str, SliceRecord], list[SliceRecord]],
) -> None:
    merged = merge_records(*found)
    rows = [sample for pairs in merged.clips.values() for sample, _ in pairs]
    assert sorted(rows + sorted({reject.sample_index for reject in merged.rejects})) == list(range(5))
    assert all(merged.clips[bucket] == record.clips[bucket] for bucket, record in found[0].items())


def test_a_record_comes_back_through_json() -> None:
    record = made_record({"1x1x1x1": ((0, 0), (0, 1)), "2x2x2x2": ((1, 0),)}, made_reject(2), made_reject(1, 1))
    assert record_from_json(json.loads(json.dumps(record_to_json(record)))) == record
    keys = {"index", "samples", "next_offset_bytes", "last", "ignored_files", "clips", "rejects"}
    keys |= {"keys", "without_caption", "losses"}
    assert record_to_json(record).keys() == keys


@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 99))
def test_a_sample_is_in_the_slices_that_hold_it_one_for_each_segment(
    part_samples: int, segments: int, sample: int
) -> None:
    numbers = SliceNumbers(part_samples, segments)
    slices = numbers.slices(sample)
    assert [numbers.segment(index) for index in slices] == list(range(segments))
    assert all(sample in numbers.samples(index) for index in slices)
    assert sample not in numbers.samples(slices.stop)


def test_the_identity_of_an_older_run_has_one_segment() -> None:
    assert slice_numbers({"output": {"part_samples": 64}}) == SliceNumbers(64, 1)
    assert slice_numbers({"output": {"part_samples": 64}, "clip": {"segments": 2}}) == SliceNumbers(64, 2)
