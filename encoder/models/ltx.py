"""The encoders of the VAEs of LTX-Video (arXiv:2501.00103) and LTX-2, as parameters and one module.

No frame depends on a later one: norms see single pixels, and convolutions repeat a clip's first frame before it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from encoder.device.workspace import Workspace
from encoder.kernels.direct import convolve
from encoder.models.boxes import average_down, unfolded
from encoder.models.layers import (
    CausalConv3d,
    CausalEncoder,
    Past,
    ResidualBlock,
    remember,
)
from encoder.models.norms import ChannelNorm, PixelNorm
from encoder.models.stem import Stem

Stride = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class LtxLevel:
    """Residual blocks of `channels`, then down-sampling by `stride`, if any, to what the next level has.

    It folds space and time into channels, or is `strided`, a convolution of stride 2 that keeps the channels.
    """

    channels: int
    blocks: int
    stride: Stride | None
    strided: bool = False


@dataclass(frozen=True, slots=True)
class LtxParams:
    """The architecture: levels, then `middle_blocks` of `middle_channels`, of patches of `patch_px`."""

    levels: tuple[LtxLevel, ...]
    middle_channels: int
    middle_blocks: int
    latent_channels: int = 128
    patch_px: int = 4
    eps: float = 1e-6  # of the norms where channels change

    @property
    def temporal_ratio(self) -> int:
        ratio = 1
        for level in self.levels:
            ratio *= level.stride[0] if level.stride else 1
        return ratio

    @property
    def spatial_ratio(self) -> int:
        ratio = self.patch_px
        for level in self.levels:
            ratio *= level.stride[1] if level.stride else 1
        return ratio


SPATIAL, TEMPORAL, BOTH = (1, 2, 2), (2, 1, 1), (2, 2, 2)
LTX2 = LtxParams(
    (LtxLevel(128, 4, SPATIAL), LtxLevel(256, 6, TEMPORAL), LtxLevel(512, 6, BOTH), LtxLevel(1024, 2, BOTH)),
    middle_channels=2048,
    middle_blocks=2,
)
PRESETS = {"ltx": LTX2}


class FoldDown(nn.Module):
    """A convolution whose result is folded into channels, plus the averaged input.

    A clip's first frame counts twice.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: Stride, workspace: Workspace) -> None:
        super().__init__()
        self.out_channels, self.stride, self.workspace = out_channels, stride, workspace
        self.conv = CausalConv3d(in_channels, out_channels // (stride[0] * stride[1] * stride[2]), 3)

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """`b c t h w -> b c' t' h' w'`"""
        again = int(past is None and self.stride[0] == 2)
        pad = self.conv.pad_frames
        padded = self.workspace.frames("padded", x, pad + again + x.shape[2])
        padded[:, :, pad + again :] = x
        if again:
            padded[:, :, pad : pad + 1] = x[:, :, :1]
        average = average_down(padded[:, :, pad:], self.out_channels, self.stride)
        convolved, past = self.conv(padded, past)
        boxes = unfolded(convolved, self.stride).flatten(4)
        return average.add_(boxes.permute(0, 4, 1, 2, 3)), past


class StridedConv(nn.Module):
    """A 3x3x3 convolution of stride 2 in time and over the picture, with zeros around it, as in LTX-Video 0.9.0."""

    def __init__(self, channels: int, workspace: Workspace) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3, 3))
        self.bias = nn.Parameter(torch.empty(channels))
        self.workspace = workspace

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """`b c t h w -> b c t' h//2 w//2`; two frames before a clip's first are copies of it, later one is kept."""
        pad = 2 if past is None else 1
        padded = self.workspace.frames("padded", x, pad + x.shape[2], margin_px=1)
        padded[..., 0, :] = 0
        padded[..., 0] = 0
        inside = padded[..., 1:, 1:]
        inside[:, :, :pad] = x[:, :, :1] if past is None else past[0]
        inside[:, :, pad:] = x
        return convolve(padded, self.weight, self.bias, stride=(2, 2)), remember(x[:, :, -1:], past)


class NormedShortcut(nn.Module):
    """A norm over channels and a 1x1x1 convolution, where a block changes the number of channels."""

    def __init__(self, in_channels: int, out_channels: int, eps: float) -> None:
        super().__init__()
        self.norm, self.conv = ChannelNorm(in_channels, eps), CausalConv3d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """`b c t h w -> b c' t h w`"""
        y: tuple[Tensor, Past] = self.conv(self.norm(x), past)
        return y


class LtxHead(nn.Module):
    """Norm, swish and the last convolution; one log-variance is shared by all channels."""

    def __init__(self, channels: int, latent_channels: int) -> None:
        super().__init__()
        self.norm, self.conv = PixelNorm(), CausalConv3d(channels, latent_channels + 1, 3)

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """`b c t h w -> b 2z t h w`"""
        y, past = self.conv(self.norm(x, self.conv.pad_frames), past)
        return torch.cat([y[:, :-1], y[:, -1:].expand(-1, y.shape[1] - 1, -1, -1, -1)], 1), past


class LtxEncoder(CausalEncoder):
    """The whole encoder. `params` fix its architecture."""

    def __init__(self, params: LtxParams) -> None:
        super().__init__()
        self.params, workspace = params, Workspace()
        self.stem = Stem(CausalConv3d(3 * params.patch_px**2, params.levels[0].channels, 3), params.patch_px)
        nexts = [*(level.channels for level in params.levels[1:]), params.middle_channels]
        pairs = zip(params.levels, nexts, strict=True)
        self.levels = nn.ModuleList(_level(*pair, params.eps, workspace) for pair in pairs)
        middle = params.middle_channels
        self.middle = nn.ModuleList(_block(middle, middle, params.eps, workspace) for _ in range(params.middle_blocks))
        self.head = LtxHead(middle, params.latent_channels)


def _level(level: LtxLevel, next_channels: int, eps: float, workspace: Workspace) -> nn.ModuleDict:
    """Blocks, down-sampling, and a block that changes the channels where that has not."""
    made = nn.ModuleDict()
    for i in range(level.blocks):
        made[f"block{i}"] = _block(level.channels, level.channels, eps, workspace)
    if level.strided:
        made["down"] = StridedConv(level.channels, workspace)
    elif level.stride is not None:
        made["down"] = FoldDown(level.channels, next_channels, level.stride, workspace)
    if next_channels != level.channels and (level.strided or level.stride is None):
        made["change"] = _block(level.channels, next_channels, eps, workspace)
    return made


def _block(in_channels: int, out_channels: int, eps: float, workspace: Workspace) -> ResidualBlock:
    conv1, conv2 = CausalConv3d(in_channels, out_channels, 3), CausalConv3d(out_channels, out_channels, 3)
    block = ResidualBlock(PixelNorm(), conv1, PixelNorm(), conv2, workspace)
    if in_channels != out_channels:
        block.shortcut = NormedShortcut(in_channels, out_channels, eps)
    return block
