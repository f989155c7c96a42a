"""Winograd's minimal filtering F(m, 3): m outputs of a 3-tap correlation by m + 2 products, as three small matrices.

Pure functions in float64; torch_winograd.py and winograd.c convolve with these matrices.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from encoder.device.threads import single_threaded

TAPS = 3
# Where the polynomials are evaluated; the last point of every filtering is infinity. Among the sets that contain 1, at
# which a kernel is the sum of its taps, this one amplifies rounding least: half as much as the usual 0, 1, -1, 2, -2 in
# float32.
POINTS = (0, 1, -1, 0.5, -2)
MAX_OUTPUTS = len(POINTS) - 1

TimePadding = Literal["replicate", "zeros"]  # before a clip: copies of its first frame, or zeros


class Filtering(NamedTuple):
    """`output @ ((kernel @ taps) * (input @ values))` is the correlation of `m + 2` values with 3 taps.

    `kernel` is n x 3, `input` n x n and `output` m x n, for n = m + 2 points.
    """

    kernel: Tensor
    input: Tensor
    output: Tensor

    def to(self, like: Tensor) -> "Filtering":
        """The matrices on the device and in the precision of `like`."""
        return Filtering(*(matrix.to(like) for matrix in self))


def filtering(outputs: int) -> Filtering:
    """F(outputs, 3), from 1 to 4 outputs (Winograd, Arithmetic Complexity of Computations, 1980; Cook and Toom).

    All scaling is in `input`, so that the transformed kernels of fewer outputs are among those of more.
    """
    assert 1 <= outputs <= MAX_OUTPUTS, "more outputs need points whose powers exceed float32's precision"
    kernel, output = _evaluation(outputs, TAPS), _evaluation(outputs, outputs).T
    # Output j must be the sum over taps k of tap k times value j + k: as many equations as pairs (j, k).
    products = torch.einsum("ji,ik->jki", output, kernel).flatten(0, 1)
    wanted = torch.stack([torch.eye(outputs + 2, dtype=torch.float64)[j + k] for j in range(outputs) for k in range(3)])
    with single_threaded(products.device):
        return Filtering(kernel, torch.linalg.pinv(products) @ wanted, output)


class TimeFilter(NamedTuple):
    """A filtering of frames: its matrices, and the indices of its points among those of F(max_frames, 3)."""

    input: Tensor
    output: Tensor
    points: tuple[int, ...]


def time_filters(max_frames: int, padding: TimePadding, like: Tensor) -> tuple[TimeFilter, ...]:
    """The filter of n frames at index n, in the precision of `like`; at index 0 the one of a clip's first frame.

    The first frame needs a single product: with the sum of the taps, which is the kernel at 1, or, with zeros before
    it, with the last tap, which is the kernel at infinity.
    """
    last_frame, one = torch.eye(TAPS)[-1:].to(like), torch.ones(1, 1).to(like)
    first = TimeFilter(last_frame, one, (POINTS.index(1) if padding == "replicate" else max_frames + 1,))
    filterings = (filtering(frames).to(like) for frames in range(1, max_frames + 1))
    others = (TimeFilter(f.input, f.output, (*range(len(f.output) + 1), max_frames + 1)) for f in filterings)
    return (first, *others)


class Run(NamedTuple):
    """Consecutive frames that are filtered together, and the index of their filter in `time_filters`."""

    start: int
    frames: int
    filter: int


def runs_of(frames: int, max_frames: int, begins: bool) -> list[Run]:
    """All frames in runs of at most `max_frames`; where a clip `begins`, its first frame is a run of its own."""
    first = [Run(0, 1, 0)] if begins else []
    return first + [Run(start + begins, count, count) for start, count in cut(frames - begins, max_frames)]


def _evaluation(outputs: int, coefficients: int) -> Tensor:
    """The powers below `coefficients` of each point of F(outputs, 3); at infinity only the highest counts."""
    finite = [[float(point) ** power for power in range(coefficients)] for point in POINTS[: outputs + 1]]
    infinity = [0.0] * (coefficients - 1) + [1.0]
    return torch.tensor([*finite, infinity], dtype=torch.float64)


def cut(length: int, max_count: int) -> list[tuple[int, int]]:
    """(start, count) of consecutive parts of `length`, each of at most `max_count`."""
    return [(start, min(max_count, length - start)) for start in range(0, length, max_count)]
