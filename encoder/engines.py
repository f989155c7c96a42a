"""Ways to run a model over a clip: chunk by chunk with carried state, or with the whole clip at once.

It does not hold the models: an engine is given one. What an engine is handed comes in its own plan's chunks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from encoder.chunks import causal_plan, chunk_plan
from encoder.clip import clip_bytes, encode_clip
from encoder.cogvideox import Encoder

Model = Callable[[Tensor, Any], tuple[Tensor, Any]]


class Engine(Protocol):
    """One way to encode clips. State is None where a clip starts and whatever the engine returned after that."""

    def plan(self, frames: int) -> tuple[int, ...]:
        """The chunks of a clip of `frames` frames, a legal count."""

    def clip_bytes(self, frames: int, height_px: int, width_px: int) -> int:
        """Memory that one clip takes because it is not streamed; 0 where memory does not grow with the clip."""

    def encode_chunk(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """`b 3 t h w` in [-1, 1] to moments `b 2z t' h' w'` or `b z t' h' w'`, and the state for the next chunk."""


@dataclass(frozen=True, slots=True)
class Streaming:
    """Chunk by chunk. `plan_rule` and `chunk_frames` are part of what the latents are."""

    model: Model
    temporal_ratio: int
    chunk_frames: int
    plan_rule: str

    def plan(self, frames: int) -> tuple[int, ...]:
        return chunk_plan(frames, self.chunk_frames, self.temporal_ratio, self.plan_rule)

    def clip_bytes(self, frames: int, height_px: int, width_px: int) -> int:
        return 0

    def encode_chunk(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self.model(x, state)


@dataclass(frozen=True, slots=True)
class Causal:
    """In the smallest chunks, 1, 4, 4, …, for models in which no frame sees a later one.

    How such a clip is cut changes its latents by rounding alone, and cut in one way they are the same to the bit.
    """

    model: Model
    temporal_ratio: int

    def plan(self, frames: int) -> tuple[int, ...]:
        return causal_plan(frames, self.temporal_ratio)

    def clip_bytes(self, frames: int, height_px: int, width_px: int) -> int:
        return 0

    def encode_chunk(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self.model(x, state)


@dataclass(frozen=True, slots=True)
class WholeClip:
    """With norm statistics over the whole clip: nothing is encoded before its last frame is there."""

    model: Encoder
    chunk_frames: int

    def plan(self, frames: int) -> tuple[int, ...]:
        return (frames,)

    def clip_bytes(self, frames: int, height_px: int, width_px: int) -> int:
        value_bytes = next(self.model.parameters()).element_size()
        return clip_bytes(self.model.params, frames, height_px, width_px, self.chunk_frames, value_bytes)

    def encode_chunk(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return encode_clip(self.model, x, self.chunk_frames), None
