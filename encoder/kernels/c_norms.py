"""The arithmetic of a GroupNorm on a band of pixels, in C (norms.c), for CPUs."""

from ctypes import CDLL, c_long, c_void_p
from dataclasses import dataclass

import torch
from torch import Tensor

from encoder.kernels.c_library import PANEL, library


@dataclass(frozen=True, slots=True)
class CNormBackend:
    """The `NormBackend` in C, for float32 and bfloat16."""

    functions: CDLL

    @staticmethod
    def supports(channels: int) -> bool:
        """Whether this many channels are whole vectors on any machine."""
        return channels % PANEL == 0

    def moments(self, band: Tensor, mean: Tensor, variance: Tensor) -> None:
        for pixels, of_mean, of_variance in zip(band, mean, variance, strict=True):
            self.functions.moments(*_array(pixels), _at(of_mean), _at(of_variance), _is_bfloat16(band))

    def normalize(self, band: Tensor, shift: Tensor, scale: Tensor, swish: bool, out: Tensor) -> None:
        for pixels, *affine, target in zip(band, shift, scale, out, strict=True):
            arguments = (_at(target), *_array(pixels), *map(_at, affine), c_long(swish), _is_bfloat16(band))
            self.functions.normalize(*arguments)


def c_norm_backend() -> CNormBackend:
    """Raises NoCompilerError where the functions cannot be compiled."""
    return CNormBackend(library())


def _array(pixels: Tensor) -> tuple[c_void_p, c_long, c_long]:
    assert pixels.is_contiguous()
    return _at(pixels), c_long(pixels.shape[0]), c_long(pixels.shape[1])


def _at(values: Tensor) -> c_void_p:
    return c_void_p(values.data_ptr())


def _is_bfloat16(values: Tensor) -> c_long:
    return c_long(values.dtype == torch.bfloat16)
