"""The layers of a causal video encoder, each with its state explicit: `forward(x, past) -> (y, past)`.

It does not know which architecture they make up. Activations are `b c t h w` in channels-last memory order, and
`past` is what a layer must remember of the chunks before: None where the clip starts.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Past = tuple[Tensor, ...]
NormScope = Literal["chunk", "clip", "frame"]

BAND_PX = 2048  # on a CPU: pixels that are normalised together, so that their channels stay in its cache


def empty_frames(like: Tensor, frames: int, *, channels: int = 0, margin_px: int = 0) -> Tensor:
    """An uninitialised `b c frames h+margin w+margin` tensor like `like`, with `channels` where they are given."""
    b, c, _, h, w = like.shape
    shape = (b, channels or c, frames, h + margin_px, w + margin_px)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last_3d)


class CausalConv3d(nn.Module):
    """A convolution that sees `time - 1` frames before each frame and none after; zeros around the picture.

    Before a clip's first frame it sees copies of that frame.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(out_channels))
        self.room_frames = kernel - 1
        self.padding = (0, kernel // 2, kernel // 2)

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """`b c room_frames+t h w -> b c' t h w`; the first `room_frames` frames are room, which this fills."""
        room = self.room_frames
        x[:, :, :room] = x[:, :, room : room + 1] if past is None else past[0]
        last_frames = x[:, :, x.shape[2] - room :].clone()  # a view would keep the whole chunk in memory
        return F.conv3d(x, self.weight, self.bias, padding=self.padding), (last_frames,)


class Moments(NamedTuple):
    """Mean and variance of `values` numbers per batch item and group, `b g` float32."""

    values: int
    mean: Tensor
    variance: Tensor


def merge_moments(parts: list[Moments]) -> Moments:
    """The moments of all parts together (Chan, Golub, LeVeque 1979)."""
    values = sum(part.values for part in parts)
    weights = [part.values / values for part in parts]
    mean = torch.stack([w * part.mean for w, part in zip(weights, parts, strict=True)]).sum(0)
    within = (w * (part.variance + (part.mean - mean).square()) for w, part in zip(weights, parts, strict=True))
    return Moments(values, mean, torch.stack(list(within)).sum(0))


class GroupNorm(nn.Module):
    """GroupNorm, then swish where asked for; statistics in float32 whatever the type of `x`.

    `scope` says over which frames a group's statistics go: `chunk`, all that come in one call; `frame`, each its own;
    `clip`, those of the moments that are given with each call.
    Written out rather than `F.group_norm` and `F.silu`, whose float32 results depend on the number of threads.
    """

    def __init__(self, channels: int, groups: int, eps: float, scope: NormScope, swish: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.groups, self.eps, self.scope, self.swish = groups, eps, scope, swish

    def forward(self, x: Tensor, room_frames: int = 0, clip: Moments | None = None) -> Tensor:
        """`b c t h w -> b c room_frames+t h w`; the first `room_frames` frames are left uninitialised."""
        assert (clip is not None) == (self.scope == "clip"), "moments of the clip are for scope clip, and needed there"
        out = empty_frames(x, room_frames + x.shape[2])
        moments = [self.moments(frame) for frame in x.unbind(2)] if clip is None else [clip] * x.shape[2]
        if self.scope == "chunk":
            moments = [merge_moments(moments)] * len(moments)
        for frame, out_frame, frame_moments in zip(
            x.unbind(2), out[:, :, room_frames:].unbind(2), moments, strict=True
        ):
            self._normalize(frame, out_frame, frame_moments)
        return out

    def moments(self, frame: Tensor) -> Moments:
        """The moments of one frame `b c h w`."""
        parts = []
        for band in _bands(frame):
            band = band.float()
            values = band.shape[1] * band.shape[2] // self.groups
            mean = self._of_groups(band.sum(1)) / values
            centre = mean.repeat_interleave(band.shape[2] // self.groups, dim=1)[:, None]
            variance = self._of_groups((band - centre).square_().sum(1)) / values
            parts.append(Moments(values, mean, variance))
        return merge_moments(parts)

    def _of_groups(self, of_channels: Tensor) -> Tensor:
        """Sums over channels `b c` to sums over groups `b g`."""
        return torch.unflatten(of_channels, 1, (self.groups, -1)).sum(2)

    def _normalize(self, frame: Tensor, out: Tensor, moments: Moments) -> None:
        per_group = self.weight.float().view(self.groups, -1)
        scale = per_group * (moments.variance + self.eps).rsqrt()[:, :, None]
        shift = self.bias.float().view(self.groups, -1) - moments.mean[:, :, None] * scale
        scale, shift = scale.flatten(1)[:, None], shift.flatten(1)[:, None]
        for band, out_band in zip(_bands(frame), _bands(out), strict=True):
            normed = torch.addcmul(shift, band, scale)
            out_band.copy_(_swish(normed) if self.swish else normed)


def _bands(frame: Tensor) -> Iterator[Tensor]:
    """`b c h w` as `b pixels c` views, on a CPU as many pixels at a time as its cache holds."""
    pixels = frame.permute(0, 2, 3, 1).flatten(1, 2)
    return iter(torch.split(pixels, BAND_PX, dim=1)) if frame.device.type == "cpu" else iter((pixels,))


def _swish(x: Tensor) -> Tensor:
    """x * sigmoid(x). Of torch's exponentials on a CPU, only `exp` gives the same bits however threads share it."""
    return x / x.neg().exp_().add_(1) if x.device.type == "cpu" else F.silu(x, inplace=True)


class ResidualBlock(nn.Module):
    """`shortcut(x) + conv(swish(norm(conv(swish(norm(x))))))`; the shortcut is 1x1x1 where channels differ."""

    def __init__(self, in_channels: int, out_channels: int, groups: int, eps: float, scope: NormScope) -> None:
        super().__init__()
        self.norm1 = GroupNorm(in_channels, groups, eps, scope)
        self.conv1 = CausalConv3d(in_channels, out_channels, 3)
        self.norm2 = GroupNorm(out_channels, groups, eps, scope)
        self.conv2 = CausalConv3d(out_channels, out_channels, 3)
        self.shortcut = CausalConv3d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """`b c t h w -> b c' t h w`"""
        past1, past2 = (None, None) if past is None else ((past[0],), (past[1],))
        h, past1 = self.conv1(self.norm1(x, self.conv1.room_frames), past1)
        roomy = self.norm2(h, self.conv2.room_frames)
        del h  # or it would be alive while the convolution makes its output, which is when memory peaks
        h, past2 = self.conv2(roomy, past2)
        if self.shortcut is not None:
            x, _ = self.shortcut(x, None)
        return h.add_(x), past1 + past2


class SpaceAttention(nn.Module):
    """Self-attention with one head among the pixels of each frame, added to its input."""

    def __init__(self, channels: int, groups: int, eps: float, scope: NormScope) -> None:
        super().__init__()
        self.norm = GroupNorm(channels, groups, eps, scope, swish=False)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """`b c t h w -> b c t h w`"""
        return x + self.attend(self.norm(x)), ()

    def attend(self, normed: Tensor) -> Tensor:
        """What attention adds to the input, `b c t h w`, given its norm."""
        pixels = normed.permute(0, 2, 3, 4, 1).flatten(2, 3)  # b t hw c
        mixed = F.scaled_dot_product_attention(self.query(pixels), self.key(pixels), self.value(pixels))
        return torch.unflatten(self.project(mixed), 2, normed.shape[3:]).permute(0, 4, 1, 2, 3)


class Downsample(nn.Module):
    """Halves the picture with a 3x3 convolution of stride 2, and before that, where asked for, time by averaging.

    In time the clip's first frame passes as it is, and all others are averaged in pairs.
    """

    def __init__(self, channels: int, in_time: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        self.bias = nn.Parameter(torch.empty(channels))
        self.in_time = in_time

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """`b c t h w -> b c t' h//2 w//2`"""
        first = 1 if past is None else 0
        frames = first + (x.shape[2] - first) // 2 if self.in_time else x.shape[2]
        padded = empty_frames(x, frames, margin_px=1)  # a row below and a column right, of zeros
        padded[..., -1, :] = 0
        padded[..., -1] = 0
        self._pool_time(x, padded[..., :-1, :-1], first)
        pictures = padded.transpose(1, 2).flatten(0, 1)
        small = F.conv2d(pictures, self.weight, self.bias, stride=2)
        return torch.unflatten(small, 0, (x.shape[0], frames)).transpose(1, 2), ()

    def _pool_time(self, x: Tensor, out: Tensor, first: int) -> None:
        if not self.in_time:
            out.copy_(x)
            return
        assert (x.shape[2] - first) % 2 == 0, "frames after the clip's first come in pairs"
        out[:, :, :first] = x[:, :, :first]
        torch.add(x[:, :, first::2], x[:, :, first + 1 :: 2], out=out[:, :, first:]).mul_(0.5)
