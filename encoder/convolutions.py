"""Other ways to compute a causal 3x3x3 convolution than torch's: by Winograd's filtering in time, or in all dimensions.

It does not choose among them (tuning.py). Like the direct one they read a buffer that begins with two frames of
history; beside their output they hold a band of the picture at a time.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from encoder.norms import empty_frames
from encoder.winograd import TAPS, Filtering, cut, filtering, points_used, square

Convolution = Callable[[Tensor, Tensor], Tensor]  # `b c 2+t h w` and the bias to `b c' t h w`

TILE_PX = 4  # outputs in height and in width that are filtered together
# What is transformed together, in tiles or rows: on a CPU so little that it stays in a core's cache, elsewhere so much
# that a device is busy and so little that its memory (0.3 GB with 128 channels) is not.
BAND_TILES = {"cpu": 96, "cuda": 1024}
BAND_ROWS = {"cpu": 32, "cuda": 256}


class _Run(NamedTuple):
    """Frames filtered together: what is seen, `2+t h w c`, and what is made, `t h w c'`."""

    seen: Tensor
    made: Tensor
    frames: int


@dataclass(frozen=True, slots=True)
class InTime:
    """Filtering in time over 2D convolutions: down to half of the products, in the activation's own precision."""

    most_frames: int
    kernels: tuple[Tensor, ...]  # by point of time, each `c' c 3 3`
    times: tuple[Filtering, ...]  # by frames - 1

    @staticmethod
    def of(weight: Tensor, most_frames: int) -> "InTime":
        """Of a kernel `c' c 3 3 3`; at most `most_frames` frames (1 to 4) are filtered together."""
        taps, matrix = weight.float().permute(2, 0, 1, 3, 4), filtering(most_frames).to(weight.float()).kernel
        kernels = torch.mm(matrix, taps.reshape(TAPS, -1)).view(-1, *taps.shape[1:])
        each = (kernel.to(weight.dtype).contiguous(memory_format=torch.channels_last) for kernel in kernels)
        return InTime(most_frames, tuple(each), _filterings(most_frames, weight))

    def __call__(self, x: Tensor, bias: Tensor) -> Tensor:
        """`b c 2+t h w -> b c' t h w`"""
        return _by_bands(x, bias, self.most_frames, BAND_ROWS[x.device.type], self._make)

    def _make(self, run: _Run, top: int, bottom: int, bias: Tensor, scratch: "_Scratch") -> None:
        _, height, width, channels = run.seen.shape
        time, above, below = self.times[run.frames - 1], max(0, top - 1), min(height, bottom + 1)
        mixed = torch.mm(time.input, run.seen[:, above:below].flatten(1)).view(-1, below - above, width, channels)
        mixed = F.pad(mixed, (0, 0, 0, 0, above - (top - 1), bottom + 1 - below))
        products = [
            F.conv2d(picture.permute(2, 0, 1)[None], self.kernels[point], padding=(0, 1))[0].permute(1, 2, 0)
            for picture, point in zip(mixed, points_used(run.frames, self.most_frames), strict=True)
        ]
        summed = torch.mm(time.output, torch.stack(products).flatten(1))
        torch.add(summed.view(run.frames, bottom - top, width, -1), bias, out=run.made[:, top:bottom])


@dataclass(frozen=True, slots=True)
class InTimeAndSpace:
    """Filtering in time and over tiles of 4x4 pixels: down to an eighth of the products, in float32 throughout.

    The kernels become 5 times (filtering 2 frames together) to 8 times (4 frames) as many numbers.
    """

    most_frames: int
    kernels: Tensor  # points of time, of a tile, c, c'
    times: tuple[Filtering, ...]
    space: Filtering

    @staticmethod
    def of(weight: Tensor, most_frames: int) -> "InTimeAndSpace":
        """As `InTime.of`."""
        space = Filtering(*(square(matrix) for matrix in filtering(TILE_PX))).to(weight.float())
        times = _filterings(most_frames, weight.float())
        taps = weight.float().permute(2, 3, 4, 1, 0)
        kernels = torch.mm(torch.kron(times[-1].kernel, space.kernel), taps.reshape(TAPS**3, -1))
        return InTimeAndSpace(most_frames, kernels.view(-1, len(space.kernel), *taps.shape[3:]), times, space)

    def __call__(self, x: Tensor, bias: Tensor) -> Tensor:
        """`b c 2+t h w -> b c' t h w`"""
        rows_of_tiles = max(1, BAND_TILES[x.device.type] // -(-x.shape[4] // TILE_PX))
        return _by_bands(x, bias.float(), self.most_frames, rows_of_tiles * TILE_PX, self._make)

    def _make(self, run: _Run, top: int, bottom: int, bias: Tensor, scratch: "_Scratch") -> None:
        time, channels = self.times[run.frames - 1], len(bias)
        tiles = _tiles(_mixed_in_time(run.seen, top, bottom, time.input, scratch))
        sums = scratch("sums", len(tiles), TILE_PX**2 * tiles[0, 0, 0].numel() // run.seen.shape[3] * channels)
        for frame, point, frame_sums in zip(tiles, points_used(run.frames, self.most_frames), sums, strict=True):
            self._products(frame, self.kernels[point], frame_sums.view(TILE_PX**2, -1), scratch)
        summed = torch.mm(time.output, sums, out=scratch("summed", run.frames, sums.shape[1]))
        grid = summed.view(run.frames, TILE_PX, TILE_PX, *tiles.shape[3:5], channels).permute(0, 3, 1, 4, 2, 5)
        _write(grid, bias, run.made[:, top:bottom])

    def _products(self, frame: Tensor, kernels: Tensor, sums: Tensor, scratch: "_Scratch") -> None:
        """Tiles `6 6 rows across c` of one point of time, times the kernels, into `sums`, `16 rows*across*c'`."""
        (points, channels, out_channels), tiles = kernels.shape, frame.shape[2] * frame.shape[3]
        gathered = scratch("gathered", *frame.shape).copy_(frame).view(points, -1)
        values = torch.mm(self.space.input, gathered, out=scratch("values", points, tiles * channels))
        products = scratch("products", points, tiles, out_channels)
        torch.bmm(values.view(points, tiles, channels), kernels, out=products)
        torch.mm(self.space.output, products.flatten(1), out=sums)


@dataclass(slots=True)
class _Scratch:
    """float32 memory that is used again from band to band."""

    device: torch.device
    _flat: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, name: str, *shape: int) -> Tensor:
        """Uninitialised; it takes the place of what the last call with this name gave."""
        flat, needed = self._flat.get(name), prod(shape)
        if flat is None or flat.numel() < needed:
            flat = self._flat[name] = torch.empty(needed, device=self.device)
        return flat[:needed].view(shape)


_Make = Callable[[_Run, int, int, Tensor, _Scratch], None]


def _mixed_in_time(seen: Tensor, top: int, bottom: int, matrix: Tensor, scratch: _Scratch) -> Tensor:
    """Rows [top - 1, bottom] of `seen` for whole tiles, mixed by `matrix`, zeros around the picture: `n h w c`."""
    _, height, width, channels = seen.shape
    whole_rows, whole_columns = (-(-size // TILE_PX) * TILE_PX + 2 for size in (bottom - top, width))
    above, below = max(0, top - 1), min(height, bottom + 1)
    rows = seen[:, above:below].flatten(1).float()
    mixed = torch.mm(matrix, rows, out=scratch("mixed", len(matrix), rows.shape[1]))
    padded = scratch("padded", len(matrix), whole_rows, whole_columns, channels)
    first = above - (top - 1)
    padded[:, :first] = 0
    padded[:, first + below - above :] = 0
    padded[:, :, 0] = 0
    padded[:, :, 1 + width :] = 0
    padded[:, first : first + below - above, 1 : 1 + width] = mixed.view(-1, below - above, width, channels)
    return padded


def _tiles(padded: Tensor) -> Tensor:
    """`n h w c` as overlapping tiles, a view: `n 6 6 rows across c`."""
    size = TILE_PX + TAPS - 1
    return padded.unfold(1, size, TILE_PX).unfold(2, size, TILE_PX).permute(0, 4, 5, 1, 2, 3)


def _write(grid: Tensor, bias: Tensor, made: Tensor) -> None:
    """Adds the bias to tiles `t rows 4 across 4 c` and writes what of them is in the picture to `made`, `t h w c`."""
    rows, across = grid.shape[1], grid.shape[3]
    if made.shape[1:3] == (rows * TILE_PX, across * TILE_PX):
        of_tiles = torch.unflatten(torch.unflatten(made, 2, (across, TILE_PX)), 1, (rows, TILE_PX))
        torch.add(grid, bias, out=of_tiles)
    else:
        pictures = grid.flatten(3, 4).flatten(1, 2)
        torch.add(pictures[:, : made.shape[1], : made.shape[2]], bias, out=made)


def _by_bands(x: Tensor, bias: Tensor, most_frames: int, rows: int, make: "_Make") -> Tensor:
    """The whole output, `rows` rows of some frames at a time; on a CPU by several threads."""
    out = empty_frames(x, x.shape[2] - TAPS + 1, channels=len(bias))
    runs, bands_of_run = _runs(x, out, most_frames), cut(x.shape[3], rows)
    bands = [(run, top, top + count) for run in runs for top, count in bands_of_run]

    def work(some: list[tuple[_Run, int, int]]) -> None:
        scratch = _Scratch(x.device)
        for run, top, bottom in some:
            make(run, top, bottom, bias, scratch)

    threads = torch.get_num_threads()
    if x.device.type == "cpu" and 1 < threads <= len(bands):
        _in_threads(work, [bands[first::threads] for first in range(threads)])
    else:
        work(bands)
    return out


def _in_threads(work: Callable[[Any], None], shares: list[Any]) -> None:
    """One thread for each share, each of them computing alone: a band is too little to be shared among threads."""
    inference, threads = torch.is_inference_mode_enabled(), torch.get_num_threads()

    def alone(share: Any) -> None:
        torch.set_num_threads(1)
        with torch.inference_mode(inference):
            work(share)

    with ThreadPoolExecutor(len(shares)) as pool:
        for done in [pool.submit(alone, share) for share in shares]:
            done.result()
    torch.set_num_threads(threads)  # the default for other threads, which theirs has become


def _runs(x: Tensor, out: Tensor, most_frames: int) -> Iterator[_Run]:
    """The frames of each batch item that are filtered together, and where their outputs go."""
    for item, made in zip(x.permute(0, 2, 3, 4, 1), out.permute(0, 2, 3, 4, 1), strict=True):
        for start, frames in cut(len(made), most_frames):
            yield _Run(item[start : start + frames + TAPS - 1], made[start : start + frames], frames)


def _filterings(most_frames: int, like: Tensor) -> tuple[Filtering, ...]:
    return tuple(filtering(frames).to(like) for frames in range(1, most_frames + 1))
