"""The commit protocol: which slices and shards are done, and the only ways to say so (design: create-if-absent).

It does not make latents; it knows nothing of videos, encoders or Ray.

A part's name holds its bucket, shard and slice, so whoever makes it again makes the same name, and the first one
stays. Each part's footer holds the account of its whole slice: any part tells which others must be there.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import IO, Any

from pipeline.errors import ShardError
from pipeline.output.parts import merge_statistics, read_footer, record_from_json, record_to_json, sha256_of
from pipeline.records import CommittedSlice, FileInfo, PartInfo, Reject, ShardRef, SliceRecord
from pipeline.storage.store import Store
from pipeline.storage.urls import public_url

RUN_FILE = "run.json"
SUCCESS_FILE = "_SUCCESS.json"
MANIFESTS = "manifests"
LATENTS = "latents"
REJECTS = "rejects"
BUCKET_PREFIX = "bucket="
SLICE_FILE = re.compile(r"(.+)-(\d{5,})\.(parquet|rejects\.json)")
WHOLE_SAMPLE = -1  # the window index of a reject that stands for every clip of its sample


def bucket_path(bucket: str) -> str:
    return f"{LATENTS}/{BUCKET_PREFIX}{bucket}"


def part_path(shard: str, slice_index: int, bucket: str) -> str:
    return f"{bucket_path(bucket)}/{shard}-{slice_index:05d}.parquet"


def rejects_path(shard: str, slice_index: int) -> str:
    return f"{REJECTS}/{shard}-{slice_index:05d}.rejects.json"


def slice_of_file(name: str) -> tuple[str, int] | None:
    """(shard, slice index) of the name of a part or reject file; None where it is neither."""
    match = SLICE_FILE.fullmatch(name)
    return (match[1], int(match[2])) if match else None


def segments_of(identity: Mapping[str, Any]) -> int:
    """How many slices share a range of samples in the run of this identity, one for each segment of its videos."""
    return int(identity.get("clip", {}).get("segments", 1))


def manifest_path(shard: str) -> str:
    return f"{MANIFESTS}/{shard}.json"


def done_shards(store: Store) -> frozenset[str]:
    """Names of the shards that have a manifest, by one listing."""
    return frozenset(name.removesuffix(".json") for name in store.names(MANIFESTS) if name.endswith(".json"))


def bucket_names(store: Store) -> list[str]:
    folders = store.names(LATENTS)
    return [name.removeprefix(BUCKET_PREFIX) for name in folders if name.startswith(BUCKET_PREFIX)]


def merge_records(own: Mapping[str, SliceRecord], others: Iterable[SliceRecord] = ()) -> SliceRecord:
    """One account of a slice from those that several writers left, each in the parts that it committed.

    A part's own record decides its rows. A bucket without a part keeps the clips that any record claims for it.
    A reject that any record names stands, unless a part holds the row after all: a slow writer may have given up
    on a clip, or a whole sample, that a later one encoded.

    Args:
        own: the record in the footer of each bucket's part.
        others: records of the slice that came without a part.
    """
    records = [*own.values(), *others]
    assert records, "a slice without any record is not begun"
    rows = {pair for bucket, record in own.items() for pair in record.clips.get(bucket, ())}
    rejects = {(reject.sample_index, reject.window_index): reject for record in records for reject in record.rejects}
    kept = rows | {(sample, WHOLE_SAMPLE) for sample, _ in rows}
    standing = {at: reject for at, reject in rejects.items() if at not in kept}
    clips = {bucket: record.clips[bucket] for bucket, record in own.items()}
    for bucket in sorted({bucket for record in records for bucket in record.clips} - own.keys()):
        claimed = {pair for record in records for pair in record.clips.get(bucket, ())}
        left = sorted(pair for pair in claimed if not _rejected(pair, standing))
        if left:
            clips[bucket] = tuple(left)
    first = records[0]
    return SliceRecord(
        index=first.index,
        samples=first.samples,
        next_position=first.next_position,
        last=first.last,
        ignored_files=first.ignored_files,
        clips=clips,
        rejects=tuple(standing[at] for at in sorted(standing)),
    )


def _rejected(pair: tuple[int, int], rejects: Mapping[tuple[int, int], Reject]) -> bool:
    return pair in rejects or (pair[0], WHOLE_SAMPLE) in rejects


@dataclass(frozen=True)
class ShardLedger:
    """The account of one shard in one output root.

    `description` is what every footer of the run says (encoder, preprocessing, fingerprint …).
    """

    store: Store
    shard: ShardRef
    input: FileInfo
    description: Mapping[str, Any]
    buckets: tuple[str, ...]

    def slice_of(self, slice_index: int) -> CommittedSlice | None:
        """What is committed of a slice; None where nothing is.

        Raises:
            ShardError: a part or reject file there is damaged, or was made from other input or configuration.
        """
        own: dict[str, SliceRecord] = {}
        parts: list[PartInfo] = []
        statistics: dict[str, Any] = {}
        for bucket in self.buckets:
            path = part_path(self.shard.name, slice_index, bucket)
            if self.store.exists(path):
                part, record, of_part = self.adopt(path)
                parts.append(part)
                own[bucket] = record
                statistics = merge_statistics(statistics, of_part)
        others = self._records_without_part(slice_index)
        if not own and not others:
            return None
        return CommittedSlice(merge_records(own, others), tuple(parts), statistics)

    def _records_without_part(self, slice_index: int) -> list[SliceRecord]:
        path = rejects_path(self.shard.name, slice_index)
        if not self.store.exists(path):
            return []
        try:
            footer = json.loads(self.store.read(path))
        except ValueError as error:
            raise _damaged(path, error) from None
        self._check_identity(path, footer)
        return [record_from_json(footer["slice"])]

    def adopt(self, path: str) -> tuple[PartInfo, SliceRecord, dict[str, Any]]:
        """Takes a part that is there as this shard's own: its line in the manifest, its record, its statistics."""
        try:
            with self.store.open(path) as file:
                footer = read_footer(file)
                file.seek(0)
                digest, size_bytes = sha256_of(file)
        except ValueError as error:
            raise _damaged(path, error) from None
        self._check_identity(path, footer)
        record = record_from_json(footer["slice"])
        rows = len(record.clips[footer["bucket"]])
        computed_by = footer.get("computed_by", {})  # older parts do not say
        part = PartInfo(path, record.index, footer["bucket"], rows, size_bytes, digest, computed_by)
        return part, record, footer["statistics"]

    def _check_identity(self, path: str, footer: Mapping[str, Any]) -> None:
        ours = {"fingerprint": self.description["fingerprint"], "shard": self._shard_values()}
        for key, value in ours.items():
            if footer.get(key) != value:
                raise ShardError(
                    f"{path} was made with {key} {footer.get(key)}, this run has {value}: "
                    "a changed input or configuration needs a new output path"
                )

    def _shard_values(self) -> dict[str, Any]:
        return {"name": self.shard.name, "url": public_url(self.shard.url), **asdict(self.input)}

    def footer(self, record: SliceRecord, bucket: str, statistics: Mapping[str, Any]) -> dict[str, Any]:
        """What the footer of a part says; with bucket "" what a reject file says."""
        of_slice = {"shard": self._shard_values(), "slice": record_to_json(record)}
        of_part = {"bucket": bucket, "statistics": dict(statistics)} if bucket else {}
        return {**self.description, **of_slice, **of_part}

    def commit_part(
        self, scratch: IO[bytes], record: SliceRecord, bucket: str, statistics: Mapping[str, Any]
    ) -> tuple[PartInfo, SliceRecord, dict[str, Any]]:
        """Publishes a finished scratch file; where another writer was first, its part stands and ours is dropped.

        Returns:
            As `adopt`, of the part that stands.
        """
        path = part_path(self.shard.name, record.index, bucket)
        if not self.store.create_from(path, f"/proc/self/fd/{scratch.fileno()}"):
            return self.adopt(path)
        scratch.seek(0)
        digest, size_bytes = sha256_of(scratch)
        rows, computed_by = len(record.clips[bucket]), self.description.get("computed_by", {})
        part = PartInfo(path, record.index, bucket, rows, size_bytes, digest, computed_by)
        return part, record, dict(statistics)

    def commit_rejects(self, record: SliceRecord) -> None:
        """Publishes the account of a slice that has no part."""
        text = json.dumps(self.footer(record, "", {}), sort_keys=True, indent=1)
        self.store.create(rejects_path(self.shard.name, record.index), text.encode())

    def commit_manifest(self, slices: Iterable[CommittedSlice], seconds: Mapping[str, float]) -> dict[str, Any]:
        """Writes the shard's manifest, last of all, and returns the one that stands."""
        values = self.manifest(list(slices), seconds)
        path = manifest_path(self.shard.name)
        if not self.store.create(path, json.dumps(values, indent=1).encode()):
            values = json.loads(self.store.read(path))
        return values

    def manifest(self, slices: list[CommittedSlice], seconds: Mapping[str, float]) -> dict[str, Any]:
        """What the manifest of this shard says when `slices` are all of its slices."""
        statistics: dict[str, Any] = {}
        for committed in slices:
            statistics = merge_statistics(statistics, committed.statistics)
        # each segment of a sample that cannot be decoded says so
        rejects = list({(r.sample_index, r.window_index): r for made in slices for r in made.record.rejects}.values())
        return {
            "format_version": self.description["format_version"],
            "fingerprint": self.description["fingerprint"],
            "shard": self._shard_values(),
            "samples": sum(committed.record.samples for committed in slices),
            "samples_with_clips": len({sample for committed in slices for sample in _with_clips(committed.record)}),
            "samples_filtered": sum(reject.is_filtered for reject in rejects),
            "rows": sum(part.rows for committed in slices for part in committed.parts),
            "ignored_files": sum(committed.record.ignored_files for committed in slices),
            "parts": [asdict(part) for committed in slices for part in committed.parts],
            "rejects": [reject.as_json() for reject in rejects],
            "latent_statistics": statistics,
            "seconds": {stage: round(spent, 3) for stage, spent in sorted(seconds.items())},
        }


def _damaged(path: str, error: ValueError) -> ShardError:
    return ShardError(f"{path} is damaged ({error}): set it aside with latentmill verify --repair")


def _with_clips(record: SliceRecord) -> set[int]:
    return {sample for pairs in record.clips.values() for sample, _ in pairs}
