"""Winograd's minimal filtering F(m, 3): m outputs of a 3-tap correlation by m + 2 products, as three small matrices.

It does not convolve (convolutions.py): pure functions in float64.
"""

from typing import NamedTuple

import torch
from torch import Tensor

TAPS = 3
# Where the polynomials are evaluated; the last point of every filtering is infinity. Of those that were tried these
# amplify rounding least: a fifth less than the usual 0, 1, -1, 2, -2.
POINTS = (0, 0.75, -0.75, 1.5, -1.5)
MOST_OUTPUTS = len(POINTS) - 1


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
    return Filtering(kernel, torch.linalg.pinv(products) @ wanted, output)


def points_used(outputs: int, most: int) -> tuple[int, ...]:
    """Which of the points of F(most, 3) those of F(outputs, 3) are, by position."""
    return (*range(outputs + 1), most + 1)


def _evaluation(outputs: int, coefficients: int) -> Tensor:
    """Values of the powers below `coefficients` at each point of F(outputs, 3); at infinity the highest alone."""
    finite = [[float(point) ** power for power in range(coefficients)] for point in POINTS[: outputs + 1]]
    infinity = [0.0] * (coefficients - 1) + [1.0]
    return torch.tensor([*finite, infinity], dtype=torch.float64)


def cut(frames: int, most: int) -> list[tuple[int, int]]:
    """(start, count) of consecutive runs of at most `most` frames."""
    return [(start, min(most, frames - start)) for start in range(0, frames, most)]
