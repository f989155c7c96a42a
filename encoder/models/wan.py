"""The encoder of Wan 2.1's causal 3D VAE (arXiv:2503.20314, section 4.1), as parameters and one module.

No frame depends on a later one, and only convolutions reach across frames, so that the cut of a clip into chunks
changes nothing but rounding.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from encoder.device.workspace import Workspace
from encoder.kernels.direct import convolve
from encoder.models.layers import (
    CausalConv3d,
    HalvePicture,
    Past,
    ResidualBlock,
    SpaceAttention,
    State,
    Stem,
    remember,
    run,
)
from encoder.models.norms import RmsNorm


@dataclass(frozen=True, slots=True)
class WanParams:
    """The architecture. Each level but the last halves the picture; `halves_time` says which of them halve time too."""

    channels: tuple[int, ...] = (96, 192, 384, 384)
    blocks_per_level: int = 2
    halves_time: tuple[bool, ...] = (False, True, True)
    latent_channels: int = 16
    in_channels: int = 3


PRESETS = {"wan": WanParams()}


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


class WanEncoder(nn.Module):
    """The whole encoder. `params` fix its architecture."""

    def __init__(self, params: WanParams) -> None:
        super().__init__()
        deep, workspace = params.channels[-1], Workspace()
        self.stem = Stem(wan_conv(params.in_channels, params.channels[0]))
        self.down = nn.ModuleList(_down(params, workspace))
        attention = SpaceAttention(RmsNorm(deep, swish=False), deep)
        self.middle = nn.ModuleList([_block(deep, deep, workspace), attention, _block(deep, deep, workspace)])
        self.head = WanHead(params)

    def layers(self) -> Iterator[nn.Module]:
        """All layers in order; each is `forward(x, past) -> (y, past)`."""
        yield self.stem
        yield from self.down
        yield from self.middle
        yield self.head

    def forward(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """`b 3 t h w` in [-1, 1] to moments `b 2z t' h' w'` (mean, log-variance), and the state for the next chunk.

        The chunk at a clip's start (`state` None) has 1 + 4k frames, later ones 4k.
        """
        return run(self.layers(), x, state)


def _down(params: WanParams, workspace: Workspace) -> Iterator[nn.Module]:
    before = params.channels[0]
    for index, channels in enumerate(params.channels):
        for _ in range(params.blocks_per_level):
            yield _block(before, channels, workspace)
            before = channels
        if index < len(params.channels) - 1:
            yield WanDownsample(channels, params.halves_time[index], workspace)


def _block(in_channels: int, out_channels: int, workspace: Workspace) -> ResidualBlock:
    conv1, conv2 = wan_conv(in_channels, out_channels), wan_conv(out_channels, out_channels)
    return ResidualBlock(RmsNorm(in_channels), conv1, RmsNorm(out_channels), conv2, workspace)
