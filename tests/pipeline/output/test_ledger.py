"""What is committed of a shard is reused, refused where it belongs to another input, and never replaced."""

import json
import tempfile
from functools import reduce
from pathlib import Path

import pytest
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
from pipeline.output.accounts import CommittedSlice, record_to_json
from pipeline.output.parts import PartWriter, sha256_of
from pipeline.output.paths import done_shards, manifest_path, part_path
from pipeline.output.schema import row_values
from pipeline.output.statistics import LatentStatistics, merged, statistics_from_json, statistics_of
from pipeline.records import FileInfo
from pipeline.storage.store import Store

A, B = WIDE_BUCKET, TALL_BUCKET
PART = part_path("videos", 0, WIDE_BUCKET)
STATISTICS = LatentStatistics(60, (1.0,), (2.0,), (-1.0,), (1.0,))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out"))


def test_a_slice_that_nobody_began_is_not_there(store: Store) -> None:
    assert made_ledger(store).slice_of(0) is None


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


def test_an_adopted_part_equals_the_committed_one(store: Store) -> None:
    committed = fill_slice(made_ledger(store), (WIDE, WIDE)).commit()
    part = made_ledger(store).adopt(PART)
    assert ((part.info,), part.record) == (committed.parts, committed.record)
    with store.open(PART) as file:
        assert (part.info.sha256, part.info.size_bytes) == sha256_of(file)
    assert (part.info.slice_index, part.info.bucket, part.info.rows) == (0, A, 2)


def test_a_part_that_loses_the_race_is_dropped_for_the_first(store: Store) -> None:
    ledger = made_ledger(store)
    committed = []
    for index in (0, 1):
        row, record = made_row(index), made_record({A: ((index, 0),)})
        with tempfile.TemporaryFile() as scratch:
            writer = PartWriter(scratch, "moments")
            writer.add(row_values(row, "videos", A, "moments", "float32"))
            statistics = writer.statistics
            writer.close(ledger.footer(record, A, statistics))
            scratch.flush()
            committed.append(ledger.commit_part(scratch, record, A, statistics))
    first, second = committed
    assert first == second
    assert first.record.clips == {A: ((0, 0),)}
    assert list(output_files(Path(store.root))) == [PART]


def test_a_footer_says_everything_and_no_secret(store: Store) -> None:
    ledger = made_ledger(store, url="s3://user:secret@bucket/videos.tar?token=secret")
    footer = ledger.footer(made_record({A: ((0, 0),)}), A, STATISTICS)
    assert footer == {
        **ledger.description,
        "shard": {"name": "videos", "url": "s3://bucket/videos.tar", "size_bytes": 4096, "etag": "tag"},
        "slice": record_to_json(made_record({A: ((0, 0),)})),
        "bucket": A,
        "statistics": {"count": 60, "sum": [1.0], "sum_squares": [2.0], "min": [-1.0], "max": [1.0]},
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
    assert manifest["seconds"] == {"encode": 3.0, "device_idle": 1.0}
    assert json.loads(store.read(manifest_path("videos"))) == manifest


def test_a_manifest_adds_up_the_statistics_of_its_parts(store: Store) -> None:
    rows = [made_row(index, shape=shape) for index, shape in enumerate(sum(SLICES, ())) if shape]
    expected = reduce(merged, (statistics_of(row.latent, row.logvar) for row in rows))
    found = statistics_from_json(commit_shard(store)["latent_statistics"])
    assert numbers(found) == pytest.approx(numbers(expected))


def test_the_first_manifest_is_kept(store: Store) -> None:
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
    manifest = made_ledger(store).commit_manifest([CommittedSlice(record, ())], {})
    assert (manifest["samples"], manifest["samples_with_clips"], len(manifest["rejects"])) == (3, 2, 2)
