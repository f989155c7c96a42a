"""One shard from start to end in one process: read, decode, encode, write, commit; yields an event per slice.

cluster/ runs it in an actor and hands it a decoder that works elsewhere; tests and debuggers run it as it is.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from encoder.video_encoder import VideoEncoder
from pipeline.clips.objects import largest_object_bytes
from pipeline.config.identity import describe
from pipeline.config.load import Config
from pipeline.errors import ShardError, TransientError
from pipeline.input.grouping import SeenKeys
from pipeline.input.samples import shard_info, slice_begins
from pipeline.latents.background import Background
from pipeline.latents.encode import Made, PendingRow, SampleEncoding, Urgency
from pipeline.latents.feed import Begun, Failed, Feed, Item, Message, WalkEnded, choose
from pipeline.latents.helping import Claims, NoClaims, helping_order
from pipeline.latents.pace import Pace
from pipeline.latents.stopwatch import Stopwatch
from pipeline.latents.walk import Place, Step, Steps, Walk
from pipeline.monitor.events import ConvolutionsHalved, Event, Progress, ShardDone, ShardRead, SliceDone
from pipeline.monitor.stages import ENCODE
from pipeline.output.accounts import WHOLE_SAMPLE, CommittedSlice
from pipeline.output.ledger import ShardLedger
from pipeline.output.slice_writer import SliceWriter
from pipeline.records import Chunk, DecodeItem, ShardRef
from pipeline.storage.store import Store
from pipeline.storage.urls import public_url
from pipeline.video.decoder import Decoder

ROWS_BEHIND = 4  # rows that may wait for the device and for the scratch file: bounds the memory, hides their time
COMMITS_BEHIND, COMMIT_THREADS = 8, 4  # slices that may wait to be committed, and how many at once

_Happened = tuple[CommittedSlice, bool] | Progress | ShardRead | ConvolutionsHalved


@dataclass(frozen=True, slots=True)
class ShardTask:
    """Makes the latents of shards with one encoder; several threads may each make a shard with it.

    Once `draining` is set no sample is taken any more; what is on its way is finished, and whole slices are committed.
    """

    config: Config
    encoder: VideoEncoder
    decoder: Decoder
    store: Store
    pace: Pace = field(default_factory=Pace)
    claims: Claims = field(default_factory=NoClaims)
    draining: threading.Event = field(default_factory=threading.Event)

    def run(self, shard: ShardRef, watch: Stopwatch | None = None, place: int = 0) -> Iterator[Event]:
        """Makes what is missing of a shard and commits its manifest; `watch` adds up where the time goes.

        Raises:
            ShardError: the shard cannot be read to its end, or storage holds parts of other input.
            TransientError: the same may pass when it is tried again.
        """
        watch = watch or Stopwatch()
        ledger = self._ledger(shard)
        slices: list[CommittedSlice] = []
        for made in self._made(ledger, place, lambda walk: walk.whole(), watch):
            if isinstance(made, tuple):
                slices.append(made[0])
                yield _slice_done(shard.name, *made)
            else:
                yield made
        if shard_info(shard) != ledger.input:
            raise ShardError(f"{public_url(shard.url)} changed while it was read")
        slices.sort(key=lambda committed: committed.record.index)
        manifest = ledger.commit_manifest(slices, watch.seconds, watch.convolutions_halved)
        yield ShardDone(shard.name, manifest["samples"], watch.seconds)

    def help(self, shard: ShardRef, place: int, watch: Stopwatch | None = None) -> Iterator[Event]:
        """Joins others who make the same shard: slices in an order of its own, then all of it as `run` does."""
        watch = watch or Stopwatch()
        seen = SeenKeys()
        begins = [begin for begin in slice_begins(shard, self.config, seen) for _ in range(self.config.clip.segments)]
        order = helping_order(len(begins), place)
        for made in self._made(self._ledger(shard), place, lambda walk: walk.scattered(begins, order, seen), watch):
            if isinstance(made, tuple):
                yield _slice_done(shard.name, *made)
            elif not isinstance(made, ShardRead):
                yield made
        yield from self.run(shard, watch, place)

    def _made(
        self, ledger: ShardLedger, place: int, steps_of: Callable[[Walk], Steps], watch: Stopwatch
    ) -> Iterator[_Happened]:
        """Every slice as it is committed, and whether it was so before; in between, what else happens."""
        with ExitStack() as writers, ExitStack() as closing:  # threads end before what they write to is closed
            walk = Walk(self.config, ledger, writers, partial(self.claims.take, ledger.shard.name, place))
            making = _Making(self, ledger.shard.name, watch, closing)
            object_bytes = largest_object_bytes(self.config.clip, 2 * self.config.encoder.chunk_frames)
            steps = _UntilDrained(steps_of(walk), self.draining)
            feed = closing.enter_context(Feed(iter(steps), self._start, self.pace, object_bytes))
            yield from making.events(feed)
        if steps.was_cut:
            raise TransientError("its node is being drained: what was whole is committed")

    def _start(self, step: Step) -> Generator[DecodeItem | None, None, None]:
        return self.decoder.start(step.sample, step.segment)

    def _ledger(self, shard: ShardRef) -> ShardLedger:
        description = describe(self.config, self.encoder.identity) | {"computed_by": self.encoder.computed_by}
        return ShardLedger(self.store, shard, shard_info(shard), description)


class _UntilDrained:
    """The same steps until the node is drained; `was_cut` tells whether some were left then."""

    def __init__(self, steps: Steps, draining: threading.Event) -> None:
        self._steps, self._draining, self.was_cut = steps, draining, False

    def __iter__(self) -> Steps:
        for step in self._steps:
            if self._draining.is_set():
                self.was_cut = True
                return
            yield step


@dataclass(slots=True)
class _OpenSlice:
    """A slice whose samples are on their way: how many are unfinished, and whether all of them have begun."""

    unfinished: int = 0
    is_whole: bool = False


@dataclass(slots=True)
class _OpenSample:
    """A sample that is decoded: what it has become so far, and its items that wait for the device."""

    step: Step
    encoding: SampleEncoding
    items: deque[Item] = field(default_factory=deque)

    def urgency(self) -> Urgency:
        if not self.items:
            return "nothing"
        item = self.items[0].item
        if not isinstance(item, Chunk):
            return "free"
        return self.encoding.urgency(item)


class _Making:
    """What is on its way of one shard, from decoded items to committed slices."""

    def __init__(self, task: ShardTask, shard: str, watch: Stopwatch, closing: ExitStack) -> None:
        self._task, self._shard, self._watch = task, shard, watch
        self._slices: dict[int, _OpenSlice] = {}
        self._samples: dict[Place, _OpenSample] = {}  # in the order in which they began
        self._rows = closing.enter_context(Background[None]("rows", ROWS_BEHIND))
        self._commits = closing.enter_context(Background[CommittedSlice]("commits", COMMITS_BEHIND, COMMIT_THREADS))
        self._walk_ended, self._encode_seconds, self._times_halved = False, 0.0, task.encoder.times_halved

    def events(self, feed: Feed) -> Iterator[_Happened]:
        """Notes what comes and encodes what is ready, until nothing is left; then waits for the last commits."""
        while self._samples or not self._walk_ended:
            place = choose((place, one.urgency(), one.encoding.has_begun) for place, one in self._samples.items())
            message = self._next(feed, wait=place is None)
            if message is not None:
                yield from self._note(message)
                del message  # or the last frames would stay in memory until the next ones come
            elif place is not None and self._encode_next(self._samples[place]):
                self._finish(self._samples.pop(place).step, feed)
                yield self._progress()
                yield from self._halved()
            yield from ((made, False) for made in self._commits.ready())
        yield from ((made, False) for made in self._commits.drain())

    def _next(self, feed: Feed, wait: bool) -> Message | None:
        if not wait:
            return feed.take(wait=False)
        with self._watch("wait_for_frames"):
            return feed.take(wait=True)

    def _progress(self) -> Progress:
        ready = sum(bool(sample.items) for sample in self._samples.values())
        spent = self._watch.take()
        return Progress(
            self._shard,
            spent.frames,
            encode_seconds=spent.encode_seconds,
            idle_seconds=spent.idle_seconds,
            decoding=len(self._samples) - ready,
            ready=ready,
        )

    def _halved(self) -> Iterator[ConvolutionsHalved]:
        """Says and counts what a lack of memory has changed since the last sample."""
        before, self._times_halved = self._times_halved, self._task.encoder.times_halved
        if times := self._times_halved - before:
            self._watch.convolutions_halved += times
            yield ConvolutionsHalved(self._shard, times)

    def _note(self, message: Message) -> Iterator[_Happened]:
        match message:
            case Failed():
                raise message.error
            case CommittedSlice():
                yield message, True
            case WalkEnded():
                self._walk_ended = True
                yield ShardRead(self._shard)
            case Begun():
                self._begin(message.step)
                if not message.step.is_wanted:
                    yield self._progress()
            case Item():
                self._samples[message.step.place].items.append(message)

    def _begin(self, step: Step) -> None:
        open_slice = self._slices.setdefault(step.writer.index, _OpenSlice())
        open_slice.is_whole = step.ends_slice
        if step.why:
            self._rows.submit(partial(step.writer.reject, step.sample, -1, step.why))
        if not step.is_wanted:
            self._rows.submit(partial(step.writer.end_sample, step.sample.index))
        else:
            open_slice.unfinished += 1
            task = self._task
            encoding = SampleEncoding(step.sample, task.encoder, task.config.output, self._watch, self._shard)
            self._samples[step.place] = _OpenSample(step, encoding)
        self._commit_if_complete(step.writer)

    def _encode_next(self, sample: _OpenSample) -> bool:
        """Encodes the next item of a sample and hands on what it completes. Returns whether the sample has ended."""
        item = sample.items.popleft()
        for made in sample.encoding.take(item.item):
            self._rows.submit(partial(self._write, sample.step, made))
        item.taken()
        return item.item is None

    def _finish(self, step: Step, feed: Feed) -> None:
        encode_seconds = self._watch.seconds.get(ENCODE, 0.0)
        self._task.pace.encoded(encode_seconds - self._encode_seconds)
        self._encode_seconds = encode_seconds
        feed.finish(step)
        self._rows.submit(partial(step.writer.end_sample, step.sample.index))
        self._slices[step.writer.index].unfinished -= 1
        self._commit_if_complete(step.writer)

    def _commit_if_complete(self, writer: SliceWriter) -> None:
        open_slice = self._slices[writer.index]
        if open_slice.is_whole and not open_slice.unfinished:
            del self._slices[writer.index]
            written = self._rows.submit(lambda: None)  # behind every row of the slice
            self._commits.submit(partial(self._commit, writer, written))

    def _write(self, step: Step, made: Made) -> None:
        if not isinstance(made, PendingRow):
            step.writer.reject(step.sample, *made)
            return
        with self._watch("wait_for_device"):
            row = made.row()
        with self._watch("write"):
            step.writer.add(row)

    def _commit(self, writer: SliceWriter, written: Future[None]) -> CommittedSlice:
        written.result()
        with self._watch("commit"):
            committed = writer.commit()
        self._task.claims.made(self._shard, writer.index)
        return committed


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
