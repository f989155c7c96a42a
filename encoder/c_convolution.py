"""Winograd's filtering in time and over the picture by compiled functions (winograd.c), on CPUs.

It does not compile them (c_library.py), nor choose this way (tuning.py). The numbers are those of
`convolutions.InTimeAndSpace` but for rounding; transforms stay in registers here.
"""

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from encoder.c_library import PANEL, TILE, library
from encoder.convolutions import kernels_in_time_and_space
from encoder.norms import empty_frames
from encoder.threads import share
from encoder.winograd import TAPS, cut, points_used
from encoder.workspace import Workspace

POINTS = (TILE + TAPS - 1) ** 2
BLOCK_TILES = 12  # of whose multiples a block of products is, on every machine
MOST_BLOCKS = 4  # of a band
LINE_FLOATS = 16  # keeps points from lying a power of two apart, where they would meet in the cache
Step = Callable[["_Band", int, int], None]


class _Band(ctypes.Structure):
    """`struct band` of winograd.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("seen", "made", "kernels", "bias", "times", "values", "products")),
        *((name, ctypes.c_long) for name in ("values_step", "products_step", "height", "width")),
        *((name, ctypes.c_long) for name in ("channels", "out_channels", "frames", "first_tile", "tiles")),
        ("is_bfloat16", ctypes.c_long),
    )


@dataclass(frozen=True, slots=True)
class InTimeAndSpaceByC:
    """As `InTimeAndSpace`, for float32 and bfloat16 on a CPU; channels on both sides come in whole panels."""

    most_frames: int
    kernels: Tensor  # `times points c'/PANEL c PANEL`
    times: tuple[Tensor, ...]  # by frames - 1, which of the kernels' points in time are theirs
    steps: tuple[Step, Step, Step]
    workspace: Workspace

    @staticmethod
    def of(weight: Tensor, most_frames: int, workspace: Workspace) -> "InTimeAndSpaceByC":
        """As `InTimeAndHeight.of`.

        Raises:
            NoCompilerError: the functions cannot be compiled here.
        """
        functions = library()
        steps = (functions.see, functions.multiply, functions.make)
        for step in steps:
            step.argtypes, step.restype = (ctypes.POINTER(_Band), ctypes.c_long, ctypes.c_long), None
        kernels = torch.unflatten(kernels_in_time_and_space(weight, most_frames), -1, (-1, PANEL)).transpose(2, 3)
        times = tuple(torch.tensor(points_used(frames, most_frames)) for frames in range(1, most_frames + 1))
        return InTimeAndSpaceByC(most_frames, kernels.contiguous(), times, steps, workspace)

    @staticmethod
    def takes(weight: Tensor) -> bool:
        """Whether it is made for a kernel `c' c 3 3 3` of this size, precision and device."""
        whole_panels = all(channels % PANEL == 0 for channels in weight.shape[:2])
        return whole_panels and weight.dtype in (torch.float32, torch.bfloat16) and weight.device.type == "cpu"

    @property
    def kernel_bytes(self) -> int:
        return self.kernels.nbytes

    def __call__(self, x: Tensor, bias: Tensor, out: Tensor | None = None) -> Tensor:
        """`b c 2+t h w -> b c' t h w`, both in channels-last order; written to `out` where it is given."""
        out = empty_frames(x, x.shape[2] - TAPS + 1, channels=len(bias)) if out is None else out
        assert x.is_contiguous(memory_format=torch.channels_last_3d)
        assert out.is_contiguous(memory_format=torch.channels_last_3d)
        bias = bias.float()
        bands = list(self._bands(x, bias, out))
        if len(bands) >= torch.get_num_threads():
            share(self._compute, bands, x.device)
        else:  # a small picture and large kernels: each thread takes some of the kernels
            for band in bands:
                self._compute_together(band)
        return out

    def _bands(self, x: Tensor, bias: Tensor, out: Tensor) -> Iterator[_Band]:
        """All that is to be made, some tiles of some frames of a batch item at a time."""
        (batch, channels, _, height, width), out_channels = x.shape, len(bias)
        tiles = -(-height // TILE) * -(-width // TILE)
        # Reading a point's kernels must be worth while: 12 tiles for 128 channels, whose kernels a cache can hold.
        most_tiles = BLOCK_TILES * min(MOST_BLOCKS, max(1, channels * out_channels // 128**2))
        for item in range(batch):
            for start, frames in cut(out.shape[2], self.most_frames):
                for first, count in cut(tiles, most_tiles):
                    yield _Band(
                        seen=x[item, :, start].data_ptr(), made=out[item, :, start].data_ptr(), bias=bias.data_ptr(),
                        kernels=self.kernels.data_ptr(), times=self.times[frames - 1].data_ptr(),
                        height=height, width=width, channels=channels, out_channels=out_channels, frames=frames,
                        first_tile=first, tiles=count, is_bfloat16=x.dtype == torch.bfloat16,
                    )  # fmt: skip

    def _compute(self, thread: int, band: _Band) -> None:
        self._give_room(band, thread)
        for step, parts in self._steps(band):
            step(band, 0, parts)

    def _compute_together(self, band: _Band) -> None:
        self._give_room(band, 0)
        threads = torch.get_num_threads()
        for step, parts in self._steps(band):
            pieces = cut(parts, -(-parts // threads))
            share(partial(_take, step, band), pieces, self.kernels.device)

    def _steps(self, band: _Band) -> Iterator[tuple[Step, int]]:
        """Each step with the number of its parts: tiles, points, tiles."""
        return zip(self.steps, (band.tiles, (band.frames + TAPS - 1) * POINTS, band.tiles), strict=True)

    def _give_room(self, band: _Band, thread: int) -> None:
        tiles, points = -(-band.tiles // BLOCK_TILES) * BLOCK_TILES, (band.frames + TAPS - 1) * POINTS
        band.values_step, band.products_step = (
            tiles * channels + LINE_FLOATS for channels in (band.channels, band.out_channels)
        )
        for name, step in (("values", band.values_step), ("products", band.products_step)):
            room = self.workspace.empty(f"{name} {thread}", (points * step,), self.kernels)
            setattr(band, name, room.data_ptr())


def _take(step: Step, band: _Band, _: int, piece: tuple[int, int]) -> None:
    step(band, *piece)
