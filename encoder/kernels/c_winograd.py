"""Winograd's minimal filtering in time and over the picture in C (winograd.c), for CPUs.

The numbers are those of `torch_winograd.Winograd` except for rounding; here the transforms stay in registers.
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
from encoder.kernels.winograd import TAPS, Run, TimePadding, cut, runs_of, time_filters

POINTS = (TILE_PX + TAPS - 1) ** 2
BLOCK_TILES = 12  # tiles of a block, a multiple of ROWS in vectors.h on every machine
MAX_BLOCKS = 4  # of a band
PIECES_PER_THREAD = 4  # so that threads finish at about the same time
LINE_FLOATS = 16  # keeps points from lying a power of two apart, where they would evict each other from the cache


class _Band(ctypes.Structure):
    """`struct band` of winograd.c."""

    _fields_ = (
        *(
            (name, ctypes.c_void_p)
            for name in ("input", "output", "kernels", "bias", "time_points", "values", "products")
        ),
        *((name, ctypes.c_long) for name in ("values_step", "products_step", "height", "width")),
        *((name, ctypes.c_long) for name in ("channels", "out_channels", "filter", "first_tile", "tiles", "points")),
        ("is_bfloat16", ctypes.c_long),
    )


@dataclass(frozen=True, slots=True)
class CWinograd:
    """As `Winograd`, for float32 and bfloat16 on a CPU; both numbers of channels are multiples of PANEL."""

    supported: ClassVar[str] = f"on a CPU in float32 or bfloat16 with multiples of {PANEL} channels"
    max_frames: int
    kernels: Tensor  # `time_points points c'/PANEL c PANEL`
    time_points: tuple[Tensor, ...]  # of each time filter, indices into the kernels
    functions: ctypes.CDLL
    workspace: Workspace

    @staticmethod
    def of(weight: Tensor, max_frames: int, workspace: Workspace, padding: TimePadding = "replicate") -> "CWinograd":
        """As `WinogradHeight.of`.

        Raises:
            NoCompilerError: the functions cannot be compiled here.
        """
        functions = library()  # before the kernels, which take long to transform
        panels = torch.unflatten(weight, 0, (-1, PANEL)).permute(3, 4, 5, 0, 2, 1)
        time_points = tuple(torch.tensor(each.points) for each in time_filters(max_frames, padding, weight))
        return CWinograd(max_frames, kernels_in_time_and_space(panels, max_frames), time_points, functions, workspace)

    @staticmethod
    def is_available() -> bool:
        return compiles()

    @staticmethod
    def supports(weight: Tensor) -> bool:
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
        # A point's kernels must serve enough tiles to be worth reading: 12 for 128 channels, whose kernels fit a cache.
        max_blocks = min(MAX_BLOCKS, max(1, x.shape[1] * len(bias) // 128**2))
        if blocks < threads:
            for band in self._bands(x, bias, out, begins, max_blocks):
                self._convolve_together(band)
        else:
            pieces_per_thread = min(PIECES_PER_THREAD, -(-blocks // (max_blocks * threads)))
            bands = self._bands(x, bias, out, begins, -(-blocks // (pieces_per_thread * threads)))
            share(partial(self._convolve, max_blocks * BLOCK_TILES), bands, x.device)
        return out

    def _bands(self, x: Tensor, bias: Tensor, out: Tensor, begins: bool, max_blocks: int) -> list[_Band]:
        """The whole output, in bands of at most `max_blocks` blocks of tiles."""
        return [
            self._band(x, bias, out, item, run, *piece)
            for item in range(len(x))
            for run in runs_of(out.shape[2], self.max_frames, begins)
            for piece in cut(_tiles(x), max_blocks * BLOCK_TILES)
        ]

    def _band(self, x: Tensor, bias: Tensor, out: Tensor, item: int, run: Run, first_tile: int, tiles: int) -> _Band:
        source = x[item, :, run.start if run.filter else run.start + TAPS - 1]
        time_points = self.time_points[run.filter]
        return _Band(
            input=source.data_ptr(), output=out[item, :, run.start].data_ptr(), kernels=self.kernels.data_ptr(),
            bias=bias.data_ptr(), time_points=time_points.data_ptr(), height=x.shape[3], width=x.shape[4],
            channels=x.shape[1], out_channels=len(bias), filter=run.filter, first_tile=first_tile, tiles=tiles,
            points=len(time_points) * POINTS, is_bfloat16=x.dtype == torch.bfloat16,
        )  # fmt: skip

    def _convolve(self, max_tiles: int, thread: int, band: _Band) -> None:
        self._set_buffers(band, thread, min(max_tiles, band.tiles))
        self.functions.convolve(ctypes.byref(band), ctypes.c_long(max_tiles))

    def _convolve_together(self, band: _Band) -> None:
        """Computes a band with all threads: for small pictures with large kernels, which the threads share."""
        self._set_buffers(band, 0, band.tiles)
        threads, functions = torch.get_num_threads(), self.functions
        for step, parts in (
            (functions.transform_input, band.tiles),
            (functions.multiply, band.points),
            (functions.transform_output, band.tiles),
        ):
            share(partial(_do_part, step, band), cut(parts, -(-parts // threads)), self.kernels.device)

    def _set_buffers(self, band: _Band, thread: int, max_tiles: int) -> None:
        tiles = -(-max_tiles // BLOCK_TILES) * BLOCK_TILES
        band.values_step, band.products_step = (
            tiles * channels + LINE_FLOATS for channels in (band.channels, band.out_channels)
        )
        for name, step in (("values", band.values_step), ("products", band.products_step)):
            buffer = self.workspace.empty(f"{name} {thread}", (band.points * step,), self.kernels)
            setattr(band, name, buffer.data_ptr())


def _tiles(x: Tensor) -> int:
    """Tiles of one frame of `b c t h w`."""
    return -(-x.shape[3] // TILE_PX) * -(-x.shape[4] // TILE_PX)


def _do_part(step: Callable[..., None], band: _Band, _: int, piece: tuple[int, int]) -> None:
    step(ctypes.byref(band), *map(ctypes.c_long, piece))
