"""What storage says of a shard is taken as it is, refused where it is another's, and never replaced."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.makers import (
    FINGERPRINT,
    SLICES,
    TALL_BUCKET,
    WIDE,
    WIDE_BUCKET,
    commit_shard,
    fill_slice,
    made_ledger,
    made_record,
    made_reject,
    made_row,
    numbers,
)
from support.runs import output_files

from pipeline.errors import ShardError
from pipeline.output.ledger import (
    bucket_names,
    done_shards,
    manifest_path,
    merge_records,
    part_path,
    rejects_path,
    slice_of_file,
)
from pipeline.output.parts import ChannelStatistics, PartWriter, record_to_json, row_values, sha256_of
from pipeline.records import CommittedSlice, FileInfo, SliceRecord
from pipeline.storage.store import Store

A, B = WIDE_BUCKET, TALL_BUCKET
PART = part_path("videos", 0, WIDE_BUCKET)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out"))


def test_one_account_is_taken_as_it_is() -> None:
    record = made_record({A: ((0, 0),), B: ((1, 0),)}, made_reject(2))
    assert merge_records({A: record}) == record
    assert merge_records({}, [record]) == record


def test_a_reject_falls_where_a_part_holds_the_row_after_all() -> None:
    slow, later = made_record({A: ((0, 0),)}, made_reject(1, 0), made_reject(2)), made_record({A: ((0, 0), (1, 0))})
    merged = merge_records({A: later}, [slow])
    assert merged.clips == {A: ((0, 0), (1, 0))}
    assert [reject.sample_index for reject in merged.rejects] == [2]


def test_a_reject_of_a_whole_sample_falls_where_a_part_holds_any_row_of_it() -> None:
    crashed, later = made_record({A: ((0, 0),)}, made_reject(1)), made_record({B: ((1, 0), (1, 1))})
    assert merge_records({A: crashed, B: later}).rejects == ()


def test_the_record_of_a_part_decides_its_rows() -> None:
    mine, theirs = made_record({A: ((0, 0),)}, made_reject(1)), made_record({A: ((0, 0), (1, 0))})
    merged = merge_records({A: mine}, [theirs])
    assert (merged.clips, [reject.sample_index for reject in merged.rejects]) == ({A: ((0, 0),)}, [1])


def test_a_bucket_without_a_part_keeps_the_clips_that_any_account_claims() -> None:
    first, second = made_record({A: ((0, 0),), B: ((1, 0),)}), made_record({A: ((0, 0),), B: ((2, 0),)})
    assert merge_records({A: first}, [second]).clips == {A: ((0, 0),), B: ((1, 0), (2, 0))}


@pytest.mark.parametrize("window_index", [0, -1])
def test_a_claimed_clip_that_another_writer_rejected_is_no_longer_awaited(window_index: int) -> None:
    claims = made_record({A: ((0, 0),), B: ((1, 0),)})
    gave_up = made_record({A: ((0, 0),)}, made_reject(1, window_index))
    merged = merge_records({A: claims}, [gave_up])
    assert (merged.clips, [reject.sample_index for reject in merged.rejects]) == ({A: ((0, 0),)}, [1])


def test_a_slice_without_any_account_is_not_begun() -> None:
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


def test_a_slice_that_nobody_began_is_not_there(store: Store) -> None:
    assert made_ledger(store).slice_of(0) is None
    assert made_ledger(store, buckets=(A, B)).slice_of(0) is None


def test_a_reject_file_beside_a_part_adds_its_rejects(store: Store) -> None:
    fill_slice(made_ledger(store), (WIDE, WIDE, None)).commit()
    made_ledger(store).commit_rejects(made_record({}, made_reject(0), made_reject(1), made_reject(2, reason="timeout")))
    found = made_ledger(store).slice_of(0)
    assert found is not None
    assert found.record.clips == {A: ((0, 0), (1, 0))}
    assert [(reject.sample_index, reject.why.reason) for reject in found.record.rejects] == [(2, "timeout")]


@pytest.mark.parametrize(
    "changes",
    [
        {"description": {"fingerprint": "e" * 64}},
        {"input": FileInfo(4097, "tag")},
        {"input": FileInfo(4096, "other tag")},
    ],
    ids=["fingerprint", "input size", "input etag"],
)
@pytest.mark.parametrize("shapes", [(WIDE,), (None,)], ids=["part", "reject file"])
def test_what_was_made_from_something_else_is_refused(
    store: Store, shapes: tuple[None, ...], changes: dict[str, dict[str, str]]
) -> None:
    fill_slice(made_ledger(store), shapes).commit()
    with pytest.raises(ShardError, match=r"was made with (fingerprint|shard) .*needs a new output path"):
        made_ledger(store, **changes).slice_of(0)


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_part_cut_short_is_refused_by_name(store: Store, keep: int) -> None:
    fill_slice(made_ledger(store), (WIDE,)).commit()
    path = Path(store.root) / PART
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ShardError, match=rf"{PART} is damaged .*--repair"):
        made_ledger(store).slice_of(0)


def test_an_adopted_part_says_what_its_commit_said(store: Store) -> None:
    committed = fill_slice(made_ledger(store), (WIDE, WIDE)).commit()
    part, record, statistics = made_ledger(store).adopt(PART)
    assert ((part,), record, statistics) == (committed.parts, committed.record, committed.statistics)
    with store.open(PART) as file:
        assert (part.sha256, part.size_bytes) == sha256_of(file)
    assert (part.slice_index, part.bucket, part.rows) == (0, A, 2)


def test_a_part_that_loses_the_race_is_dropped_for_the_first(store: Store) -> None:
    ledger = made_ledger(store)
    committed = []
    for index in (0, 1):
        row, record = made_row(index), made_record({A: ((index, 0),)})
        with tempfile.TemporaryFile() as scratch:
            writer = PartWriter(scratch, "moments")
            writer.add(row_values(row, "videos", A, "moments", "float32"), row.latent)
            statistics = writer.statistics.as_json()
            writer.close(ledger.footer(record, A, statistics))
            scratch.flush()
            committed.append(ledger.commit_part(scratch, record, A, statistics))
    first, second = committed
    assert first == second
    assert first[1].clips == {A: ((0, 0),)}
    assert list(output_files(Path(store.root))) == [PART]


def test_a_footer_says_everything_and_no_secret(store: Store) -> None:
    ledger = made_ledger(store, url="s3://user:secret@bucket/videos.tar?token=secret")
    footer = ledger.footer(made_record({A: ((0, 0),)}), A, {"count": 1})
    assert footer == {
        **ledger.description,
        "shard": {"name": "videos", "url": "s3://bucket/videos.tar", "size_bytes": 4096, "etag": "tag"},
        "slice": record_to_json(made_record({A: ((0, 0),)})),
        "bucket": A,
        "statistics": {"count": 1},
    }


def test_a_manifest_accounts_for_every_sample(store: Store) -> None:
    manifest = commit_shard(store)
    rejected = [index for index, shape in enumerate(sum(SLICES, ())) if shape is None]
    assert {key: manifest[key] for key in ("samples", "samples_with_clips", "rows", "ignored_files")} == {
        "samples": 8,
        "samples_with_clips": 4,
        "rows": 4,
        "ignored_files": 0,
    }
    assert (manifest["fingerprint"], manifest["shard"]["size_bytes"]) == (FINGERPRINT, 4096)
    assert [reject["sample_index"] for reject in manifest["rejects"]] == rejected
    assert set(manifest["rejects"][0]) == {"key", "sample_index", "window_index", "stage", "reason", "detail"}
    assert [(part["path"], part["rows"]) for part in manifest["parts"]] == [
        (part_path("videos", 0, A), 1),
        (part_path("videos", 0, B), 1),
        (part_path("videos", 2, A), 2),
    ]
    assert manifest["seconds"] == {"encode": 3.0, "wait_for_frames": 1.0}
    assert json.loads(store.read(manifest_path("videos"))) == manifest


def test_a_manifest_adds_up_the_statistics_of_its_parts(store: Store) -> None:
    expected = ChannelStatistics()
    for index, shape in enumerate(sum(SLICES, ())):
        if shape is not None:
            expected.add(made_row(index, shape=shape).latent)
    assert numbers(commit_shard(store)["latent_statistics"]) == pytest.approx(numbers(expected.as_json()))


def test_the_first_manifest_stands(store: Store) -> None:
    first = commit_shard(store)
    stored = store.read(manifest_path("videos"))
    second = made_ledger(store).commit_manifest([], {})
    assert second == first
    assert store.read(manifest_path("videos")) == stored


def test_a_shard_without_samples_has_a_manifest_too(store: Store) -> None:
    manifest = made_ledger(store).commit_manifest([], {})
    assert (manifest["samples"], manifest["parts"], manifest["latent_statistics"]) == (0, [], {})
    assert done_shards(store) == {"videos"}


def test_samples_with_several_clips_count_once(store: Store) -> None:
    record = made_record({A: ((0, 0), (0, 1)), B: ((0, 2), (1, 0))}, made_reject(0, 3), made_reject(2))
    manifest = made_ledger(store).manifest([CommittedSlice(record, (), {})], {})
    assert (manifest["samples"], manifest["samples_with_clips"], len(manifest["rejects"])) == (3, 2, 2)


def test_names_of_parts_and_reject_files_tell_shard_and_slice() -> None:
    shard = "a-12345-0a1b2c3d"
    for index in (0, 7, 99999, 123456):
        for path in (part_path(shard, index, A), rejects_path(shard, index)):
            assert slice_of_file(path.rpartition("/")[2]) == (shard, index)
    for foreign in ("README", "notes.txt", "x-1.parquet", "x-00001.parquet.bak", "-00001.parquet", "x-00001.json"):
        assert slice_of_file(foreign) is None


def test_only_buckets_and_manifests_count(store: Store) -> None:
    commit_shard(store)
    for foreign in ("latents/README", "latents/other/x", "manifests/.hidden", "manifests/notes.txt"):
        store.create(foreign, b"")
    assert bucket_names(store) == sorted([A, B])
    assert done_shards(store) == {"videos"}
