"""The first layer of an encoder."""

from torch import Tensor, nn

from encoder.device.workspace import empty_frames
from encoder.models.boxes import folded
from encoder.models.layers import CausalConv3d, Past

GPU_CHANNELS = 8  # of which a GPU's convolutions want a multiple


class Stem(nn.Module):
    """The first convolution: pixels, or patches of `patch_px`, to features."""

    def __init__(self, conv: CausalConv3d, patch_px: int = 1) -> None:
        super().__init__()
        self.conv, self.patch_px = conv, patch_px

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """`b 3 t h w -> b c t h/patch w/patch`"""
        x = folded(x, self.patch_px)
        pad, channels = self.conv.pad_frames, x.shape[1]
        padded = empty_frames(x, pad + x.shape[2], channels=self.conv.input_channels)
        padded[:, :channels, pad:] = x
        padded[:, channels : channels + 1, pad:] = 1
        padded[:, channels + 1 :, pad:] = 0
        y: tuple[Tensor, Past] = self.conv(padded, past)
        return y


def widen(model: nn.Module) -> None:
    """Gives the first convolution as many input channels as a GPU takes at once, one of which carries the bias.

    Without, the bias would take a pass of its own over the largest of all activations.
    """
    for stem in model.modules():
        if isinstance(stem, Stem) and stem.conv.algorithm is None:
            stem.conv.widen(-(-(stem.conv.weight.shape[1] + 1) // GPU_CHANNELS) * GPU_CHANNELS)
