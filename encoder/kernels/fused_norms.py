"""The norms of triton_norms.py as operations of torch, so that they also run without values on the meta device."""

import importlib.util
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

TILE_VALUES = 8192  # of one step of a program: 16 KB in bfloat16
LOOPS = 8  # steps of a program that takes moments
MERGED_TOGETHER = 64


@cache
def has_triton() -> bool:
    """Whether Triton is installed; without it norms are computed by torch's operations."""
    return importlib.util.find_spec("triton") is not None


def _kernels() -> ModuleType:
    from encoder.kernels import triton_norms  # lazily: it needs Triton

    return triton_norms


@torch.library.custom_op("latentmill::group_moments", mutates_args=())
def group_moments(x: Tensor, extra: Tensor | None, groups: int, scope_frames: int) -> tuple[Tensor, Tensor]:
    """Mean and variance by group of each `scope_frames` frames of `b c t h w`, each `b*scopes g` float32."""
    batch, channels, frames, height, width = x.shape
    pixels, block = height * width, _power_of_2(channels)
    rows = max(1, TILE_VALUES // block)
    tiles = -(-pixels // (rows * LOOPS))
    means, m2s = (x.new_empty(batch * frames, tiles, channels, dtype=torch.float32) for _ in range(2))
    kernels = _kernels()
    kernels.channel_moments[(tiles, batch * frames)](
        x, x if extra is None else extra, means, m2s, pixels, channels, frames, *_strides(x), extra is not None,
        block, rows, LOOPS,
    )  # fmt: skip
    mean, variance = _empty_moments(x, groups, scope_frames)
    kernels.merge_groups[(len(mean), groups)](
        means, m2s, mean, variance, scope_frames * tiles, tiles, pixels, channels, channels // groups,
        rows * LOOPS, _power_of_2(channels // groups), MERGED_TOGETHER,
    )  # fmt: skip
    return mean, variance


@group_moments.register_fake
def _(x: Tensor, extra: Tensor | None, groups: int, scope_frames: int) -> tuple[Tensor, Tensor]:
    return _empty_moments(x, groups, scope_frames)


@torch.library.custom_op("latentmill::group_normalize", mutates_args=("out", "kept"))
def group_normalize(
    x: Tensor, extra: Tensor | None, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float,
    swish: bool, out: Tensor, kept: Tensor | None,
) -> None:  # fmt: skip
    """Writes `b c t h w` normalised by moments as `group_moments` gives them, then swish if asked for, to `out`.

    The last frames are written to `kept` too, `b c n h w` with n up to t, dense and with channels last.
    """
    scope_frames = len(x) * x.shape[2] // len(mean)
    grid, sizes, tile = _tiling(x)
    _kernels().group_normalize[grid](
        x, x if extra is None else extra, mean, variance, weight, bias, out, out if kept is None else kept,
        *sizes, mean.shape[1], scope_frames, eps, *_strides(x), *_strides(out),
        0 if kept is None else kept.shape[2], extra is not None, swish, *tile,
    )  # fmt: skip


@group_normalize.register_fake
def _(*_: Any) -> None:
    return None


@torch.library.custom_op("latentmill::rms_normalize", mutates_args=("out", "kept"))
def rms_normalize(
    x: Tensor, extra: Tensor | None, weight: Tensor, swish: bool, out: Tensor, kept: Tensor | None
) -> None:
    """Writes `b c t h w` with each pixel's channels over their root mean square, then swish if asked for, to `out`.

    `kept` is as for `group_normalize`.
    """
    grid, sizes, tile = _tiling(x)
    _kernels().rms_normalize[grid](
        x, x if extra is None else extra, weight, out, out if kept is None else kept,
        *sizes, x.shape[1] ** 0.5, *_strides(x), *_strides(out),
        0 if kept is None else kept.shape[2], extra is not None, swish, *tile,
    )  # fmt: skip


@rms_normalize.register_fake
def _(*_: Any) -> None:
    return None


@torch.library.custom_op("latentmill::add_residual", mutates_args=("x",))
def add_residual(x: Tensor, h: Tensor, bias: Tensor) -> None:
    """Adds `h` and the bias of its channels to `x`, both `b c t h w`."""
    grid, sizes, tile = _tiling(x)
    _kernels().add_residual[grid](x, h, bias, *sizes, *_strides(x), *_strides(h), *tile)


@add_residual.register_fake
def _(*_: Any) -> None:
    return None


def _empty_moments(x: Tensor, groups: int, scope_frames: int) -> tuple[Tensor, Tensor]:
    scopes = len(x) * x.shape[2] // scope_frames
    return tuple(x.new_empty(scopes, groups, dtype=torch.float32) for _ in range(2))  # type: ignore[return-value]


def _tiling(x: Tensor) -> tuple[tuple[int, int], tuple[int, int, int], tuple[int, int]]:
    """The grid; pixels, channels and frames; and the tile's channels and rows."""
    batch, channels, frames, height, width = x.shape
    block = _power_of_2(channels)
    rows = max(1, TILE_VALUES // block)
    return (-(-height * width // rows), batch * frames), (height * width, channels, frames), (block, rows)


def _strides(x: Tensor) -> tuple[int, int]:
    """Those of batch items and frames; the pixels of a frame must be dense, channels last."""
    channels, width = x.shape[1], x.shape[4]
    assert x.stride(1) == 1 or channels == 1, "channels come last in memory"
    assert x.stride(4) == channels or width == 1, "pixels are dense"
    return x.stride(0), x.stride(2)


def _power_of_2(count: int) -> int:
    return 1 << (count - 1).bit_length()
