"""Winograd's filtering in time and over the picture by compiled functions (winograd.c), on CPUs.

It does not compile them (c_library.py), nor choose this way (tuning.py). The numbers are those of
`convolutions.InTimeAndSpace` but for rounding; transforms stay in registers here.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from encoder.device.threads import share
from encoder.device.workspace import Workspace, empty_frames
from encoder.kernels.c_library import PANEL, compiles, library
from encoder.kernels.torch_winograd import TILE_PX, kernels_in_time_and_space
from encoder.kernels.winograd import TAPS, Before, Run, cut, runs_of, ways_in_time

POINTS = (TILE_PX + TAPS - 1) ** 2
BLOCK_TILES = 12  # of whose multiples a block of products is, on every machine
MOST_BLOCKS = 4  # of a band
PIECES_PER_THREAD = 4  # so that threads end at about the same time
LINE_FLOATS = 16  # keeps points from lying a power of two apart, where they would meet in the cache


class _Band(ctypes.Structure):
    """`struct band` of winograd.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("seen", "made", "kernels", "bias", "times", "values", "products")),
        *((name, ctypes.c_long) for name in ("values_step", "products_step", "height", "width")),
        *((name, ctypes.c_long) for name in ("channels", "out_channels", "way", "first_tile", "tiles", "points")),
        ("is_bfloat16", ctypes.c_long),
    )


@dataclass(frozen=True, slots=True)
class InTimeAndSpaceByC:
    """As `InTimeAndSpace`, for float32 and bfloat16 on a CPU; channels on both sides come in whole panels."""

    takes_only: ClassVar[str] = f"on a CPU in float32 or bfloat16 with multiples of {PANEL} channels"
    most_frames: int
    kernels: Tensor  # `times points c'/PANEL c PANEL`
    times: tuple[Tensor, ...]  # by way, which of the kernels' points in time are its
    functions: ctypes.CDLL
    workspace: Workspace

    @staticmethod
    def of(weight: Tensor, most_frames: int, workspace: Workspace, before: Before = "first") -> "InTimeAndSpaceByC":
        """As `InTimeAndHeight.of`.

        Raises:
            NoCompilerError: the functions cannot be compiled here.
        """
        functions = library()  # before the kernels, which are much work
        kernels = torch.unflatten(kernels_in_time_and_space(weight, most_frames), -1, (-1, PANEL)).transpose(2, 3)
        times = tuple(torch.tensor(way.points) for way in ways_in_time(most_frames, before, weight))
        return InTimeAndSpaceByC(most_frames, kernels.contiguous(), times, functions, workspace)

    @staticmethod
    def is_there() -> bool:
        return compiles()

    @staticmethod
    def takes(weight: Tensor) -> bool:
        whole_panels = all(channels % PANEL == 0 for channels in weight.shape[:2])
        return whole_panels and weight.dtype in (torch.float32, torch.bfloat16) and weight.device.type == "cpu"

    @property
    def kernel_bytes(self) -> int:
        return self.kernels.nbytes

    def __call__(self, x: Tensor, bias: Tensor, out: Tensor | None = None, begins: bool = False) -> Tensor:
        """`b c 2+t h w -> b c' t h w`, both in channels-last order; see `Convolution`."""
        out = empty_frames(x, x.shape[2] - TAPS + 1, channels=len(bias)) if out is None else out
        assert x.is_contiguous(memory_format=torch.channels_last_3d)
        assert out.is_contiguous(memory_format=torch.channels_last_3d)
        bias, threads = bias.float(), torch.get_num_threads()
        blocks = -(-_tiles(x) // BLOCK_TILES)
        # Reading a point's kernels must be worth while: 12 tiles for 128 channels, whose kernels a cache can hold.
        most_blocks = min(MOST_BLOCKS, max(1, x.shape[1] * len(bias) // 128**2))
        if blocks < threads:
            for band in self._bands(x, bias, out, begins, most_blocks):
                self._convolve_together(band)
        else:
            pieces_per_thread = min(PIECES_PER_THREAD, -(-blocks // (most_blocks * threads)))
            bands = self._bands(x, bias, out, begins, -(-blocks // (pieces_per_thread * threads)))
            share(partial(self._convolve, most_blocks * BLOCK_TILES), bands, x.device)
        return out

    def _bands(self, x: Tensor, bias: Tensor, out: Tensor, begins: bool, most_blocks: int) -> list[_Band]:
        """All that is to be made, up to so many blocks of tiles at a time."""
        return [
            self._band(x, bias, out, item, run, *piece)
            for item in range(len(x))
            for run in runs_of(out.shape[2], self.most_frames, begins)
            for piece in cut(_tiles(x), most_blocks * BLOCK_TILES)
        ]

    def _band(self, x: Tensor, bias: Tensor, out: Tensor, item: int, run: Run, first_tile: int, tiles: int) -> _Band:
        seen = x[item, :, run.start if run.way else run.start + TAPS - 1]
        return _Band(
            seen=seen.data_ptr(), made=out[item, :, run.start].data_ptr(), kernels=self.kernels.data_ptr(),
            bias=bias.data_ptr(), times=self.times[run.way].data_ptr(), height=x.shape[3], width=x.shape[4],
            channels=x.shape[1], out_channels=len(bias), way=run.way, first_tile=first_tile, tiles=tiles,
            points=len(self.times[run.way]) * POINTS, is_bfloat16=x.dtype == torch.bfloat16,
        )  # fmt: skip

    def _convolve(self, together: int, thread: int, band: _Band) -> None:
        self._give_room(band, thread, min(together, band.tiles))
        self.functions.convolve(ctypes.byref(band), ctypes.c_long(together))

    def _convolve_together(self, band: _Band) -> None:
        """A band by all threads: of a small picture and large kernels, of which each of them takes some."""
        self._give_room(band, 0, band.tiles)
        threads, functions = torch.get_num_threads(), self.functions
        for step, parts in (
            (functions.see, band.tiles),
            (functions.multiply, band.points),
            (functions.make, band.tiles),
        ):
            share(partial(_do_part, step, band), cut(parts, -(-parts // threads)), self.kernels.device)

    def _give_room(self, band: _Band, thread: int, most_tiles: int) -> None:
        tiles = -(-most_tiles // BLOCK_TILES) * BLOCK_TILES
        band.values_step, band.products_step = (
            tiles * channels + LINE_FLOATS for channels in (band.channels, band.out_channels)
        )
        for name, step in (("values", band.values_step), ("products", band.products_step)):
            room = self.workspace.empty(f"{name} {thread}", (band.points * step,), self.kernels)
            setattr(band, name, room.data_ptr())


def _tiles(x: Tensor) -> int:
    """Of a frame of `b c t h w`."""
    return -(-x.shape[3] // TILE_PX) * -(-x.shape[4] // TILE_PX)


def _do_part(step: Callable[..., None], band: _Band, _: int, piece: tuple[int, int]) -> None:
    step(ctypes.byref(band), *map(ctypes.c_long, piece))
