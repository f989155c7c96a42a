"""The walk through a shard: which samples of which slices are to be made, past what is committed already."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from pipeline.config.load import Config
from pipeline.errors import Reason
from pipeline.input.grouping import SeenKeys
from pipeline.input.samples import samples_of
from pipeline.latents.helping import Claim
from pipeline.metadata.filters import without_decoding
from pipeline.output.accounts import CommittedSlice
from pipeline.output.ledger import ShardLedger
from pipeline.output.slice_writer import SliceCounts, SliceWriter
from pipeline.records import Sample

Place = tuple[int, int]  # a slice's and a sample's index


@dataclass(frozen=True, slots=True)
class Step:
    """One sample of a slice, and the segment of it that is to be made: `is_wanted` says whether it is decoded at all.

    `why` tells why a sample is left out without decoding. With the step that `ends_slice` the slice has come whole.
    """

    writer: SliceWriter
    sample: Sample
    segment: int
    why: Reason | None
    is_wanted: bool
    ends_slice: bool

    @property
    def place(self) -> Place:
        return self.writer.index, self.sample.index


Steps = Iterator[CommittedSlice | Step | None]  # None: what is left is being made by others for now


@dataclass(frozen=True, slots=True)
class Walk:
    """Walks one shard; storage is looked at when a walk begins, and where others have committed something since.

    `writers` closes the writer of every slice that the walk begins. `claim` says of a slice whether it may be made.
    """

    config: Config
    ledger: ShardLedger
    writers: ExitStack
    claim: Callable[[int], Claim]

    def whole(self) -> Steps:
        """Slice by slice, in order; a committed one instead of its samples. Those that others are at come last."""
        ledger, left = self.ledger.looked(), dict[int, int]()
        slice_index, position, last = 0, 0, False
        reader: Iterator[Sample] | None = None
        seen = SeenKeys()
        while not last:
            begun = ledger.slice_of(slice_index)
            claim: Claim = "made" if _is_whole(begun) else self.claim(slice_index)
            if claim == "made" and not _is_whole(begun):
                ledger = self.ledger.looked()
                begun = ledger.slice_of(slice_index)
            if begun and _is_whole(begun):
                yield begun
                reader, record = None, begun.record
                position, last = record.next_position, record.last
                for index, key in enumerate(record.keys, start=self._first_sample(slice_index)):
                    seen.add(key, index)
            else:
                first_sample = self._first_sample(slice_index)
                reader = reader or samples_of(ledger.shard, self.config, position, first_sample, seen)
                counts = self._counts(slice_index, position)
                if claim == "taken":
                    left[slice_index] = position
                    self._pass_over(reader, counts)
                else:
                    yield from self._steps(self._writer(ledger, slice_index, begun, counts), reader)
                if not counts.taken:
                    return  # a shard without samples has no slice
                position, last = counts.next_position, counts.last
                reader = reader if self.config.clip.segments == 1 else None  # the next segment reads the same again
            slice_index += 1
        for slice_index, position in left.items():
            yield from self._left(slice_index, position, seen)

    def _left(self, slice_index: int, position: int, seen: SeenKeys) -> Steps:
        """A slice that another was at: as it was committed, or to be made after all where that takes too long."""
        while self.claim(slice_index) == "taken":
            yield None
        ledger = self.ledger.looked()
        begun = ledger.slice_of(slice_index)
        yield from [begun] if begun and _is_whole(begun) else self._slice(ledger, slice_index, begun, position, seen)

    def scattered(self, begins: Sequence[int], order: Iterable[int], seen: SeenKeys) -> Steps:
        """The slices of `order` that nobody is at or has committed.

        Args:
            begins: each slice's offset.
            seen: the keys of all samples of the shard.
        """
        ledger = self.ledger.looked()
        for slice_index in order:
            begun = ledger.slice_of(slice_index)
            if not _is_whole(begun) and self.claim(slice_index) == "mine":
                yield from self._slice(ledger, slice_index, begun, begins[slice_index], seen)

    def _slice(
        self, ledger: ShardLedger, slice_index: int, begun: CommittedSlice | None, position: int, seen: SeenKeys
    ) -> Steps:
        writer = self._writer(ledger, slice_index, begun, self._counts(slice_index, position))
        first_sample = self._first_sample(slice_index)
        yield from self._steps(writer, samples_of(ledger.shard, self.config, position, first_sample, seen))

    def _pass_over(self, reader: Iterator[Sample], counts: SliceCounts) -> None:
        for sample in itertools.islice(reader, self.config.output.part_samples):
            counts.add(sample)

    def _counts(self, slice_index: int, position: int) -> SliceCounts:
        return SliceCounts(slice_index % self.config.clip.segments, self.config.clip.segments, position)

    def _first_sample(self, slice_index: int) -> int:
        return slice_index // self.config.clip.segments * self.config.output.part_samples

    def _writer(
        self, ledger: ShardLedger, slice_index: int, begun: CommittedSlice | None, counts: SliceCounts
    ) -> SliceWriter:
        output = self.config.output
        writer = SliceWriter(
            ledger,
            slice_index,
            self._first_sample(slice_index),
            output.posterior,
            output.dtype,
            begun,
            output.image_latent != "none",
            self.config.input.parsed_columns,
            self.config.clip.continuous,
            counts,
        )
        self.writers.callback(writer.close)
        return writer

    def _steps(self, writer: SliceWriter, reader: Iterator[Sample]) -> Iterator[Step]:
        for sample in itertools.islice(reader, self.config.output.part_samples):
            writer.counts.add(sample)
            why, segment = without_decoding(self.config.filter.where, sample), writer.counts.segment
            is_wanted = writer.wanted(sample.index) and not why
            full = writer.counts.taken == self.config.output.part_samples
            yield Step(writer, sample, segment, None if segment else why, is_wanted, sample.last or full)


def _is_whole(begun: CommittedSlice | None) -> bool:
    return begun is not None and not begun.missing_buckets
