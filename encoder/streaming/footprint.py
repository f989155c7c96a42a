"""How much memory encoding takes, found by running it on tensors without values (torch's meta device).

What kernels allocate for themselves is not counted: little on a CPU, up to a workspace on a GPU.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from encoder.streaming.engines import Engine

CHUNKS_TO_STEADY = 3  # from the third chunk on, every chunk takes the same memory


def encode_bytes(engine: Engine, batch: int, frames: int, height_px: int, width_px: int, dtype: torch.dtype) -> int:
    """Peak memory of encoding clips of this shape, with their frames but without the weights.

    `engine` must run a model on the meta device.
    """
    chunks = engine.plan(frames)[: CHUNKS_TO_STEADY if engine.streams else None]
    with _Live() as live:
        encode_without_values(engine, chunks, height_px, width_px, dtype, batch)
    peak_bytes: int = live.peak_bytes
    return peak_bytes


def encode_flops(engine: Engine, frames: int, height_px: int, width_px: int, dtype: torch.dtype) -> int:
    """Floating point operations of encoding a clip: two per multiplication in its convolutions and linear layers."""
    with FlopCounterMode(display=False) as counter:
        encode_without_values(engine, engine.plan(frames), height_px, width_px, dtype)
    flops: int = counter.get_total_flops()
    return flops


def encode_without_values(
    engine: Engine, chunks: Iterable[int], height_px: int, width_px: int, dtype: torch.dtype, batch: int = 1
) -> None:
    """Encodes chunks of so many frames on the meta device, for the modes around it to count."""
    state: Any = None
    with torch.no_grad(), FusedAttention():
        for chunk_frames in chunks:
            x = torch.empty(batch, 3, chunk_frames, height_px, width_px, dtype=dtype, device="meta")
            moments, state = engine.encode_chunk(x, state)
            del x, moments  # before the next chunk is made, as in an encoder


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's mode is not annotated
    """Counts the bytes of the storages that operations allocate, by the tensors that refer to them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = self.peak_bytes = 0
        self._tensors: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._hold(leaf)
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        return result

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size_bytes = storage._cdata, storage.nbytes()
        if not self._tensors[key]:
            self.live_bytes += size_bytes
        self._tensors[key] += 1
        weakref.finalize(tensor, self._drop, key, size_bytes)

    def _drop(self, key: int, size_bytes: int) -> None:
        self._tensors[key] -= 1
        if not self._tensors[key]:
            self.live_bytes -= size_bytes


class FusedAttention(TorchFunctionMode):
    """Replaces attention, whose scores fused kernels never hold in memory, while meta tensors would."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))
