"""One shard from start to end in one process: read, decode, encode, write, commit; yields an event per slice.

It does not know Ray: cluster.py runs it in an actor and hands it another decoder; tests and debuggers run it as it is.
"""

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial

from encoder.video_encoder import VideoEncoder
from pipeline.config.identity import describe
from pipeline.config.load import Config
from pipeline.errors import ShardError
from pipeline.input.samples import samples_of, shard_info, slice_begins
from pipeline.latents.background import WriteBehind, read_ahead
from pipeline.latents.encode import Made, Stopwatch, encode_sample
from pipeline.latents.helping import helping_order
from pipeline.metadata.filters import without_decoding
from pipeline.monitor.events import Event, Progress, ShardDone, SliceDone
from pipeline.output.accounts import WHOLE_SAMPLE
from pipeline.output.ledger import ShardLedger
from pipeline.output.paths import bucket_names
from pipeline.output.slice_writer import SliceCounts, SliceWriter
from pipeline.records import CommittedSlice, DecodeItem, Reason, Row, Sample, ShardRef
from pipeline.storage.store import Store
from pipeline.storage.urls import public_url
from pipeline.video.decoder import Decoder

ROWS_BEHIND = 4  # rows that may wait for the writer: bounds the memory, hides its time


@dataclass(slots=True)
class _Step:
    """A sample to be made, with its decoding under way (None: nothing of it is wanted), or why it is not decoded."""

    writer: SliceWriter
    sample: Sample
    error: Reason | None
    items: Generator[DecodeItem, None, None] | None
    ends_slice: bool


StepsWith = Callable[[ExitStack], Iterator[CommittedSlice | _Step]]


@dataclass(slots=True)
class ShardTask:
    """Makes the latents of shards with one encoder; `run` may be called again for the next shard."""

    config: Config
    encoder: VideoEncoder
    decoder: Decoder
    store: Store
    watch: Stopwatch = field(default_factory=Stopwatch)

    def run(self, shard: ShardRef) -> Iterator[Event]:
        """Makes what is missing of a shard and commits its manifest.

        Raises:
            ShardError: the shard cannot be read to its end, or storage holds parts of other input.
            TransientError: the same may pass when it is tried again.
        """
        self.watch = Stopwatch()
        yield from self._walk(self._ledger(shard))

    def help(self, shard: ShardRef, place: int) -> Iterator[Event]:
        """Joins others who make the same shard: slices in an order of its own, then all of it as `run` does."""
        self.watch = Stopwatch()
        ledger, ranges = self._ledger(shard), slice_begins(shard, self.config)
        begins = [offset_bytes for offset_bytes in ranges for _ in range(self.config.clip.segments)]
        order = helping_order(len(begins), place)
        for committed, reused in self._slices(lambda writers: self._scattered(ledger, writers, begins, order)):
            if committed:
                yield _slice_done(shard.name, committed, reused)
            else:
                yield Progress(shard.name, self.watch.take_frames())
        yield from self._walk(self._ledger(shard))

    def _walk(self, ledger: ShardLedger) -> Iterator[Event]:
        slices: list[CommittedSlice] = []
        for committed, reused in self._slices(lambda writers: self._steps(ledger, writers)):
            if committed is None:
                yield Progress(ledger.shard.name, self.watch.take_frames())
            else:
                slices.append(committed)
                yield _slice_done(ledger.shard.name, committed, reused)
        if shard_info(ledger.shard) != ledger.input:
            raise ShardError(f"{public_url(ledger.shard.url)} changed while it was read")
        manifest = ledger.commit_manifest(slices, self.watch.seconds)
        yield ShardDone(ledger.shard.name, manifest["samples"], self.watch.seconds)

    def _slices(self, steps_with: StepsWith) -> Iterator[tuple[CommittedSlice | None, bool]]:
        """Every slice that the steps end, as it stands committed, and whether it was so before; None between."""
        with (
            ExitStack() as writers,
            WriteBehind[CommittedSlice | None](ROWS_BEHIND) as behind,
            closing(read_ahead(steps_with(writers), self.config.runtime.decode_ahead)) as ahead,
        ):
            steps = self._unless_made(ahead)
            while (step := self._next(steps)) is not None:
                if isinstance(step, CommittedSlice):
                    yield from ((made, False) for made in behind.drain() if made)
                    yield step, True
                else:
                    yield from ((made, False) for made in self._make(step, behind) if made)
                    yield None, False
            yield from ((made, False) for made in behind.drain() if made)

    def _next(self, steps: Iterator["CommittedSlice | _Step"]) -> "CommittedSlice | _Step | None":
        with self.watch("wait_for_samples"):
            return next(steps, None)

    def _unless_made(self, steps: Iterator["CommittedSlice | _Step"]) -> Iterator["CommittedSlice | _Step"]:
        """The same steps, but instead of those of a segment that others have committed since: that slice."""
        writer: SliceWriter | None = None
        made: CommittedSlice | None = None
        for step in steps:
            if isinstance(step, CommittedSlice):
                yield step
                continue
            if step.writer is not writer and self.config.clip.segments > 1:
                writer = step.writer
                made = self._ledger(writer.ledger.shard).slice_of(writer.index)
            if made is None or made.missing_buckets:
                yield step
                continue
            if step.items:
                step.items.close()
            if step.ends_slice:
                yield made

    def _ledger(self, shard: ShardRef) -> ShardLedger:
        description = describe(self.config, self.encoder.identity) | {"computed_by": self.encoder.computed_by}
        return ShardLedger(self.store, shard, shard_info(shard), description, tuple(bucket_names(self.store)))

    def _steps(self, ledger: ShardLedger, writers: ExitStack) -> Iterator[CommittedSlice | _Step]:
        """Walks the shard slice by slice, past what is committed, and starts the decoding of what is not."""
        slice_index, offset_bytes, last = 0, 0, False
        reader: Iterator[Sample] | None = None
        while not last:
            begun = ledger.slice_of(slice_index)
            if begun and not begun.missing_buckets:
                yield begun
                reader, record = None, begun.record
                offset_bytes, last = record.next_position, record.last
            else:
                reader = reader or samples_of(ledger.shard, self.config, offset_bytes, self._first_sample(slice_index))
                writer = self._writer(ledger, slice_index, begun, offset_bytes)
                writers.callback(writer.close)
                yield from self._slice_steps(writer, reader)
                if not writer.counts.taken:
                    return  # a shard without samples has no slice
                offset_bytes, last = writer.counts.next_position, writer.counts.last
                reader = reader if self.config.clip.segments == 1 else None  # the next segment reads the same again
            slice_index += 1

    def _first_sample(self, slice_index: int) -> int:
        return slice_index // self.config.clip.segments * self.config.output.part_samples

    def _scattered(
        self, ledger: ShardLedger, writers: ExitStack, begins: Sequence[int], order: Iterable[int]
    ) -> Iterator[CommittedSlice | _Step]:
        """The slices of `order` that nobody has committed by the time that it is their turn."""
        for slice_index in order:
            begun = ledger.slice_of(slice_index)
            if begun is None or begun.missing_buckets:
                writer = self._writer(ledger, slice_index, begun, begins[slice_index])
                writers.callback(writer.close)
                first_index = self._first_sample(slice_index)
                samples = samples_of(ledger.shard, self.config, begins[slice_index], first_index)
                yield from self._slice_steps(writer, samples)

    def _writer(
        self, ledger: ShardLedger, slice_index: int, begun: CommittedSlice | None, offset_bytes: int
    ) -> SliceWriter:
        output, columns = self.config.output, self.config.input.parsed_columns
        return SliceWriter(
            ledger,
            slice_index,
            output.posterior,
            output.dtype,
            begun,
            output.first_frame,
            columns,
            self.config.clip.continuous,
            SliceCounts(slice_index % self.config.clip.segments, self.config.clip.segments, offset_bytes),
        )

    def _slice_steps(self, writer: SliceWriter, reader: Iterator[Sample]) -> Iterator[_Step]:
        for sample in itertools.islice(reader, self.config.output.part_samples):
            writer.counts.add(sample)
            error, segment = without_decoding(self.config.filter.where, sample), writer.counts.segment
            wanted = writer.wanted(sample.index) and not error
            items = self.decoder.start(sample, segment) if wanted else None
            full = writer.counts.taken == self.config.output.part_samples
            yield _Step(writer, sample, None if segment else error, items, ends_slice=sample.last or full)

    def _make(self, step: _Step, behind: WriteBehind[CommittedSlice | None]) -> list[CommittedSlice | None]:
        """Encodes one sample and hands its rows and rejects to the writer; returns slices that were committed."""
        ready: list[CommittedSlice | None] = []
        if step.error:
            ready += behind.submit(partial(step.writer.reject, step.sample, -1, step.error))
        for made in self._made(step):
            call = (
                partial(self._write, step, made)
                if isinstance(made, Row)
                else partial(step.writer.reject, step.sample, *made)
            )
            ready += behind.submit(call)
        if step.ends_slice:
            ready += behind.submit(partial(self._commit, step))
        return ready

    def _made(self, step: _Step) -> Iterator[Made]:
        if step.items:
            with closing(step.items):
                yield from encode_sample(step.sample, step.items, self.encoder, self.config.output, self.watch)

    def _write(self, step: _Step, row: Row) -> None:
        with self.watch("write"):
            step.writer.add(row)

    def _commit(self, step: _Step) -> CommittedSlice:
        with self.watch("commit"):
            return step.writer.commit()


def _slice_done(shard: str, committed: CommittedSlice, reused: bool) -> SliceDone:
    record, parts = committed.record, committed.parts
    # a slice without samples of its own is a later segment of them: what is wrong with a whole one is the first's news
    rejects = tuple(reject for reject in record.rejects if record.samples or reject.window_index != WHOLE_SAMPLE)
    return SliceDone(
        shard=shard,
        slice_index=record.index,
        samples=record.samples,
        rows=sum(part.rows for part in parts),
        rejects=rejects,
        size_bytes=sum(part.size_bytes for part in parts),
        reused=reused,
    )
