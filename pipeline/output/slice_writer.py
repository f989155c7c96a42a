"""One slice of a shard on its way to storage: rows go to a scratch file per bucket, and all is committed at the end.

Nothing is published before the whole slice is known.
"""

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import IO, Any

from encoder import Dtype
from pipeline.errors import Reason, SampleError, ShardError, TransientError
from pipeline.metadata.fields import Column, column_values
from pipeline.output.accounts import CommittedSlice, SliceRecord, merge_records
from pipeline.output.ledger import CommittedPart, ShardLedger
from pipeline.output.ordered_rows import OrderedRows
from pipeline.output.parts import PartWriter
from pipeline.output.schema import row_values
from pipeline.records import Reject, Row, Sample


def bucket_of(latent_shape: tuple[int, ...]) -> str:
    """The name of a bucket: its latent's shape, as in `16x13x60x90` (`c t h w`)."""
    return "x".join(str(size) for size in latent_shape)


@dataclass(slots=True)
class _OpenPart:
    """A part being written. The scratch file has no name, so a killed process leaves nothing behind."""

    scratch: IO[bytes]
    writer: PartWriter


@dataclass(slots=True)
class SliceCounts:
    """Counts over the samples of a slice.

    A range of samples has a slice for each segment of its videos. The first of them counts the samples. The last takes
    `next_position` to where the next range begins; for the others it stays where their own range begins.
    """

    segment: int = 0
    segments: int = 1
    next_position: int = 0
    taken: int = 0
    samples: int = 0
    ignored_files: int = 0
    last: bool = False
    keys: list[str] = field(default_factory=list)
    without_caption: list[int] = field(default_factory=list)
    losses: Counter[str] = field(default_factory=Counter)

    def add(self, sample: Sample) -> None:
        self.taken += 1
        self.keys.append(sample.key)
        self.without_caption += [] if sample.has_caption else [sample.index]
        if self.segment == 0:
            self.samples += 1
            self.ignored_files += sample.ignored_files
            self.losses.update(sample.losses)
        if self.segment == self.segments - 1:
            self.next_position = sample.next_position
            self.last = sample.last


@dataclass(slots=True)
class SliceWriter:
    """Takes the rows and rejects of slice `index`, whose samples begin at `first_sample`, and commits them.

    Rows may come in any order. `begun` is what storage already holds of the slice: rows of its parts are not taken
    again, its rejects are kept.
    """

    ledger: ShardLedger
    index: int
    first_sample: int
    posterior: str
    dtype: Dtype
    begun: CommittedSlice | None = None
    image_latent: bool = False
    columns: Mapping[str, Column] = field(default_factory=dict)
    continuous: bool = False
    counts: SliceCounts = field(default_factory=SliceCounts)
    _parts: dict[str, _OpenPart] = field(default_factory=dict)
    _rejects: list[Reject] = field(default_factory=list)
    _ordered: OrderedRows = field(init=False)

    def __post_init__(self) -> None:
        self._ordered = OrderedRows(self.first_sample, self._write)

    def wanted(self, sample_index: int) -> bool:
        """Whether a row of this sample may still be missing."""
        if self.begun is None:
            return True
        missing = self.begun.missing_buckets
        return any(sample_index == sample for bucket in missing for sample, _ in self.begun.record.clips[bucket])

    def add(self, row: Row) -> None:
        """Adds a row; one whose values cannot be stored becomes a reject."""
        if denied := self.ledger.denied.get((row.sample.index, row.clip.window_index)):
            self.reject(row.sample, row.clip.window_index, denied.why)
            return
        bucket = bucket_of(row.latent.shape)
        if self.begun and bucket not in self.begun.missing_buckets:
            return
        try:
            values = row_values(row, self.ledger.shard.name, bucket, self.posterior, self.dtype)
            values |= column_values(row.sample.metadata, self.columns)
        except SampleError as error:
            self.reject(row.sample, row.clip.window_index, error.why)
            return
        self._ordered.add(bucket, values)

    def end_sample(self, sample_index: int) -> None:
        """Says that all rows and rejects of a sample have come, in whatever order samples end."""
        self._ordered.end(sample_index)

    def _write(self, bucket: str, values: Mapping[str, Any]) -> None:
        if bucket not in self._parts:
            scratch = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
            types = {name: column.type for name, column in self.columns.items()}
            writer = PartWriter(scratch, self.posterior, self.image_latent, types, self.continuous)
            self._parts[bucket] = _OpenPart(scratch, writer)
        self._parts[bucket].writer.add(values)

    def reject(self, sample: Sample, window_index: int, why: Reason) -> None:
        """Counts a sample (`window_index` -1) or one clip of it as rejected."""
        short = replace(why, detail=why.detail[:500])
        self._rejects.append(Reject(sample.key, sample.index, window_index, short))

    def close(self) -> None:
        """Drops all that is not committed."""
        self._ordered.close()
        while self._parts:
            _, part = self._parts.popitem()
            part.writer.abandon()
            part.scratch.close()

    def commit(self) -> CommittedSlice:
        """Publishes every part of the slice, or its reject file where it has none.

        Raises:
            TransientError: another writer's record of the slice names clips that no part holds yet.
        """
        self._ordered.end_all()
        record = self._record()
        parts = list(self.begun.parts) if self.begun else []
        own = {part.bucket: record for part in parts}
        for bucket in sorted(self._parts):
            part = self._publish(bucket, record)
            parts.append(part.info)
            own[bucket] = part.record
        self.close()
        if not parts:
            self.ledger.commit_rejects(record)
        in_order = tuple(sorted(parts, key=lambda part: part.bucket))
        committed = CommittedSlice(merge_records(own, [record]), in_order)
        if committed.missing_buckets:
            raise TransientError(
                f"another writer has begun slice {self.index}, and some of its parts are still missing"
            )
        return committed

    def _publish(self, bucket: str, record: SliceRecord) -> CommittedPart:
        part = self._parts[bucket]
        statistics = part.writer.statistics
        part.writer.close(self.ledger.footer(record, bucket, statistics))
        part.scratch.flush()
        return self.ledger.commit_part(part.scratch, record, bucket, statistics)

    def _record(self) -> SliceRecord:
        made = {bucket: tuple(part.writer.clips) for bucket, part in self._parts.items()}
        before = self.begun.record if self.begun else None
        kept: Mapping[str, tuple[tuple[int, int], ...]] = (
            {part.bucket: before.clips[part.bucket] for part in self.begun.parts} if self.begun and before else {}
        )
        rows = {pair for pairs in (*kept.values(), *made.values()) for pair in pairs}
        known = (*self._rejects, *(before.rejects if before else ()))
        rejects = {(reject.sample_index, reject.window_index): reject for reject in known}
        accounted = len({sample for sample, _ in (*rows, *rejects)})
        if self.counts.segment == 0 and accounted != self.counts.samples:
            raise ShardError(f"slice {self.index} accounts for {accounted} of {self.counts.samples} samples")
        return SliceRecord(
            index=self.index,
            samples=self.counts.samples,
            next_position=self.counts.next_position,
            last=self.counts.last,
            ignored_files=self.counts.ignored_files,
            clips=dict(sorted({**kept, **made}.items())),
            rejects=tuple(rejects[at] for at in sorted(rejects.keys() - rows)),
            keys=tuple(self.counts.keys),
            without_caption=tuple(self.counts.without_caption),
            losses=dict(sorted(self.counts.losses.items())),
        )
