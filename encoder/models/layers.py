"""The layers of a causal video encoder, each with its state explicit: `forward(x, past) -> (y, past)`.

Activations are `b c t h w` in channels-last memory order. `past` is what a layer keeps of earlier chunks, None at the
start of a clip. A call consumes the past that it is given: the memory is reused for the next one.
"""

from collections.abc import Iterable, Iterator
from itertools import repeat

import torch
from torch import Tensor, nn

from encoder.device.workspace import Workspace, empty_frames
from encoder.kernels.direct import attention, convolve, linear
from encoder.kernels.fused_norms import add_residual
from encoder.kernels.torch_winograd import Convolution
from encoder.kernels.winograd import TimePadding
from encoder.models.norms import Beside, GroupNorm, PixelNorm, RmsNorm

FEW_CHANNELS = 4  # the most that pixels have
Past = tuple[Tensor, ...]
State = tuple[Past, ...]  # one for each layer of an encoder, in order
Norm = GroupNorm | RmsNorm | PixelNorm


def run(layers: Iterable[nn.Module], x: Tensor, state: State | None) -> tuple[Tensor, State]:
    """Runs one chunk through all layers, each with its own past from `state`."""
    pasts: list[Past] = []
    for layer, past in zip(layers, repeat(None) if state is None else state, strict=False):
        x, past = layer(x, past)
        pasts.append(past)
    return x, tuple(pasts)


class CausalEncoder(nn.Module):
    """A whole encoder: a stem, levels of layers by name, a middle and a head."""

    stem: nn.Module
    levels: nn.ModuleList
    middle: nn.ModuleList
    head: nn.Module

    def layers(self) -> Iterator[nn.Module]:
        """All layers in order; each is `forward(x, past) -> (y, past)`."""
        yield self.stem
        for level in self.levels:
            assert isinstance(level, nn.ModuleDict)
            yield from level.values()
        yield from self.middle
        yield self.head

    def forward(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """`b 3 t h w` in [-1, 1] to moments `b 2z t' h' w'` (mean, log-variance), and the state for the next chunk.

        The chunk at a clip's start (`state` None) has `1 + k * temporal_ratio` frames, later ones `k * temporal_ratio`.
        """
        return run(self.layers(), x, state)


def remember(frames: Tensor, past: Past | None) -> Past:
    """A past with a copy of `frames`: a view of them would keep a whole chunk in memory."""
    return (frames.clone(),) if past is None else (past[0].copy_(frames),)


class CausalConv3d(nn.Module):
    """A convolution over each frame and the `kernel - 1` frames before it, with zeros around the picture.

    A clip is padded before its first frame by copies of that frame (`replicate`) or by zeros. `algorithm` computes the
    convolution; with None, torch's own kernels do.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, padding: TimePadding = "replicate") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(out_channels))
        self.pad_frames, self.padding = kernel - 1, padding
        self.algorithm: Convolution | None = None
        self.times_halved = 0
        self._widened: Tensor | None = None

    def forward(
        self,
        x: Tensor,
        past: Past | None,
        out: Tensor | None = None,
        biased: bool = True,
        kept: Tensor | None = None,
    ) -> tuple[Tensor, Past]:
        """`b c pad_frames+t h w -> b c' t h w`; the first `pad_frames` frames are padding, which this fills in.

        The result may be written to `out`. Not `biased`, it lacks the bias, which what reads it must add. `kept` holds
        a copy of the last `pad_frames` frames where there is one already.
        """
        pad, begins = self.pad_frames, past is None
        if past is not None:
            x[:, :, :pad] = past[0]
        else:
            x[:, :, :pad] = x[:, :, pad : pad + 1] if self.padding == "replicate" else 0
        past = remember(x[:, :, x.shape[2] - pad :], past) if kept is None else (kept,)
        return self._convolve(x, begins, out, biased), past

    def _convolve(self, x: Tensor, begins: bool, out: Tensor | None = None, biased: bool = True) -> Tensor:
        """As `forward`, after the padding is filled in; `begins` says that a clip does.

        Frames are computed in halves where the device has no memory for all of them at once.
        """
        try:
            if self.algorithm is not None:
                return self.algorithm(x, self.bias, out, begins)
            return self._directly(x, out, biased)
        except torch.cuda.OutOfMemoryError:
            if x.shape[2] - self.pad_frames == 1:
                raise
        self.times_halved += 1
        frames = x.shape[2] - self.pad_frames
        out, half = empty_frames(x, frames, channels=len(self.weight)), frames // 2
        out[:, :, :half] = self._convolve(x[:, :, : half + self.pad_frames], begins, biased=biased)
        out[:, :, half:] = self._convolve(x[:, :, half:], False, biased=biased)
        return out

    def _directly(self, x: Tensor, out: Tensor | None, biased: bool) -> Tensor:
        if self.pad_frames == 0:  # 1x1x1
            return linear(x.permute(0, 2, 3, 4, 1), self.weight.flatten(1), self.bias).permute(0, 4, 1, 2, 3)
        if x.device.type == "cpu" and x.shape[1] <= FEW_CHANNELS:
            return _of_few_channels(x, self.weight, self.bias)
        return convolve(x, *self._kernel(biased), padding_px=self.pad_frames // 2, out=out)

    def _kernel(self, biased: bool) -> tuple[Tensor, Tensor | None]:
        if self._widened is not None:
            return self._widened, None
        return self.weight, self.bias if biased else None

    @property
    def input_channels(self) -> int:
        """Those of `x`; where they were widened, the first that the weight does not have holds ones, others zeros."""
        return (self.weight if self._widened is None else self._widened).shape[1]

    def widen(self, channels: int) -> None:
        """Has direct convolutions take more input channels than the weight has, of which the ones carry the bias."""
        known, middle = self.weight.shape[1], self.pad_frames // 2
        widened = torch.nn.functional.pad(self.weight, (0, 0) * 3 + (0, channels - known))
        widened[:, known, -1, middle, middle] = self.bias
        self._widened = widened.contiguous(memory_format=torch.channels_last_3d)


class EdgeConv3d(CausalConv3d):
    """A causal convolution with the edge of the picture repeated around it, in place of zeros."""

    def _directly(self, x: Tensor, out: Tensor | None, biased: bool) -> Tensor:
        if self.pad_frames == 0:
            return super()._directly(x, out, biased)
        return convolve(_edged(x), *self._kernel(biased), out=out)


def _edged(x: Tensor) -> Tensor:
    """`b c t h w -> b c t h+2 w+2`, with the outermost pixels repeated."""
    b, c, t, h, w = x.shape
    out = torch.empty(b, t, h + 2, w + 2, c, dtype=x.dtype, device=x.device).permute(0, 4, 1, 2, 3)
    out[..., 1:-1, 1:-1] = x
    out[..., 0, 1:-1], out[..., -1, 1:-1] = x[..., 0, :], x[..., -1, :]
    out[..., 0], out[..., -1] = out[..., 1], out[..., -2]
    return out


def _of_few_channels(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As `convolve`, as a 2D convolution with the frames under a kernel stacked as channels.

    For pixels of 3 channels torch's 3D convolution is slow on a CPU: 314 ms against 86 for 8 frames of 128x192.
    """
    frames = x.shape[2] - weight.shape[2] + 1
    stacked = torch.cat([x[:, :, first : first + frames] for first in range(weight.shape[2])], 1)
    kernel = weight.transpose(1, 2).flatten(1, 2).contiguous(memory_format=torch.channels_last)
    pictures = stacked.contiguous(memory_format=torch.channels_last_3d)
    return convolve(pictures, kernel, bias, padding_px=weight.shape[3] // 2)


class ResidualBlock(nn.Module):
    """`shortcut(x) + conv(norm(conv(norm(x))))`, norms with swish; the shortcut is 1x1x1 where channels differ.

    `workspace` is memory that blocks share, as they run one after the other.
    """

    def __init__(
        self, norm1: Norm, conv1: CausalConv3d, norm2: Norm, conv2: CausalConv3d, workspace: Workspace
    ) -> None:
        super().__init__()
        self.norm1, self.conv1, self.norm2, self.conv2, self.workspace = norm1, conv1, norm2, conv2, workspace
        out_channels, in_channels = conv1.weight.shape[:2]
        self.shortcut: nn.Module | None = None
        if in_channels != out_channels:
            self.shortcut = CausalConv3d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """`b c t h w -> b c' t h w`; `x` is overwritten."""
        past1, past2 = (None, None) if past is None else (past[:1], past[1:])
        if self.norm1.fused and self.conv1.algorithm is None and self.conv2.algorithm is None:
            return self._fused(x, past1, past2)
        h, past1 = self._convolve(self.conv1, self._normalize(self.norm1, x), past1)
        padded = self._normalize(self.norm2, h)
        del h  # or it would be alive while the convolution allocates its output, when memory peaks
        h, past2 = self._convolve(self.conv2, padded, past2)
        if self.shortcut is not None:
            x, _ = self.shortcut(x, None)
        return x.add_(h), past1 + past2

    def _fused(self, x: Tensor, past1: Past | None, past2: Past | None) -> tuple[Tensor, Past]:
        """As `forward`, with each convolution's bias added by what reads its result."""
        kept = self._to_keep(x)
        padded = self._normalize(self.norm1, x, Beside(kept=kept))
        h, past1 = self.conv1(padded, past1, biased=False, kept=kept)
        kept = self._to_keep(h)
        padded = self._normalize(self.norm2, h, Beside(self.conv1.bias, kept))
        del h
        h, past2 = self.conv2(padded, past2, biased=False, kept=kept)
        if self.shortcut is not None:
            x, _ = self.shortcut(x, None)
        add_residual(x, h, self.conv2.bias)
        return x, past1 + past2

    def _to_keep(self, x: Tensor) -> Tensor | None:
        """Room for the last frames of the normalised `x`, the next chunk's past; None where `x` has fewer."""
        pad_frames = self.conv1.pad_frames
        return empty_frames(x, pad_frames) if x.shape[2] >= pad_frames else None

    def _normalize(self, norm: Norm, x: Tensor, beside: Beside | None = None) -> Tensor:
        pad_frames = self.conv1.pad_frames
        padded = self.workspace.frames("padded", x, pad_frames + x.shape[2])
        normed: Tensor = norm(x, pad_frames, out=padded, beside=beside)
        return normed

    def _convolve(self, conv: CausalConv3d, padded: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """Both convolutions may share one output buffer: the second reads the norm of the first one's output."""
        out = None
        if conv.algorithm is not None or padded.device.type == "cpu":
            frames = padded.shape[2] - conv.pad_frames
            out = self.workspace.frames("convolved", padded, frames, channels=len(conv.weight))
        result: tuple[Tensor, Past] = conv(padded, past, out)
        return result


class SpaceAttention(nn.Module):
    """Self-attention with one head among the pixels of each frame, added to its input. Its norm has no swish."""

    def __init__(self, norm: Norm, channels: int) -> None:
        super().__init__()
        self.norm = norm
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """`b c t h w -> b c t h w`"""
        return x + self.attend(self.norm(x)), ()

    def attend(self, normed: Tensor) -> Tensor:
        """The attention that is added to the input, `b c t h w`, from the normalised input."""
        pixels = normed.permute(0, 2, 3, 4, 1).flatten(2, 3)  # b t hw c
        query, key, value = linear(pixels, self.qkv.weight, self.qkv.bias).chunk(3, dim=-1)
        mixed = linear(attention(query, key, value), self.project.weight, self.project.bias)
        return torch.unflatten(mixed, 2, normed.shape[3:]).permute(0, 4, 1, 2, 3)


class HalvePicture(nn.Module):
    """A 3x3 convolution of stride 2, frame by frame, with a row of zeros below and a column of zeros to the right."""

    def __init__(self, channels: int, workspace: Workspace) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        self.bias = nn.Parameter(torch.empty(channels))
        self.workspace = workspace

    def empty_padded(self, x: Tensor, frames: int) -> Tensor:
        """An uninitialised `b c frames h+1 w+1` tensor for pictures like those of `x`, with the zeros at its edge."""
        padded = self.workspace.frames("padded", x, frames, margin_px=1)
        padded[..., -1, :] = 0
        padded[..., -1] = 0
        return padded

    def forward(self, padded: Tensor) -> Tensor:
        """`b c t h+1 w+1 -> b c t h//2 w//2`"""
        return convolve(padded, self.weight, self.bias, stride=(1, 2))
