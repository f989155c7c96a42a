"""Normalisation and the swish that follows it, in float32 whatever the type of the activation.

Written out because the float32 results of torch's own group_norm and silu depend, on a CPU, on the number of threads.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder.device.threads import share, single_threaded
from encoder.device.workspace import empty_frames
from encoder.kernels.fused_norms import group_moments, group_normalize, rms_normalize
from encoder.spec import NormScope

PIXEL_EPS = 1e-8  # of PixelNorm, below its root
BAND_VALUES = 2**17  # normalised together on a CPU, so that they stay in a core's cache


class Moments(NamedTuple):
    """Mean and variance of each frame, batch item and group, `t b g` float32."""

    mean: Tensor
    variance: Tensor


def merge_moments(frames: Moments) -> Moments:
    """The moments of all frames together, `1 b g`, which have equally many values (Chan, Golub, LeVeque 1979)."""
    share_of_each = 1 / len(frames.mean)
    mean = (share_of_each * frames.mean).sum(0, keepdim=True)
    within = frames.variance + (frames.mean - mean).square()
    return Moments(mean, (share_of_each * within).sum(0, keepdim=True))


class Beside(NamedTuple):
    """What a fused norm does in the same pass, if anything.

    `extra`, of each channel, is added to the input first; the last frames of the result are written to `kept` too,
    `b c n h w`.
    """

    extra: Tensor | None = None
    kept: Tensor | None = None


class NormBackend(Protocol):
    """The arithmetic of a GroupNorm on a band of pixels, `b pixels c`. Statistics are float32."""

    def moments(self, band: Tensor, mean: Tensor, variance: Tensor) -> None:
        """Writes the mean and variance of each channel, `b c`."""

    def normalize(self, band: Tensor, shift: Tensor, scale: Tensor, swish: bool, out: Tensor) -> None:
        """Writes `shift + scale * band`, then swish if asked for, to `out`; shift and scale are `b 1 c`."""


class TorchNormBackend:
    """The `NormBackend` of torch's operations."""

    def moments(self, band: Tensor, mean: Tensor, variance: Tensor) -> None:
        band = band.float()
        torch.div(band.sum(1), band.shape[1], out=mean)
        torch.div((band - mean[:, None]).square_().sum(1), band.shape[1], out=variance)

    def normalize(self, band: Tensor, shift: Tensor, scale: Tensor, swish: bool, out: Tensor) -> None:
        _finish(torch.addcmul(shift, band, scale), swish, out)


class GroupNorm(nn.Module):
    """GroupNorm, then swish if asked for.

    `scope` says over which frames the statistics are taken: `chunk`, all frames of a call; `frame`, each frame alone;
    `clip`, the frames whose moments are given with each call.
    """

    def __init__(self, channels: int, groups: int, eps: float, scope: NormScope, swish: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.groups, self.eps, self.scope, self.swish = groups, eps, scope, swish
        self.backend: NormBackend = TorchNormBackend()
        self.fused = False  # whether the kernels in Triton compute it, on a GPU

    def forward(
        self,
        x: Tensor,
        pad_frames: int = 0,
        clip: Moments | None = None,
        out: Tensor | None = None,
        beside: Beside | None = None,
    ) -> Tensor:
        """`b c t h w -> b c pad_frames+t h w`, in `out` if given; the first `pad_frames` frames are left unset.

        Only where this is `fused` can it do something `beside`.
        """
        assert (clip is not None) == (self.scope == "clip"), "scope clip, and no other, takes the moments of the clip"
        if self.fused:
            return self._fused(x, pad_frames, clip, out, beside or Beside())
        assert beside is None, "torch's operations add the bias with the convolution"
        moments = self.moments(x) if clip is None else clip
        with single_threaded(x.device):
            if self.scope == "chunk":
                moments = merge_moments(moments)
            shift, scale = (each.expand(x.shape[2], -1, -1, -1) for each in self._shift_and_scale(moments))

        def normalize(frame: int, band: Tensor, out: Tensor) -> None:
            self.backend.normalize(band, shift[frame], scale[frame], self.swish, out)

        return _by_bands(x, pad_frames, out, normalize)

    def moments(self, x: Tensor) -> Moments:
        """The moments of each frame of `b c t h w`."""
        if self.fused:
            by_item = group_moments(x, None, self.groups, 1)
            return Moments(*(each.unflatten(0, (len(x), -1)).transpose(0, 1) for each in by_item))
        bands = _bands(x)
        indices = [(i, j) for i, of_frame in enumerate(bands) for j in range(len(of_frame))]
        means, variances = (x.new_empty(len(bands), len(bands[0]), *x.shape[:2], dtype=torch.float32) for _ in "mv")

        def measure(_: int, index: tuple[int, int]) -> None:
            self.backend.moments(bands[index[0]][index[1]], means[index], variances[index])

        share(measure, indices, x.device)
        pixels = [band.shape[1] for band in bands[0]]
        with single_threaded(x.device):
            return self._of_groups(pixels, means, variances)

    def _fused(self, x: Tensor, pad_frames: int, clip: Moments | None, out: Tensor | None, beside: Beside) -> Tensor:
        extra, kept = beside
        out = empty_frames(x, pad_frames + x.shape[2]) if out is None else out
        scope_frames = 1 if self.scope == "frame" else x.shape[2]
        moments = group_moments(x, extra, self.groups, scope_frames) if clip is None else [each[0] for each in clip]
        group_normalize(x, extra, *moments, self.weight, self.bias, self.eps, self.swish, out[:, :, pad_frames:], kept)
        return out

    def _of_groups(self, pixels: list[int], means: Tensor, variances: Tensor) -> Moments:
        """The moments of frames from those of their bands and channels, `t n b c`, by `merge_moments`' formula."""
        weights = means.new_full((len(pixels), 1, 1), pixels[0] / sum(pixels))
        weights[-1] = pixels[-1] / sum(pixels)  # only the last band may have fewer
        means, variances = (torch.unflatten(each, 3, (self.groups, -1)) for each in (means, variances))
        mean = (weights * means.mean(-1)).sum(1)
        variance = (weights * (variances + (means - mean[:, None, :, :, None]).square()).mean(-1)).sum(1)
        return Moments(mean, variance)

    def _shift_and_scale(self, moments: Moments) -> tuple[Tensor, Tensor]:
        """`t b 1 c` each, so that `shift + scale * x` is x normalised by these moments."""
        scale = self.weight.float().view(self.groups, -1) * (moments.variance + self.eps).rsqrt()[..., None]
        shift = self.bias.float().view(self.groups, -1) - moments.mean[..., None] * scale
        return shift.flatten(2)[:, :, None], scale.flatten(2)[:, :, None]


class RmsNorm(nn.Module):
    """Each pixel's channels divided by their root mean square and scaled, then swish if asked for."""

    def __init__(self, channels: int, swish: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.swish = swish
        self.fused = False

    def forward(
        self, x: Tensor, pad_frames: int = 0, out: Tensor | None = None, beside: Beside | None = None
    ) -> Tensor:
        """As that of `GroupNorm`."""
        if self.fused:
            out = empty_frames(x, pad_frames + x.shape[2]) if out is None else out
            extra, kept = beside or Beside()
            rms_normalize(x, extra, self.weight, self.swish, out[:, :, pad_frames:], kept)
            return out
        assert beside is None, "torch's operations add the bias with the convolution"
        scale = self.weight.float() * len(self.weight) ** 0.5

        def normalize(_: int, band: Tensor, out: Tensor) -> None:
            length = torch.linalg.vector_norm(band, dim=-1, keepdim=True, dtype=torch.float32)
            _finish((band / length.clamp_min_(1e-12)).mul_(scale), self.swish, out)

        return _by_bands(x, pad_frames, out, normalize)


class PixelNorm(nn.Module):
    """Each pixel's channels divided by their root mean square, then swish."""

    fused = False  # there is no kernel in Triton

    def forward(
        self, x: Tensor, pad_frames: int = 0, out: Tensor | None = None, beside: Beside | None = None
    ) -> Tensor:
        """As that of `GroupNorm`."""
        assert beside is None, "torch's operations add the bias with the convolution"

        def normalize(_: int, band: Tensor, out: Tensor) -> None:
            length = torch.linalg.vector_norm(band, dim=-1, keepdim=True, dtype=torch.float32)
            _finish(band / (length.square_() / band.shape[-1] + PIXEL_EPS).sqrt_(), True, out)

        return _by_bands(x, pad_frames, out, normalize)


class ChannelNorm(nn.Module):
    """LayerNorm of each pixel's channels, without swish."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """`b c t h w -> b c t h w`"""
        weight, bias = self.weight.float(), self.bias.float()

        def normalize(_: int, band: Tensor, out: Tensor) -> None:
            out.copy_(F.layer_norm(band.float(), (len(weight),), weight, bias, self.eps))

        return _by_bands(x, 0, None, normalize)


def _finish(normed: Tensor, swish: bool, out: Tensor) -> None:
    out.copy_(F.silu(normed, inplace=True) if swish else normed)


def _by_bands(
    x: Tensor, pad_frames: int, out: Tensor | None, normalize: Callable[[int, Tensor, Tensor], None]
) -> Tensor:
    """Calls `normalize(frame, band, out_band)` for each band; returns the output."""
    out = empty_frames(x, pad_frames + x.shape[2]) if out is None else out
    frames = enumerate(zip(_bands(x), _bands(out[:, :, pad_frames:]), strict=True))
    pieces = [(i, *bands) for i, frame in frames for bands in zip(*frame, strict=True)]
    share(lambda _, piece: normalize(*piece), pieces, x.device)
    return out


def _bands(x: Tensor) -> list[tuple[Tensor, ...]]:
    """The pixels of each frame of `b c t h w` as `b pixels c`, on a CPU in bands that fit in a core's cache."""
    pixels = x.permute(2, 0, 3, 4, 1).flatten(2, 3)
    most_px = max(1, BAND_VALUES // x.shape[1]) if x.device.type == "cpu" else pixels.shape[2]
    if pixels.shape[2] <= most_px:  # torch takes longer to split a small picture than to normalise it
        return [(frame,) for frame in pixels.unbind()]
    return [torch.split(frame, most_px, dim=1) for frame in pixels]


def fuse(model: nn.Module) -> None:
    """Has the kernels in Triton compute all norms of a model."""
    for norm in model.modules():
        if isinstance(norm, GroupNorm | RmsNorm):
            norm.fused = True
