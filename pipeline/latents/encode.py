"""The clips of one sample: decoded chunks in, rows and rejects out, with the time that each stage takes.

It does not decode, choose frames or write; a posterior becomes what `output.posterior` asks for here.
"""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from encoder.video_encoder import ClipMemoryError, OutOfMemoryError, Posterior, Stream, VideoEncoder, joined
from pipeline.clips.continuous import latent_frames, rows_of
from pipeline.config.latents import OutputConfig
from pipeline.records import Chunk, ClipSpec, DecodeItem, Failure, FloatLatent, Opened, Reason, Row, Sample

Made = Row | tuple[int, Reason]
NO_MEMORY = (ClipMemoryError, OutOfMemoryError)


@dataclass(slots=True)
class Stopwatch:
    """Seconds by stage, and frames encoded. Stages in different threads have different names."""

    seconds: dict[str, float] = field(default_factory=dict)
    frames: int = 0

    def take_frames(self) -> int:
        """Frames encoded since this was asked last."""
        taken, self.frames = self.frames, 0
        return taken

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began


def encode_sample(
    sample: Sample, items: Iterator[DecodeItem], encoder: VideoEncoder, output: OutputConfig, watch: Stopwatch
) -> Iterator[Made]:
    """Rows of the clips that came whole, by window, then (window_index, why) for each that did not."""
    opened: Opened | None = None
    clips: dict[int, _OpenClip] = {}
    error = Reason("decode", "incomplete", "the decoder stopped before the clip's last frame")
    while (item := _next_item(items, watch)) is not None:
        match item:
            case Opened():
                opened = item
                clips = {spec.window_index: _OpenClip(sample, opened, spec, encoder, output) for spec in item.clips}
                for refused in item.refused:
                    yield refused.window_index, refused.why
            case Chunk() if item.window_index in clips:
                clip = clips[item.window_index]
                with watch("encode"):
                    made = clip.push(item)
                watch.frames += len(item.frames)
                yield from made
                if not clip.due:
                    del clips[item.window_index]
            case Failure():
                error = item.why
    for window_index in [row.window_index for clip in clips.values() for row in clip.due] or (() if opened else (-1,)):
        yield window_index, error


def _next_item(items: Iterator[DecodeItem], watch: Stopwatch) -> DecodeItem | None:
    """What the decoder gives next, None at its end; the wait for it is counted."""
    with watch("wait_for_frames"):
        return next(items, None)


def _no_memory(error: Exception) -> Reason:
    """Why a clip is rejected that one of NO_MEMORY ended."""
    if isinstance(error, ClipMemoryError):
        return Reason("encode", "too_large_for_memory", str(error))
    return Reason("encode", "out_of_memory", str(error).partition("\n")[0])


class _OpenClip:
    """A clip whose chunks are arriving. `due` are the rows that are still to be made of it."""

    def __init__(
        self, sample: Sample, opened: Opened, spec: ClipSpec, encoder: VideoEncoder, output: OutputConfig
    ) -> None:
        self._several = bool(spec.row_frames) or len(opened.clips) + len(opened.refused) > 1
        self._sample, self._opened = sample, opened
        self._encoder, self._output = encoder, output
        self._stream: Stream = encoder.stream(spec.frames, spec.plan_frames)
        self.due = deque(row for row, _ in rows_of(spec))
        self._ready = _Latents()
        self._warm_up = encoder.spec.latent_frames(spec.warm_up_frames) if spec.warm_up_frames else 0
        self._first_frame: FloatLatent | None = None
        self._frames, self._frames_due = 0, spec.frames

    def push(self, chunk: Chunk) -> list[Made]:
        """Encodes the next frames; returns the rows that are complete with them, or why those due can never be."""
        made: list[Made] = []
        try:
            for row in self._push(chunk):
                made.append(row)
                self.due.popleft()
        except NO_MEMORY as error:  # the stream's state is lost with the chunk: the clip is, the encoder is not
            made += [(row.window_index, _no_memory(error)) for row in self.due]
            self.due.clear()
        return made

    def _push(self, chunk: Chunk) -> Iterator[Row]:
        video = self._encoder.to_video(chunk.frames)
        if self._output.first_frame and not self._frames:
            self._first_frame = self._latent(self._encoder.encode_first_frame(video), "first", self._id(self.due[0]))
        part = self._stream.push(video)
        self._frames += len(chunk.frames)
        if self._frames == self._frames_due:
            self._stream.finish()
        if part is not None:
            self._ready.add(part)
        if self._warm_up and self._ready.take(self._warm_up) is not None:
            self._warm_up = 0
        if self._warm_up:
            return
        while self.due and (posterior := self._ready.take(latent_frames(self.due[0], self._encoder.spec))) is not None:
            yield self._row(self.due[0], posterior)

    def _id(self, row: ClipSpec) -> str:
        return f"{self._sample.key}:{row.window_index}" if self._several else self._sample.key

    def _row(self, spec: ClipSpec, posterior: Posterior) -> Row:
        row_id = self._id(spec)
        logvar = posterior.logvar[0].cpu().numpy() if self._output.posterior == "moments" else None
        latent = self._latent(posterior, "clip", row_id)
        return Row(self._sample, spec, self._opened.header, row_id, latent, logvar, self._first_frame)

    def _latent(self, posterior: Posterior, what: str, row_id: str) -> FloatLatent:
        """`c t h w`: the mean, or a sample whose noise depends on the run's seed and the row alone."""
        if self._output.posterior == "sample":
            return posterior.sample(f"{self._output.seed}/{what}/{row_id}")[0].cpu().numpy()
        return posterior.mean[0].cpu().numpy()


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
