"""Causal 3x3x3 convolutions by Winograd's minimal filtering in time and over the picture, with torch's operations.

Like the direct algorithm they read a buffer that begins with two earlier frames; beside their output they hold one
band of the picture at a time.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from encoder.device.threads import Each, in_order, share, single_threaded
from encoder.device.workspace import Workspace, empty_frames
from encoder.kernels.winograd import TAPS, Filtering, TimeFilter, TimePadding, cut, filtering, runs_of, time_filters

TILE_PX = 4  # outputs filtered together in height and in width, in float32
ROWS = 2  # outputs filtered together in height, in any precision
# Pixels that are transformed together: on a CPU few enough to stay in a core's cache, on a GPU enough to keep it busy
# within little memory (0.3 GB with 128 channels).
BAND_PX, BAND_PX_OF_GPU = 1536, 16384
COLUMNS = 16384  # kernels that are transformed together


class Convolution(Protocol):
    """A causal convolution with one kernel, which it may hold in a transformed form."""

    @property
    def kernel_bytes(self) -> int: ...

    def __call__(self, x: Tensor, bias: Tensor, out: Tensor | None = None, begins: bool = False) -> Tensor:
        """`b c 2+t h w -> b c' t h w`, written to `out` if given.

        With `begins`, the first two frames are the padding before a clip, whose first frame may be computed apart.
        """


class Algorithm(Protocol):
    """An algorithm for convolutions; `of` prepares the convolution with one kernel `c' c 3 3 3`."""

    supported: ClassVar[str]  # for errors: what `supports` accepts

    @staticmethod
    def of(
        weight: Tensor, max_frames: int, workspace: Workspace, padding: TimePadding = "replicate"
    ) -> Convolution: ...

    @staticmethod
    def is_available() -> bool:
        """Whether it runs on this machine."""

    @staticmethod
    def supports(weight: Tensor) -> bool:
        """Whether it computes convolutions with a kernel of this size, precision and device."""


class _Band(NamedTuple):
    """Rows [top, bottom) of frames that are filtered together, from `source`, `2+t h w c`, to `target`, `t h w c'`."""

    source: Tensor
    target: Tensor
    top: int
    bottom: int
    filter: TimeFilter

    @property
    def out(self) -> Tensor:
        return self.target[:, self.top : self.bottom]

    def transform_in_time(self, matrix: Tensor, out: Tensor) -> Tensor:
        """Writes the rows from top - 1 on, transformed in time by `matrix`, to `out`, `n rows w c`; zeros outside."""
        first, last = max(0, self.top - 1), min(self.source.shape[1], self.bottom + 1)
        above = first - (self.top - 1)
        below = above + last - first
        out[:, :above] = 0
        out[:, below:] = 0
        torch.mm(matrix, self.source[:, first:last].flatten(1).to(matrix.dtype), out=out[:, above:below].flatten(1))
        return out


@dataclass(frozen=True, slots=True)
class _Filtered(ABC):
    """What the algorithms share: the transforms in time, before and after those over the picture."""

    supported: ClassVar[str] = "anything"
    max_frames: int  # filtered together, 1 to 4
    kernels: Tensor  # by point in time
    time_filters: tuple[TimeFilter, ...]
    space: Filtering
    workspace: Workspace

    @property
    def kernel_bytes(self) -> int:
        return self.kernels.nbytes

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def supports(weight: Tensor) -> bool:
        return True

    @property
    @abstractmethod
    def tile_px(self) -> tuple[int, int]:
        """Height and width of a tile of outputs that are filtered together."""

    @abstractmethod
    def _tiles(self, band: _Band, thread: int) -> Tensor:
        """A view of the inputs of a band's tiles, transformed in time and padded with zeros, by point in time."""

    @abstractmethod
    def _products(self, thread: int, tiles: Tensor, point: int, sums: Tensor) -> None:
        """Multiplies the tiles of one point in time by its kernels; `sums`: tile height and width, rows, across, c'."""

    def __call__(self, x: Tensor, bias: Tensor, out: Tensor | None = None, begins: bool = False) -> Tensor:
        out = empty_frames(x, x.shape[2] - TAPS + 1, channels=len(bias)) if out is None else out
        bias = bias.float()
        bands, threads = self._bands(x, out, begins), torch.get_num_threads()
        if len(bands) >= threads:
            share(lambda thread, band: self._make(band, bias, thread, in_order), bands, x.device)
        else:  # a small picture with large kernels: threads share the points of each band
            each = partial(share, threads=threads)
            with single_threaded(x.device):
                in_order(lambda thread, band: self._make(band, bias, thread, each), bands, x.device)
        return out

    def _bands(self, x: Tensor, out: Tensor, begins: bool) -> list[_Band]:
        """The whole output, in bands of some rows of some frames of one batch item."""
        most_px, height_px = BAND_PX if x.device.type == "cpu" else BAND_PX_OF_GPU, self.tile_px[0]
        tiles_high = -(-x.shape[3] // height_px)
        rows = band_rows(tiles_high, max(1, most_px // (height_px * x.shape[4]))) * height_px
        return [
            _Band(source[t : t + frames + TAPS - 1], target[t : t + frames], top, top + count, self.time_filters[index])
            for source, target in zip(x.permute(0, 2, 3, 4, 1), out.permute(0, 2, 3, 4, 1), strict=True)
            for t, frames, index in runs_of(len(target), self.max_frames, begins)
            for top, count in cut(x.shape[3], rows)
        ]

    def _make(self, band: _Band, bias: Tensor, thread: int, each: Each) -> None:
        height_px, width_px = self.tile_px
        rows, across = -(-(band.bottom - band.top) // height_px), -(-band.source.shape[2] // width_px)
        tiles = self._tiles(band, thread)
        sums = self._empty("sums", thread, len(tiles), height_px, width_px, rows, across, len(bias))
        pieces = list(zip(tiles, band.filter.points, sums, strict=True))
        each(lambda worker, piece: self._products(thread + worker, *piece), pieces, bias.device)
        summed = self._empty("summed", thread, len(band.target), *sums.shape[1:])
        torch.mm(band.filter.output, sums.flatten(1), out=summed.view(len(band.target), -1))
        _write(summed.permute(0, 3, 1, 4, 2, 5), bias, band.out)

    def _transformed_in_time(self, band: _Band, thread: int) -> Tensor:
        """The input rows of a band's whole tiles, transformed in time: `n rows w c`."""
        matrix, height_px = band.filter.input, self.tile_px[0]
        rows = -(-(band.bottom - band.top) // height_px) * height_px + TAPS - 1
        out = self._empty("transformed in time", thread, len(matrix), rows, *band.source.shape[2:])
        return band.transform_in_time(matrix, out)

    def _empty(self, name: str, thread: int, *shape: int) -> Tensor:
        """float32 memory of a thread, reused by the next call with this name."""
        return self.workspace.empty(f"{name} {thread}", shape, self.time_filters[0].input)


class WinogradHeight(_Filtered):
    """Filtering in time and height, with 1x3 convolutions along the width: down to a third of the products.

    The products are in the activation's own precision. Only two rows are filtered together, because errors grow with
    both rows and frames. The kernels grow by a factor of 1.8 (2 frames filtered together) to 2.7 (4 frames).
    """

    @staticmethod
    def of(
        weight: Tensor, max_frames: int, workspace: Workspace, padding: TimePadding = "replicate"
    ) -> "WinogradHeight":
        """The convolution with a kernel `c' c 3 3 3`; at most `max_frames` frames (1 to 4) are filtered together.

        `padding` is what the first two frames hold where a call `begins` a clip.
        """
        time, height = (filtering(outputs).to(weight.float()) for outputs in (max_frames, ROWS))
        taps = weight.float().permute(2, 3, 0, 4, 1)
        kernels = _at_points(torch.kron(time.kernel, height.kernel), taps.reshape(TAPS**2, -1))
        shaped = kernels.view(-1, len(height.kernel), len(weight), 1, *taps.shape[3:])
        filters = time_filters(max_frames, padding, weight.float())
        return WinogradHeight(max_frames, shaped.to(weight.dtype), filters, height, workspace)

    @property
    def tile_px(self) -> tuple[int, int]:
        return len(self.space.output), 1

    def _tiles(self, band: _Band, thread: int) -> Tensor:
        """`n points rows w c`"""
        transformed = self._transformed_in_time(band, thread)
        return transformed.unfold(1, len(self.space.input), self.tile_px[0]).permute(0, 4, 1, 2, 3)

    def _products(self, thread: int, tiles: Tensor, point: int, sums: Tensor) -> None:
        points, rows, width, channels = tiles.shape
        matrix, inputs = self.space.input.expand(rows, points, points), tiles.transpose(0, 1).flatten(2)
        values = torch.bmm(matrix, inputs, out=self._empty("values", thread, *inputs.shape))
        pictures = self.workspace.empty(f"pictures {thread}", tuple(tiles.shape), self.kernels)
        pictures.copy_(values.view(rows, points, width, channels).transpose(0, 1))
        products = self._empty("products", thread, points, rows, width, sums.shape[-1])
        for picture, kernel, product in zip(pictures, self.kernels[point], products, strict=True):
            product.copy_(_of_rows(picture, kernel))
        torch.mm(self.space.output, products.flatten(1), out=sums.view(len(sums), -1))


class Winograd(_Filtered):
    """Filtering in time and over tiles of 4x4 pixels: down to an eighth of the products, in float32 throughout.

    The kernels grow by a factor of 5 (2 frames filtered together) to 8 (4 frames).
    """

    @staticmethod
    def of(weight: Tensor, max_frames: int, workspace: Workspace, padding: TimePadding = "replicate") -> "Winograd":
        """As `WinogradHeight.of`."""
        filters, space = time_filters(max_frames, padding, weight.float()), filtering(TILE_PX).to(weight.float())
        kernels = kernels_in_time_and_space(weight.permute(2, 3, 4, 1, 0), max_frames)
        return Winograd(max_frames, kernels, filters, space, workspace)

    @property
    def tile_px(self) -> tuple[int, int]:
        return TILE_PX, TILE_PX

    def _tiles(self, band: _Band, thread: int) -> Tensor:
        """`n points points rows across c`"""
        transformed, points = self._transformed_in_time(band, thread), len(self.space.input)
        n, rows, width, channels = transformed.shape
        columns = -(-width // TILE_PX) * TILE_PX + TAPS - 1
        padded = self._empty("padded", thread, n, rows, columns, channels)
        padded[:, :, 0] = 0
        padded[:, :, 1 + width :] = 0
        padded[:, :, 1 : 1 + width] = transformed
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


def kernels_in_time_and_space(taps: Tensor, max_frames: int) -> Tensor:
    """Kernels `3 3 3 ...` at the points in time and over the picture: `times points ...`, float32 in that order."""
    taps = taps.float()
    time, space = (filtering(outputs).kernel.to(taps) for outputs in (max_frames, TILE_PX))
    matrix = torch.kron(torch.kron(time, space), space)
    return _at_points(matrix, taps.reshape(TAPS**3, -1)).view(len(time), len(space) ** 2, *taps.shape[3:])


def _at_points(matrix: Tensor, taps: Tensor) -> Tensor:
    """`matrix @ taps`, in pieces that one thread computes each."""
    out = taps.new_empty(len(matrix), taps.shape[1])

    def multiply(_: int, piece: tuple[int, int]) -> None:
        torch.mm(matrix, taps.narrow(1, *piece), out=out.narrow(1, *piece))

    share(multiply, cut(taps.shape[1], COLUMNS), taps.device)
    return out


def band_rows(rows: int, max_rows: int) -> int:
    """Rows of each band, at most `max_rows`: the bands are of equal height, and their number is even.

    It must not depend on the number of threads, which may not change bits; that number is mostly even.
    """
    bands = -(-rows // max_rows)
    return -(-rows // (bands + bands % 2 if bands > 1 else 1))


def _of_rows(picture: Tensor, kernel: Tensor) -> Tensor:
    """The convolution of each row `w c` of a picture with a kernel `c' 1 3 c`: `h w c'`."""
    convolved = F.conv2d(picture.permute(2, 0, 1)[None], kernel.permute(0, 3, 1, 2), padding=(0, TAPS // 2))
    return convolved[0].permute(1, 2, 0)


def _in_height_and_width(matrix: Tensor, tiles: Tensor, halfway: Tensor, out: Tensor) -> None:
    """Applies `matrix`, `m p`, to both dimensions of tiles `p p ...`: `out` is `m m ...`; `halfway` holds `m p ...`."""
    m, p = matrix.shape
    in_height = halfway[: tiles.numel() // p * m].view(m, -1)
    torch.mm(matrix, tiles.view(p, -1), out=in_height)
    torch.bmm(matrix.expand(m, m, p), in_height.view(m, p, -1), out=out.view(m, m, -1))


def _write(tiles: Tensor, bias: Tensor, out: Tensor) -> None:
    """Adds the bias to tiles, `t rows px across px c`, and writes those parts that lie in the picture to `t h w c`."""
    _, rows, height_px, across, width_px, _ = tiles.shape
    if out.shape[1:3] == (rows * height_px, across * width_px):
        of_tiles = torch.unflatten(torch.unflatten(out, 2, (across, width_px)), 1, (rows, height_px))
        torch.add(tiles, bias, out=of_tiles)
    else:
        pictures = tiles.flatten(3, 4).flatten(1, 2)
        torch.add(pictures[:, : out.shape[1], : out.shape[2]], bias, out=out)
