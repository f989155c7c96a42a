"""One shard from start to end in one process: read, decode, encode, write, commit; yields an event per slice.

It does not know Ray: cluster.py runs it in an actor and hands it another decoder; tests and debuggers run it as it is.
"""

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from encoder.replica import VideoEncoder
from encoder.spec import LatentSpec
from pipeline.batches import Batches
from pipeline.clips import ClipRules
from pipeline.config import Config, FilterConfig
from pipeline.decode import decode_sample
from pipeline.encode import Made, Stopwatch, encode_sample
from pipeline.errors import SampleError, ShardError
from pipeline.filters import check_metadata
from pipeline.identity import FORMAT_VERSION, fingerprint, identity
from pipeline.ledger import ShardLedger, bucket_names
from pipeline.overlap import WriteBehind, read_ahead
from pipeline.plan import helping_order
from pipeline.records import (
    CommittedSlice,
    DecodeItem,
    Event,
    Progress,
    Row,
    Sample,
    ShardDone,
    ShardRef,
    SliceDone,
)
from pipeline.samples import samples_of, shard_info, slice_begins
from pipeline.slices import SliceWriter
from pipeline.store import Store, public_url

ROWS_BEHIND = 4  # rows that may wait for the writer: bounds the memory, hides its time


class Decoder(Protocol):
    """Starts decoding a sample; the items come when asked for."""

    def start(self, sample: Sample) -> Generator[DecodeItem, None, None]: ...


@dataclass(frozen=True, slots=True)
class LocalDecoder:
    """Decodes in this process, when the items are asked for: for tests and debuggers, a bad video can kill it."""

    config: Config
    spec: LatentSpec

    def start(self, sample: Sample) -> Generator[DecodeItem, None, None]:
        config, rules = self.config, ClipRules(self.spec, self.config.encoder.chunk_frames, sample.spans)
        yield from decode_sample(sample.video, config.clip, config.limits, config.input.strict, rules, config.filter)


def describe(config: Config, encoder_identity: Mapping[str, Any]) -> dict[str, Any]:
    """What the footer of every part of a run says, whichever shard it is of."""
    return {
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint(identity(config, encoder_identity["weights_sha256"])),
        "encoder": dict(encoder_identity),
        "preprocessing": {
            "clip": config.clip.model_dump(mode="json"),
            "input": config.input.rules(),
            "filter": config.filter.model_dump(mode="json"),
            "resize": "uint8 antialiased bicubic, then centre crop",
            "value_range": [-1, 1],
        },
        "posterior": config.output.posterior,
        "first_frame": config.output.first_frame,
        "columns": {name: column.type for name, column in config.input.parsed_columns.items()},
        "sample_seed": config.output.seed if config.output.posterior == "sample" else None,
        "dtype": config.output.dtype,
        "part_samples": config.output.part_samples,
    } | ({"batch_clips": config.encoder.batch_clips} if config.encoder.batch_clips > 1 else {})


@dataclass(slots=True)
class _Step:
    """A sample to be made, with its decoding under way (None: nothing of it is wanted), or why it is not decoded."""

    writer: SliceWriter
    sample: Sample
    error: SampleError | None
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
    _batches: Batches | None = None

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
        ledger, begins = self._ledger(shard), slice_begins(shard, self.config)
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
        if (size := self.config.encoder.batch_clips) > 1:
            self._batches = Batches(self.encoder, self.config.output, size, self.watch)
        with (
            ExitStack() as writers,
            WriteBehind[CommittedSlice | None](ROWS_BEHIND) as behind,
            closing(read_ahead(steps_with(writers), self.config.runtime.decode_ahead)) as steps,
        ):
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

    def _ledger(self, shard: ShardRef) -> ShardLedger:
        description = describe(self.config, self.encoder.identity)
        return ShardLedger(self.store, shard, shard_info(shard), description, tuple(bucket_names(self.store)))

    def _steps(self, ledger: ShardLedger, writers: ExitStack) -> Iterator[CommittedSlice | _Step]:
        """Walks the shard slice by slice, past what is committed, and starts the decoding of what is not."""
        slice_index, sample_index, offset_bytes, last = 0, 0, 0, False
        reader: Iterator[Sample] | None = None
        while not last:
            begun = ledger.slice_of(slice_index)
            if begun and not begun.missing_buckets:
                yield begun
                reader, record = None, begun.record
                sample_index += record.samples
                offset_bytes, last = record.next_offset_bytes, record.last
            else:
                reader = reader or samples_of(ledger.shard, self.config, offset_bytes, sample_index)
                writer = self._writer(ledger, slice_index, begun)
                writers.callback(writer.close)
                yield from self._slice_steps(writer, reader)
                if not writer.counts.samples:
                    return  # a shard without samples has no slice
                sample_index += writer.counts.samples
                offset_bytes, last = writer.counts.next_offset_bytes, writer.counts.last
            slice_index += 1

    def _scattered(
        self, ledger: ShardLedger, writers: ExitStack, begins: Sequence[int], order: Iterable[int]
    ) -> Iterator[CommittedSlice | _Step]:
        """The slices of `order` that nobody has committed by the time that it is their turn."""
        for slice_index in order:
            begun = ledger.slice_of(slice_index)
            if begun is None or begun.missing_buckets:
                writer = self._writer(ledger, slice_index, begun)
                writers.callback(writer.close)
                first_index = slice_index * self.config.output.part_samples
                samples = samples_of(ledger.shard, self.config, begins[slice_index], first_index)
                yield from self._slice_steps(writer, samples)

    def _writer(self, ledger: ShardLedger, slice_index: int, begun: CommittedSlice | None) -> SliceWriter:
        output, columns = self.config.output, self.config.input.parsed_columns
        return SliceWriter(ledger, slice_index, output.posterior, output.dtype, begun, output.first_frame, columns)

    def _slice_steps(self, writer: SliceWriter, reader: Iterator[Sample]) -> Iterator[_Step]:
        for sample in itertools.islice(reader, self.config.output.part_samples):
            writer.counts.add(sample)
            error = _without_decoding(sample, self.config.filter)
            wanted = writer.wanted(sample.index) and not error
            items = self.decoder.start(sample) if wanted else None
            full = writer.counts.samples == self.config.output.part_samples
            yield _Step(writer, sample, error, items, ends_slice=sample.last or full)

    def _make(self, step: _Step, behind: WriteBehind[CommittedSlice | None]) -> list[CommittedSlice | None]:
        """Encodes one sample and hands its rows and rejects to the writer; returns slices that were committed."""
        ready: list[CommittedSlice | None] = []
        if step.error:
            ready += behind.submit(partial(step.writer.reject, step.sample, -1, step.error))
        for sample, made in self._made(step):
            call = (
                partial(self._write, step, made)
                if isinstance(made, Row)
                else partial(step.writer.reject, sample, *made)
            )
            ready += behind.submit(call)
        if step.ends_slice:
            ready += behind.submit(partial(self._commit, step))
        return ready

    def _made(self, step: _Step) -> Iterator[tuple[Sample, Made]]:
        """What a sample gives now; in batches, clips of samples before it may come with it, all by the slice's end."""
        if step.items:
            with closing(step.items):
                if self._batches:
                    yield from self._batches.add(step.sample, step.items)
                else:
                    made = encode_sample(step.sample, step.items, self.encoder, self.config.output, self.watch)
                    yield from ((step.sample, one) for one in made)
        if step.ends_slice and self._batches:
            yield from self._batches.flush()

    def _write(self, step: _Step, row: Row) -> None:
        with self.watch("write"):
            step.writer.add(row)

    def _commit(self, step: _Step) -> CommittedSlice:
        with self.watch("commit"):
            return step.writer.commit()


def _without_decoding(sample: Sample, wanted: FilterConfig) -> SampleError | None:
    """Why a sample can be, or is to be, left out before it is decoded."""
    try:
        check_metadata(wanted.where, sample.metadata)
    except SampleError as error:
        return error
    return SampleError("read", *sample.problem) if sample.problem else None


def _slice_done(shard: str, committed: CommittedSlice, reused: bool) -> SliceDone:
    record, parts = committed.record, committed.parts
    return SliceDone(
        shard=shard,
        slice_index=record.index,
        samples=record.samples,
        rows=sum(part.rows for part in parts),
        rejects=record.rejects,
        size_bytes=sum(part.size_bytes for part in parts),
        reused=reused,
    )
