"""The norms in Triton, by its interpreter on a CPU, against float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("triton")

import encoder
from encoder.kernels import fused_norms
from encoder.kernels.fused_norms import group_moments, group_normalize, rms_normalize
from encoder.models import cogvideox
from encoder.models.cogvideox import CogVideoXParams
from encoder.models.norms import fuse

GROUPS, EPS, PAD_FRAMES = 4, 1e-6, 2


def values(*shape: int) -> Tensor:
    """`b c t h w` in channels-last order, of mean 5 and deviation 1, where squares would cancel."""
    made = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 5
    return made.contiguous(memory_format=torch.channels_last_3d)


def error(y: Tensor, expected: Tensor) -> float:
    return float((y.double() - expected).norm() / expected.norm())


def expected_group_norm(x: Tensor, weight: Tensor, bias: Tensor, scope_frames: int) -> Tensor:
    scopes = torch.split(x.double(), scope_frames, 2)
    return torch.cat([F.silu(F.group_norm(each, GROUPS, weight.double(), bias.double(), EPS)) for each in scopes], 2)


@pytest.mark.parametrize(  # each shape with both scopes and with and without a bias; interpreted norms take long
    ("scope", "with_bias", "shape"),
    [
        ("chunk", False, (1, 16, 3, 5, 7)),
        ("frame", True, (1, 16, 3, 5, 7)),
        ("chunk", True, (2, 16, 2, 40, 30)),
        ("frame", False, (2, 16, 2, 40, 30)),
        ("chunk", False, (1, 12, 1, 9, 8)),
        ("frame", True, (1, 12, 1, 9, 8)),
        ("chunk", True, (1, 128, 2, 30, 33)),
        ("frame", False, (1, 128, 2, 30, 33)),
    ],
)
def test_group_norm_and_swish_equal_float64_within_1e_6(shape: tuple[int, ...], scope: str, with_bias: bool) -> None:
    x, channels = values(*shape), shape[1]
    scope_frames = shape[2] if scope == "chunk" else 1
    weight, bias, extra = torch.rand(channels) + 0.5, torch.randn(channels), torch.randn(channels)
    before = x + extra.view(1, -1, 1, 1, 1) if with_bias else x
    out = values(shape[0], channels, PAD_FRAMES + shape[2], *shape[3:])
    room = out[:, :, :PAD_FRAMES].clone()
    added = extra if with_bias else None
    mean, variance = group_moments(x, added, GROUPS, scope_frames)
    kept = values(shape[0], channels, min(2, shape[2]), *shape[3:])
    group_normalize(x, added, mean, variance, weight, bias, EPS, True, out[:, :, PAD_FRAMES:], kept)
    assert error(out[:, :, PAD_FRAMES:], expected_group_norm(before, weight, bias, scope_frames)) <= 1e-6
    assert torch.equal(out[:, :, :PAD_FRAMES], room)
    assert torch.equal(kept, out[:, :, -kept.shape[2] :])


def test_carried_statistics_normalise_each_chunk_as_the_whole_clip() -> None:
    x, weight, bias = values(1, 16, 4, 6, 6), torch.rand(16), torch.randn(16)
    mean, variance = group_moments(x, None, GROUPS, 4)
    out = torch.empty_like(x)
    for chunk in (slice(0, 1), slice(1, 4)):
        group_normalize(x[:, :, chunk], None, mean, variance, weight, bias, EPS, True, out[:, :, chunk], None)
    assert error(out, expected_group_norm(x, weight, bias, 4)) <= 1e-6


@pytest.mark.parametrize("shape", [(1, 12, 3, 5, 7), (2, 96, 2, 20, 9)])
@pytest.mark.parametrize("swish", [True, False])
def test_rms_norm_equals_float64_within_1e_6(shape: tuple[int, ...], swish: bool) -> None:
    x, weight, extra = values(*shape), torch.rand(shape[1]) + 0.5, torch.randn(shape[1])
    before = x.double() + extra.double().view(1, -1, 1, 1, 1)
    expected = F.normalize(before, dim=1) * shape[1] ** 0.5 * weight.double().view(1, -1, 1, 1, 1)
    out = torch.empty_like(x)
    kept = values(*shape)[:, :, :2].clone(memory_format=torch.channels_last_3d)
    rms_normalize(x, extra, weight, swish, out, kept)
    assert torch.equal(kept, out[:, :, -2:])
    assert error(out, F.silu(expected) if swish else expected) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["chunk", "frame", "clip"])
def test_an_encoder_with_fused_norms_gives_the_latents_of_torch(scope: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few_levels = CogVideoXParams(channels=(16, 32), blocks_per_level=1, groups=2, temporal_ratio=2)
    monkeypatch.setitem(cogvideox.PRESETS, "tiny", few_levels)  # interpreted norms take seconds
    monkeypatch.setattr(fused_norms, "LOOPS", 1)  # which takes all pixels of these pictures
    video = torch.rand(1, 3, 5, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    loaded = encoder.load("tiny", weights="random:0", norm_scope=scope, chunk_frames=2, convolutions="direct")
    expected = loaded.encode(video).mean
    fuse(loaded.engine.model)  # type: ignore[attr-defined]
    assert error(loaded.encode(video).mean, expected.double()) <= 3e-6
