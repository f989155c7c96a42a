"""The manifest of a shard: what it says, and reading it. Where it exists, the shard is done."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypedDict

from pipeline.output.accounts import RejectJson, ShardJson, read_json, reject_to_json
from pipeline.output.paths import manifest_path
from pipeline.output.statistics import StatisticsJson, merged, statistics_to_json
from pipeline.records import CommittedSlice, LatentStatistics, PartInfo, SliceRecord
from pipeline.storage.store import Store

READERS = 16


class _Part(TypedDict):
    path: str
    slice_index: int
    bucket: str
    rows: int
    size_bytes: int
    sha256: str


class PartJson(_Part, total=False):
    """A part; those of older runs do not say what computed them."""

    computed_by: dict[str, str]
    statistics: StatisticsJson


class Manifest(TypedDict):
    format_version: int
    fingerprint: str
    shard: ShardJson
    samples: int
    samples_with_clips: int
    samples_filtered: int
    rows: int
    ignored_files: int
    clips_without_caption: int
    losses: dict[str, int]
    parts: list[PartJson]
    rejects: list[RejectJson]
    latent_statistics: StatisticsJson
    seconds: dict[str, float]


def manifest_of(
    format_version: int,
    fingerprint: str,
    shard: ShardJson,
    slices: Sequence[CommittedSlice],
    seconds: Mapping[str, float],
) -> Manifest:
    """The manifest of a shard that has these slices, all of which are complete."""
    statistics, losses = LatentStatistics(), Counter[str]()
    for committed in slices:
        statistics = merged(statistics, committed.statistics)
        losses.update(committed.record.losses)
    # every segment of a sample that cannot be decoded has the same reject
    rejects = list({(r.sample_index, r.window_index): r for one in slices for r in one.record.rejects}.values())
    return {
        "format_version": format_version,
        "fingerprint": fingerprint,
        "shard": shard,
        "samples": sum(committed.record.samples for committed in slices),
        "samples_with_clips": len({sample for committed in slices for sample in _with_clips(committed.record)}),
        "samples_filtered": sum(reject.is_filtered for reject in rejects),
        "rows": sum(part.rows for committed in slices for part in committed.parts),
        "ignored_files": sum(committed.record.ignored_files for committed in slices),
        "clips_without_caption": sum(_clips_without_caption(committed.record) for committed in slices),
        "losses": dict(sorted(losses.items())),
        "parts": [part_to_json(part) for committed in slices for part in committed.parts],
        "rejects": [reject_to_json(reject) for reject in rejects],
        "latent_statistics": statistics_to_json(statistics),
        "seconds": {stage: round(spent, 3) for stage, spent in sorted(seconds.items())},
    }


def _with_clips(record: SliceRecord) -> set[int]:
    return {sample for pairs in record.clips.values() for sample, _ in pairs}


def _clips_without_caption(record: SliceRecord) -> int:
    without = frozenset(record.without_caption)
    return sum(sample in without for pairs in record.clips.values() for sample, _ in pairs)


def reject_count(manifest: Manifest) -> int:
    """The rejects of a shard, without the samples that were filtered on purpose."""
    return len(manifest["rejects"]) - manifest["samples_filtered"]


def part_to_json(part: PartInfo) -> PartJson:
    return {
        "path": part.path,
        "slice_index": part.slice_index,
        "bucket": part.bucket,
        "rows": part.rows,
        "size_bytes": part.size_bytes,
        "sha256": part.sha256,
        "computed_by": dict(part.computed_by),
        "statistics": statistics_to_json(part.statistics or LatentStatistics()),
    }


def read_manifest(store: Store, shard: str) -> Manifest:
    """The manifest of a shard. Raises ShardError where it is damaged."""
    manifest: Manifest = read_json(store, manifest_path(shard))
    return manifest


def read_manifests(store: Store, shards: Iterable[str]) -> Iterator[Manifest]:
    """The manifests of the named shards, in order, read several at a time."""
    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(lambda shard: read_manifest(store, shard), shards)
