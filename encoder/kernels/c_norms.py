"""What a GroupNorm does with a band of pixels, by compiled functions (norms.c), on CPUs.

It does not compile them (c_library.py), nor divide frames into bands (norms.py).
"""

from ctypes import CDLL, c_long, c_void_p
from dataclasses import dataclass

import torch
from torch import Tensor

from encoder.kernels.c_library import PANEL, library


@dataclass(frozen=True, slots=True)
class ByC:
    """`Arithmetic` of float32 and bfloat16, in one pass over a band for each of its two parts."""

    functions: CDLL

    @staticmethod
    def takes(channels: int) -> bool:
        """Whether so many channels are whole vectors on any machine."""
        return channels % PANEL == 0

    def moments(self, band: Tensor, mean: Tensor, variance: Tensor) -> None:
        for pixels, of_mean, of_variance in zip(band, mean, variance, strict=True):
            self.functions.moments(*_array(pixels), _at(of_mean), _at(of_variance), _is_bfloat16(band))

    def normalize(self, band: Tensor, shift: Tensor, scale: Tensor, swish: bool, out: Tensor) -> None:
        for pixels, *affine, made in zip(band, shift, scale, out, strict=True):
            given = (_at(made), *_array(pixels), *map(_at, affine), c_long(swish), _is_bfloat16(band))
            self.functions.normalize(*given)


def by_c() -> ByC:
    """NoCompilerError where the functions cannot be compiled here."""
    return ByC(library())


def _array(pixels: Tensor) -> tuple[c_void_p, c_long, c_long]:
    assert pixels.is_contiguous()
    return _at(pixels), c_long(pixels.shape[0]), c_long(pixels.shape[1])


def _at(values: Tensor) -> c_void_p:
    return c_void_p(values.data_ptr())


def _is_bfloat16(values: Tensor) -> c_long:
    return c_long(values.dtype == torch.bfloat16)
