"""Engines run a model over a clip: chunk by chunk with state, or the whole clip at once.

Callers pass the frames of a clip in the chunks of the engine's own plan.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor

from encoder.models.cogvideox import Encoder
from encoder.streaming.chunks import causal_plan
from encoder.streaming.whole_clip import encode_clip

Model = Callable[[Tensor, Any], tuple[Tensor, Any]]


class Engine(Protocol):
    """What encodes clips. The state is None at the start of a clip, then what the last call returned.

    The memory of an engine that does not stream grows with the clip.
    """

    @property
    def streams(self) -> bool: ...

    def plan(self, frames: int) -> tuple[int, ...]:
        """The chunks of a clip of `frames` frames, a legal count."""

    def encode_chunk(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """`b 3 t h w` in [-1, 1] to moments `b 2z t' h' w'` or `b z t' h' w'`, and the state for the next chunk."""


@dataclass(frozen=True, slots=True)
class Streaming:
    """Chunk by chunk, with the chunks that `cut` gives."""

    model: Model
    cut: Callable[[int], tuple[int, ...]]
    streams: ClassVar[bool] = True

    def plan(self, frames: int) -> tuple[int, ...]:
        return self.cut(frames)

    def encode_chunk(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self.model(x, state)


@dataclass(frozen=True, slots=True)
class Remembering:
    """Chunk by chunk in the smallest chunks, of a model that keeps something of every frame of the clip."""

    model: Model
    temporal_ratio: int
    streams: ClassVar[bool] = False

    def plan(self, frames: int) -> tuple[int, ...]:
        return causal_plan(frames, self.temporal_ratio)

    def encode_chunk(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self.model(x, state)


@dataclass(frozen=True, slots=True)
class WholeClip:
    """With norm statistics over the whole clip, which can only be encoded once it is complete."""

    model: Encoder
    chunk_frames: int
    streams: ClassVar[bool] = False

    def plan(self, frames: int) -> tuple[int, ...]:
        return (frames,)

    def encode_chunk(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return encode_clip(self.model, x, self.chunk_frames), None
