"""The encoders of the causal 3D VAEs of Wan 2.1 (arXiv:2503.20314, section 4.1) and 2.2, as parameters and one module.

Qwen-Image's is that of Wan 2.1 with other weights. No frame depends on a later one, and only convolutions reach across
frames, so that the cut of a clip into chunks changes nothing but rounding.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from encoder.device.workspace import Workspace
from encoder.kernels.direct import convolve
from encoder.models.boxes import average_down
from encoder.models.layers import (
    CausalConv3d,
    CausalEncoder,
    HalvePicture,
    Past,
    ResidualBlock,
    SpaceAttention,
    remember,
)
from encoder.models.norms import RmsNorm
from encoder.models.stem import Stem


@dataclass(frozen=True, slots=True)
class WanParams:
    """The architecture. Each level but the last halves the picture; `halves_time` says which of them halve time too.

    `residual`, as Wan 2.2 is, adds the averaged input of each level to its result. Patches of `patch_px` are folded
    into channels first.
    """

    channels: tuple[int, ...] = (96, 192, 384, 384)
    blocks_per_level: int = 2
    halves_time: tuple[bool, ...] = (False, True, True)
    latent_channels: int = 16
    stem_channels: int | None = None  # None: those of the first level
    patch_px: int = 1
    residual: bool = False

    @property
    def base_channels(self) -> int:
        return self.stem_channels or self.channels[0]

    @property
    def temporal_ratio(self) -> int:
        return 1 << sum(self.halves_time)

    @property
    def spatial_ratio(self) -> int:
        return self.patch_px << len(self.channels) - 1


WAN22 = WanParams((160, 320, 640, 640), latent_channels=48, patch_px=2, residual=True)
PRESETS = {"wan": WanParams(), "wan2.2": WAN22}


def wan_conv(in_channels: int, out_channels: int, kernel: int = 3) -> CausalConv3d:
    """A causal convolution as in Wan: zeros before the clip."""
    return CausalConv3d(in_channels, out_channels, kernel, padding="zeros")


class WanDownsample(nn.Module):
    """Halves the picture; with `in_time`, then halves time by a convolution of stride 2.

    The clip's first frame is kept as it is; the convolution takes each later pair of frames and the frame before it.
    """

    def __init__(self, channels: int, in_time: bool, workspace: Workspace) -> None:
        super().__init__()
        self.picture = HalvePicture(channels, workspace)
        self.time = TimeConv(channels) if in_time else None

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """`b c t h w -> b c t' h//2 w//2`"""
        padded = self.picture.empty_padded(x, x.shape[2])
        padded[..., :-1, :-1] = x
        small = self.picture(padded)
        if self.time is None:
            return small, ()
        y: tuple[Tensor, Past] = self.time(small, past)
        return y


class TimeConv(nn.Module):
    """Halves the frames after the clip's first with a 3x1x1 convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 1, 1))
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """`b c t h w -> b c t' h w`"""
        source = x if past is None else torch.cat([past[0], x], 2)
        halved = convolve(source, self.weight, self.bias, stride=(2, 1)) if source.shape[2] > 1 else source[:, :, 1:]
        y = torch.cat([x[:, :, :1], halved], 2) if past is None else halved
        return y, remember(x[:, :, -1:], past)


class WanResidualLevel(nn.Module):
    """Residual blocks, then a halving except in the last level, plus the level's averaged input."""

    def __init__(self, blocks: Sequence[ResidualBlock], halve: WanDownsample | None) -> None:
        super().__init__()
        self.blocks, self.halve = nn.ModuleList(blocks), halve
        self.out_channels = blocks[-1].conv2.weight.shape[0]
        self.stride = (1 if halve is None or halve.time is None else 2, 1 if halve is None else 2)

    def parts(self) -> list[nn.Module]:
        return [*self.blocks, *([] if self.halve is None else [self.halve])]

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """`b c t h w -> b c' t' h' w'`; `x` is overwritten. The past is that of the parts, one after the other."""
        average = self._average(x, begins=past is None)
        left = past
        pasts: list[Tensor] = []
        for part in self.parts():
            kept = 2 if isinstance(part, ResidualBlock) else int(self.stride[0] == 2)
            x, of_part = part(x, None if left is None else left[:kept])
            left = None if left is None else left[kept:]
            pasts += of_part
        return average.add_(x), tuple(pasts)

    def _average(self, x: Tensor, begins: bool) -> Tensor:
        """The input as the level's output is shaped; a clip's first frame is averaged with a frame of zeros."""
        if begins and x.shape[2] % self.stride[0]:
            x = torch.cat([torch.zeros_like(x[:, :, :1]), x], 2)
        return average_down(x, self.out_channels, (self.stride[0], self.stride[1], self.stride[1]))


class WanHead(nn.Module):
    """Norm, swish, the last convolution and a 1x1x1 convolution of the moments: features to moments."""

    def __init__(self, params: WanParams) -> None:
        super().__init__()
        moments_channels = 2 * params.latent_channels
        self.norm = RmsNorm(params.channels[-1])
        self.conv = wan_conv(params.channels[-1], moments_channels)
        self.mix = wan_conv(moments_channels, moments_channels, kernel=1)

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """`b c t h w -> b 2z t h w`"""
        y, past = self.conv(self.norm(x, self.conv.pad_frames), past)
        return self.mix(y, None)[0], past


class WanEncoder(CausalEncoder):
    """The whole encoder. `params` fix its architecture."""

    def __init__(self, params: WanParams) -> None:
        super().__init__()
        deep, workspace = params.channels[-1], Workspace()
        self.params = params
        self.stem = Stem(wan_conv(3 * params.patch_px**2, params.base_channels), params.patch_px)
        self.down = nn.ModuleList((_residual_levels if params.residual else _down)(params, workspace))
        attention = SpaceAttention(RmsNorm(deep, swish=False), deep)
        self.middle = nn.ModuleList([_block(deep, deep, workspace), attention, _block(deep, deep, workspace)])
        self.head = WanHead(params)

    def layers(self) -> Iterator[nn.Module]:
        """All layers in order; each is `forward(x, past) -> (y, past)`."""
        yield self.stem
        yield from self.down
        yield from self.middle
        yield self.head


def _down(params: WanParams, workspace: Workspace) -> Iterator[nn.Module]:
    before = params.base_channels
    for index, channels in enumerate(params.channels):
        for _ in range(params.blocks_per_level):
            yield _block(before, channels, workspace)
            before = channels
        if index < len(params.channels) - 1:
            yield WanDownsample(channels, params.halves_time[index], workspace)


def _residual_levels(params: WanParams, workspace: Workspace) -> Iterator[nn.Module]:
    before = params.base_channels
    for index, channels in enumerate(params.channels):
        widths = [before] + [channels] * params.blocks_per_level
        blocks = [_block(*pair, workspace) for pair in itertools.pairwise(widths)]
        is_last = index == len(params.channels) - 1
        halve = None if is_last else WanDownsample(channels, params.halves_time[index], workspace)
        yield WanResidualLevel(blocks, halve)
        before = channels


def _block(in_channels: int, out_channels: int, workspace: Workspace) -> ResidualBlock:
    conv1, conv2 = wan_conv(in_channels, out_channels), wan_conv(out_channels, out_channels)
    return ResidualBlock(RmsNorm(in_channels), conv1, RmsNorm(out_channels), conv2, workspace)
