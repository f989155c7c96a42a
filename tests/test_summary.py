"""Totals of a run are the sums of its manifests."""

from pathlib import Path

import pytest
from makers import TALL_BUCKET, WIDE_BUCKET, commit_shard, numbers

from pipeline.parts import merge_statistics
from pipeline.store import Store
from pipeline.summary import read_manifests, summarise


def test_a_summary_adds_up_manifests(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    manifests = [commit_shard(store, name) for name in ("a", "b")]
    summary = summarise(manifests)
    size_bytes = sum(path.stat().st_size for path in tmp_path.rglob("*.parquet"))
    statistics = merge_statistics(*(manifest["latent_statistics"] for manifest in manifests))
    assert numbers(summary.pop("latent_statistics")) == pytest.approx(numbers(statistics))
    assert summary == {
        "shards": 2,
        "samples": 16,
        "samples_with_clips": 8,
        "samples_rejected": 8,
        "samples_filtered": 0,
        "rows": 8,
        "rejects": 8,
        "ignored_files": 0,
        "parts": 6,
        "size_bytes": size_bytes,
        "rejects_by_reason": {"clip/too_short": 8},
        "filtered_by_reason": {},
        "rows_by_bucket": {WIDE_BUCKET: 6, TALL_BUCKET: 2},
        "seconds_by_stage": {"encode": 6.0, "wait_for_frames": 2.0},
        "encoder_busy_fraction": 0.75,
    }


def test_a_run_without_manifests_has_a_summary_too() -> None:
    summary = summarise([])
    assert (summary["shards"], summary["samples"], summary["encoder_busy_fraction"]) == (0, 0, None)
    assert summary["latent_statistics"] == {}


def test_manifests_are_read_in_the_order_asked(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    names = [f"shard-{number}" for number in (3, 1, 2)]
    for name in sorted(names):
        commit_shard(store, name)
    assert [manifest["shard"]["name"] for manifest in read_manifests(store, names)] == names


def test_a_manifest_that_is_not_there_is_no_zero(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(read_manifests(Store(str(tmp_path)), ["nothing"]))
