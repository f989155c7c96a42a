"""The commit protocol: what is committed of a shard, and the only ways to commit more.

A part's name holds its bucket, shard and slice, so whoever makes it again makes the same name, and the first one is
kept. Each part's footer holds the record of its whole slice: any part tells which others belong to it.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import IO, Any, cast

from pipeline.errors import ShardError
from pipeline.output.accounts import (
    CommittedSlice,
    PartInfo,
    RejectsFile,
    ShardJson,
    SliceRecord,
    damaged,
    merge_records,
    read_json,
    record_from_json,
    record_to_json,
)
from pipeline.output.index import write_index
from pipeline.output.manifests import Manifest, Place, manifest_of, read_manifest, read_removed
from pipeline.output.parts import Footer, read_footer, sha256_of
from pipeline.output.paths import manifest_path, part_path, rejects_path, shard_files, slice_of_file
from pipeline.output.statistics import LatentStatistics, statistics_from_json, statistics_to_json
from pipeline.records import FileInfo, Reject, ShardRef
from pipeline.storage.store import Store
from pipeline.storage.urls import public_url


@dataclass(frozen=True, slots=True)
class CommittedPart:
    """A part in storage: its line in the manifest, and the record of its slice."""

    info: PartInfo
    record: SliceRecord


def read_part(store: Store, path: str) -> tuple[PartInfo, Footer]:
    """What the manifest says of a part in storage, and the part's footer. Raises ShardError where it is damaged."""
    try:
        with store.open(path) as file:
            footer = read_footer(file)
            file.seek(0)
            digest, size_bytes = sha256_of(file)
    except ValueError as error:
        raise damaged(path, error) from None
    info = PartInfo(
        path=path,
        slice_index=footer["slice"]["index"],
        bucket=footer["bucket"],
        rows=len(footer["slice"]["clips"][footer["bucket"]]),
        size_bytes=size_bytes,
        sha256=digest,
        computed_by=footer.get("computed_by", {}),  # older parts do not say
        statistics=statistics_from_json(footer["statistics"]),
    )
    return info, footer


@dataclass(frozen=True)
class ShardLedger:
    """What is committed of one shard in one output root, and the commits.

    `description` is what every footer of the run says (encoder, preprocessing, fingerprint and so on). `files` are
    those of the shard that storage held when `looked` listed them, and `denied` its rows that must not come back.
    """

    store: Store
    shard: ShardRef
    input: FileInfo
    description: Mapping[str, Any]
    files: frozenset[str] = frozenset()
    denied: Mapping[Place, Reject] = field(default_factory=dict)

    def looked(self) -> "ShardLedger":
        """The same ledger with what storage holds now."""
        name = self.shard.name
        return replace(self, files=shard_files(self.store, name), denied=read_removed(self.store, name))

    def slice_of(self, slice_index: int) -> CommittedSlice | None:
        """What was committed of a slice when storage was looked at; None where nothing was.

        Raises:
            ShardError: a part or reject file is damaged, or was made from another input or configuration.
        """
        own: dict[str, SliceRecord] = {}
        parts: list[PartInfo] = []
        for path in sorted(path for path in self.files if slice_of_file(path) == (self.shard.name, slice_index)):
            if path != rejects_path(self.shard.name, slice_index):
                part = self.adopt(path)
                parts.append(part.info)
                own[part.info.bucket] = part.record
        others = self._records_without_part(slice_index)
        if not own and not others:
            return None
        return CommittedSlice(merge_records(own, others), tuple(parts))

    def _records_without_part(self, slice_index: int) -> list[SliceRecord]:
        path = rejects_path(self.shard.name, slice_index)
        if path not in self.files:
            return []
        file: RejectsFile = read_json(self.store, path)
        self._check_origin(path, file)
        return [record_from_json(file["slice"])]

    def adopt(self, path: str) -> CommittedPart:
        """Takes an existing part as this shard's own. Raises ShardError as `slice_of`."""
        info, footer = read_part(self.store, path)
        self._check_origin(path, footer)
        return CommittedPart(info, record_from_json(footer["slice"]))

    def _check_origin(self, path: str, footer: RejectsFile) -> None:
        pairs = {
            "fingerprint": (footer.get("fingerprint"), self.description["fingerprint"]),
            "shard": (footer.get("shard"), self._shard()),
        }
        for key, (theirs, ours) in pairs.items():
            if theirs != ours:
                raise ShardError(
                    f"{path} was made with {key} {theirs}, this run has {ours}: "
                    "a changed input or configuration needs a new output path"
                )

    def _shard(self) -> ShardJson:
        return {
            "name": self.shard.name,
            "url": public_url(self.shard.url),
            "size_bytes": self.input.size_bytes,
            "etag": self.input.etag,
        }

    def rejects_file(self, record: SliceRecord) -> RejectsFile:
        values = {**self.description, "shard": self._shard(), "slice": record_to_json(record)}
        return cast(RejectsFile, values)

    def footer(self, record: SliceRecord, bucket: str, statistics: LatentStatistics) -> Footer:
        of_part = {"bucket": bucket, "statistics": statistics_to_json(statistics)}
        return cast(Footer, {**self.rejects_file(record), **of_part})

    def commit_part(
        self, scratch: IO[bytes], record: SliceRecord, bucket: str, statistics: LatentStatistics
    ) -> CommittedPart:
        """Publishes a finished scratch file. Where another writer was first, its part is kept and ours is dropped.

        Returns:
            The part that is there.
        """
        path = part_path(self.shard.name, record.index, bucket)
        if not self.store.create_from(path, f"/proc/self/fd/{scratch.fileno()}"):
            return self.adopt(path)
        scratch.seek(0)
        digest, size_bytes = sha256_of(scratch)
        rows, computed_by = len(record.clips[bucket]), self.description.get("computed_by", {})
        info = PartInfo(path, record.index, bucket, rows, size_bytes, digest, computed_by, statistics)
        return CommittedPart(info, record)

    def commit_rejects(self, record: SliceRecord) -> None:
        """Publishes the account of a slice that has no part."""
        text = json.dumps(self.rejects_file(record), sort_keys=True, indent=1)
        self.store.create(rejects_path(self.shard.name, record.index), text.encode())

    def commit_manifest(
        self, slices: Iterable[CommittedSlice], seconds: Mapping[str, float], convolutions_halved: int = 0
    ) -> Manifest:
        """Creates the shard's manifest, last of all, and returns the one that is there."""
        version, fingerprint = self.description["format_version"], self.description["fingerprint"]
        manifest = manifest_of(version, fingerprint, self._shard(), list(slices), seconds, convolutions_halved)
        write_index(self.store, manifest)
        path = manifest_path(self.shard.name)
        if self.store.create(path, json.dumps(manifest, indent=1).encode()):
            return manifest
        return read_manifest(self.store, self.shard.name)
