"""The layers of a causal video encoder, each with its state explicit: `forward(x, past) -> (y, past)`.

It does not know which architecture they make up. Activations are `b c t h w` in channels-last memory order, and
`past` is what a layer must remember of the chunks before: None where the clip starts. A past is used up by the call
that it is given to: its memory becomes that of the next one.
"""

from collections.abc import Iterable
from itertools import repeat

import torch
from torch import Tensor, nn

from encoder.device.workspace import Workspace, empty_frames
from encoder.kernels.direct import attention, convolve, linear
from encoder.kernels.torch_winograd import Convolution
from encoder.kernels.winograd import Before
from encoder.models.norms import GroupNorm, RmsNorm

FEW_CHANNELS = 4  # pixels have as many, at most
Past = tuple[Tensor, ...]
State = tuple[Past, ...]  # one for each layer of an encoder, in the order in which they run
Norm = GroupNorm | RmsNorm


def run(layers: Iterable[nn.Module], x: Tensor, state: State | None) -> tuple[Tensor, State]:
    """One chunk through all layers, each with its own past out of `state`."""
    pasts: list[Past] = []
    for layer, past in zip(layers, repeat(None) if state is None else state, strict=False):
        x, past = layer(x, past)
        pasts.append(past)
    return x, tuple(pasts)


def remember(frames: Tensor, past: Past | None) -> Past:
    """A past of `frames`, which are not referred to: a view of them would keep a whole chunk in memory."""
    return (frames.clone(),) if past is None else (past[0].copy_(frames),)


class CausalConv3d(nn.Module):
    """A convolution that sees `kernel - 1` frames before each frame and none after; zeros around the picture.

    Before a clip's first frame it sees copies of that frame (`before: first`) or zeros. `computed_by` is another way
    to compute it, None for torch's own.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, before: Before = "first") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(out_channels))
        self.room_frames, self.before = kernel - 1, before
        self.computed_by: Convolution | None = None

    def forward(self, x: Tensor, past: Past | None, out: Tensor | None = None) -> tuple[Tensor, Past]:
        """`b c room_frames+t h w -> b c' t h w`; the first `room_frames` frames are room, which this fills.

        Where `out` is given, the result may be written there.
        """
        room, begins = self.room_frames, past is None
        if past is not None:
            x[:, :, :room] = past[0]
        else:
            x[:, :, :room] = x[:, :, room : room + 1] if self.before == "first" else 0
        past = remember(x[:, :, x.shape[2] - room :], past)
        return self._convolve(x, begins, out), past

    def _convolve(self, x: Tensor, begins: bool, out: Tensor | None = None) -> Tensor:
        """As `forward`, with the room filled: where a clip `begins`, by what comes before it.

        Half by half where the device has no memory for all frames at once.
        """
        try:
            if self.computed_by is not None:
                return self.computed_by(x, self.bias, out, begins)
            return self._directly(x, out)
        except torch.cuda.OutOfMemoryError:
            if x.shape[2] - self.room_frames == 1:
                raise
        frames = x.shape[2] - self.room_frames
        out, half = empty_frames(x, frames, channels=len(self.weight)), frames // 2
        out[:, :, :half] = self._convolve(x[:, :, : half + self.room_frames], begins)
        out[:, :, half:] = self._convolve(x[:, :, half:], False)
        return out

    def _directly(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        if self.room_frames == 0:  # 1x1x1
            return linear(x.permute(0, 2, 3, 4, 1), self.weight.flatten(1), self.bias).permute(0, 4, 1, 2, 3)
        if x.device.type == "cpu" and x.shape[1] <= FEW_CHANNELS:
            return _of_few_channels(x, self.weight, self.bias)
        return convolve(x, self.weight, self.bias, padding_px=self.room_frames // 2, out=out)


def _of_few_channels(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As `convolve`, in two dimensions: the frames that a kernel sees are side by side as channels.

    For pixels of 3 channels torch has no good 3D convolution on a CPU: 314 ms against 86 for 8 frames of 128x192.
    """
    frames = x.shape[2] - weight.shape[2] + 1
    seen = torch.cat([x[:, :, first : first + frames] for first in range(weight.shape[2])], 1)
    kernel = weight.transpose(1, 2).flatten(1, 2).contiguous(memory_format=torch.channels_last)
    pictures = seen.contiguous(memory_format=torch.channels_last_3d)
    return convolve(pictures, kernel, bias, padding_px=weight.shape[3] // 2)


class Stem(nn.Module):
    """The first convolution: pixels to features."""

    def __init__(self, conv: CausalConv3d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """`b 3 t h w -> b c t h w`"""
        room = self.conv.room_frames
        roomy = empty_frames(x, room + x.shape[2])
        roomy[:, :, room:] = x
        y: tuple[Tensor, Past] = self.conv(roomy, past)
        return y


class ResidualBlock(nn.Module):
    """`shortcut(x) + conv(norm(conv(norm(x))))`, norms with swish; the shortcut is 1x1x1 where channels differ.

    `workspace` is memory that blocks running one after the other may share.
    """

    def __init__(
        self, norm1: Norm, conv1: CausalConv3d, norm2: Norm, conv2: CausalConv3d, workspace: Workspace
    ) -> None:
        super().__init__()
        self.norm1, self.conv1, self.norm2, self.conv2, self.workspace = norm1, conv1, norm2, conv2, workspace
        out_channels, in_channels = conv1.weight.shape[:2]
        self.shortcut = CausalConv3d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """`b c t h w -> b c' t h w`; `x` is used up."""
        past1, past2 = (None, None) if past is None else (past[:1], past[1:])
        h, past1 = self._convolve(self.conv1, self._normalize(self.norm1, x), past1)
        roomy = self._normalize(self.norm2, h)
        del h  # or it would be alive while the convolution makes its output, which is when memory peaks
        h, past2 = self._convolve(self.conv2, roomy, past2)
        if self.shortcut is not None:
            x, _ = self.shortcut(x, None)
        return x.add_(h), past1 + past2

    def _normalize(self, norm: Norm, x: Tensor) -> Tensor:
        room_frames = self.conv1.room_frames
        normed: Tensor = norm(x, room_frames, out=self.workspace.frames("seen", x, room_frames + x.shape[2]))
        return normed

    def _convolve(self, conv: CausalConv3d, roomy: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """Both may write to the same room: the second one reads not what the first one made, but its norm."""
        out = None
        if conv.computed_by is not None or roomy.device.type == "cpu":
            frames = roomy.shape[2] - conv.room_frames
            out = self.workspace.frames("made", roomy, frames, channels=len(conv.weight))
        made: tuple[Tensor, Past] = conv(roomy, past, out)
        return made


class SpaceAttention(nn.Module):
    """Self-attention with one head among the pixels of each frame, added to its input. The norm is without swish."""

    def __init__(self, norm: Norm, channels: int) -> None:
        super().__init__()
        self.norm = norm
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """`b c t h w -> b c t h w`"""
        return x + self.attend(self.norm(x)), ()

    def attend(self, normed: Tensor) -> Tensor:
        """What attention adds to the input, `b c t h w`, given its norm."""
        pixels = normed.permute(0, 2, 3, 4, 1).flatten(2, 3)  # b t hw c
        query, key, value = linear(pixels, self.qkv.weight, self.qkv.bias).chunk(3, dim=-1)
        mixed = linear(attention(query, key, value), self.project.weight, self.project.bias)
        return torch.unflatten(mixed, 2, normed.shape[3:]).permute(0, 4, 1, 2, 3)


class HalvePicture(nn.Module):
    """A 3x3 convolution of stride 2, frame by frame, that sees a row below and a column right of zeros."""

    def __init__(self, channels: int, workspace: Workspace) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        self.bias = nn.Parameter(torch.empty(channels))
        self.workspace = workspace

    def room_for(self, x: Tensor, frames: int) -> Tensor:
        """`b c frames h+1 w+1`: uninitialised room for pictures like those of `x`, with the zeros at its edge."""
        roomy = self.workspace.frames("seen", x, frames, margin_px=1)
        roomy[..., -1, :] = 0
        roomy[..., -1] = 0
        return roomy

    def forward(self, roomy: Tensor) -> Tensor:
        """`b c t h+1 w+1 -> b c t h//2 w//2`"""
        return convolve(roomy, self.weight, self.bias, stride=(1, 2))
