"""The account of a slice: its record, in Python and as JSON, and one record from those of several writers."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

from pipeline.errors import Reason, ShardError
from pipeline.output.statistics import LatentStatistics
from pipeline.records import Reject
from pipeline.storage.store import Store

WHOLE_SAMPLE = -1  # the window index of a reject that covers every clip of its sample


@dataclass(frozen=True, slots=True)
class PartInfo:
    """A committed part, as a manifest lists it. `computed_by` is what the encoder ran on, empty where unknown."""

    path: str
    slice_index: int
    bucket: str
    rows: int
    size_bytes: int
    sha256: str
    computed_by: Mapping[str, str] = field(default_factory=dict, hash=False)
    statistics: LatentStatistics = field(default_factory=LatentStatistics)


@dataclass(frozen=True, slots=True)
class SliceRecord:
    """The account of one slice, kept in the footer of each of its parts: any one of them is enough.

    `clips` names for each bucket the (sample_index, window_index) of its rows; `last` says that the shard ends here.
    `keys` are those of its samples, in order; `without_caption` are the indices of samples that have none.
    """

    index: int
    samples: int
    next_position: int
    last: bool
    ignored_files: int
    clips: dict[str, tuple[tuple[int, int], ...]]
    rejects: tuple[Reject, ...]
    keys: tuple[str, ...] = ()
    without_caption: tuple[int, ...] = ()
    losses: Mapping[str, int] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class CommittedSlice:
    """What storage holds of one slice. It is complete when every bucket that its record names has its part."""

    record: SliceRecord
    parts: tuple[PartInfo, ...]

    @property
    def missing_buckets(self) -> frozenset[str]:
        return frozenset(self.record.clips) - {part.bucket for part in self.parts}


class RejectJson(TypedDict):
    key: str
    sample_index: int
    window_index: int
    stage: str
    reason: str
    detail: str


class SliceJson(TypedDict):
    """A `SliceRecord`; its `next_position` is `next_offset_bytes`, for tables too.

    `clips` has [sample_index, window_index] for each row, by bucket.
    """

    index: int
    samples: int
    next_offset_bytes: int
    last: bool
    ignored_files: int
    clips: dict[str, list[list[int]]]
    rejects: list[RejectJson]
    keys: list[str]
    without_caption: list[int]
    losses: dict[str, int]


class ShardJson(TypedDict):
    """An input shard: its name in this run, its URL without secrets, and which file it was."""

    name: str
    url: str
    size_bytes: int
    etag: str


class Description(TypedDict):
    """What every footer and reject file of a run says (`config.identity.describe` makes it)."""

    format_version: int
    fingerprint: str
    encoder: dict[str, Any]
    preprocessing: dict[str, Any]
    posterior: str
    image_latent: str
    columns: dict[str, str]
    sample_seed: int | None
    dtype: str
    part_samples: int
    computed_by: dict[str, str]  # parts of older runs lack it


class RejectsFile(Description):
    """The account of a slice that has no part."""

    shard: ShardJson
    slice: SliceJson


@dataclass(frozen=True, slots=True)
class SliceNumbers:
    """Which slice has which samples: a range of `part_samples` has a slice for each segment of its videos."""

    part_samples: int
    segments: int

    def samples(self, slice_index: int) -> range:
        begin = slice_index // self.segments * self.part_samples
        return range(begin, begin + self.part_samples)

    def segment(self, slice_index: int) -> int:
        return slice_index % self.segments

    def slices(self, sample_index: int) -> range:
        """The slices that a sample belongs to, one for each segment."""
        begin = sample_index // self.part_samples * self.segments
        return range(begin, begin + self.segments)


def slice_numbers(identity: Mapping[str, Any]) -> SliceNumbers:
    """The numbers of the run with this identity; older runs do not name segments."""
    return SliceNumbers(identity["output"]["part_samples"], int(identity.get("clip", {}).get("segments", 1)))


def reject_to_json(reject: Reject) -> RejectJson:
    return {
        "key": reject.key,
        "sample_index": reject.sample_index,
        "window_index": reject.window_index,
        "stage": reject.why.stage,
        "reason": reject.why.reason,
        "detail": reject.why.detail,
    }


def reject_from_json(values: RejectJson) -> Reject:
    why = Reason(values["stage"], values["reason"], values["detail"])
    return Reject(values["key"], values["sample_index"], values["window_index"], why)


def record_to_json(record: SliceRecord) -> SliceJson:
    return {
        "index": record.index,
        "samples": record.samples,
        "next_offset_bytes": record.next_position,
        "last": record.last,
        "ignored_files": record.ignored_files,
        "clips": {bucket: [list(pair) for pair in pairs] for bucket, pairs in record.clips.items()},
        "rejects": [reject_to_json(reject) for reject in record.rejects],
        "keys": list(record.keys),
        "without_caption": list(record.without_caption),
        "losses": dict(record.losses),
    }


def record_from_json(values: SliceJson) -> SliceRecord:
    return SliceRecord(
        index=values["index"],
        samples=values["samples"],
        next_position=values["next_offset_bytes"],
        last=values["last"],
        ignored_files=values["ignored_files"],
        clips={
            bucket: tuple((sample, window) for sample, window in pairs) for bucket, pairs in values["clips"].items()
        },
        rejects=tuple(reject_from_json(reject) for reject in values["rejects"]),
        keys=tuple(values["keys"]),
        without_caption=tuple(values["without_caption"]),
        losses=values["losses"],
    )


def read_json(store: Store, path: str) -> Any:
    """The content of a JSON file. Raises ShardError where it is damaged."""
    try:
        return json.loads(store.read(path))
    except ValueError as error:
        raise damaged(path, error) from None


def damaged(path: str, error: ValueError) -> ShardError:
    return ShardError(f"{path} is damaged ({error}): set it aside with latentmill verify --repair")


def merge_records(own: Mapping[str, SliceRecord], others: Iterable[SliceRecord] = ()) -> SliceRecord:
    """One record of a slice from those that several writers left, each in the parts that it committed.

    A part's own record decides its rows. A bucket without a part keeps the clips that any record claims for it.
    A reject in any record is kept, unless a part holds the row after all: one writer may have rejected a clip, or a
    whole sample, that another encoded.

    Args:
        own: the record in the footer of each bucket's part.
        others: records of the slice that came without a part.
    """
    records = [*own.values(), *others]
    assert records, "a slice without any record was not begun"
    rows = {pair for bucket, record in own.items() for pair in record.clips.get(bucket, ())}
    rejects = {(reject.sample_index, reject.window_index): reject for record in records for reject in record.rejects}
    with_rows = rows | {(sample, WHOLE_SAMPLE) for sample, _ in rows}
    kept_rejects = {at: reject for at, reject in rejects.items() if at not in with_rows}
    clips = {bucket: record.clips[bucket] for bucket, record in own.items()}
    for bucket in sorted({bucket for record in records for bucket in record.clips} - own.keys()):
        claimed = {pair for record in records for pair in record.clips.get(bucket, ())}
        left = sorted(pair for pair in claimed if not _rejected(pair, kept_rejects))
        if left:
            clips[bucket] = tuple(left)
    return replace(records[0], clips=clips, rejects=tuple(kept_rejects[at] for at in sorted(kept_rejects)))


def _rejected(pair: tuple[int, int], rejects: Mapping[tuple[int, int], Reject]) -> bool:
    return pair in rejects or (pair[0], WHOLE_SAMPLE) in rejects
