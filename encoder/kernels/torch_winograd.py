"""Other ways to compute a causal 3x3x3 convolution than torch's: by Winograd's filtering in time and over the picture.

It does not choose among them (tuning.py). Like the direct one they read a buffer that begins with two frames of
history; beside their output they hold a band of the picture at a time.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from encoder.device.threads import Each, alone, in_turn, share
from encoder.device.workspace import Workspace, empty_frames
from encoder.kernels.winograd import TAPS, Before, Filtering, InTime, cut, filtering, runs_of, ways_in_time

TILE_PX = 4  # outputs in height and in width that are filtered together in float32
ROWS = 2  # outputs in height that are filtered together in any precision
# What is transformed together: on a CPU so little that it stays in a core's cache, elsewhere so much that a device is
# busy and so little that its memory (0.3 GB with 128 channels) is not.
BAND_PX, BAND_PX_OF_GPU = 1536, 16384
COLUMNS = 16384  # of kernels that are transformed together


class Convolution(Protocol):
    """A causal convolution with its kernel, which it may hold in another form."""

    @property
    def kernel_bytes(self) -> int: ...

    def __call__(self, x: Tensor, bias: Tensor, out: Tensor | None = None, begins: bool = False) -> Tensor:
        """`b c 2+t h w -> b c' t h w`, written to `out` where it is given.

        `begins`: the first two frames are what comes before a clip, so that its first one may be computed by itself.
        """


class Way(Protocol):
    """One way to compute convolutions, of which `of` makes those with a certain kernel `c' c 3 3 3`."""

    takes_only: ClassVar[str]

    @staticmethod
    def of(weight: Tensor, most_frames: int, workspace: Workspace, before: Before = "first") -> Convolution: ...

    @staticmethod
    def is_there() -> bool:
        """Whether this machine has what it needs."""

    @staticmethod
    def takes(weight: Tensor) -> bool:
        """Whether it is made for a kernel of this size, precision and device; `takes_only` says which are."""


class _Band(NamedTuple):
    """Rows [top, bottom) of frames that are filtered together: what is seen, `2+t h w c`, and made, `t h w c'`."""

    seen: Tensor
    made: Tensor
    top: int
    bottom: int
    way: InTime

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
class _Filtered(ABC):
    """What the ways have in common: frames are mixed before what is done to the picture, and its sums after it."""

    takes_only: ClassVar[str] = "anything"
    most_frames: int  # that are filtered together, 1 to 4
    kernels: Tensor  # by point of time
    times: tuple[InTime, ...]
    space: Filtering
    workspace: Workspace

    @property
    def kernel_bytes(self) -> int:
        return self.kernels.nbytes

    @staticmethod
    def is_there() -> bool:
        return True

    @staticmethod
    def takes(weight: Tensor) -> bool:
        return True

    @property
    @abstractmethod
    def tile_px(self) -> tuple[int, int]:
        """Height and width of what is filtered together."""

    @abstractmethod
    def _tiles(self, band: _Band, thread: int) -> Tensor:
        """What the tiles of a band see, mixed in time, with zeros around the picture: a view, by point of time."""

    @abstractmethod
    def _products(self, thread: int, tiles: Tensor, point: int, sums: Tensor) -> None:
        """The tiles of one point of time, times its kernels, into `sums`: tile height, tile width, rows, across, c'."""

    def __call__(self, x: Tensor, bias: Tensor, out: Tensor | None = None, begins: bool = False) -> Tensor:
        out = empty_frames(x, x.shape[2] - TAPS + 1, channels=len(bias)) if out is None else out
        bias = bias.float()
        bands, threads = self._bands(x, out, begins), torch.get_num_threads()
        if len(bands) >= threads:
            share(lambda thread, band: self._make(band, bias, thread, in_turn), bands, x.device)
        else:  # a small picture and large kernels: each thread takes some of the kernels
            each = partial(share, threads=threads)
            with alone(x.device):
                in_turn(lambda thread, band: self._make(band, bias, thread, each), bands, x.device)
        return out

    def _bands(self, x: Tensor, out: Tensor, begins: bool) -> list[_Band]:
        """All that is to be made, some rows of some frames of a batch item at a time."""
        most_px, height_px = BAND_PX if x.device.type == "cpu" else BAND_PX_OF_GPU, self.tile_px[0]
        tiles_high = -(-x.shape[3] // height_px)
        rows = band_rows(tiles_high, max(1, most_px // (height_px * x.shape[4]))) * height_px
        return [
            _Band(
                item[start : start + frames + TAPS - 1], made[start : start + frames], top, top + count, self.times[way]
            )
            for item, made in zip(x.permute(0, 2, 3, 4, 1), out.permute(0, 2, 3, 4, 1), strict=True)
            for start, frames, way in runs_of(len(made), self.most_frames, begins)
            for top, count in cut(x.shape[3], rows)
        ]

    def _make(self, band: _Band, bias: Tensor, thread: int, each: Each) -> None:
        height_px, width_px = self.tile_px
        rows, across = -(-(band.bottom - band.top) // height_px), -(-band.seen.shape[2] // width_px)
        tiles = self._tiles(band, thread)
        sums = self._empty("sums", thread, len(tiles), height_px, width_px, rows, across, len(bias))
        pieces = list(zip(tiles, band.way.points, sums, strict=True))
        each(lambda worker, piece: self._products(thread + worker, *piece), pieces, bias.device)
        summed = self._empty("summed", thread, len(band.made), *sums.shape[1:])
        torch.mm(band.way.output, sums.flatten(1), out=summed.view(len(band.made), -1))
        _write(summed.permute(0, 3, 1, 4, 2, 5), bias, band.out)

    def _mixed(self, band: _Band, thread: int) -> Tensor:
        """The rows that whole tiles of a band see, mixed in time: `n rows w c`."""
        matrix, height_px = band.way.input, self.tile_px[0]
        rows = -(-(band.bottom - band.top) // height_px) * height_px + TAPS - 1
        return band.mix_in_time(matrix, self._empty("mixed", thread, len(matrix), rows, *band.seen.shape[2:]))

    def _empty(self, name: str, thread: int, *shape: int) -> Tensor:
        """float32 memory of a thread; it takes the place of what the last call with this name gave."""
        return self.workspace.empty(f"{name} {thread}", shape, self.times[0].input)


class InTimeAndHeight(_Filtered):
    """Filtering in time and in height over 1x3 convolutions, in the activation's own precision: down to a third.

    Of height only two rows are filtered together, as errors grow with both. The kernels become 1.8 times (filtering 2
    frames together) to 2.7 times (4 frames) as many numbers.
    """

    @staticmethod
    def of(weight: Tensor, most_frames: int, workspace: Workspace, before: Before = "first") -> "InTimeAndHeight":
        """Of a kernel `c' c 3 3 3`; at most `most_frames` frames (1 to 4) are filtered together.

        `before` is what stands before a clip where a call `begins` one.
        """
        time, height = (filtering(outputs).to(weight.float()) for outputs in (most_frames, ROWS))
        taps = weight.float().permute(2, 3, 0, 4, 1)
        kernels = _at_points(torch.kron(time.kernel, height.kernel), taps.reshape(TAPS**2, -1))
        shaped = kernels.view(-1, len(height.kernel), len(weight), 1, *taps.shape[3:])
        times = ways_in_time(most_frames, before, weight.float())
        return InTimeAndHeight(most_frames, shaped.to(weight.dtype), times, height, workspace)

    @property
    def tile_px(self) -> tuple[int, int]:
        return len(self.space.output), 1

    def _tiles(self, band: _Band, thread: int) -> Tensor:
        """`n points rows w c`"""
        return self._mixed(band, thread).unfold(1, len(self.space.input), self.tile_px[0]).permute(0, 4, 1, 2, 3)

    def _products(self, thread: int, tiles: Tensor, point: int, sums: Tensor) -> None:
        points, rows, width, channels = tiles.shape
        matrix, seen = self.space.input.expand(rows, points, points), tiles.transpose(0, 1).flatten(2)
        values = torch.bmm(matrix, seen, out=self._empty("values", thread, *seen.shape))
        pictures = self.workspace.empty(f"pictures {thread}", tuple(tiles.shape), self.kernels)
        pictures.copy_(values.view(rows, points, width, channels).transpose(0, 1))
        products = self._empty("products", thread, points, rows, width, sums.shape[-1])
        for picture, kernel, product in zip(pictures, self.kernels[point], products, strict=True):
            product.copy_(_of_rows(picture, kernel))
        torch.mm(self.space.output, products.flatten(1), out=sums.view(len(sums), -1))


class InTimeAndSpace(_Filtered):
    """Filtering in time and over tiles of 4x4 pixels: down to an eighth of the products, in float32 throughout.

    The kernels become 5 times (filtering 2 frames together) to 8 times (4 frames) as many numbers.
    """

    @staticmethod
    def of(weight: Tensor, most_frames: int, workspace: Workspace, before: Before = "first") -> "InTimeAndSpace":
        """As `InTimeAndHeight.of`."""
        times, space = ways_in_time(most_frames, before, weight.float()), filtering(TILE_PX).to(weight.float())
        return InTimeAndSpace(most_frames, kernels_in_time_and_space(weight, most_frames), times, space, workspace)

    @property
    def tile_px(self) -> tuple[int, int]:
        return TILE_PX, TILE_PX

    def _tiles(self, band: _Band, thread: int) -> Tensor:
        """`n points points rows across c`"""
        mixed, points = self._mixed(band, thread), len(self.space.input)
        n, rows, width, channels = mixed.shape
        columns = -(-width // TILE_PX) * TILE_PX + TAPS - 1
        padded = self._empty("padded", thread, n, rows, columns, channels)
        padded[:, :, 0] = 0
        padded[:, :, 1 + width :] = 0
        padded[:, :, 1 : 1 + width] = mixed
        return padded.unfold(1, points, TILE_PX).unfold(2, points, TILE_PX).permute(0, 4, 5, 1, 2, 3)

    def _products(self, thread: int, tiles: Tensor, point: int, sums: Tensor) -> None:
        (points, channels, out_channels), count = self.kernels[point].shape, tiles.shape[2] * tiles.shape[3]
        gathered = self._empty("gathered", thread, *tiles.shape).copy_(tiles)
        halfway = self._empty("halfway", thread, points * count * max(channels, out_channels))
        values = self._empty("values", thread, points, count, channels)
        _in_height_and_width(self.space.input, gathered, halfway, values)
        products = self._empty("products", thread, points, count, out_channels)
        torch.bmm(values, self.kernels[point], out=products)
        _in_height_and_width(self.space.output, products, halfway, sums)


def kernels_in_time_and_space(weight: Tensor, most_frames: int) -> Tensor:
    """A kernel `c' c 3 3 3` at the points in time and over the picture: `times points c c'`, float32."""
    time, space = (filtering(outputs).kernel.to(weight.float()) for outputs in (most_frames, TILE_PX))
    taps = weight.float().permute(2, 3, 4, 1, 0)
    matrix = torch.kron(torch.kron(time, space), space)
    return _at_points(matrix, taps.reshape(TAPS**3, -1)).view(len(time), len(space) ** 2, *taps.shape[3:])


def _at_points(matrix: Tensor, taps: Tensor) -> Tensor:
    """`matrix @ taps`, in pieces of which each is computed by one thread."""
    out = taps.new_empty(len(matrix), taps.shape[1])

    def make(_: int, piece: tuple[int, int]) -> None:
        torch.mm(matrix, taps.narrow(1, *piece), out=out.narrow(1, *piece))

    share(make, cut(taps.shape[1], COLUMNS), taps.device)
    return out


def band_rows(rows: int, most: int) -> int:
    """Rows for each band where no band may have more than `most`: bands of equal height, and an even number of them.

    It must not depend on the number of threads, which do not change bits; that number is mostly even.
    """
    bands = -(-rows // most)
    return -(-rows // (bands + bands % 2 if bands > 1 else 1))


def _of_rows(picture: Tensor, kernel: Tensor) -> Tensor:
    """The convolution of each row `w c` of a picture with a kernel `c' 1 3 c`: `h w c'`."""
    convolved = F.conv2d(picture.permute(2, 0, 1)[None], kernel.permute(0, 3, 1, 2), padding=(0, TAPS // 2))
    return convolved[0].permute(1, 2, 0)


def _in_height_and_width(matrix: Tensor, tiles: Tensor, halfway: Tensor, out: Tensor) -> None:
    """`m p` by tiles `p p ...` in both of their dimensions, to `out`, `m m ...`; `halfway` is room for `m p ...`."""
    m, p = matrix.shape
    in_height = halfway[: tiles.numel() // p * m].view(m, -1)
    torch.mm(matrix, tiles.view(p, -1), out=in_height)
    torch.bmm(matrix.expand(m, m, p), in_height.view(m, p, -1), out=out.view(m, m, -1))


def _write(tiles: Tensor, bias: Tensor, made: Tensor) -> None:
    """Adds the bias to tiles, `t rows px across px c`, and writes what is in the picture to `made`, `t h w c`."""
    _, rows, height_px, across, width_px, _ = tiles.shape
    if made.shape[1:3] == (rows * height_px, across * width_px):
        of_tiles = torch.unflatten(torch.unflatten(made, 2, (across, width_px)), 1, (rows, height_px))
        torch.add(tiles, bias, out=of_tiles)
    else:
        pictures = tiles.flatten(3, 4).flatten(1, 2)
        torch.add(pictures[:, : made.shape[1], : made.shape[2]], bias, out=made)
