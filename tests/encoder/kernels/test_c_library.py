"""Convolutions in C: compiled by whatever compiler there is, rounded as torch rounds, a clear error without one."""

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import encoder
from encoder.device.workspace import Workspace
from encoder.kernels import c_library
from encoder.kernels.c_library import NoCompilerError, compilers, compiles, library
from encoder.kernels.c_winograd import CWinograd
from encoder.tuning import PRODUCTS, ConvShape, fastest

PACKAGED = [sys.executable, "-m", "ziglang", "cc"]


@pytest.fixture
def fresh() -> Iterator[None]:
    """As in a process that has compiled nothing yet."""
    c_library._loaded.cache_clear()
    yield
    c_library._loaded.cache_clear()


@pytest.fixture
def no_compiler(fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(c_library, "find_spec", lambda name: None)


def convolved(x: Tensor, weight: Tensor) -> Tensor:
    return CWinograd.of(weight, 4, Workspace())(x, torch.zeros(len(weight), dtype=x.dtype))


def frames(*values: float, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Frames of one pixel in 32 channels: two of zeros, and one that has these values in the first channels."""
    x = torch.zeros(1, 32, 3, 1, 1, dtype=dtype)
    x[0, : len(values), 2, 0, 0] = torch.tensor(values).to(dtype)
    return x.contiguous(memory_format=torch.channels_last_3d)


def test_bfloat16_is_rounded_as_torch_rounds_it() -> None:
    """Ties, infinities, what becomes infinite and NaNs too: with kernels of zeros the bias alone is written."""
    bits = torch.randint(-(2**31), 2**31 - 1, (512,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    bits[:96] = torch.arange(96, dtype=torch.int32) * 0x8000 + 0x3F800000
    bits[96:100] = torch.tensor([0x7F800000, 0x7F7FFFFF, 0x7FFFFFFF, 0x7F800001], dtype=torch.int32)
    bias = bits.view(torch.float32)
    convolution = CWinograd.of(torch.zeros(512, 32, 3, 3, 3, dtype=torch.bfloat16), 1, Workspace())
    made = convolution(frames(1.0), bias).flatten()
    torch.testing.assert_close(made, bias.bfloat16(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_stays_none(value: float, dtype: torch.dtype) -> None:
    assert not convolved(frames(value, dtype=dtype), torch.ones(32, 32, 3, 3, 3, dtype=dtype)).isfinite().any()


@pytest.mark.slow
@pytest.mark.parametrize("compiler", compilers(), ids=lambda command: command[0] if len(command) == 1 else "ziglang")
def test_every_compiler_here_gives_the_same_numbers(
    compiler: list[str], fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(1, 32, 5, 7, 9, generator=torch.Generator().manual_seed(0))
    x, weight = x.contiguous(memory_format=torch.channels_last_3d), torch.randn(64, 32, 3, 3, 3) / 30
    monkeypatch.setattr(c_library, "compilers", lambda: [compiler])
    exact = torch.nn.functional.conv3d(x, weight, padding=(0, 1, 1))
    assert float((convolved(x, weight) - exact).norm() / exact.norm()) < 1e-5


def test_the_compiler_that_comes_as_a_package_is_found_beside_others() -> None:
    assert PACKAGED in compilers()


@pytest.mark.slow
def test_the_one_that_cc_names_is_tried_first_and_one_that_cannot_is_passed_over(
    fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "false --with 'an option'")
    assert compilers()[0] == ["false", "--with", "an option"]
    assert isinstance(library(), ctypes.CDLL)


@pytest.mark.usefixtures("no_compiler")
class TestWithoutACompiler:
    def test_measuring_passes_over_the_ways_in_c(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert not compiles()
        monkeypatch.setitem(PRODUCTS, "cpu", 1e9)
        assert fastest(torch.randn(96, 96, 3, 3, 3) / 50, ConvShape(96, 96, 2)) != "winograd_c"

    @pytest.mark.usefixtures("wide_wan")
    @pytest.mark.parametrize("convolutions", ["winograd_c", {"192-192x4": "winograd_c"}])
    def test_who_asks_for_them_is_told_what_is_missing(self, convolutions: Any) -> None:
        with pytest.raises(NoCompilerError, match="but there is none: install gcc or clang, set CC to one, or pip"):
            encoder.load("wan", weights="random:0", convolutions=convolutions)

    def test_what_a_compiler_said_is_in_the_error(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        failing = tmp_path / "failing"
        failing.write_text("#!/bin/sh\necho no such target >&2; exit 1")
        failing.chmod(0o755)
        monkeypatch.setenv("CC", str(failing))
        with pytest.raises(NoCompilerError, match="failing failed: no such target: install"):
            library()


@pytest.mark.usefixtures("wide_wan")
@pytest.mark.parametrize("convolutions", ["winograd_c", {"192-192x4": "winograd_c"}])
def test_a_precision_that_they_do_not_know_is_refused(convolutions: Any) -> None:
    with pytest.raises(ValueError, match=r"with multiples of 32 channels, not .* in torch\.float16"):
        encoder.load("wan", weights="random:0", dtype="float16", convolutions=convolutions)
