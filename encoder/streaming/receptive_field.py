"""How far back a causal encoder looks: where a stream may begin so that its later latents are those of an earlier one.

It does not encode: frames and chunks are counted, without torch. layer_fields.py reads the layers off a model.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from encoder.streaming.chunks import causal_plan, chunk_plan


@dataclass(frozen=True, slots=True)
class Look:
    """What one layer sees of the past: `back` frames before each frame of its input.

    A frame of its input stands for `rate` frames of the video. Before it looks, a `normed` layer takes its norm.
    """

    rate: int
    back: int
    normed: bool


@dataclass(frozen=True, slots=True)
class Recall:
    """What an encoder's latents depend on: the looks of its layers in order, and the chunks in which it takes a clip.

    `whole_chunks` says that norms look at all frames of a chunk. `rule` is a chunk plan's, or `causal`.
    """

    looks: tuple[Look, ...]
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
        """The most frames that a stream has before those of its first right latent."""
        back = sum(look.back * look.rate + self.chunk_frames for look in self.looks)
        frames = 1 + self.temporal_ratio * -(-2 * back // self.temporal_ratio)
        plan = self.plan(frames)
        ends = range(frames - 1 - 2 * self.chunk_frames, frames, self.temporal_ratio)
        return max(end - self.temporal_ratio + 1 - self.begin(end, plan) for end in ends)

    def begin(self, frame: int, plan: Sequence[int]) -> int:
        """The latest frame with which a stream may begin, whose latents are right from the one that ends with `frame`.

        Right is what a stream gives that begins with frame 0 and is cut by `plan`, where the later one has its chunks
        end where that one's do. The frame is a multiple of the temporal ratio: it is a clip's first for the encoder.

        Looks are followed back from the last layer. A frame of any layer is known by the last frame of the video that
        it stands for, and those before the video's begin are there from the start.
        """
        starts = [0, *accumulate(plan)]
        for look in reversed(self.looks):
            frame -= look.back * look.rate
            if look.normed and self.whole_chunks and frame > 0:
                frame = starts[bisect_right(starts, frame) - 1] + look.rate - 1
        return max(0, frame - frame % self.temporal_ratio)


def plan_from(begin: int, end: int, plan: Sequence[int]) -> tuple[int, ...]:
    """The chunks of a stream that begins with frame `begin` and ends with the chunk of `plan` that frame `end` ends in.

    They end where those of `plan` do; the first begins with `begin`.
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
