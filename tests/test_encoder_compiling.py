"""Norms that are compiled give the numbers of those that are not, and a run that has them says so."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import MakeConfig
from diffusers import AutoencoderKLCogVideoX
from torch import nn

import encoder
from encoder.compiling import compile_norms
from encoder.norms import GroupNorm, Moments, RmsNorm
from pipeline.identity import fingerprint, identity

needs_compiler = pytest.mark.skipif(
    not (shutil.which("c++") or shutil.which("g++") or shutil.which("clang")) or sys.platform != "linux",
    reason="torch.compile needs a C++ compiler for CPUs",
)


def both(make: object, scope: str) -> tuple[nn.Module, nn.Module]:
    norms = [GroupNorm(16, 4, 1e-6, scope) if make is GroupNorm else RmsNorm(16) for _ in range(2)]  # type: ignore[arg-type]
    for norm in norms:
        for parameter, seed in zip(norm.parameters(), range(2), strict=False):
            parameter.requires_grad_(False).normal_(generator=torch.Generator().manual_seed(seed))
    return norms[0], norms[1]


@needs_compiler
@pytest.mark.filterwarnings("ignore")  # of the compiler's own making
@pytest.mark.parametrize(
    ("kind", "scope", "dtype", "tolerance"),
    [
        (GroupNorm, "chunk", torch.float32, 1e-5),
        (GroupNorm, "clip", torch.float32, 1e-5),
        (RmsNorm, "", torch.bfloat16, 4e-3),
    ],
)
def test_compiled_norms_give_the_numbers_of_plain_ones(
    kind: type, scope: str, dtype: torch.dtype, tolerance: float
) -> None:
    plain, compiled = both(kind, scope)
    compile_norms(compiled)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    of_clip = {"clip": Moments(7, torch.rand(1, 4), torch.rand(1, 4))} if scope == "clip" else {}
    with torch.inference_mode():
        for frames, height_px, width_px in ((3, 12, 16), (2, 6, 8)):
            x = torch.randn(1, 16, frames, height_px, width_px, dtype=dtype)
            x = x.contiguous(memory_format=torch.channels_last_3d)
            ours, theirs = (norm(x, 2, **of_clip)[:, :, 2:] for norm in (compiled, plain))
            assert ours.stride() == theirs.stride()
            ours, theirs = ours.float(), theirs.float()
            assert (ours - theirs).norm() <= tolerance * theirs.norm()
            again = compiled(x, 2, **of_clip)[:, :, 2:].float()
            assert torch.equal(again, ours)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before + 2


@needs_compiler
def test_norms_that_are_computed_in_c_stay_so() -> None:
    options = {"weights": "random:0", "convolutions": "winograd_c"}
    video = torch.zeros(1, 3, 1, 16, 16)
    both = [encoder.load("cogvideox", **options, compile=chosen).encode(video).mean for chosen in (False, True)]
    assert torch.equal(*both)


def test_only_norms_of_native_encoders_are_compiled(tmp_path: Path) -> None:
    small = {"block_out_channels": (16, 32, 32, 64), "layers_per_block": 1, "norm_num_groups": 8}
    AutoencoderKLCogVideoX(**small).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="compile: true is for norms of native encoders"):
        encoder.load("diffusers", weights=str(tmp_path), compile=True)


def test_a_run_that_compiles_is_another_run_and_one_that_does_not_is_as_it_was(make_config: MakeConfig) -> None:
    plain = make_config()
    compiled = make_config(encoder={"name": "tiny", "weights": "random:0", "compile": True})
    assert "compile" not in identity(plain, "0")["encoder"]
    assert fingerprint(identity(plain, "0")) != fingerprint(identity(compiled, "0"))
    assert "compile" not in encoder.load("tiny", weights="random:0").identity
    assert encoder.load("tiny", weights="random:0", compile=True).identity["compile"] is True
