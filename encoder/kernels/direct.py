"""Convolutions and matrix products by torch's own kernels; on a CPU in pieces that one thread computes each.

With oneDNN and MKL the last bits depend on the number of threads. The pieces here follow from the shape and the
precision only.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from encoder.device.threads import share
from encoder.kernels.winograd import cut

HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
GROUP_CHANNELS = 64  # output channels of a piece: with fewer oneDNN is slower, by 5 to 10% with 32
ENOUGH_PIECES = 8  # to keep the threads busy with a small picture
# Each call reorders its kernels for oneDNN, which must cost little compared to the products of this many pixels.
# bfloat16 multiplies faster, ten times with AMX.
LEAST_PX = {torch.float32: 4096, torch.bfloat16: 16384, torch.float16: 16384}
LEAST_BAND_PX = 2048  # a band of rows copies its input
MOST_PX = 32768  # a piece has a buffer of its own beside the output
LINEAR_PRODUCTS = 2**26  # of a piece of a matrix product: about a millisecond
ATTENTION_QUERIES = 256  # of a piece of attention


class Piece(NamedTuple):
    """The part of an output that one call computes: some frames, rows and channels of one batch item."""

    item: int
    frames: range
    rows: range
    channels: range


def pieces_of(out_shape: torch.Size, dtype: torch.dtype) -> list[Piece]:
    """The pieces of an output `b c t h w`."""
    batch, channels, frames, height, width = out_shape
    groups = -(-channels // GROUP_CHANNELS)
    runs = -(-ENOUGH_PIECES // (batch * groups))  # at least this many
    frames_of_run = max(1, min(LEAST_PX[dtype] // (height * width), frames // runs))
    bands = min(-(-runs // frames), height * width // LEAST_BAND_PX)
    rows = max(1, min(-(-height // max(1, bands)), MOST_PX // width))
    return [
        Piece(item, *ranges)
        for item in range(batch)
        for ranges in _boxes((frames, frames_of_run), (height, rows), (channels, GROUP_CHANNELS))
    ]


def _boxes(*sizes: tuple[int, int]) -> Iterator[tuple[range, range, range]]:
    frames, rows, channels = ([range(start, start + count) for start, count in cut(*size)] for size in sizes)
    return ((t, h, c) for t in frames for h in rows for c in channels)


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int] = (1, 1),
    padding_px: int = 0,
    out: Tensor | None = None,
) -> Tensor:
    """`b c t h w -> b c' t' h' w'`, on a CPU written to `out` if given.

    Args:
        x: in channels-last order.
        weight: `c' c kt k k`, or `c' c k k` for a convolution frame by frame.
        stride: in time, and over the picture.
        padding_px: zeros around the picture.
    """
    if x.device.type != "cpu":
        return _by_torch(x, weight, bias, stride, (padding_px, padding_px))
    kernel_frames, kernel_height_px, kernel_width_px = (1, *weight.shape[2:])[-3:]
    if out is None:
        frames = (x.shape[2] - kernel_frames) // stride[0] + 1
        kernels_px = (kernel_height_px, kernel_width_px)
        picture = ((px + 2 * padding_px - k) // stride[1] + 1 for px, k in zip(x.shape[3:], kernels_px, strict=True))
        shape = (len(x), len(weight), frames, *picture)
        out = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last_3d)

    def compute(_: int, piece: Piece) -> None:
        item, frames, rows, channels = piece
        input_frames = slice(frames[0] * stride[0], frames[-1] * stride[0] + kernel_frames)
        top, bottom = rows[0] * stride[1] - padding_px, rows[-1] * stride[1] - padding_px + kernel_height_px
        source = x[item : item + 1, :, input_frames, max(0, top) : bottom]
        at_edge = top < 0 or bottom > x.shape[3]
        # torch pads both sides: a piece at one edge of the picture gets surplus rows at the other.
        kernels = weight[channels.start : channels.stop]
        offsets = None if bias is None else bias[channels.start : channels.stop]
        result = _by_torch(source, kernels, offsets, stride, (padding_px if at_edge else 0, padding_px))
        first = padding_px if at_edge and top >= 0 else 0
        target = out[item : item + 1, channels.start : channels.stop, frames.start : frames.stop]
        target[..., rows.start : rows.stop, :] = result[..., first : first + len(rows), :]

    share(compute, pieces_of(out.shape, x.dtype), x.device)
    return out


def _by_torch(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding_px: tuple[int, int]
) -> Tensor:
    """As `convolve`, in one call, with `padding_px` for height and width."""
    if weight.ndim == 5:
        return _call(x, weight, bias, (stride[0], stride[1], stride[1]), (0, *padding_px))
    pictures = _call(x.transpose(1, 2).flatten(0, 1), weight, bias, (stride[1], stride[1]), padding_px)
    return torch.unflatten(pictures, 0, (len(x), x.shape[2])).transpose(1, 2)


def _call(x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...], padding: tuple[int, ...]) -> Tensor:
    if x.device.type == "cpu" and x.dtype == torch.float32 and HAS_ONEDNN:
        # torch would unfold small inputs, which is slower and takes 27 times the memory.
        return torch.mkldnn_convolution(x, weight, bias, padding, stride, (1,) * len(stride), 1)
    return (F.conv3d if weight.ndim == 5 else F.conv2d)(x, weight, bias, stride, padding)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`... c -> ... c'`, for a weight `c' c`."""
    if x.device.type != "cpu":
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    out = rows.new_empty(len(rows), len(weight))

    def compute(_: int, piece: tuple[int, int]) -> None:
        start, count = piece
        torch.addmm(bias, rows[start : start + count], weight.t(), out=out[start : start + count])

    share(compute, cut(len(rows), max(1, LINEAR_PRODUCTS // weight.numel())), x.device)
    return out.view(*x.shape[:-1], len(weight))


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention within each frame, `b t n c` for n pixels."""
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value)
    out = query.new_empty(query.shape)

    def compute(_: int, piece: tuple[int, int, int, int]) -> None:
        item, frame, start, count = piece
        at = (slice(item, item + 1), slice(frame, frame + 1))
        queries = slice(start, start + count)
        out[(*at, queries)] = F.scaled_dot_product_attention(query[(*at, queries)], key[at], value[at])

    batch, frames, pixels, _ = query.shape
    share(
        compute,
        [(b, t, *run) for b in range(batch) for t in range(frames) for run in cut(pixels, ATTENTION_QUERIES)],
        query.device,
    )
    return out
