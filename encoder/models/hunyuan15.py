"""The encoder of HunyuanVideo 1.5's VAE, as parameters and one module.

No frame depends on a later one. The attention in the middle depends on all earlier frames, whose keys and values are
kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from encoder.device.workspace import Workspace
from encoder.kernels.direct import attention, linear
from encoder.models.boxes import average_down, unfolded
from encoder.models.layers import CausalEncoder, EdgeConv3d, Past, ResidualBlock
from encoder.models.norms import RmsNorm
from encoder.models.stem import Stem


@dataclass(frozen=True, slots=True)
class Hunyuan15Params:
    """The architecture. The first log2(spatial_ratio) levels halve the picture, the last ones of them time too."""

    channels: tuple[int, ...] = (128, 256, 512, 1024, 1024)
    blocks_per_level: int = 2
    latent_channels: int = 32
    spatial_ratio: int = 16
    temporal_ratio: int = 4

    def stride(self, level: int) -> tuple[int, int, int] | None:
        """By how much a level folds time, height and width; None if it does not."""
        if 1 << level >= self.spatial_ratio:
            return None
        in_time = 1 << level >= self.spatial_ratio // self.temporal_ratio
        return (2 if in_time else 1, 2, 2)


PRESETS = {"hunyuan1.5": Hunyuan15Params()}


class HunyuanDown(nn.Module):
    """A convolution whose result is folded into channels, plus the averaged input.

    With time, a clip's first frame is folded alone: its folded channels stand twice, its average is of half as many.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: tuple[int, int, int], workspace: Workspace) -> None:
        super().__init__()
        self.out_channels, self.stride, self.workspace = out_channels, stride, workspace
        self.conv = EdgeConv3d(in_channels, out_channels // (stride[0] * stride[1] * stride[2]), 3)

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """`b c t h w -> b c' t' h' w'`"""
        pad, alone = self.conv.pad_frames, int(past is None and self.stride[0] == 2)
        padded = self.workspace.frames("padded", x, pad + x.shape[2])
        padded[:, :, pad:] = x
        convolved, past = self.conv(padded, past)
        space = (1, *self.stride[1:])
        parts = []
        if alone:
            folded = _folded(convolved[:, :, :1], space)
            parts.append(torch.cat([folded, folded], 1) + self._average(x[:, :, :1], space))
        if x.shape[2] > alone:
            parts.append(_folded(convolved[:, :, alone:], self.stride) + self._average(x[:, :, alone:], self.stride))
        return torch.cat(parts, 2) if len(parts) > 1 else parts[0], past

    def _average(self, x: Tensor, stride: tuple[int, int, int]) -> Tensor:
        return average_down(x, self.out_channels, stride, channels_first=False)


class FrameCausalAttention(nn.Module):
    """Attention with one head from a frame's pixels to those of it and of all earlier frames, added to its input.

    The past is their keys and values, `b 1 n c` each.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RmsNorm(channels, swish=False)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """`b c t h w -> b c t h w`"""
        pixels = self.norm(x).permute(0, 2, 3, 4, 1).flatten(2, 3)  # b t hw c
        query, key, value = linear(pixels, self.qkv.weight, self.qkv.bias).chunk(3, dim=-1)
        keys, values = (each[:, :1, :0] for each in (key, value)) if past is None else past
        mixed = []
        for frame in range(x.shape[2]):
            of_frame = slice(frame, frame + 1)
            keys, values = torch.cat([keys, key[:, of_frame]], 2), torch.cat([values, value[:, of_frame]], 2)
            mixed.append(attention(query[:, of_frame], keys, values))
        added = linear(torch.cat(mixed, 1), self.project.weight, self.project.bias)
        return x + torch.unflatten(added, 2, x.shape[3:]).permute(0, 4, 1, 2, 3), (keys, values)


class Hunyuan15Head(nn.Module):
    """Norm, swish and the last convolution, plus averaged channels of its input: features to moments."""

    def __init__(self, channels: int, latent_channels: int) -> None:
        super().__init__()
        self.norm, self.conv = RmsNorm(channels), EdgeConv3d(channels, 2 * latent_channels, 3)

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """`b c t h w -> b 2z t h w`"""
        average = average_down(x, len(self.conv.weight), (1, 1, 1))
        y, past = self.conv(self.norm(x, self.conv.pad_frames), past)
        return average.add_(y), past


class Hunyuan15Encoder(CausalEncoder):
    """The whole encoder. `params` fix its architecture."""

    def __init__(self, params: Hunyuan15Params) -> None:
        super().__init__()
        self.params, workspace = params, Workspace()
        deep = params.channels[-1]
        self.stem = Stem(EdgeConv3d(3, params.channels[0], 3))
        self.levels = nn.ModuleList(_levels(params, workspace))
        self.middle = nn.ModuleList(
            [_block(deep, deep, workspace), FrameCausalAttention(deep), _block(deep, deep, workspace)]
        )
        self.head = Hunyuan15Head(deep, params.latent_channels)


def _levels(params: Hunyuan15Params, workspace: Workspace) -> Iterator[nn.ModuleDict]:
    before = params.channels[0]
    for index, channels in enumerate(params.channels):
        level = nn.ModuleDict()
        for i in range(params.blocks_per_level):
            level[f"block{i}"] = _block(before, channels, workspace)
            before = channels
        if (stride := params.stride(index)) is not None:
            before = params.channels[index + 1]
            level["down"] = HunyuanDown(channels, before, stride, workspace)
        yield level


def _block(in_channels: int, out_channels: int, workspace: Workspace) -> ResidualBlock:
    conv1, conv2 = EdgeConv3d(in_channels, out_channels, 3), EdgeConv3d(out_channels, out_channels, 3)
    return ResidualBlock(RmsNorm(in_channels), conv1, RmsNorm(out_channels), conv2, workspace)


def _folded(x: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """`b c (t p) (h q) (w r) -> b (p q r c) t h w`"""
    return unfolded(x, stride).permute(0, 1, 2, 3, 5, 6, 7, 4).flatten(4).permute(0, 4, 1, 2, 3)
