"""The self-test of a GPU, on a CPU: a right convolution passes, a wrong or wasteful one is refused."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from encoder.device.self_test import self_test

CPU, SHAPE = torch.device("cpu"), (1, 40, 8)


def right(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv3d(x, weight, padding=(0, 1, 1))


def frugal(call: Callable[[], Tensor]) -> tuple[Tensor, int]:
    y = call()
    return y, y.nbytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_right_convolution_passes(dtype: torch.dtype) -> None:
    self_test(*SHAPE, dtype, CPU, right, frugal)


@pytest.mark.parametrize("row", [0, 20, 39])
def test_a_convolution_wrong_in_one_row_is_refused(row: int) -> None:
    def wrong(x: Tensor, weight: Tensor) -> Tensor:
        y = right(x, weight)
        y[:, :, :, row] = 0
        return y

    with pytest.raises(ValueError, match="differs from float32"):
        self_test(*SHAPE, torch.bfloat16, CPU, wrong, frugal)


def test_tf32_is_refused_as_float32() -> None:
    def rounded(x: Tensor, weight: Tensor) -> Tensor:  # to the 10 bits of TF32's mantissa
        return right(*((each.view(torch.int32) + 4096 & ~8191).view(torch.float32) for each in (x, weight)))

    with pytest.raises(ValueError, match="differs from float32"):
        self_test(*SHAPE, torch.float32, CPU, rounded, frugal)


def test_values_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="differs from float32"):
        self_test(*SHAPE, torch.float32, CPU, lambda x, weight: right(x, weight) * float("nan"), frugal)


def test_a_convolution_that_unfolds_its_input_is_refused() -> None:
    with pytest.raises(ValueError, match="falls back to a slow kernel"):
        self_test(*SHAPE, torch.float32, CPU, right, lambda call: (call(), 27 * 2**30))
