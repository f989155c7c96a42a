"""The clips of one sample: decoded chunks in, rows and rejects out, with the time that each stage takes.

It does not decode, choose frames or write; a posterior becomes what `output.posterior` asks for here.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from encoder.replica import ClipMemoryError, OutOfMemoryError, Posterior, Stream, VideoEncoder, joined
from pipeline.config import OutputConfig
from pipeline.errors import SampleError
from pipeline.records import Chunk, ClipSpec, DecodeItem, Failure, FloatLatent, Opened, Row, Sample

Made = Row | tuple[int, SampleError]


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
    error = SampleError("decode", "incomplete", "the decoder stopped before the clip's last frame")
    while (item := _next(items, watch)) is not None:
        match item:
            case Opened():
                opened = item
                clips = {spec.window_index: _OpenClip(sample, opened, spec, encoder, output) for spec in item.clips}
                for refused in item.refused:
                    yield refused.window_index, SampleError(refused.stage, refused.reason, refused.detail)
            case Chunk() if item.window_index in clips:
                with watch("encode"):
                    made = clips[item.window_index].push(item)
                watch.frames += len(item.frames)
                if made is not None:
                    del clips[item.window_index]
                    yield made
            case Failure():
                error = SampleError(item.stage, item.reason, item.detail)
    for window_index in clips or (() if opened else (-1,)):
        yield window_index, error


def _next(items: Iterator[DecodeItem], watch: Stopwatch) -> DecodeItem | None:
    with watch("wait_for_frames"):
        return next(items, None)


class _OpenClip:
    """A clip whose chunks are arriving."""

    def __init__(
        self, sample: Sample, opened: Opened, spec: ClipSpec, encoder: VideoEncoder, output: OutputConfig
    ) -> None:
        several = len(opened.clips) + len(opened.refused) > 1
        self._id = f"{sample.key}:{spec.window_index}" if several else sample.key
        self._sample, self._opened, self._spec = sample, opened, spec
        self._encoder, self._output = encoder, output
        self._stream: Stream = encoder.stream(spec.frames)
        self._parts: list[Posterior] = []
        self._first_frame: FloatLatent | None = None
        self._frames = 0

    def push(self, chunk: Chunk) -> Made | None:
        """Encodes the next frames; returns the clip's row when they were the last, or why it can never have one."""
        try:
            return self._push(chunk)
        except ClipMemoryError as error:
            return self._spec.window_index, SampleError("encode", "too_large_for_memory", str(error))
        except OutOfMemoryError as error:  # the stream's state is lost with the chunk: the clip is, the encoder is not
            said = str(error).partition("\n")[0]
            return self._spec.window_index, SampleError("encode", "out_of_memory", said)

    def _push(self, chunk: Chunk) -> Row | None:
        video = self._encoder.to_video(chunk.frames)
        if self._output.first_frame and not self._frames:
            self._first_frame = self._latent(self._encoder.encode_first_frame(video), "first")
        part = self._stream.push(video)
        self._frames += len(chunk.frames)
        if part is not None:
            self._parts.append(part)
        return self._row() if self._frames == self._spec.frames else None

    def _row(self) -> Row:
        self._stream.finish()
        posterior = joined(self._parts)
        logvar = posterior.logvar[0].cpu().numpy() if self._output.posterior == "moments" else None
        latent = self._latent(posterior, "clip")
        return Row(self._sample, self._spec, self._opened.header, self._id, latent, logvar, self._first_frame)

    def _latent(self, posterior: Posterior, what: str) -> FloatLatent:
        """`c t h w`: the mean, or a sample whose noise depends on the run's seed and the clip alone."""
        if self._output.posterior == "sample":
            return posterior.sample(f"{self._output.seed}/{what}/{self._id}")[0].cpu().numpy()
        return posterior.mean[0].cpu().numpy()
