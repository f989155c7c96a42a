"""What encoding a clip on a GPU moves and launches, counted by a run without values (torch's meta device).

Each operation reads its arguments and writes its results once, whatever caches save. A convolution with a bias takes a
second pass over its result, as with cuDNN. The partial moments of norms, under 1% of what they read, are left out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from encoder.streaming.engines import Engine
from encoder.streaming.footprint import encode_without_values

KINDS = {
    "aten::convolution": "convolutions",
    "aten::mm": "linear",
    "aten::addmm": "linear",
    "aten::bmm": "linear",
    "latentmill::group_moments": "norms",
    "latentmill::group_normalize": "norms",
    "latentmill::rms_normalize": "norms",
    "latentmill::add_residual": "residuals",
    "aten::copy_": "copies",
    "aten::clone": "copies",
    "aten::cat": "copies",
    "aten::fill_": "copies",
    "aten::zero_": "copies",
}
ONLY_WRITTEN = {"aten::copy_", "aten::fill_", "aten::zero_", "latentmill::group_normalize", "latentmill::rms_normalize"}


@dataclass(slots=True)
class Traffic:
    """Bytes read and written by kernels, and how many kernels."""

    bytes_moved: int = 0
    kernels: int = 0


def traffic(engine: Engine, frames: int, height_px: int, width_px: int, dtype: torch.dtype) -> dict[str, Traffic]:
    """By kind of operation, for one clip; `engine` must run a model on the meta device."""
    with _Counting() as counting:
        encode_without_values(engine, engine.plan(frames), height_px, width_px, dtype)
    by_kind: dict[str, Traffic] = counting.by_kind
    return by_kind


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's mode is not annotated
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.by_kind: dict[str, Traffic] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name
        if not (name.startswith(("aten::empty", "aten::new_empty")) or _is_view(func)):
            counted = self.by_kind.setdefault(KINDS.get(name, "other"), Traffic())
            counted.bytes_moved += sum(_sizes(func, args, kwargs or {}, result))
            counted.kernels += 1 + (name == "latentmill::group_moments")
            if name == "aten::convolution" and args[2] is not None:
                counted.bytes_moved += 2 * result.nbytes
                counted.kernels += 1
        return result


def _is_view(func: Any) -> bool:
    """Whether the result shares memory with an argument that is not written to."""
    infos = [each.alias_info for each in func._schema.returns]
    return any(info is not None and not info.is_write for info in infos)


def _sizes(func: Callable[..., Any], args: Any, kwargs: Any, result: Any) -> Iterator[int]:
    """Bytes of each tensor that is read, and of each that is written."""
    schema = func._schema  # type: ignore[attr-defined]
    named = dict(zip((each.name for each in schema.arguments), args, strict=False)) | kwargs
    wrote = False
    for argument in schema.arguments:
        written = argument.alias_info is not None and argument.alias_info.is_write
        for tensor in tree_leaves(named.get(argument.name)):
            if isinstance(tensor, Tensor):
                read = not (written and (schema.name in ONLY_WRITTEN or argument.kwarg_only))
                yield tensor.nbytes * (read + written)
                wrote = wrote or written
    if not wrote:
        yield from (leaf.nbytes for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
