"""The Wan 2.1 encoder against diffusers' AutoencoderKLWan with the same random weights, and its causality."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLQwenImage, AutoencoderKLWan
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from support.encoders import Pair, error_in_chunks, error_of, moments_of, relative_error, video, wan_name
from torch import Tensor

import encoder
from encoder.models import wan
from encoder.models.wan import WanParams
from encoder.video_encoder import Posterior
from encoder.weights import WeightsError

few = settings(max_examples=8, deadline=None)
SMALL = WanParams(channels=(8, 16, 32, 32))


def make_pair(folder: Path, name: str, convolutions: str = "auto", **config: Any) -> Pair:
    torch.manual_seed(11)
    theirs = AutoencoderKLWan(**config).eval()
    for parameter_name, parameter in theirs.named_parameters():
        if parameter_name.endswith("gamma"):
            parameter.data += torch.randn_like(parameter) * 0.2
    theirs.save_pretrained(folder)
    return theirs, encoder.load(name, weights=str(folder), convolutions=convolutions)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """An encoder like Wan's in all but its number of channels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(wan.PRESETS, "wan", SMALL)
        return make_pair(tmp_path_factory.mktemp("small"), "wan", base_dim=8)


@pytest.fixture(scope="module")
def unchanged(small: Pair) -> Posterior:
    return small[1].encode(video(1, 17, 8, 16))


@pytest.fixture(scope="module")
def clip() -> Tensor:
    return video(1, 49, 8, 24)


@pytest.fixture(scope="module")
def expected(small: Pair, clip: Tensor) -> Tensor:
    """diffusers' latents of the clip, which begin with those of fewer frames."""
    return moments_of(small[0], clip)


@pytest.mark.parametrize("frames", range(1, 50, 4))
def test_every_legal_frame_count_equals_diffusers(small: Pair, clip: Tensor, expected: Tensor, frames: int) -> None:
    assert error_of(small[1].encode(clip[:, :, :frames]), expected[:, :, : 1 + frames // 4]) < 1e-4


@pytest.mark.parametrize("batch", [2, 3])
@pytest.mark.parametrize(("height_px", "width_px"), [(8, 8), (24, 40), (32, 16)])
def test_batches_and_odd_sizes_equal_diffusers(small: Pair, batch: int, height_px: int, width_px: int) -> None:
    assert relative_error(small, video(batch, 9, height_px, width_px)) < 1e-4


@pytest.mark.full_size
def test_the_full_size_encoder_equals_diffusers(tmp_path: Path) -> None:
    assert relative_error(make_pair(tmp_path, "wan", "winograd"), video(1, 9, 8, 24)) < 1e-4


@pytest.mark.parametrize("frames", [2, 3, 4, 6, 48])
def test_tail_frames_are_refused_with_the_rule_and_never_dropped(small: Pair, frames: int) -> None:
    with pytest.raises(ValueError, match=r"a legal count is 1 \+ 4k"):
        small[1].encode(video(1, frames, 16, 16))


@few
@given(changed_from=st.integers(1, 16), seed=st.integers(1, 9))
def test_no_latent_sees_a_frame_after_its_own(small: Pair, unchanged: Posterior, changed_from: int, seed: int) -> None:
    other = video(1, 17, 8, 16)
    other[:, :, changed_from:] = video(1, 17, 8, 16, seed)[:, :, changed_from:]
    before = (changed_from + 3) // 4
    one, two = unchanged, small[1].encode(other)
    assert torch.equal(one.mean[:, :, :before], two.mean[:, :, :before])
    assert torch.equal(one.logvar[:, :, :before], two.logvar[:, :, :before])
    assert not torch.equal(one.mean[:, :, before:], two.mean[:, :, before:])


@few
@given(cuts=st.lists(st.integers(0, 3), unique=True))
def test_chunks_change_rounding_alone_however_they_are_cut(small: Pair, unchanged: Posterior, cuts: list[int]) -> None:
    clip = video(1, 17, 8, 16)
    assert error_in_chunks(small[1], clip, [1 + 4 * cut for cut in sorted(cuts)], unchanged) < 1e-5


@pytest.mark.parametrize("chunk_frames", [4, 8, 32])
def test_every_chunk_plan_gives_the_same_bits(small: Pair, chunk_frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(wan.PRESETS, "wan", SMALL)
    clip = video(1, 17, 16, 24)
    options = {"weights": "random:0", "convolutions": "winograd"}
    planned = [encoder.load("wan", **options, chunk_frames=frames) for frames in (8, chunk_frames)]
    assert torch.equal(planned[0].encode(clip).mean, planned[1].encode(clip).mean)
    assert planned[0].identity == planned[1].identity


def test_the_first_frame_alone_is_the_first_latent(small: Pair) -> None:
    clip = video(1, 9, 16, 24)
    assert torch.equal(small[1].encode_image(clip).mean, small[1].encode(clip).mean[:, :, :1])


def test_tiles_equal_diffusers_tiled_encode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(wan.PRESETS, "wan", SMALL)
    theirs, _ = make_pair(tmp_path, "wan", base_dim=8)
    theirs.enable_tiling(32, 48, 24, 32)
    ours = encoder.load("wan", weights=str(tmp_path), tiles=(32, 48, 24, 32))
    assert relative_error((theirs, ours), video(1, 5, 64, 88)) < 1e-4


def test_the_original_layout_is_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(wan.PRESETS, "wan", SMALL)
    _, ours = make_pair(tmp_path, "wan", base_dim=8)
    tensors = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    torch.save({wan_name(name): tensor for name, tensor in tensors.items()}, tmp_path / "Wan2.1_VAE.pth")
    original = encoder.load("wan", weights=str(tmp_path / "Wan2.1_VAE.pth"))
    assert original.weights_sha256 == ours.weights_sha256


def test_other_channels_and_levels_are_those_of_the_config_or_the_shapes(tmp_path: Path) -> None:
    config = {
        "base_dim": 4,
        "dim_mult": [2, 3, 4],
        "num_res_blocks": 1,
        "temperal_downsample": [True, False],
        "z_dim": 5,
    }
    theirs, ours = make_pair(tmp_path, "wan", **config, latents_mean=[0.5] * 5, latents_std=[2.0] * 5)
    assert (ours.spec.temporal_ratio, ours.spec.spatial_ratio, ours.spec.latent_channels) == (2, 4, 5)
    clip = video(1, 1, 16, 24)  # diffusers cuts every clip as if time were halved twice
    assert relative_error((theirs, ours), clip) < 1e-5
    tensors = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    torch.save(tensors, tmp_path / "pruned.pth")
    file = encoder.load("wan", weights=str(tmp_path / "pruned.pth"))
    assert file.weights_sha256 == ours.weights_sha256
    assert (file.spec.temporal_ratio, file.spec.spatial_ratio) == (2, 4)
    assert (ours.identity["scaling"]["scale"], file.identity["scaling"]) == ([0.5] * 5, None)


def test_qwen_images_vae_is_wans(tmp_path: Path) -> None:
    torch.manual_seed(11)
    theirs = AutoencoderKLQwenImage(base_dim=8).eval()
    theirs.save_pretrained(tmp_path)
    ours = encoder.load("wan", weights=str(tmp_path))
    assert relative_error((theirs, ours), video(1, 9, 16, 24)) < 1e-5
    assert ours.spec == encoder.spec_of("wan")


def test_attention_between_levels_is_refused_by_its_field(tmp_path: Path) -> None:
    AutoencoderKLWan(base_dim=8, attn_scales=[0.5]).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"attn_scales is \[0\.5\], and only \[\] is supported"):
        encoder.load("wan", weights=str(tmp_path))
