"""The layers alone: norm statistics, attention, pooling in time and what is carried from chunk to chunk."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import encoder
from encoder.device.workspace import Workspace, empty_frames
from encoder.kernels.c_norms import c_norm_backend
from encoder.kernels.direct import convolve
from encoder.kernels.winograd import TimePadding
from encoder.models import layers
from encoder.models.cogvideox import Downsample
from encoder.models.layers import CausalConv3d, EdgeConv3d, SpaceAttention
from encoder.models.norms import GroupNorm, NormBackend, RmsNorm, TorchNormBackend, merge_moments
from encoder.models.stem import GPU_CHANNELS, Stem, widen


def seeded(*shape: int, seed: int = 0) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.contiguous(memory_format=torch.channels_last_3d) if values.ndim == 5 else values


def fill(module: torch.nn.Module) -> None:
    for i, parameter in enumerate(module.parameters()):
        parameter.requires_grad_(False).copy_(seeded(*parameter.shape, seed=i) * 0.3)


BOTH = pytest.mark.parametrize("backend", [TorchNormBackend, c_norm_backend], ids=["torch", "c"])


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [(backend, dtype) for backend in (TorchNormBackend, c_norm_backend) for dtype in (torch.float32, torch.bfloat16)]
    + [(TorchNormBackend, torch.float16)],
)
def test_norm_over_a_chunk_is_torchs_group_norm_and_swish(
    backend: Callable[[], NormBackend], dtype: torch.dtype
) -> None:
    norm = GroupNorm(64, 4, 1e-6, "chunk")
    fill(norm)
    norm.backend = backend()
    x = seeded(2, 64, 3, 50, 60).to(dtype) + 5
    exact = F.silu(F.group_norm(x.double(), 4, norm.weight.double(), norm.bias.double(), 1e-6))
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(norm.to(dtype)(x).double(), exact, atol=tolerance, rtol=tolerance)


@BOTH
def test_norm_over_a_frame_sees_that_frame_only(backend: Callable[[], NormBackend]) -> None:
    norm = GroupNorm(32, 4, 1e-6, "frame")
    fill(norm)
    norm.backend = backend()
    x = seeded(2, 32, 3, 9, 10)
    expected = [F.silu(F.group_norm(frame, 4, norm.weight, norm.bias, 1e-6)) for frame in x.unbind(2)]
    torch.testing.assert_close(norm(x), torch.stack(expected, 2), atol=1e-5, rtol=1e-5)


@BOTH
def test_norm_without_swish_is_torchs_group_norm(backend: Callable[[], NormBackend]) -> None:
    norm = GroupNorm(32, 4, 1e-6, "chunk", swish=False)
    fill(norm)
    norm.backend = backend()
    x = seeded(1, 32, 2, 9, 10)
    expected = F.group_norm(x, 4, norm.weight, norm.bias, 1e-6)
    torch.testing.assert_close(norm(x), expected, atol=1e-5, rtol=1e-5)


@BOTH
def test_norm_statistics_survive_a_mean_far_above_the_deviation(backend: Callable[[], NormBackend]) -> None:
    norm = GroupNorm(32, 2, 1e-6, "chunk")
    norm.backend = backend()
    torch.nn.init.ones_(norm.weight)
    torch.nn.init.zeros_(norm.bias)
    x = 1000 + seeded(1, 32, 2, 64, 64)
    moments = merge_moments(norm.moments(x))
    exact = x.double().unflatten(1, (2, 16)).var((2, 3, 4, 5), unbiased=False)
    torch.testing.assert_close(moments.variance[0].double(), exact, rtol=1e-4, atol=0)


@pytest.mark.parametrize("value", [-1e4, -200.0, -87.2, -20.0, -1e-3, 0.0, 1e-6, 3.0, 88.5, 1e30, torch.inf, torch.nan])
def test_swish_in_c_is_torchs_for_all_floats(value: float) -> None:
    ones, zeros = torch.ones(1, 1, 32), torch.zeros(1, 1, 32)
    made = torch.empty(1, 1, 32)
    c_norm_backend().normalize(value * ones, zeros, ones, True, made)
    torch.testing.assert_close(made, F.silu(value * ones), rtol=3e-7, atol=1e-34, equal_nan=True)


def test_norm_leaves_room_before_its_frames() -> None:
    norm = GroupNorm(8, 2, 1e-6, "chunk")
    fill(norm)
    x = seeded(1, 8, 3, 5, 6)
    roomy = norm(x, pad_frames=2)
    assert roomy.shape == (1, 8, 5, 5, 6)
    assert torch.equal(roomy[:, :, 2:], norm(x))


def with_room(conv: CausalConv3d, x: torch.Tensor) -> torch.Tensor:
    roomy = empty_frames(x, conv.pad_frames + x.shape[2])
    roomy[:, :, conv.pad_frames :] = x
    return roomy


def test_a_convolution_over_chunks_is_the_convolution_of_the_clip_with_its_first_frame_before_it() -> None:
    conv = CausalConv3d(4, 6, 3)
    fill(conv)
    x = seeded(2, 4, 7, 5, 6)
    expected = F.conv3d(torch.cat([x[:, :, :1]] * 2 + [x], 2), conv.weight, conv.bias, padding=(0, 1, 1))
    past, parts = None, []
    for chunk in x.split([1, 4, 2], 2):
        y, past = conv(with_room(conv, chunk), past)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 2), expected, atol=1e-5, rtol=1e-5)


def test_pooling_passes_the_first_frame_and_averages_the_rest_in_pairs() -> None:
    down = Downsample(2, True, Workspace())
    fill(down)
    x = seeded(1, 2, 5, 8, 12)
    pooled = torch.stack([x[:, :, 0], (x[:, :, 1] + x[:, :, 2]) / 2, (x[:, :, 3] + x[:, :, 4]) / 2], 2)
    expected = [
        F.conv2d(F.pad(frame, (0, 1, 0, 1)), down.picture.weight, down.picture.bias, stride=2)
        for frame in pooled.unbind(2)
    ]
    y, past = down(x, None)
    torch.testing.assert_close(y, torch.stack(expected, 2), atol=1e-5, rtol=1e-5)
    later, _ = down(x[:, :, 1:], past)
    torch.testing.assert_close(later, y[:, :, 1:], atol=1e-5, rtol=1e-5)


def test_pooling_knows_the_clips_start_from_its_state_and_not_from_the_number_of_frames() -> None:
    down = Downsample(2, True, Workspace())
    fill(down)
    _, past = down(seeded(1, 2, 1, 4, 4), None)
    with pytest.raises(AssertionError, match="pairs"):
        down(seeded(1, 2, 3, 4, 4), past)


def test_attention_mixes_the_pixels_of_each_frame_as_its_formula_says() -> None:
    attention = SpaceAttention(GroupNorm(8, 2, 1e-6, "chunk", swish=False), 8)
    fill(attention)
    x = seeded(2, 8, 3, 4, 5)
    tokens = F.group_norm(x, 2, attention.norm.weight, attention.norm.bias, 1e-6).permute(0, 2, 3, 4, 1).flatten(2, 3)
    query, key, value = attention.qkv(tokens).split(8, -1)
    scores = query @ key.transpose(-1, -2) / 8**0.5
    mixed = attention.project(scores.softmax(-1) @ value)
    expected = x + mixed.reshape(2, 3, 4, 5, 8).permute(0, 4, 1, 2, 3)
    torch.testing.assert_close(attention(x, None)[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_divides_each_pixel_by_the_root_mean_square_of_its_channels(dtype: torch.dtype) -> None:
    norm = RmsNorm(8)
    fill(norm)
    x = seeded(2, 8, 2, 50, 60).to(dtype)
    exact = x.double() / x.double().square().mean(1, keepdim=True).sqrt() * norm.weight.double().view(-1, 1, 1, 1)
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(norm(x).double(), F.silu(exact), atol=tolerance, rtol=tolerance)
    assert torch.equal(norm(torch.zeros(1, 8, 1, 2, 2)), torch.zeros(1, 8, 1, 2, 2))


def test_a_convolution_that_begins_with_zeros_sees_them_before_the_clip() -> None:
    conv = CausalConv3d(4, 6, 3, padding="zeros")
    fill(conv)
    x = seeded(2, 4, 3, 5, 6)
    expected = F.conv3d(F.pad(x, (0, 0, 0, 0, 2, 0)), conv.weight, conv.bias, padding=(0, 1, 1))
    torch.testing.assert_close(conv(with_room(conv, x), None)[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("padding", ["replicate", "zeros"])
@pytest.mark.parametrize(("kind", "patch_px"), [(CausalConv3d, 1), (EdgeConv3d, 1), (CausalConv3d, 2)])
def test_on_a_gpu_a_stem_takes_its_bias_from_a_channel_of_ones(
    kind: type[CausalConv3d], patch_px: int, padding: TimePadding
) -> None:
    stem = Stem(kind(3 * patch_px**2, 16, 3, padding), patch_px)
    fill(stem)
    chunks = (seeded(1, 3, 5, 8, 12), seeded(1, 3, 4, 8, 12))
    expected = [*_in_chunks(stem, chunks)]
    widen(stem)
    assert stem.conv.input_channels % GPU_CHANNELS == 0
    for ours, theirs in zip(_in_chunks(stem, chunks), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def _in_chunks(stem: Stem, chunks: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    past = None
    for chunk in chunks:
        y, past = stem(chunk, past)
        yield y


class CrampedConvolution:
    """Direct convolutions on a device that has memory for few frames at once."""

    def __init__(self, room_for_frames: int) -> None:
        self.room_for_frames, self.largest = room_for_frames, 0

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if weight.ndim == 5:  # others are frame by frame
            if x.shape[2] > self.room_for_frames:
                raise torch.cuda.OutOfMemoryError
            self.largest = max(self.largest, x.shape[2])
        return convolve(x, weight, *args, **kwargs)


def test_a_convolution_that_finds_no_memory_goes_half_by_half(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, video = encoder.load("tiny", weights="random:0"), torch.randn(1, 3, 9, 16, 24).clamp(-1, 1)
    usual, cramped = tiny.encode(video), CrampedConvolution(room_for_frames=4)
    usual_times = tiny.times_halved
    monkeypatch.setattr(layers, "convolve", cramped)
    torch.testing.assert_close(tiny.encode(video).mean, usual.mean, rtol=0, atol=1e-5)
    assert cramped.largest == 4
    assert tiny.times_halved > usual_times == 0


def test_a_convolution_for_which_one_frame_is_too_much_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = encoder.load("tiny", weights="random:0")
    monkeypatch.setattr(layers, "convolve", CrampedConvolution(room_for_frames=2))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        tiny.encode(torch.zeros(1, 3, 5, 16, 24))
