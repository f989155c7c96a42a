"""Other ways to compute a causal 3x3x3 convolution than torch's: by Winograd's filtering in time, or in all dimensions.

It does not choose among them (tuning.py). Like the direct one they read a buffer that begins with two frames of
history; beside their output they hold a band of the picture at a time.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from encoder.norms import empty_frames
from encoder.threads import Each, in_turn, share
from encoder.winograd import TAPS, Filtering, cut, filtering, points_used
from encoder.workspace import Workspace

TILE_PX = 4  # outputs in height and in width that are filtered together
TILE_POINTS = TILE_PX + TAPS - 1
# What is transformed together, in tiles or rows: on a CPU so little that it stays in a core's cache, elsewhere so much
# that a device is busy and so little that its memory (0.3 GB with 128 channels) is not.
BAND_TILES, BAND_TILES_OF_GPU = 144, 1024
BAND_ROWS, BAND_ROWS_OF_GPU = 32, 256


class Convolution(Protocol):
    """A causal convolution with its kernel, which it may hold in another form."""

    @property
    def kernel_bytes(self) -> int: ...

    def __call__(self, x: Tensor, bias: Tensor, out: Tensor | None = None) -> Tensor:
        """`b c 2+t h w -> b c' t h w`, written to `out` where it is given."""


class _Band(NamedTuple):
    """Rows [top, bottom) of frames that are filtered together: what is seen, `2+t h w c`, and made, `t h w c'`."""

    seen: Tensor
    made: Tensor
    top: int
    bottom: int

    @property
    def frames(self) -> int:
        return len(self.made)

    @property
    def out(self) -> Tensor:
        return self.made[:, self.top : self.bottom]

    def mix_in_time(self, matrix: Tensor, out: Tensor) -> Tensor:
        """Writes rows from top - 1 on, their frames mixed by `matrix`, to `out`, `n rows w c`; zeros where none is."""
        first, last = max(0, self.top - 1), min(self.seen.shape[1], self.bottom + 1)
        above = first - (self.top - 1)
        below = above + last - first
        out[:, :above] = 0
        out[:, below:] = 0
        torch.mm(matrix, self.seen[:, first:last].flatten(1).to(matrix.dtype), out=out[:, above:below].flatten(1))
        return out


@dataclass(frozen=True, slots=True)
class InTime:
    """Filtering in time over 2D convolutions: down to half of the products, in the activation's own precision."""

    most_frames: int
    kernels: tuple[Tensor, ...]  # by point of time, each `c' c 3 3`
    times: tuple[Filtering, ...]  # by frames - 1
    workspace: Workspace

    @staticmethod
    def of(weight: Tensor, most_frames: int, workspace: Workspace) -> "InTime":
        """Of a kernel `c' c 3 3 3`; at most `most_frames` frames (1 to 4) are filtered together."""
        taps, matrix = weight.float().permute(2, 0, 1, 3, 4), filtering(most_frames).to(weight.float()).kernel
        kernels = torch.mm(matrix, taps.reshape(TAPS, -1)).view(-1, *taps.shape[1:])
        each = (kernel.to(weight.dtype).contiguous(memory_format=torch.channels_last) for kernel in kernels)
        return InTime(most_frames, tuple(each), _filterings(most_frames, weight), workspace)

    @property
    def kernel_bytes(self) -> int:
        return sum(kernel.nbytes for kernel in self.kernels)

    def __call__(self, x: Tensor, bias: Tensor, out: Tensor | None = None) -> Tensor:
        out = _room(x, bias) if out is None else out
        bands = _bands(x, out, self.most_frames, BAND_ROWS if x.device.type == "cpu" else BAND_ROWS_OF_GPU)
        each = share if len(bands) >= torch.get_num_threads() else in_turn
        each(lambda thread, band: self._make(band, bias, thread), bands, x.device)
        return out

    def _make(self, band: _Band, bias: Tensor, thread: int) -> None:
        time, (_, _, width, channels) = self.times[band.frames - 1], band.seen.shape
        shape = len(time.input), band.bottom - band.top + TAPS - 1, width, channels
        mixed = band.mix_in_time(time.input, self.workspace.empty(f"mixed {thread}", shape, band.seen))
        products = [
            F.conv2d(picture.permute(2, 0, 1)[None], self.kernels[point], padding=(0, 1))[0].permute(1, 2, 0)
            for picture, point in zip(mixed, points_used(band.frames, self.most_frames), strict=True)
        ]
        summed = torch.mm(time.output, torch.stack(products).flatten(1))
        torch.add(summed.view(band.out.shape), bias, out=band.out)


@dataclass(frozen=True, slots=True)
class InTimeAndSpace:
    """Filtering in time and over tiles of 4x4 pixels: down to an eighth of the products, in float32 throughout.

    The kernels become 5 times (filtering 2 frames together) to 8 times (4 frames) as many numbers.
    """

    most_frames: int
    kernels: Tensor  # points of time, of a tile, c, c'
    times: tuple[Filtering, ...]
    space: Filtering  # the same in height and in width
    workspace: Workspace

    @staticmethod
    def of(weight: Tensor, most_frames: int, workspace: Workspace) -> "InTimeAndSpace":
        """As `InTime.of`."""
        times, space = _filterings(most_frames, weight.float()), filtering(TILE_PX).to(weight.float())
        taps = weight.float().permute(2, 3, 4, 1, 0)
        matrix = torch.kron(torch.kron(times[-1].kernel, space.kernel), space.kernel)
        kernels = torch.mm(matrix, taps.reshape(TAPS**3, -1)).view(-1, TILE_POINTS**2, *taps.shape[3:])
        return InTimeAndSpace(most_frames, kernels, times, space, workspace)

    @property
    def kernel_bytes(self) -> int:
        return self.kernels.nbytes

    def __call__(self, x: Tensor, bias: Tensor, out: Tensor | None = None) -> Tensor:
        out, bias = _room(x, bias) if out is None else out, bias.float()
        tiles = BAND_TILES if x.device.type == "cpu" else BAND_TILES_OF_GPU
        rows_of_tiles = max(1, tiles // -(-x.shape[4] // TILE_PX))
        bands = _bands(x, out, self.most_frames, rows_of_tiles * TILE_PX)
        if len(bands) >= torch.get_num_threads():
            share(lambda thread, band: self._make(band, bias, thread, in_turn), bands, x.device)
        else:  # a small picture and large kernels: each thread takes some of the kernels
            in_turn(lambda thread, band: self._make(band, bias, thread, share), bands, x.device)
        return out

    def _make(self, band: _Band, bias: Tensor, thread: int, each: Each) -> None:
        time, channels = self.times[band.frames - 1], len(bias)
        tiles = self._tiles(band, thread)
        sums_of_tile = TILE_PX**2 * channels
        sums = self._empty("sums", thread, len(tiles), tiles.shape[3] * tiles.shape[4] * sums_of_tile)
        pieces = list(zip(tiles, points_used(band.frames, self.most_frames), sums, strict=True))
        each(lambda worker, piece: self._products(thread + worker, *piece), pieces, bias.device)
        summed = torch.mm(time.output, sums, out=self._empty("summed", thread, band.frames, sums.shape[1]))
        grid = summed.view(band.frames, TILE_PX, TILE_PX, *tiles.shape[3:5], channels).permute(0, 3, 1, 4, 2, 5)
        _write(grid, bias, band.out)

    def _tiles(self, band: _Band, thread: int) -> Tensor:
        """What the tiles of a band see, mixed in time, with zeros around the picture: a view, `n 6 6 rows across c`."""
        matrix, (_, _, width, channels) = self.times[band.frames - 1].input, band.seen.shape
        rows, columns = (-(-size // TILE_PX) * TILE_PX + TAPS - 1 for size in (band.bottom - band.top, width))
        padded = self._empty("padded", thread, len(matrix), rows, columns, channels)
        padded[:, :, 0] = 0
        padded[:, :, 1 + width :] = 0
        mixed = self._empty("mixed", thread, len(matrix), rows, width, channels)
        padded[:, :, 1 : 1 + width] = band.mix_in_time(matrix, mixed)
        return padded.unfold(1, TILE_POINTS, TILE_PX).unfold(2, TILE_POINTS, TILE_PX).permute(0, 4, 5, 1, 2, 3)

    def _products(self, thread: int, tiles: Tensor, point: int, sums: Tensor) -> None:
        """Tiles `6 6 rows across c` of one point of time, times its kernels, into `sums`, `4*4*rows*across*c'`."""
        (points, channels, out_channels), count = self.kernels[point].shape, tiles.shape[2] * tiles.shape[3]
        gathered = self._empty("gathered", thread, *tiles.shape).copy_(tiles)
        halfway = self._empty("halfway", thread, points * count * max(channels, out_channels))
        values = self._empty("values", thread, points, count, channels)
        _in_height_and_width(self.space.input, gathered, halfway, values)
        products = self._empty("products", thread, points, count, out_channels)
        torch.bmm(values, self.kernels[point], out=products)
        _in_height_and_width(self.space.output, products, halfway, sums)

    def _empty(self, name: str, thread: int, *shape: int) -> Tensor:
        return self.workspace.empty(f"{name} {thread}", shape, self.kernels)


def _in_height_and_width(matrix: Tensor, tiles: Tensor, halfway: Tensor, out: Tensor) -> None:
    """`m p` by tiles `p p ...` in both of their dimensions, to `out`, `m m ...`; `halfway` is room for `m p ...`."""
    m, p = matrix.shape
    in_height = halfway[: tiles.numel() // p * m].view(m, -1)
    torch.mm(matrix, tiles.view(p, -1), out=in_height)
    torch.bmm(matrix.expand(m, m, p), in_height.view(m, p, -1), out=out.view(m, m, -1))


def _write(grid: Tensor, bias: Tensor, made: Tensor) -> None:
    """Adds the bias to tiles `t rows 4 across 4 c` and writes what of them is in the picture to `made`, `t h w c`."""
    rows, across = grid.shape[1], grid.shape[3]
    if made.shape[1:3] == (rows * TILE_PX, across * TILE_PX):
        of_tiles = torch.unflatten(torch.unflatten(made, 2, (across, TILE_PX)), 1, (rows, TILE_PX))
        torch.add(grid, bias, out=of_tiles)
    else:
        pictures = grid.flatten(3, 4).flatten(1, 2)
        torch.add(pictures[:, : made.shape[1], : made.shape[2]], bias, out=made)


def _room(x: Tensor, bias: Tensor) -> Tensor:
    """Room for the output of a convolution of `x`."""
    return empty_frames(x, x.shape[2] - TAPS + 1, channels=len(bias))


def _bands(x: Tensor, out: Tensor, most_frames: int, rows: int) -> list[_Band]:
    """All that is to be made, `rows` rows of some frames of a batch item at a time."""
    return [
        _Band(item[start : start + frames + TAPS - 1], made[start : start + frames], top, top + count)
        for item, made in zip(x.permute(0, 2, 3, 4, 1), out.permute(0, 2, 3, 4, 1), strict=True)
        for start, frames in cut(len(made), most_frames)
        for top, count in cut(x.shape[3], rows)
    ]


def _filterings(most_frames: int, like: Tensor) -> tuple[Filtering, ...]:
    return tuple(filtering(frames).to(like) for frames in range(1, most_frames + 1))
