"""The manifest of a shard: what it says, and reading it. Where it exists, the shard is done.

And the deny list of a shard: rows that were taken out on purpose and must not come back. It is written before anything
is removed, so that whoever makes a slice again leaves them out too.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypedDict, TypeVar

from pipeline.errors import REMOVE_STAGE, Reason
from pipeline.output.accounts import (
    CommittedSlice,
    PartInfo,
    RejectJson,
    ShardJson,
    SliceRecord,
    read_json,
    reject_to_json,
)
from pipeline.output.paths import REMOVED, manifest_path
from pipeline.output.statistics import StatisticsJson, statistics_to_json, total
from pipeline.records import Reject
from pipeline.storage.store import Store

READERS = 16
T = TypeVar("T")
Place = tuple[int, int]  # a sample's and a window's index


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
    samples_removed: int
    rows: int
    ignored_files: int
    clips_without_caption: int
    losses: dict[str, int]
    parts: list[PartJson]
    rejects: list[RejectJson]
    latent_statistics: StatisticsJson
    seconds: dict[str, float]
    convolutions_halved: int  # for lack of GPU memory, by the replica that finished the shard; older runs do not say


def manifest_of(
    format_version: int,
    fingerprint: str,
    shard: ShardJson,
    slices: Sequence[CommittedSlice],
    seconds: Mapping[str, float],
    convolutions_halved: int = 0,
) -> Manifest:
    """The manifest of a shard that has these slices, all of which are complete."""
    losses = Counter[str]()
    for committed in slices:
        losses.update(committed.record.losses)
    # every segment of a sample that cannot be decoded has the same reject
    rejects = list({(r.sample_index, r.window_index): r for one in slices for r in one.record.rejects}.values())
    with_clips = {sample for committed in slices for sample in _with_clips(committed.record)}
    return {
        "format_version": format_version,
        "fingerprint": fingerprint,
        "shard": shard,
        "samples": sum(committed.record.samples for committed in slices),
        "samples_with_clips": len(with_clips),
        "samples_filtered": sum(reject.is_filtered for reject in rejects),
        "samples_removed": len({reject.sample_index for reject in rejects if reject.is_removed} - with_clips),
        "rows": sum(part.rows for committed in slices for part in committed.parts),
        "ignored_files": sum(committed.record.ignored_files for committed in slices),
        "clips_without_caption": sum(_clips_without_caption(committed.record) for committed in slices),
        "losses": dict(sorted(losses.items())),
        "parts": [part_to_json(part) for committed in slices for part in committed.parts],
        "rejects": [reject_to_json(reject) for reject in rejects],
        "latent_statistics": statistics_to_json(total(part.statistics for one in slices for part in one.parts)),
        "seconds": {stage: round(spent, 3) for stage, spent in sorted(seconds.items())},
        "convolutions_halved": convolutions_halved,
    }


def _with_clips(record: SliceRecord) -> set[int]:
    return {sample for pairs in record.clips.values() for sample, _ in pairs}


def _clips_without_caption(record: SliceRecord) -> int:
    without = frozenset(record.without_caption)
    return sum(sample in without for pairs in record.clips.values() for sample, _ in pairs)


def reject_count(manifest: Manifest) -> int:
    """The rejects of a shard, without what was filtered or removed on purpose."""
    removed = sum(reject["stage"] == REMOVE_STAGE for reject in manifest["rejects"])
    return len(manifest["rejects"]) - manifest["samples_filtered"] - removed


def part_to_json(part: PartInfo) -> PartJson:
    return {
        "path": part.path,
        "slice_index": part.slice_index,
        "bucket": part.bucket,
        "rows": part.rows,
        "size_bytes": part.size_bytes,
        "sha256": part.sha256,
        "computed_by": dict(part.computed_by),
        "statistics": statistics_to_json(part.statistics),
    }


def read_manifest(store: Store, shard: str) -> Manifest:
    """The manifest of a shard. Raises ShardError where it is damaged."""
    manifest: Manifest = read_json(store, manifest_path(shard))
    return manifest


def read_manifests(store: Store, shards: Iterable[str]) -> Iterator[Manifest]:
    """The manifests of the named shards, in order, read several at a time."""
    return read_several(lambda shard: read_manifest(store, shard), shards)


def read_several(read: Callable[[str], T], shards: Iterable[str]) -> Iterator[T]:
    """What `read` gives for each of the shards, in order, several at a time."""
    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(read, shards)


def parts_by_device(parts: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """How many parts each kind of processor and libraries computed, in words."""
    computed_by = (part.get("computed_by") or {"device": "unknown"} for part in parts)
    return Counter(", ".join(f"{name} {value}" for name, value in each.items()) for each in computed_by)


class RemovedJson(TypedDict):
    id: str
    key: str
    sample_index: int
    window_index: int
    reason: str


def removed_path(shard: str) -> str:
    return f"{REMOVED}/{shard}.json"


def read_removed(store: Store, shard: str) -> dict[Place, Reject]:
    """The rows of a shard that are denied, as the rejects that they become."""
    try:
        rows: list[RemovedJson] = json.loads(store.read(removed_path(shard)))["rows"]
    except FileNotFoundError:
        return {}
    return {
        (row["sample_index"], row["window_index"]): Reject(
            row["key"], row["sample_index"], row["window_index"], Reason(REMOVE_STAGE, "removed", row["reason"])
        )
        for row in rows
    }


def write_removed(store: Store, shard: str, rows: list[RemovedJson]) -> None:
    """Adds rows to the deny list of a shard."""
    path = removed_path(shard)
    before: list[RemovedJson] = json.loads(store.read(path))["rows"] if store.exists(path) else []
    known = {(row["sample_index"], row["window_index"]): row for row in (*rows, *before)}
    store.replace(path, json.dumps({"rows": [known[place] for place in sorted(known)]}, indent=1).encode())


def denying_shards(store: Store) -> list[str]:
    return [name.removesuffix(".json") for name in store.names(REMOVED) if name.endswith(".json")]


def is_finished(store: Store, shard: str, manifest: Manifest) -> bool:
    """Whether the manifest accounts for every row of the deny list."""
    taken_out = {(r["sample_index"], r["window_index"]) for r in manifest["rejects"] if r["stage"] == REMOVE_STAGE}
    return read_removed(store, shard).keys() <= taken_out
