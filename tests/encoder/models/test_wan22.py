"""The Wan 2.2 encoder against diffusers' residual AutoencoderKLWan with the same random weights, and its causality."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file
from support.encoders import (
    Pair,
    error_in_chunks,
    error_of,
    frame_counts,
    moments_of,
    pair_of,
    relative_error,
    video,
    wan_name,
)

import encoder
from encoder.weights import WeightsError

CONFIG: dict[str, Any] = {
    "base_dim": 8,
    "decoder_base_dim": 4,
    "z_dim": 12,
    "is_residual": True,
    "patch_size": 2,
    "in_channels": 12,
    "out_channels": 12,
    "scale_factor_spatial": 16,
    "latents_mean": [0.25] * 12,
    "latents_std": [2.0] * 12,
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair_of(AutoencoderKLWan, CONFIG, "wan2.2", tmp_path_factory.mktemp("wan22"))


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    return video(1, 97, 16, 16)


@pytest.fixture(scope="module")
def expected(small: Pair, clip: torch.Tensor) -> torch.Tensor:
    """diffusers' latents of the clip, which begin with those of fewer frames."""
    return moments_of(small[0], clip)


@pytest.mark.parametrize("frames", frame_counts(4))
def test_every_legal_frame_count_equals_diffusers(
    small: Pair, clip: torch.Tensor, expected: torch.Tensor, frames: int
) -> None:
    assert error_of(small[1].encode(clip[:, :, :frames]), expected[:, :, : 1 + frames // 4]) < 1e-5


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("height_px", "width_px"), [(16, 16), (48, 80), (64, 16)])
def test_batches_and_odd_pictures_equal_diffusers(small: Pair, batch: int, height_px: int, width_px: int) -> None:
    assert relative_error(small, video(batch, 9, height_px, width_px)) < 1e-5


def test_any_chunks_give_the_same_latents(small: Pair) -> None:
    clip = video(2, 21, 16, 16)
    whole = small[1].encode(clip)
    errors = {cuts: error_in_chunks(small[1], clip, cuts, whole) for cuts in ((), (1,), (9,), (1, 5), (5, 13, 17))}
    assert all(error < 1e-5 for error in errors.values()), errors


def test_no_latent_sees_a_later_frame_and_the_first_frame_alone_is_the_first_latent(small: Pair) -> None:
    clip, other = video(1, 17, 16, 32), video(1, 17, 16, 32)
    other[:, :, 9:] = -other[:, :, 9:]
    one, two = small[1].encode(clip), small[1].encode(other)
    assert torch.equal(one.mean[:, :, :3], two.mean[:, :, :3])
    assert not torch.equal(one.mean[:, :, 3:], two.mean[:, :, 3:])
    assert torch.equal(small[1].encode_image(clip).mean, one.mean[:, :, :1])


@pytest.mark.slow
def test_tiles_equal_diffusers_tiled_encode(small: Pair, tmp_path: Path) -> None:
    small[0].save_pretrained(tmp_path)
    small[0].enable_tiling(32, 32, 24, 24)  # of folded pixels: half of ours
    ours = encoder.load("wan2.2", weights=str(tmp_path), tiles=(64, 64, 48, 48))
    try:
        assert relative_error((small[0], ours), video(1, 5, 96, 112)) < 1e-5
    finally:
        small[0].disable_tiling()


def original_name(name: str) -> str:
    """The name of a diffusers tensor in the layout that Wan 2.2 was published in."""
    parts = name.split(".")
    if name.startswith("encoder.down_blocks"):
        level, what = parts[2], parts[3]
        inner = f"encoder.downsamples.{level}.downsamples"
        name = ".".join([inner, parts[4], *parts[5:]] if what == "resnets" else [inner, "2", *parts[4:]])
    return wan_name(name)


def test_the_original_file_is_the_same_weights_under_any_prefix(small: Pair, tmp_path: Path) -> None:
    small[0].save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    original = {f"vae.{original_name(name)}": tensor for name, tensor in tensors.items()}
    torch.save(original | {"model.diffusion.weight": torch.zeros(1)}, tmp_path / "Wan2.2_VAE.pth")
    loaded = encoder.load("wan2.2", weights=str(tmp_path / "Wan2.2_VAE.pth"))
    assert loaded.weights_sha256 == small[1].weights_sha256
    assert (loaded.spec.spatial_ratio, loaded.spec.latent_channels) == (16, 12)
    with pytest.raises(WeightsError, match=r"contains the weights of 'wan2\.2', .* use encoder\.name: wan2\.2"):
        encoder.load("wan", weights=str(tmp_path / "Wan2.2_VAE.pth"))


def test_the_published_architecture_has_its_published_scaling() -> None:
    spec = encoder.spec_of("wan2.2")
    assert (spec.latent_channels, spec.temporal_ratio, spec.spatial_ratio) == (48, 4, 16)
    assert spec.scaling is not None
    assert spec.scaling["shape"] == [48, 1, 1, 1]
