"""Encoding with norm statistics over the whole clip (`norm_scope: clip`): layer by layer, each over all chunks.

A layer's statistics need every frame of the layer before it, so two whole activations are alive at a time.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from encoder.device.workspace import empty_frames
from encoder.models.cogvideox import Encoder, Head
from encoder.models.layers import CausalConv3d, Norm, Past, ResidualBlock, SpaceAttention
from encoder.models.norms import GroupNorm, Moments, merge_moments


def encode_clip(encoder: Encoder, video: Tensor, chunk_frames: int) -> Tensor:
    """`b 3 t h w` to moments `b 2z t' h' w'`, whose values do not depend on `chunk_frames`."""
    x = video
    for layer in encoder.layers():
        match layer:
            case ResidualBlock():
                x = _residual(layer, x, chunk_frames)
            case SpaceAttention():
                x = _attention(layer, x, chunk_frames)
            case Head():
                x = _norm_conv(layer.norm, layer.conv, x, chunk_frames)
            case _:
                x = _without_norm(layer, x, chunk_frames)
    return x


def _residual(block: ResidualBlock, x: Tensor, chunk_frames: int) -> Tensor:
    h = _norm_conv(block.norm1, block.conv1, x, chunk_frames)
    h = _norm_conv(block.norm2, block.conv2, h, chunk_frames, out=h)
    for chunk in _chunks(x, chunk_frames):
        h[:, :, chunk] += x[:, :, chunk] if block.shortcut is None else block.shortcut(x[:, :, chunk], None)[0]
    return h


def _attention(layer: SpaceAttention, x: Tensor, chunk_frames: int) -> Tensor:
    moments = _moments(layer.norm, x)
    for chunk in _chunks(x, chunk_frames):
        x[:, :, chunk] += layer.attend(layer.norm(x[:, :, chunk], clip=moments))
    return x


def _norm_conv(norm: Norm, conv: CausalConv3d, x: Tensor, chunk_frames: int, out: Tensor | None = None) -> Tensor:
    """`conv(swish(norm(x)))` into `out`, which may be `x`: a chunk is written after it was read."""
    moments = _moments(norm, x)
    if out is None:
        out = empty_frames(x, x.shape[2], channels=conv.weight.shape[0])
    past: Past | None = None
    for chunk in _chunks(x, chunk_frames):
        out[:, :, chunk], past = conv(norm(x[:, :, chunk], conv.pad_frames, moments), past)
    return out


def _moments(norm: Norm, x: Tensor) -> Moments:
    """The moments of all frames of `x`, merged from those of each frame, so that they do not depend on chunks."""
    assert isinstance(norm, GroupNorm)
    return merge_moments(norm.moments(x))


def _without_norm(layer: nn.Module, x: Tensor, chunk_frames: int) -> Tensor:
    past: Past | None = None
    parts = []
    for chunk in _chunks(x, chunk_frames):
        y, past = layer(x[:, :, chunk], past)
        parts.append(y)
    return torch.cat(parts, 2)


def _chunks(x: Tensor, chunk_frames: int) -> Iterator[slice]:
    """Slices of time; the first has one frame more, the first of the clip, so that later ones hold whole pairs."""
    yield slice(0, 1 + chunk_frames)
    for start in range(1 + chunk_frames, x.shape[2], chunk_frames):
        yield slice(start, start + chunk_frames)
