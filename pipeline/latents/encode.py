"""The clips of one sample: decoded frames in, rows and rejects out, in the form that `output.posterior` names."""

import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from encoder.video_encoder import ClipMemoryError, OutOfMemoryError, Posterior, Stream, VideoEncoder, joined
from pipeline.clips.continuous import latent_frames, rows_of
from pipeline.config.latents import OutputConfig
from pipeline.errors import Reason
from pipeline.latents.stopwatch import Stopwatch
from pipeline.monitor.stages import ENCODE, IDLE
from pipeline.records import Chunk, ClipSpec, DecodeItem, Failure, FloatLatent, Opened, Row, Sample, Uint8Frames

# What the next item of a sample asks of the device: nothing at all, to go on with a clip, to take a whole one at once,
# or to begin one that comes in several objects; or there is no item yet.
Urgency = Literal["free", "continues", "whole", "begins", "nothing"]
NO_MEMORY = (ClipMemoryError, OutOfMemoryError)
INCOMPLETE = Reason("decode", "incomplete", "the decoder stopped before the clip's last frame")

WINDOW_AT_END = re.compile(r":\d+\Z")

Fetch = Callable[[], FloatLatent]  # waits for the device


@dataclass(frozen=True, slots=True)
class PendingRow:
    """A row whose latents may still be on the device."""

    sample: Sample
    clip: ClipSpec
    opened: Opened
    id: str
    latent: Fetch
    logvar: Fetch | None
    image_latent: Fetch | None

    def row(self) -> Row:
        """The row, once the device has computed it."""
        logvar = None if self.logvar is None else self.logvar()
        image = None if self.image_latent is None else self.image_latent()
        return Row(self.sample, self.clip, self.opened.header, self.id, self.latent(), logvar, image)


Made = PendingRow | tuple[int, Reason]  # or a window's index, and why it gives no row


def clip_id(shard: str, key: str, window_index: int, several: bool) -> str:
    """The id of a row, unique over the run: `SHARD/KEY`, and `:WINDOW` where a sample has `several` clips.

    A key that ends like a window gets one in any case: `a:1` may be a key, or window 1 of `a`.
    """
    return f"{shard}/{key}:{window_index}" if several or WINDOW_AT_END.search(key) else f"{shard}/{key}"


def encode_sample(
    sample: Sample,
    items: Iterator[DecodeItem],
    encoder: VideoEncoder,
    output: OutputConfig,
    watch: Stopwatch,
    shard: str = "",
) -> Iterator[Row | tuple[int, Reason]]:
    """Rows of the clips that came whole, by window, then (window_index, why) for each that did not."""
    encoding = SampleEncoding(sample, encoder, output, watch, shard)
    for made in (one for item in chain(items, (None,)) for one in encoding.take(item)):
        yield made.row() if isinstance(made, PendingRow) else made


class SampleEncoding:
    """One sample of a shard, whose frames are arriving."""

    def __init__(
        self, sample: Sample, encoder: VideoEncoder, output: OutputConfig, watch: Stopwatch, shard: str
    ) -> None:
        self._shard = shard
        self._sample, self._encoder, self._output, self._watch = sample, encoder, output, watch
        self._opened: Opened | None = None
        self._clips: dict[int, _OpenClip] = {}
        self._why = INCOMPLETE

    def urgency(self, chunk: Chunk) -> Urgency:
        """What taking these frames would mean for the device."""
        clip = self._clips.get(chunk.window_index)
        if clip is None:
            return "free"  # of a clip that was given up
        if clip.is_begun:
            return "continues"
        return "whole" if len(chunk.frames) == clip.frames else "begins"

    @property
    def has_begun(self) -> bool:
        """Whether any clip holds a state on the device."""
        return any(clip.is_begun for clip in self._clips.values())

    def take(self, item: DecodeItem | None) -> Iterator[Made]:
        """What the next item completes; None is the end of the sample."""
        match item:
            case Opened():
                self._opened = item
                self._clips = {spec.window_index: self._open(item, spec) for spec in item.clips}
                for refused in item.refused:
                    yield refused.window_index, refused.why
            case Chunk() if item.window_index in self._clips:
                clip = self._clips[item.window_index]
                made = clip.push(item)
                self._watch.frames += len(item.frames)
                if not clip.due:
                    del self._clips[item.window_index]
                yield from made
            case Failure():
                self._why = item.why
            case None:
                due = [row.window_index for clip in self._clips.values() for row in clip.due]
                yield from ((window_index, self._why) for window_index in due or (() if self._opened else (-1,)))

    def _open(self, opened: Opened, spec: ClipSpec) -> "_OpenClip":
        return _OpenClip(self._sample, opened, spec, self._encoder, self._output, self._watch, self._shard)


def _no_memory(error: Exception) -> Reason:
    """Why a clip is rejected that one of NO_MEMORY ended."""
    if isinstance(error, ClipMemoryError):
        return Reason("encode", "too_large_for_memory", str(error))
    return Reason("encode", "out_of_memory", str(error).partition("\n")[0])


class _OpenClip:
    """A clip whose frames are arriving. `due` are the rows that are still to be made of it."""

    def __init__(
        self,
        sample: Sample,
        opened: Opened,
        spec: ClipSpec,
        encoder: VideoEncoder,
        output: OutputConfig,
        watch: Stopwatch,
        shard: str,
    ) -> None:
        self._shard = shard
        self._several = bool(spec.row_frames) or len(opened.clips) + len(opened.refused) > 1
        self._sample, self._opened, self._watch = sample, opened, watch
        self._encoder, self._output = encoder, output
        self._stream: Stream = encoder.stream(spec.frames, spec.plan_frames)
        self._plan = deque(spec.plan_frames or encoder.plan(spec.frames))
        self.due = deque(row for row, _ in rows_of(spec))
        self._ready = _Latents()
        self._warm_up = encoder.spec.latent_frames(spec.warm_up_frames) if spec.warm_up_frames else 0
        self._image: Fetch | None = None
        self._pushed, self.frames = 0, spec.frames

    @property
    def is_begun(self) -> bool:
        return self._pushed > 0

    def push(self, chunk: Chunk) -> list[Made]:
        """Encodes the next frames; returns the rows that are complete with them, or why those due can never be."""
        made: list[Made] = []
        try:
            for begin, end in self._portions(len(chunk.frames)):
                for row in self._push(chunk.frames[begin:end]):
                    made.append(row)
                    self.due.popleft()
        except NO_MEMORY as error:  # the stream's state is lost with the chunk: the clip is, the encoder is not
            made += [(row.window_index, _no_memory(error)) for row in self.due]
            self.due.clear()
        return made

    def _portions(self, frames: int) -> Iterator[tuple[int, int]]:
        """Frames that came together, cut where the encoder's chunks end: no more than a chunk is on the device."""
        begin = 0
        while begin < frames:
            end = min(frames, begin + self._plan[0])
            self._plan[0] -= end - begin
            if not self._plan[0]:
                self._plan.popleft()
            yield begin, end
            begin = end

    def _push(self, frames: Uint8Frames) -> Iterator[PendingRow]:
        video = self._encoder.to_video(frames)
        if self._output.image_latent != "none" and not self._pushed:
            frames_after = self.frames - 1 if self._output.image_latent == "padded" else 0
            posterior = self._encoder.encode_image(video, frames_after)
            self._image = self._latent(posterior, "first", self._id(self.due[0]))
        part = self._stream.push(video)
        self._pushed += len(frames)
        if self._pushed == self.frames:
            self._stream.finish()
        if part is not None:
            self._ready.add(part)
        if self._warm_up and self._ready.take(self._warm_up) is not None:
            self._warm_up = 0
        if self._warm_up:
            return
        while self.due and (ready := self._ready.take(latent_frames(self.due[0], self._encoder.spec))) is not None:
            yield self._row(self.due[0], ready)

    def _id(self, row: ClipSpec) -> str:
        return clip_id(self._shard, self._sample.key, row.window_index, self._several)

    def _row(self, spec: ClipSpec, posterior: Posterior) -> PendingRow:
        row_id = self._id(spec)
        logvar = self._encoder.fetch(posterior.logvar[0]) if self._output.posterior == "moments" else None
        latent = self._timed(self._latent(posterior, "clip", row_id))
        return PendingRow(self._sample, spec, self._opened, row_id, latent, logvar, self._image)

    def _timed(self, fetch: Fetch) -> Fetch:
        """The same, noting what the device took for the clip so far: it is known when a row of it is there."""

        def fetched() -> FloatLatent:
            latent = fetch()
            spent = self._stream.take_device_seconds()
            self._watch.add(ENCODE, spent.busy)
            self._watch.add(IDLE, spent.idle)
            return latent

        return fetched

    def _latent(self, posterior: Posterior, what: str, row_id: str) -> Fetch:
        """`c t h w`: the mean, or a sample whose noise depends on the run's seed and the row alone."""
        if self._output.posterior == "sample":
            return self._encoder.fetch(posterior.sample(f"{self._output.seed}/{what}/{row_id}")[0])
        return self._encoder.fetch(posterior.mean[0])


class _Latents:
    """The latent frames of a clip that wait to be a row: whole chunks come in, any number of frames goes out."""

    def __init__(self) -> None:
        self._parts: list[Posterior] = []
        self._frames = 0

    def add(self, part: Posterior) -> None:
        self._parts.append(part)
        self._frames += part.mean.shape[2]

    def take(self, frames: int) -> Posterior | None:
        """The next `frames`; None where fewer wait."""
        if self._frames < frames:
            return None
        together = joined(self._parts)
        rest = Posterior(together.mean[:, :, frames:], together.logvar[:, :, frames:])
        self._parts, self._frames = [rest], self._frames - frames
        return Posterior(together.mean[:, :, :frames], together.logvar[:, :, :frames])
