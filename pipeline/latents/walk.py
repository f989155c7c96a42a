"""The walk through a shard: which samples of which slices are to be made, past what is committed already."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from pipeline.config.load import Config
from pipeline.input.samples import samples_of
from pipeline.metadata.filters import without_decoding
from pipeline.output.ledger import ShardLedger
from pipeline.output.slice_writer import SliceCounts, SliceWriter
from pipeline.records import CommittedSlice, Reason, Sample

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


@dataclass(frozen=True, slots=True)
class Walk:
    """Walks one shard. `look` gives the shard's ledger as storage stands when it is called.

    `writers` closes the writer of every slice that the walk begins.
    """

    config: Config
    look: Callable[[], ShardLedger]
    writers: ExitStack

    def whole(self) -> Iterator[CommittedSlice | Step]:
        """Slice by slice, in order; a committed one instead of its samples."""
        ledger = self.look()
        slice_index, position, last = 0, 0, False
        reader: Iterator[Sample] | None = None
        while not last:
            begun = self._begun(ledger, slice_index)
            if begun and not begun.missing_buckets:
                yield begun
                reader, record = None, begun.record
                position, last = record.next_position, record.last
            else:
                reader = reader or samples_of(ledger.shard, self.config, position, self._first_sample(slice_index))
                writer = self._writer(ledger, slice_index, begun, position)
                yield from self._steps(writer, reader)
                if not writer.counts.taken:
                    return  # a shard without samples has no slice
                position, last = writer.counts.next_position, writer.counts.last
                reader = reader if self.config.clip.segments == 1 else None  # the next segment reads the same again
            slice_index += 1

    def scattered(self, begins: Sequence[int], order: Iterable[int]) -> Iterator[CommittedSlice | Step]:
        """The slices of `order` that nobody has committed when it is their turn; `begins` is each one's offset."""
        for slice_index in order:
            ledger = self.look()
            begun = ledger.slice_of(slice_index)
            if begun is None or begun.missing_buckets:
                writer = self._writer(ledger, slice_index, begun, begins[slice_index])
                first_index = self._first_sample(slice_index)
                yield from self._steps(writer, samples_of(ledger.shard, self.config, begins[slice_index], first_index))

    def _begun(self, ledger: ShardLedger, slice_index: int) -> CommittedSlice | None:
        """What storage holds of a slice; of segments, which others may make too, as it stands now."""
        return (self.look() if self.config.clip.segments > 1 else ledger).slice_of(slice_index)

    def _first_sample(self, slice_index: int) -> int:
        return slice_index // self.config.clip.segments * self.config.output.part_samples

    def _writer(
        self, ledger: ShardLedger, slice_index: int, begun: CommittedSlice | None, position: int
    ) -> SliceWriter:
        output, segments = self.config.output, self.config.clip.segments
        writer = SliceWriter(
            ledger,
            slice_index,
            self._first_sample(slice_index),
            output.posterior,
            output.dtype,
            begun,
            output.first_frame,
            self.config.input.parsed_columns,
            self.config.clip.continuous,
            SliceCounts(slice_index % segments, segments, position),
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
