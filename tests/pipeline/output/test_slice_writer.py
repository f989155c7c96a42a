"""A slice is published whole or not at all, and whoever finishes it writes the same bytes."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from support.makers import (
    PART_SAMPLES,
    TALL,
    TALL_BUCKET,
    TOO_SHORT,
    WIDE,
    WIDE_BUCKET,
    Shape,
    fill_slice,
    made_ledger,
    made_row,
    made_sample,
)
from support.runs import output_files

from pipeline.errors import Reason, ShardError, TransientError
from pipeline.output.accounts import record_from_json
from pipeline.output.ledger import ShardLedger
from pipeline.output.parts import read_footer, read_rows
from pipeline.output.paths import part_path, rejects_path
from pipeline.output.slice_writer import SliceWriter, bucket_of
from pipeline.storage.store import Store

SHAPES: tuple[Shape | None, ...] = (WIDE, TALL, None)
WIDE_PART, TALL_PART = (part_path("videos", 0, bucket) for bucket in (WIDE_BUCKET, TALL_BUCKET))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out"))


def ids(part: bytes) -> list[str]:
    return [row["id"] for row in read_rows(io.BytesIO(part))]


def again(store: Store) -> ShardLedger:
    """The ledger of a later process: it knows the buckets that are there by now."""
    return made_ledger(store)


def test_a_bucket_is_named_by_its_latent() -> None:
    assert bucket_of((16, 13, 60, 90)) == "16x13x60x90"


def test_a_commit_writes_a_part_for_each_bucket_with_the_account_of_the_whole_slice(store: Store) -> None:
    committed = fill_slice(made_ledger(store), SHAPES).commit()
    files = output_files(Path(store.root))
    assert {path: ids(part) for path, part in files.items()} == {
        WIDE_PART: ["videos/clip-000"],
        TALL_PART: ["videos/clip-001"],
    }
    for part in files.values():
        record = record_from_json(read_footer(io.BytesIO(part))["slice"])
        assert record == committed.record
        assert record.clips == {WIDE_BUCKET: ((0, 0),), TALL_BUCKET: ((1, 0),)}
        assert [(reject.sample_index, reject.why.reason) for reject in record.rejects] == [(2, "too_short")]
    assert {part.bucket: part.rows for part in committed.parts} == {WIDE_BUCKET: 1, TALL_BUCKET: 1}
    assert again(store).slice_of(0) == committed


def test_a_slice_of_nothing_but_rejects_keeps_its_account_in_a_file_of_its_own(store: Store) -> None:
    committed = fill_slice(made_ledger(store), (None, None)).commit()
    files = output_files(Path(store.root))
    assert list(files) == [rejects_path("videos", 0)]
    assert record_from_json(json.loads(files[rejects_path("videos", 0)])["slice"]) == committed.record
    assert again(store).slice_of(0) == committed
    assert [reject.key for reject in committed.record.rejects] == ["clip-000", "clip-001"]


def test_nothing_is_published_before_the_commit(store: Store) -> None:
    writer = fill_slice(made_ledger(store), SHAPES)
    assert not Path(store.root).exists()
    writer.close()
    assert not Path(store.root).exists()


@pytest.mark.parametrize("lost", [WIDE_PART, TALL_PART])
def test_a_begun_slice_is_finished_with_the_bytes_of_an_undisturbed_one(store: Store, lost: str) -> None:
    undisturbed = fill_slice(made_ledger(store), SHAPES).commit()
    expected = output_files(Path(store.root))
    (Path(store.root) / lost).unlink()
    begun = again(store).slice_of(0)
    assert begun is not None
    assert [part_path("videos", 0, bucket) for bucket in begun.missing_buckets] == [lost]
    finished = fill_slice(again(store), SHAPES, begun=begun).commit()
    assert output_files(Path(store.root)) == expected
    assert finished.record == undisturbed.record
    assert finished.parts == undisturbed.parts


def test_only_samples_of_missing_buckets_are_wanted_and_others_are_not_written_twice(store: Store) -> None:
    fill_slice(made_ledger(store), SHAPES).commit()
    (Path(store.root) / TALL_PART).unlink()
    writer = SliceWriter(again(store), 0, 0, "moments", "float32", begun=again(store).slice_of(0))
    assert [writer.wanted(index) for index in range(3)] == [False, True, False]
    for row in (made_row(0), made_row(1, shape=TALL), made_row(2)):
        writer.counts.add(row.sample)
        writer.add(row)  # a decoder that was begun for all of them
    committed = writer.commit()
    assert committed.record.clips == {WIDE_BUCKET: ((0, 0),), TALL_BUCKET: ((1, 0),)}
    assert [part.path for part in committed.parts] == [WIDE_PART, TALL_PART]


def test_every_sample_of_a_slice_that_is_not_begun_is_wanted(store: Store) -> None:
    assert SliceWriter(made_ledger(store), 0, 0, "moments", "float32").wanted(41)


def test_a_reject_given_twice_counts_once(store: Store) -> None:
    writer = fill_slice(made_ledger(store), (WIDE, None))
    writer.reject(made_sample(1), -1, Reason("decode", "timeout", "later words"))
    assert len(writer.commit().record.rejects) == 1


def test_a_sample_can_have_a_row_and_a_reject_of_different_windows(store: Store) -> None:
    writer = fill_slice(made_ledger(store), (WIDE,))
    writer.reject(made_sample(0), 1, TOO_SHORT)
    record = writer.commit().record
    assert (record.clips, [reject.window_index for reject in record.rejects]) == ({WIDE_BUCKET: ((0, 0),)}, [1])


@pytest.mark.parametrize(
    ("dtype", "value", "reason"), [("float32", np.nan, "non_finite"), ("float16", 1e6, "out_of_range")]
)
def test_a_row_that_cannot_be_stored_is_a_reject(store: Store, dtype: str, value: float, reason: str) -> None:
    writer = SliceWriter(made_ledger(store), 0, 0, "moments", dtype)  # type: ignore[arg-type]
    for row in (made_row(0), made_row(1, logvar=np.full(WIDE, value, np.float32))):
        writer.counts.add(row.sample)
        writer.add(row)
    record = writer.commit().record
    assert record.clips == {WIDE_BUCKET: ((0, 0),)}
    (reject,) = record.rejects
    assert (reject.sample_index, reject.window_index, reject.why.reason) == (1, 0, reason)


def test_the_detail_of_a_reject_is_cut(store: Store) -> None:
    writer = fill_slice(made_ledger(store), ())
    writer.counts.add(made_sample(0))
    writer.reject(made_sample(0), -1, Reason("decode", "decoder_error", "x" * 10_000))
    assert len(writer.commit().record.rejects[0].why.detail) == 500


def test_a_slice_that_does_not_account_for_every_sample_is_not_published(store: Store) -> None:
    writer = fill_slice(made_ledger(store), SHAPES)
    writer.counts.add(made_sample(3))
    with pytest.raises(ShardError, match="slice 0 accounts for 3 of 4 samples"):
        writer.commit()
    writer.close()
    assert output_files(Path(store.root)) == {}


def test_the_part_of_the_writer_that_was_first_stands_with_its_account_and_statistics(store: Store) -> None:
    first = fill_slice(made_ledger(store), (WIDE, WIDE, None))
    second = fill_slice(made_ledger(store), (WIDE, None, None))
    expected = first.commit()
    before = output_files(Path(store.root))
    found = second.commit()
    assert output_files(Path(store.root)) == before
    assert found == expected  # the second's reject of sample 1 falls: a part holds its row


def test_two_writers_who_saw_different_faults_agree_in_the_end(store: Store) -> None:
    crashed = fill_slice(made_ledger(store), (WIDE, None, None))  # rejects sample 1 whole
    whole = fill_slice(made_ledger(store), SHAPES)
    crashed.commit()
    committed = whole.commit()
    assert committed.record.clips == {WIDE_BUCKET: ((0, 0),), TALL_BUCKET: ((1, 0),)}
    assert [reject.sample_index for reject in committed.record.rejects] == [2]
    assert again(store).slice_of(0) == committed


def test_clips_that_another_writer_has_on_record_are_waited_for(store: Store) -> None:
    other = fill_slice(made_ledger(store), SHAPES)
    ours = fill_slice(made_ledger(store), (WIDE, WIDE, None))
    other.commit()
    (Path(store.root) / TALL_PART).unlink()  # it died before this part
    with pytest.raises(TransientError, match="another writer has begun slice 0"):
        ours.commit()


def test_a_record_adds_up_the_samples_of_its_slice(store: Store) -> None:
    writer = SliceWriter(made_ledger(store), 4, 4 * PART_SAMPLES, "moments", "float32")
    for sample in (made_sample(12, ignored_files=2), made_sample(13, ignored_files=1, last=True)):
        writer.counts.add(sample)
        writer.reject(sample, -1, TOO_SHORT)
    record = writer.commit().record
    assert (record.index, record.samples, record.ignored_files) == (4, 2, 3)
    assert (record.next_position, record.last) == (14 * 1024, True)
    assert [(reject.key, reject.sample_index) for reject in record.rejects] == [("clip-012", 12), ("clip-013", 13)]
