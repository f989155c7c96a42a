"""Boxes of pixels, in space and time, as channels."""

import torch
from torch import Tensor

from encoder.device.threads import share
from encoder.kernels.winograd import cut

AVERAGED_ROWS = 16  # of a picture, by one thread


def folded(x: Tensor, patch_px: int) -> Tensor:
    """`b c t (h q) (w r) -> b (c r q) t h w` for patches of q x r pixels: the column counts before the row."""
    if patch_px == 1:
        return x
    return unfolded(x, (1, patch_px, patch_px)).permute(0, 4, 7, 6, 5, 1, 2, 3).flatten(1, 4)


def unfolded(x: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """A view `b t h w c p q r` of `b c (t p) (h q) (w r)`."""
    for dim in (4, 3, 2):  # the last first, so that the others keep their numbers
        x = torch.unflatten(x, dim, (-1, stride[dim - 2]))
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7)


def average_down(x: Tensor, channels: int, stride: tuple[int, int, int], channels_first: bool = True) -> Tensor:
    """`b c t h w -> b channels t/p h/q w/r`, a new tensor: space and time to channels, then consecutive ones averaged.

    The pixels of a box of `stride`, in the order `(c p q r)` or `(p q r c)`, are cut into as many groups as there are
    channels.
    """
    boxes = unfolded(x, stride)
    boxes = boxes if channels_first else boxes.permute(0, 1, 2, 3, 5, 6, 7, 4)
    out = torch.empty(*boxes.shape[:4], channels, dtype=x.dtype, device=x.device)

    def compute(_: int, piece: tuple[int, tuple[int, int]]) -> None:
        frame, (row, rows) = piece
        source, target = (each[:, frame, row : row + rows] for each in (boxes, out))
        target.copy_(torch.unflatten(source.flatten(3), 3, (channels, -1)).mean(-1, dtype=torch.float32))

    rows = cut(out.shape[2], AVERAGED_ROWS)
    share(compute, [(frame, run) for frame in range(out.shape[1]) for run in rows], x.device)
    return out.permute(0, 4, 1, 2, 3)


def average_pairs(x: Tensor, out: Tensor) -> None:
    """`b c 2t h w -> b c t h w`, the same bits either way: on a CPU a mean is the slower, on a GPU a pass less."""
    if x.device.type == "cpu":
        torch.add(x[:, :, ::2], x[:, :, 1::2], out=out).mul_(0.5)
    else:
        torch.mean(torch.unflatten(x, 2, (-1, 2)), 3, out=out)
