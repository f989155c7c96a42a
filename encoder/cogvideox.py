"""The encoder of CogVideoX's causal 3D VAE (arXiv:2408.06072, section 2.1), as parameters and one module.

It does not load weights or cut clips into chunks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

from torch import Tensor, nn

from encoder.layers import (
    CausalConv3d,
    Downsample,
    GroupNorm,
    NormScope,
    Past,
    ResidualBlock,
    SpaceAttention,
    empty_frames,
)

State = tuple[Past, ...]  # one entry for each layer, in the order in which they run


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
        return 1 << (len(self.channels) - 1)


PRESETS = {
    "cogvideox": CogVideoXParams(channels=(128, 256, 256, 512), blocks_per_level=3),
    "tiny": CogVideoXParams(channels=(16, 32, 32, 64), blocks_per_level=1, groups=8),
}


class Stem(nn.Module):
    """The first convolution: pixels to features."""

    def __init__(self, params: CogVideoXParams) -> None:
        super().__init__()
        self.conv = CausalConv3d(params.in_channels, params.channels[0], 3)

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """`b 3 t h w -> b c t h w`"""
        room = self.conv.room_frames
        roomy = empty_frames(x, room + x.shape[2])
        roomy[:, :, room:] = x
        y: tuple[Tensor, Past] = self.conv(roomy, past)
        return y


class Head(nn.Module):
    """Norm, swish and the last convolution: features to moments."""

    def __init__(self, params: CogVideoXParams, scope: NormScope) -> None:
        super().__init__()
        self.norm = GroupNorm(params.channels[-1], params.groups, params.eps, scope)
        self.conv = CausalConv3d(params.channels[-1], params.latent_channels * (1 + params.double_latents), 3)

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """`b c t h w -> b 2z t h w`, or `b z t h w` without log-variance"""
        y: tuple[Tensor, Past] = self.conv(self.norm(x, self.conv.room_frames), past)
        return y


class Level(nn.Module):
    """Residual blocks at one resolution, attention after each where the level has it, then down-sampling."""

    def __init__(self, params: CogVideoXParams, index: int, scope: NormScope) -> None:
        super().__init__()
        before, out = params.channels[max(index - 1, 0)], params.channels[index]
        self.blocks = nn.ModuleList(
            ResidualBlock(before if i == 0 else out, out, params.groups, params.eps, scope)
            for i in range(params.blocks_per_level)
        )
        attentions = params.blocks_per_level if index in params.attention_levels else 0
        self.attentions = nn.ModuleList(
            SpaceAttention(out, params.groups, params.eps, scope) for _ in range(attentions)
        )
        halves_time = 1 << index < params.temporal_ratio
        self.down = Downsample(out, halves_time) if index < len(params.channels) - 1 else None

    def layers(self) -> Iterator[nn.Module]:
        """The layers in the order in which they run."""
        for i, block in enumerate(self.blocks):
            yield block
            yield from self.attentions[i : i + 1]
        if self.down is not None:
            yield self.down


class Encoder(nn.Module):
    """The whole encoder. `params` fix its shape, `scope` over which frames its norms look."""

    def __init__(self, params: CogVideoXParams, scope: NormScope) -> None:
        super().__init__()
        self.params = params
        deep = params.channels[-1]
        self.stem = Stem(params)
        self.levels = nn.ModuleList(Level(params, i, scope) for i in range(len(params.channels)))
        middle: list[nn.Module] = [ResidualBlock(deep, deep, params.groups, params.eps, scope) for _ in range(2)]
        if params.middle_attention:
            middle.insert(1, SpaceAttention(deep, params.groups, params.eps, scope))
        self.middle = nn.ModuleList(middle)
        self.head = Head(params, scope)

    def layers(self) -> Iterator[nn.Module]:
        """All layers in the order in which they run; each is `forward(x, past) -> (y, past)`."""
        yield self.stem
        for level in self.levels:
            assert isinstance(level, Level)
            yield from level.layers()
        yield from self.middle
        yield self.head

    def forward(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """`b 3 t h w` in [-1, 1] to moments `b 2z t' h' w'` (mean, log-variance), and the state for the next chunk.

        The chunk at a clip's start (`state` None) has `1 + k * temporal_ratio` frames, later ones `k * temporal_ratio`.
        """
        pasts: list[Past] = []
        for layer, past in zip(self.layers(), repeat(None) if state is None else state, strict=False):
            x, past = layer(x, past)
            pasts.append(past)
        return x, tuple(pasts)
