"""Totals of a run are the sums of its manifests."""

from dataclasses import replace
from pathlib import Path

import pytest
from support.makers import (
    DEVICE,
    SLICES,
    TALL_BUCKET,
    WIDE,
    WIDE_BUCKET,
    commit_shard,
    fill_slice,
    made_ledger,
    numbers,
)

from pipeline.audit.summary import mixed_devices, summarise
from pipeline.output.manifests import parts_by_device, read_manifests
from pipeline.output.statistics import merged, statistics_from_json
from pipeline.storage.store import Store


def test_a_summary_adds_up_manifests(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    manifests = [commit_shard(store, name) for name in ("a", "b")]
    summary = summarise(manifests)
    size_bytes = sum(path.stat().st_size for path in tmp_path.rglob("latents/*/*.parquet"))
    statistics = merged(*(statistics_from_json(manifest["latent_statistics"]) for manifest in manifests))
    assert numbers(statistics_from_json(summary.pop("latent_statistics"))) == pytest.approx(numbers(statistics))
    assert summary == {
        "shards": 2,
        "samples": 16,
        "samples_with_clips": 8,
        "samples_rejected": 8,
        "samples_filtered": 0,
        "rows": 8,
        "rejects": 8,
        "ignored_files": 0,
        "clips_without_caption": 0,
        "convolutions_halved": 0,
        "losses": {},
        "parts": 6,
        "size_bytes": size_bytes,
        "rejects_by_reason": {"clip/too_short": 8},
        "filtered_by_reason": {},
        "rows_by_bucket": {WIDE_BUCKET: 6, TALL_BUCKET: 2},
        "seconds_by_stage": {"device_idle": 2.0, "encode": 6.0},
        "encoder_busy_fraction": 0.75,
        "parts_by_device": {DEVICE: 6},
    }


def test_parts_of_several_machines_are_told_apart_and_older_ones_say_nothing(tmp_path: Path) -> None:
    """A slice of a run that goes on elsewhere, and one of a version that did not note what computed it."""
    store, others = Store(str(tmp_path)), [{"device": "cuda", "model": "X"}, None]
    fill_slice(made_ledger(store), SLICES[0], 0).commit()
    for index, computed_by in enumerate(others, start=1):
        ledger = made_ledger(store)
        description = {key: value for key, value in ledger.description.items() if key != "computed_by"}
        changed = description | ({"computed_by": computed_by} if computed_by else {})
        fill_slice(replace(ledger, description=changed), (WIDE,), index).commit()
    ledger = made_ledger(store)
    slices = [made for index in range(3) if (made := ledger.slice_of(index))]
    manifest = ledger.commit_manifest(slices, {"encode": 1.0})
    by_device = parts_by_device(manifest["parts"])
    assert by_device == {DEVICE: len(slices[0].parts), "device cuda, model X": 1, "device unknown": 1}
    assert len(mixed_devices(by_device)) == 4
    assert mixed_devices({DEVICE: 7}) == mixed_devices({}) == []


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


def test_a_manifest_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(read_manifests(Store(str(tmp_path)), ["nothing"]))
