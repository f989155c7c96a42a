"""Winograd's minimal filtering F(m, 3): m outputs of a 3-tap correlation by m + 2 products, as three small matrices.

It does not convolve (torch_winograd.py, winograd.c): pure functions in float64.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from encoder.device.threads import alone

TAPS = 3
# Where the polynomials are evaluated; the last point of every filtering is infinity. Of those with 1, where a kernel is
# the sum of its taps, these amplify rounding least: half as much as the usual 0, 1, -1, 2, -2 in float32.
POINTS = (0, 1, -1, 0.5, -2)
MOST_OUTPUTS = len(POINTS) - 1

Before = Literal["first", "zeros"]  # what a clip's first frame sees before it: copies of itself, or zeros


class Filtering(NamedTuple):
    """`output @ ((kernel @ taps) * (input @ values))` is the correlation of `m + 2` values with 3 taps.

    `kernel` is n x 3, `input` n x n and `output` m x n, for n = m + 2 points.
    """

    kernel: Tensor
    input: Tensor
    output: Tensor

    def to(self, like: Tensor) -> "Filtering":
        """On the device and in the precision of `like`."""
        return Filtering(*(matrix.to(like) for matrix in self))


def filtering(outputs: int) -> Filtering:
    """F(outputs, 3), from 1 to 4 outputs (Winograd, Arithmetic Complexity of Computations, 1980; Cook and Toom).

    All scaling is in `input`, so that the transformed kernels of fewer outputs are among those of more.
    """
    assert 1 <= outputs <= MOST_OUTPUTS, "more outputs need points whose powers lose float32's digits"
    kernel, output = _evaluation(outputs, TAPS), _evaluation(outputs, outputs).T
    # Output j must be the sum over taps k of tap k times value j + k: as many equations as pairs (j, k).
    products = torch.einsum("ji,ik->jki", output, kernel).flatten(0, 1)
    wanted = torch.stack([torch.eye(outputs + 2, dtype=torch.float64)[j + k] for j in range(outputs) for k in range(3)])
    with alone(products.device):
        return Filtering(kernel, torch.linalg.pinv(products) @ wanted, output)


class InTime(NamedTuple):
    """One of the ways to filter frames: matrices, and which of the kernels at the points of F(most, 3) it takes."""

    input: Tensor
    output: Tensor
    points: tuple[int, ...]


def ways_in_time(most: int, before: Before, like: Tensor) -> tuple[InTime, ...]:
    """By the number of frames that are filtered together, in the precision of `like`; at 0 for a clip's first frame.

    That one needs a single product: with the sum of the taps, which is the kernel at 1, or, with zeros before it, with
    the last tap, which is the kernel at infinity.
    """
    last_frame, one = torch.eye(TAPS)[-1:].to(like), torch.ones(1, 1).to(like)
    alone = InTime(last_frame, one, (POINTS.index(1) if before == "first" else most + 1,))
    together = (filtering(frames).to(like) for frames in range(1, most + 1))
    return (alone, *(InTime(f.input, f.output, (*range(len(f.output) + 1), most + 1)) for f in together))


class Run(NamedTuple):
    """Consecutive frames that are filtered together, and the position of the way in which they are."""

    start: int
    frames: int
    way: int


def runs_of(frames: int, most: int, begins: bool) -> list[Run]:
    """All frames in runs of at most `most`; where a clip begins, its first one by itself."""
    first = [Run(0, 1, 0)] if begins else []
    return first + [Run(start + begins, count, count) for start, count in cut(frames - begins, most)]


def _evaluation(outputs: int, coefficients: int) -> Tensor:
    """Values of the powers below `coefficients` at each point of F(outputs, 3); at infinity the highest alone."""
    finite = [[float(point) ** power for power in range(coefficients)] for point in POINTS[: outputs + 1]]
    infinity = [0.0] * (coefficients - 1) + [1.0]
    return torch.tensor([*finite, infinity], dtype=torch.float64)


def cut(frames: int, most: int) -> list[tuple[int, int]]:
    """(start, count) of consecutive runs of at most `most` frames."""
    return [(start, min(most, frames - start)) for start in range(0, frames, most)]
