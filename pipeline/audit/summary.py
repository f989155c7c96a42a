"""Totals of a run from its manifests: samples, rows, rejects by reason, seconds by stage.

It does not open parts: verify.py does.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipeline.audit.report import render_report
from pipeline.errors import ShardError
from pipeline.output.ledger import manifest_path
from pipeline.output.parts import merge_statistics
from pipeline.records import Reject
from pipeline.storage.store import Store

READERS = 16
TOTALS: tuple[str, ...] = ("shards", "samples", "samples_with_clips", "samples_rejected", "samples_filtered")
TOTALS += ("rows", "rejects", "ignored_files", "parts", "size_bytes")
WAITING_STAGES = ("wait_for_samples", "wait_for_frames")


def read_manifests(store: Store, shards: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The manifests of the named shards, in order, read several at a time."""
    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(lambda shard: _manifest(store, manifest_path(shard)), shards)


def _manifest(store: Store, path: str) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(store.read(path))
    except ValueError as error:
        raise ShardError(f"{path} is damaged ({error}): set it aside with latentmill verify --repair") from None
    return values


def write_report(
    store: Store, run: Mapping[str, Any], done: Iterable[str], left: int, failed: Mapping[str, str]
) -> dict[str, Any]:
    """Writes summary.json and report.html anew and returns the summary.

    Args:
        done: names of the shards that have a manifest; `left` counts those that have none.
        failed: the last error of each shard that was given up.
    """
    summary = summarise(read_manifests(store, done)) | {"shards_left": left, "shards_failed": dict(failed)}
    store.replace("summary.json", json.dumps(summary, indent=1).encode())
    store.replace("report.html", render_report(summary, run).encode())
    return summary


def summarise(manifests: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Adds up manifests.

    `encoder_busy_fraction` is the share of a replica's time in which it encoded rather than waited for frames.
    """
    totals: Counter[str] = Counter()
    reasons: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}  # of filtered samples, of rejects
    buckets: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    statistics: dict[str, Any] = {}
    devices: Counter[str] = Counter()
    for manifest in manifests:
        totals.update(_counts(manifest))
        for reject in map(Reject.from_json, manifest["rejects"]):
            reasons[reject.is_filtered][reject.why.code] += 1
        for part in manifest["parts"]:
            buckets[part["bucket"]] += part["rows"]
        devices.update(parts_by_device(manifest))
        seconds.update(manifest["seconds"])
        statistics = merge_statistics(statistics, manifest["latent_statistics"])
    busy = seconds["encode"] + sum(seconds[stage] for stage in WAITING_STAGES)
    return {
        **{key: totals[key] for key in TOTALS},
        "rejects_by_reason": dict(sorted(reasons[False].items())),
        "filtered_by_reason": dict(sorted(reasons[True].items())),
        "rows_by_bucket": dict(sorted(buckets.items())),
        "seconds_by_stage": {stage: round(spent, 3) for stage, spent in sorted(seconds.items())},
        "encoder_busy_fraction": round(seconds["encode"] / busy, 4) if busy else None,
        "latent_statistics": statistics,
        "parts_by_device": dict(sorted(devices.items())),
    }


def parts_by_device(manifest: Mapping[str, Any]) -> Counter[str]:
    """How many parts of a shard each kind of processor and libraries computed, in words."""
    computed_by = (part.get("computed_by") or {"device": "unknown"} for part in manifest["parts"])
    return Counter(", ".join(f"{name} {value}" for name, value in each.items()) for each in computed_by)


def mixed_devices(parts: Mapping[str, int]) -> list[str]:
    """What is to be said of `parts_by_device` where there are several, whose latents differ in their last bits."""
    if len(parts) < 2:
        return []
    several = f"{len(parts)} kinds of processor or libraries computed this run; their last bits differ:"
    return [several, *(f"  {count:,} parts: {device}" for device, count in sorted(parts.items()))]


def _counts(manifest: Mapping[str, Any]) -> dict[str, int]:
    return {
        "shards": 1,
        "samples": manifest["samples"],
        "samples_with_clips": manifest["samples_with_clips"],
        "samples_rejected": manifest["samples"] - manifest["samples_with_clips"] - manifest["samples_filtered"],
        "samples_filtered": manifest["samples_filtered"],
        "rows": manifest["rows"],
        "rejects": len(manifest["rejects"]) - manifest["samples_filtered"],
        "ignored_files": manifest["ignored_files"],
        "parts": len(manifest["parts"]),
        "size_bytes": sum(part["size_bytes"] for part in manifest["parts"]),
    }
