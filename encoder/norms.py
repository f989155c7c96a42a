"""Normalisation, with the swish that follows it, computed in float32 whatever the type of the activation.

It does not hold anything between calls. Written out rather than called from torch, whose group_norm and silu give
float32 results on a CPU that depend on the number of threads.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NormScope = Literal["chunk", "clip", "frame"]

BAND_PX = 2048  # on a CPU: pixels that are normalised together, so that their channels stay in its cache


def empty_frames(like: Tensor, frames: int, *, channels: int = 0, margin_px: int = 0) -> Tensor:
    """An uninitialised `b c frames h+margin w+margin` tensor like `like`, with `channels` where they are given."""
    b, c, _, h, w = like.shape
    shape = (b, channels or c, frames, h + margin_px, w + margin_px)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last_3d)


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
    """GroupNorm, then swish where asked for.

    `scope` says over which frames a group's statistics go: `chunk`, all that come in one call; `frame`, each its own;
    `clip`, those of the moments that are given with each call.
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
            _finish(torch.addcmul(shift, band, scale), out_band, self.swish)


def _bands(frame: Tensor) -> Iterator[Tensor]:
    """`b c h w` as `b pixels c` views, on a CPU as many pixels at a time as its cache holds.

    Not where this is compiled: such code has loops of its own.
    """
    pixels = frame.permute(0, 2, 3, 1).flatten(1, 2)
    banded = frame.device.type == "cpu" and not torch.compiler.is_compiling()
    return iter(torch.split(pixels, BAND_PX, dim=1)) if banded else iter((pixels,))


def _finish(normed: Tensor, out: Tensor, swish: bool) -> None:
    """Writes `normed`, or x * sigmoid(x) of it, to `out`, and uses it up.

    Of torch's exponentials on a CPU, only `exp` gives the same bits however threads share it.
    """
    if not swish:
        out.copy_(normed)
    elif normed.device.type == "cpu":
        torch.div(normed, normed.neg().exp_().add_(1), out=out)
    else:
        out.copy_(F.silu(normed, inplace=True))


class RmsNorm(nn.Module):
    """Each pixel's channels divided by their root mean square and scaled, then swish where asked for."""

    def __init__(self, channels: int, swish: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.swish = swish

    def forward(self, x: Tensor, room_frames: int = 0) -> Tensor:
        """`b c t h w -> b c room_frames+t h w`; the first `room_frames` frames are left uninitialised."""
        out = empty_frames(x, room_frames + x.shape[2])
        scale = self.weight.float() * len(self.weight) ** 0.5
        for frame, out_frame in zip(x.unbind(2), out[:, :, room_frames:].unbind(2), strict=True):
            for band, out_band in zip(_bands(frame), _bands(out_frame), strict=True):
                length = torch.linalg.vector_norm(band, dim=-1, keepdim=True, dtype=torch.float32)
                _finish(band / length.clamp_min(1e-12) * scale, out_band, self.swish)
        return out
