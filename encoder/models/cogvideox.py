"""The encoder of CogVideoX's causal 3D VAE (arXiv:2408.06072, section 2.1), as parameters and one module."""

from dataclasses import dataclass

from torch import Tensor, nn

from encoder.device.workspace import Workspace
from encoder.models.boxes import average_pairs
from encoder.models.layers import CausalConv3d, CausalEncoder, HalvePicture, Past, ResidualBlock, SpaceAttention
from encoder.models.norms import GroupNorm
from encoder.models.stem import Stem
from encoder.spec import NormScope


@dataclass(frozen=True, slots=True)
class CogVideoXParams:
    """The architecture. Each level but the last halves the picture; the first log2(temporal_ratio) halve time too."""

    channels: tuple[int, ...]
    blocks_per_level: int
    latent_channels: int = 16
    in_channels: int = 3
    groups: int = 32
    eps: float = 1e-6
    temporal_ratio: int = 4
    attention_levels: tuple[int, ...] = ()
    middle_attention: bool = False
    double_latents: bool = True

    @property
    def spatial_ratio(self) -> int:
        return 1 << len(self.channels) - 1


PRESETS = {
    "cogvideox": CogVideoXParams(channels=(128, 256, 256, 512), blocks_per_level=3),
    "tiny": CogVideoXParams(channels=(16, 32, 32, 64), blocks_per_level=1, groups=8),
}


class Head(nn.Module):
    """Norm, swish and the last convolution: features to moments."""

    def __init__(self, norm: GroupNorm, conv: CausalConv3d) -> None:
        super().__init__()
        self.norm, self.conv = norm, conv

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """`b c t h w -> b 2z t h w`, or `b z t h w` without log-variance"""
        y: tuple[Tensor, Past] = self.conv(self.norm(x, self.conv.pad_frames), past)
        return y


class Downsample(nn.Module):
    """Halves the picture; with `in_time`, first halves time by averaging.

    The clip's first frame is kept as it is, and all others are averaged in pairs.
    """

    def __init__(self, channels: int, in_time: bool, workspace: Workspace) -> None:
        super().__init__()
        self.picture = HalvePicture(channels, workspace)
        self.in_time = in_time

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """`b c t h w -> b c t' h//2 w//2`"""
        first = 1 if past is None else 0
        padded = self.picture.empty_padded(x, first + (x.shape[2] - first) // 2 if self.in_time else x.shape[2])
        pooled = padded[..., :-1, :-1]
        if self.in_time:
            assert (x.shape[2] - first) % 2 == 0, "frames after the clip's first come in pairs"
            pooled[:, :, :first] = x[:, :, :first]
            average_pairs(x[:, :, first:], pooled[:, :, first:])
        else:
            pooled.copy_(x)
        return self.picture(padded), ()


class Encoder(CausalEncoder):
    """The whole encoder. `params` fix its architecture, `scope` the frames over which its norms take statistics."""

    def __init__(self, params: CogVideoXParams, scope: NormScope) -> None:
        super().__init__()
        self.params, self._scope, self._workspace = params, scope, Workspace()
        channels, deep = params.channels, params.channels[-1]
        self.stem = Stem(CausalConv3d(params.in_channels, channels[0], 3))
        self.levels = nn.ModuleList(self._level(i) for i in range(len(channels)))
        self.middle = nn.ModuleList([self._block(deep, deep), self._block(deep, deep)])
        if params.middle_attention:
            self.middle.insert(1, self._attention(deep))
        moments_channels = params.latent_channels * (1 + params.double_latents)
        self.head = Head(self._norm(deep), CausalConv3d(deep, moments_channels, 3))

    def _level(self, index: int) -> nn.ModuleDict:
        """Residual blocks at one resolution, attention after each where the level has it, then down-sampling."""
        params, out = self.params, self.params.channels[index]
        level = nn.ModuleDict()
        for i in range(params.blocks_per_level):
            before = params.channels[max(index - 1, 0)] if i == 0 else out
            level[f"block{i}"] = self._block(before, out)
            if index in params.attention_levels:
                level[f"attention{i}"] = self._attention(out)
        if index < len(params.channels) - 1:
            level["down"] = Downsample(out, 1 << index < params.temporal_ratio, self._workspace)
        return level

    def _block(self, in_channels: int, out_channels: int) -> ResidualBlock:
        conv1, conv2 = CausalConv3d(in_channels, out_channels, 3), CausalConv3d(out_channels, out_channels, 3)
        return ResidualBlock(self._norm(in_channels), conv1, self._norm(out_channels), conv2, self._workspace)

    def _attention(self, channels: int) -> SpaceAttention:
        return SpaceAttention(self._norm(channels, swish=False), channels)

    def _norm(self, channels: int, swish: bool = True) -> GroupNorm:
        return GroupNorm(channels, self.params.groups, self.params.eps, self._scope, swish)
