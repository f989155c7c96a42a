"""Totals of a run from its manifests: samples, rows, rejects by reason, seconds by stage."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.audit.report.data import LATENTS_ALONE, Examples, Pictures
from pipeline.audit.report.page import render_report
from pipeline.monitor.stages import busy_fraction
from pipeline.output.accounts import reject_from_json
from pipeline.output.manifests import Manifest, parts_by_device, reject_count
from pipeline.output.paths import REPORT_FILE, done_shards, text_names, text_path
from pipeline.output.run_file import Besides, RunFile, Summary, Totals, write_summary
from pipeline.output.statistics import LatentStatistics, merged, statistics_from_json, statistics_to_json
from pipeline.storage.store import Store
from pipeline.text.manifests import read_text_manifests, totals_of


def write_report(
    store: Store,
    run: RunFile,
    manifests: Iterable[Manifest],
    left: int,
    failed: Mapping[str, str],
    pictures: Pictures = LATENTS_ALONE,
) -> Summary:
    """Writes summary.json and report.html anew and returns the summary.

    Args:
        manifests: of the finished shards; `left` counts the others.
        failed: the last error of each shard that was given up.
        pictures: which of them the report shows.
    """
    from pipeline.audit.report.gather import gather  # lazily: torch and the decoders take seconds to import

    examples = Examples()
    totals = summarise(examples.of(manifests))
    besides: Besides = {"simulated": True} if run["identity"].get("simulated") else {}
    if texts := {name: _texts_totals(store, name) for name in text_names(store)}:
        besides["texts"] = texts
    summary: Summary = {**totals, **besides, "shards_left": left, "shards_failed": dict(failed)}
    write_summary(store, summary)
    store.replace(REPORT_FILE, render_report(gather(store, summary, run, examples, pictures)).encode())
    return summary


def _texts_totals(store: Store, name: str) -> dict[str, Any]:
    texts = Store(store.url(text_path(name)))
    return dict(totals_of(read_text_manifests(texts, sorted(done_shards(texts)))))


def summarise(manifests: Iterable[Manifest]) -> Totals:
    """The sums of some manifests.

    `encoder_busy_fraction` is the share of the time in which devices encoded, from their first work to their last.
    """
    counts: Counter[str] = Counter()
    reasons: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}  # by whether they are filtered
    buckets: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    devices: Counter[str] = Counter()
    losses: Counter[str] = Counter()
    statistics = LatentStatistics()
    for manifest in manifests:
        counts.update(_counts(manifest))
        devices.update(parts_by_device(manifest["parts"]))
        losses.update(manifest["losses"])
        for reject in map(reject_from_json, manifest["rejects"]):
            reasons[reject.is_filtered or reject.is_removed][reject.why.code] += 1
        for part in manifest["parts"]:
            buckets[part["bucket"]] += part["rows"]
        seconds.update(manifest["seconds"])
        statistics = merged(statistics, statistics_from_json(manifest["latent_statistics"]))
    return {
        "shards": counts["shards"],
        "samples": counts["samples"],
        "samples_with_clips": counts["samples_with_clips"],
        "samples_rejected": counts["samples_rejected"],
        "samples_filtered": counts["samples_filtered"],
        "rows": counts["rows"],
        "rejects": counts["rejects"],
        "ignored_files": counts["ignored_files"],
        "clips_without_caption": counts["clips_without_caption"],
        "convolutions_halved": counts["convolutions_halved"],
        "losses": dict(sorted(losses.items())),
        "parts": counts["parts"],
        "size_bytes": counts["size_bytes"],
        "rejects_by_reason": dict(sorted(reasons[False].items())),
        "filtered_by_reason": dict(sorted(reasons[True].items())),
        "rows_by_bucket": dict(sorted(buckets.items())),
        "seconds_by_stage": {stage: round(spent, 3) for stage, spent in sorted(seconds.items())},
        "encoder_busy_fraction": busy_fraction(seconds),
        "latent_statistics": statistics_to_json(statistics),
        "parts_by_device": dict(sorted(devices.items())),
    }


def mixed_devices(parts: Mapping[str, int]) -> list[str]:
    """What is to be said of `parts_by_device` where there are several, whose latents differ in their last bits."""
    if len(parts) < 2:
        return []
    several = f"{len(parts)} kinds of processor or libraries computed this run; their last bits differ:"
    return [several, *(f"  {count:,} parts: {device}" for device, count in sorted(parts.items()))]


def _counts(manifest: Manifest) -> dict[str, int]:
    return {
        "shards": 1,
        "samples": manifest["samples"],
        "samples_with_clips": manifest["samples_with_clips"],
        "samples_rejected": manifest["samples"]
        - manifest["samples_with_clips"]
        - manifest["samples_filtered"]
        - manifest["samples_removed"],
        "samples_filtered": manifest["samples_filtered"],
        "rows": manifest["rows"],
        "rejects": reject_count(manifest),
        "ignored_files": manifest["ignored_files"],
        "clips_without_caption": manifest["clips_without_caption"],
        "convolutions_halved": manifest.get("convolutions_halved", 0),  # manifests of older runs do not say
        "parts": len(manifest["parts"]),
        "size_bytes": sum(part["size_bytes"] for part in manifest["parts"]),
    }
