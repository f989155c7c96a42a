"""What a shard has of text embeddings, and their totals."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from pipeline.output.accounts import RejectJson, read_json, reject_from_json, reject_to_json
from pipeline.output.manifests import parts_by_device, read_several
from pipeline.output.paths import manifest_path
from pipeline.records import FileInfo, Reject
from pipeline.storage.store import Store


@dataclass(frozen=True, slots=True)
class TextSlice:
    """A committed slice. `path` is None where it has no row; `captions` are its rows."""

    index: int
    path: str | None
    captions: int
    tokens: int
    truncated: int
    rejects: tuple[Reject, ...]
    size_bytes: int = 0
    sha256: str = ""
    computed_by: tuple[tuple[str, str], ...] = ()


class TextPartJson(TypedDict):
    path: str
    slice_index: int
    rows: int
    size_bytes: int
    sha256: str
    computed_by: dict[str, str]


class TableJson(TypedDict):
    """The version of the table of captions that was read."""

    size_bytes: int
    etag: str


class TextManifest(TypedDict):
    """`captions` are rows; `tokens` the rows of all embeddings together."""

    format_version: int
    fingerprint: str
    shard: str
    captions: int
    tokens: int
    truncated: int
    table: TableJson | None
    parts: list[TextPartJson]
    rejects: list[RejectJson]
    seconds: dict[str, float]


class TextTotals(TypedDict):
    """The sums of some manifests."""

    shards: int
    captions: int
    tokens: int
    truncated: int
    rejects: int
    rejects_by_reason: dict[str, int]
    parts: int
    size_bytes: int
    seconds_by_stage: dict[str, float]
    parts_by_device: dict[str, int]


def text_manifest(
    description: Any, shard: str, slices: Sequence[TextSlice], table: FileInfo | None, seconds: dict[str, float]
) -> TextManifest:
    """The manifest of a shard that has these slices."""
    return {
        "format_version": description["format_version"],
        "fingerprint": description["fingerprint"],
        "shard": shard,
        "captions": sum(one.captions for one in slices),
        "tokens": sum(one.tokens for one in slices),
        "truncated": sum(one.truncated for one in slices),
        "table": table_json(table),
        "parts": [
            {
                "path": one.path,
                "slice_index": one.index,
                "rows": one.captions,
                "size_bytes": one.size_bytes,
                "sha256": one.sha256,
                "computed_by": dict(one.computed_by),
            }
            for one in slices
            if one.path
        ],
        "rejects": [reject_to_json(reject) for one in slices for reject in one.rejects],
        "seconds": {stage: round(spent, 3) for stage, spent in sorted(seconds.items())},
    }


def table_json(table: FileInfo | None) -> TableJson | None:
    return {"size_bytes": table.size_bytes, "etag": table.etag} if table else None


def commit_text_manifest(store: Store, manifest: TextManifest) -> TextManifest:
    """Creates a shard's manifest, last of all, and returns the one that is there."""
    if store.create(manifest_path(manifest["shard"]), json.dumps(manifest, indent=1).encode()):
        return manifest
    return read_text_manifest(store, manifest["shard"])


def read_text_manifest(store: Store, shard: str) -> TextManifest:
    """The manifest of a shard, from the root of text embeddings. Raises ShardError where it is damaged."""
    manifest: TextManifest = read_json(store, manifest_path(shard))
    return manifest


def read_text_manifests(store: Store, shards: Iterable[str]) -> Iterator[TextManifest]:
    """The manifests of the named shards, in order, read several at a time."""
    return read_several(lambda shard: read_text_manifest(store, shard), shards)


def totals_of(manifests: Iterable[TextManifest]) -> TextTotals:
    """The sums of some manifests."""
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    devices: Counter[str] = Counter()
    for manifest in manifests:
        counts["shards"] += 1
        for name in ("captions", "tokens", "truncated"):
            counts[name] += int(manifest[name])
        reasons.update(reject_from_json(reject).why.code for reject in manifest["rejects"])
        seconds.update(manifest["seconds"])
        devices.update(parts_by_device(manifest["parts"]))
        for part in manifest["parts"]:
            counts["parts"] += 1
            counts["size_bytes"] += part["size_bytes"]
    return {
        "shards": counts["shards"],
        "captions": counts["captions"],
        "tokens": counts["tokens"],
        "truncated": counts["truncated"],
        "rejects": sum(reasons.values()),
        "rejects_by_reason": dict(sorted(reasons.items())),
        "parts": counts["parts"],
        "size_bytes": counts["size_bytes"],
        "seconds_by_stage": {stage: round(spent, 3) for stage, spent in sorted(seconds.items())},
        "parts_by_device": dict(sorted(devices.items())),
    }
