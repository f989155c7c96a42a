"""How many earlier frames a latent depends on, and so how late a stream may begin and still give the same latents.

Pure arithmetic on frames and chunks, without torch; layer_fields.py reads the layers off a model.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from encoder.streaming.chunks import causal_plan, chunk_plan


@dataclass(frozen=True, slots=True)
class LayerField:
    """The temporal receptive field of one layer: each output frame depends on `past_frames` earlier input frames.

    One input frame stands for `stride_frames` frames of the video. `normed` layers normalise their input first.
    """

    stride_frames: int
    past_frames: int
    normed: bool


@dataclass(frozen=True, slots=True)
class ReceptiveField:
    """The temporal receptive field of an encoder: that of its layers in order, and how clips are cut into chunks.

    With `whole_chunks`, a norm depends on all frames of a chunk. `rule` is the name of a chunk plan, or `causal`.
    """

    layers: tuple[LayerField, ...]
    temporal_ratio: int
    whole_chunks: bool
    chunk_frames: int
    rule: str

    def plan(self, frames: int) -> tuple[int, ...]:
        """The chunks of a clip of `frames` frames, a legal count."""
        if self.rule == "causal":
            return causal_plan(frames, self.temporal_ratio)
        return chunk_plan(frames, self.chunk_frames, self.temporal_ratio, self.rule)

    @property
    def warm_up_frames(self) -> int:
        """The most frames that a stream encodes before those of its first exact latent."""
        past_frames = sum(layer.past_frames * layer.stride_frames + self.chunk_frames for layer in self.layers)
        frames = 1 + self.temporal_ratio * -(-2 * past_frames // self.temporal_ratio)
        plan = self.plan(frames)
        ends = range(frames - 1 - 2 * self.chunk_frames, frames, self.temporal_ratio)
        return max(end - self.temporal_ratio + 1 - self.begin(end, plan) for end in ends)

    def begin(self, frame: int, plan: Sequence[int]) -> int:
        """The latest frame at which a stream may begin so that its latents are exact from the one ending with `frame`.

        Exact means equal to those of a stream that begins with frame 0 and is cut by `plan`, provided that the chunks
        of both end at the same frames. The result is a multiple of the temporal ratio: the encoder takes the frame
        there as the first of a clip.

        The dependencies are followed back from the last layer. A frame of any layer is identified by the last frame of
        the video that it stands for.
        """
        starts = [0, *accumulate(plan)]
        for layer in reversed(self.layers):
            frame -= layer.past_frames * layer.stride_frames
            if layer.normed and self.whole_chunks and frame > 0:
                frame = starts[bisect_right(starts, frame) - 1] + layer.stride_frames - 1
        return max(0, frame - frame % self.temporal_ratio)


def plan_from(begin: int, end: int, plan: Sequence[int]) -> tuple[int, ...]:
    """The chunks of a stream from frame `begin` to the end of the chunk of `plan` that holds frame `end - 1`.

    They end at the same frames as those of `plan`.
    """
    chunks: list[int] = []
    stop = 0
    for frames in plan:
        stop += frames
        if stop > begin:
            chunks.append(min(frames, stop - begin))
        if stop >= end:
            break
    return tuple(chunks)
