"""Ways to run a model over a clip: chunk by chunk with carried state, or with the whole clip at once.

It does not hold the models: an engine is given one. What an engine is handed comes in its own plan's chunks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor

from encoder.models.cogvideox import Encoder
from encoder.streaming.whole_clip import encode_clip

Model = Callable[[Tensor, Any], tuple[Tensor, Any]]


class Engine(Protocol):
    """One way to encode clips. State is None where a clip starts and whatever the engine returned after that.

    Where it does not stream, a clip is one chunk, and memory grows with it.
    """

    @property
    def streams(self) -> bool: ...

    def plan(self, frames: int) -> tuple[int, ...]:
        """The chunks of a clip of `frames` frames, a legal count."""

    def encode_chunk(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """`b 3 t h w` in [-1, 1] to moments `b 2z t' h' w'` or `b z t' h' w'`, and the state for the next chunk."""


@dataclass(frozen=True, slots=True)
class Streaming:
    """Chunk by chunk, with `cut` as the plan."""

    model: Model
    cut: Callable[[int], tuple[int, ...]]
    streams: ClassVar[bool] = True

    def plan(self, frames: int) -> tuple[int, ...]:
        return self.cut(frames)

    def encode_chunk(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self.model(x, state)


@dataclass(frozen=True, slots=True)
class WholeClip:
    """With norm statistics over the whole clip: nothing is encoded before its last frame is there."""

    model: Encoder
    chunk_frames: int
    streams: ClassVar[bool] = False

    def plan(self, frames: int) -> tuple[int, ...]:
        return (frames,)

    def encode_chunk(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return encode_clip(self.model, x, self.chunk_frames), None
