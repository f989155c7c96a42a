"""Clips of one shape that wait for each other and are encoded together (`encoder.batch_clips`).

It does not choose samples or write rows. Clips come here whole: one whose decoding fails leaves the others as they are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from encoder.replica import Posterior, VideoEncoder, joined
from pipeline.config import OutputConfig
from pipeline.encode import NO_MEMORY, Made, Stopwatch, next_item, no_memory
from pipeline.errors import SampleError
from pipeline.records import Chunk, ClipSpec, DecodeItem, Failure, FloatLatent, Opened, Row, Sample, Uint8Frames

Shape = tuple[int, int, int]  # frames, height and width
MadeOf = tuple[Sample, Made]


@dataclass(slots=True)
class _Clip:
    """A clip whose frames are arriving, or all there."""

    sample: Sample
    opened: Opened
    spec: ClipSpec
    chunks: list[Uint8Frames] = field(default_factory=list)

    @property
    def id(self) -> str:
        several = len(self.opened.clips) + len(self.opened.refused) > 1
        return f"{self.sample.key}:{self.spec.window_index}" if several else self.sample.key

    @property
    def shape(self) -> Shape:
        return self.spec.frames, self.spec.geometry.height_px, self.spec.geometry.width_px

    @property
    def is_whole(self) -> bool:
        return sum(map(len, self.chunks)) == self.spec.frames


class _Latents(NamedTuple):
    """What a batch became: `b c t h w` each."""

    latent: FloatLatent
    logvar: FloatLatent | None
    first_frame: FloatLatent | None


class Batches:
    """Collects the clips of a slice, of each shape until there are `size`; at most `size` of a shape wait.

    A batch that is not full is filled up with blank clips. So a clip's latent does not depend on who its neighbours
    are, which differ where a slice is made again in part.
    """

    def __init__(self, encoder: VideoEncoder, output: OutputConfig, size: int, watch: Stopwatch) -> None:
        self._encoder, self._output, self._size, self._watch = encoder, output, size, watch
        self._waiting: dict[Shape, list[_Clip]] = {}
        self._sizes: dict[Shape, int] = {}  # for shapes of which the device has not held `size`

    def add(self, sample: Sample, items: Iterator[DecodeItem]) -> Iterator[MadeOf]:
        """Takes in a sample; gives the rows and rejects that became ready, of each shape in the order of clips."""
        opened: Opened | None = None
        clips: dict[int, _Clip] = {}
        error = SampleError("decode", "incomplete", "the decoder stopped before the clip's last frame")
        while (item := next_item(items, self._watch)) is not None:
            match item:
                case Opened():
                    opened = item
                    clips = {spec.window_index: _Clip(sample, item, spec) for spec in item.clips}
                    for refused in item.refused:
                        why = SampleError(refused.stage, refused.reason, refused.detail)
                        yield sample, (refused.window_index, why)
                case Chunk() if item.window_index in clips:
                    clips[item.window_index].chunks.append(item.frames)
                    if clips[item.window_index].is_whole:
                        yield from self._enqueue(clips.pop(item.window_index))
                case Failure():
                    error = SampleError(item.stage, item.reason, item.detail)
        for window_index in clips or (() if opened else (-1,)):
            yield sample, (window_index, error)

    def flush(self) -> Iterator[MadeOf]:
        """Encodes what still waits, as the slice ends."""
        for shape in sorted(self._waiting):
            yield from self._encode(self._waiting[shape])
        self._waiting.clear()

    def _enqueue(self, clip: _Clip) -> Iterator[MadeOf]:
        waiting = self._waiting.setdefault(clip.shape, [])
        waiting.append(clip)
        if len(waiting) == self._size:
            del self._waiting[clip.shape]
            yield from self._encode(waiting)

    def _encode(self, clips: Sequence[_Clip]) -> Iterator[MadeOf]:
        """Together; where the device has no memory for that, from then on half as many at a time, down to one."""
        left, shape = list(clips), clips[0].shape
        while left:
            size = self._sizes.get(shape, self._size)
            some = left[:size]
            made = self._rows_or_why(some, size)
            if isinstance(made, SampleError) and size > 1:
                self._sizes[shape] = size // 2
                continue
            rows = [(clip.spec.window_index, made) for clip in some] if isinstance(made, SampleError) else made
            yield from zip([clip.sample for clip in some], rows, strict=True)
            left = left[size:]

    def _rows_or_why(self, clips: Sequence[_Clip], size: int) -> list[Row] | SampleError:
        """An error is no longer at hand when this returns: its traceback would keep the memory of what failed."""
        try:
            return self._rows(clips, size)
        except NO_MEMORY as error:
            return no_memory(error)

    def _rows(self, clips: Sequence[_Clip], size: int) -> list[Row]:
        with self._watch("encode"):
            made = self._latents(clips, size)
        self._watch.frames += sum(clip.spec.frames for clip in clips)
        return [
            Row(
                sample=clip.sample,
                clip=clip.spec,
                header=clip.opened.header,
                id=clip.id,
                latent=made.latent[place],
                logvar=None if made.logvar is None else made.logvar[place],
                first_frame=None if made.first_frame is None else made.first_frame[place],
            )
            for place, clip in enumerate(clips)
        ]

    def _latents(self, clips: Sequence[_Clip], size: int) -> _Latents:
        stream = self._encoder.stream(clips[0].spec.frames)
        parts: list[Posterior] = []
        first_frame: FloatLatent | None = None
        for position in range(len(clips[0].chunks)):
            chunks = [clip.chunks[position] for clip in clips]
            blanks = [np.zeros_like(chunks[0])] * (size - len(clips))
            video = self._encoder.to_video(np.stack(chunks + blanks))
            if self._output.first_frame and position == 0:
                first_frame = self._drawn(self._encoder.encode_first_frame(video), "first", clips)
            if (part := stream.push(video)) is not None:
                parts.append(part)
        stream.finish()
        posterior = joined(parts)
        logvar = posterior.logvar.cpu().numpy() if self._output.posterior == "moments" else None
        return _Latents(self._drawn(posterior, "clip", clips), logvar, first_frame)

    def _drawn(self, posterior: Posterior, what: str, clips: Sequence[_Clip]) -> FloatLatent:
        """The means, or samples with the noise that each clip has when it is encoded alone; of blanks anything."""
        if self._output.posterior != "sample":
            return posterior.mean.cpu().numpy()
        ids = [clip.id for clip in clips] + [""] * (len(posterior.mean) - len(clips))
        return posterior.sample(*(f"{self._output.seed}/{what}/{one}" for one in ids)).cpu().numpy()
