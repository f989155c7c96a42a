"""The encoder of HunyuanVideo 1.5 against diffusers' with the same random weights, and what it keeps of a clip."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo15
from safetensors.torch import load_file, save_file
from support.encoders import (
    IS_SOAK,
    Pair,
    error_in_chunks,
    error_of,
    moments_of,
    pair_of,
    relative_error,
    unchecked_memory,
    video,
)

import encoder
from encoder import video_encoder
from encoder.video_encoder import ClipMemoryError

CONFIG: dict[str, Any] = {"block_out_channels": (8, 8, 16, 32, 32), "layers_per_block": 1, "latent_channels": 8}


class OneByOne:
    """diffusers' VAE, whose attention takes no batch."""

    def __init__(self, vae: Any) -> None:
        self.vae = vae

    def encode(self, clips: torch.Tensor) -> Any:
        first, *others = (self.vae.encode(clip) for clip in clips.split(1))
        first.latent_dist.parameters = torch.cat([each.latent_dist.parameters for each in (first, *others)])
        return first


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    theirs, ours = pair_of(AutoencoderKLHunyuanVideo15, CONFIG, "hunyuan1.5", tmp_path_factory.mktemp("hunyuan15"))
    return OneByOne(theirs), ours


@pytest.mark.slow
@unchecked_memory()
def test_every_legal_frame_count_equals_diffusers(small: Pair) -> None:
    """diffusers' latents of a clip begin with those of fewer; of 97 frames it takes a minute: soaks have them."""
    longest = 97 if IS_SOAK else 49
    clip = video(1, longest, 16, 32)
    expected = moments_of(small[0], clip)
    for frames in range(1, longest + 1, 4):
        assert error_of(small[1].encode(clip[:, :, :frames]), expected[:, :, : 1 + frames // 4]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "height_px", "width_px"), [(2, 16, 16), (1, 48, 80), (2, 32, 48)])
def test_batches_and_odd_pictures_equal_diffusers(small: Pair, batch: int, height_px: int, width_px: int) -> None:
    assert relative_error(small, video(batch, 9, height_px, width_px)) < 1e-5


@unchecked_memory()
def test_any_chunks_give_the_same_latents(small: Pair) -> None:
    clip = video(2, 17, 16, 32)
    whole = small[1].encode(clip)
    errors = {cuts: error_in_chunks(small[1], clip, cuts, whole) for cuts in ((), (1,), (9,), (5, 13))}
    assert all(error < 1e-5 for error in errors.values()), errors


@unchecked_memory()
def test_no_latent_sees_a_later_frame_and_the_first_frame_alone_is_the_first_latent(small: Pair) -> None:
    clip, other = video(1, 17, 16, 32), video(1, 17, 16, 32)
    other[:, :, 9:] = -other[:, :, 9:]
    one, two = small[1].encode(clip), small[1].encode(other)
    assert torch.equal(one.mean[:, :, :3], two.mean[:, :, :3])
    assert not torch.equal(one.mean[:, :, 3:], two.mean[:, :, 3:])
    assert torch.equal(small[1].encode_image(clip).mean, one.mean[:, :, :1])


@unchecked_memory()
def test_tiles_equal_diffusers_tiled_encode(small: Pair, tmp_path: Path) -> None:
    vae = small[0].vae
    vae.save_pretrained(tmp_path)
    vae.enable_tiling(32, 32, 2, 2, 0.25)
    ours = encoder.load("hunyuan1.5", weights=str(tmp_path), tiles=(32, 32, 16, 16))
    try:
        vae.tile_overlap_factor = 0.5
        assert relative_error((small[0], ours), video(1, 5, 48, 64)) < 1e-5
    finally:
        vae.disable_tiling()


@pytest.mark.slow
def test_keys_and_values_are_kept_so_that_memory_grows_a_little_and_segments_are_refused(
    small: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = small[1]
    assert (ours.streams, ours.receptive_field) == (False, None)
    kept = 2 * 32 * (32 // 16) * (48 // 16) * 4  # keys and values of a latent frame, of 32 channels in float32
    grown = ours.encode_bytes(17, 32, 48) - ours.encode_bytes(9, 32, 48)
    assert 2 * kept <= grown <= 8 * kept
    monkeypatch.setattr(video_encoder, "available_bytes", lambda device: 10**5)
    with pytest.raises(ClipMemoryError, match="with what every frame leaves"):
        ours.encode(video(1, 9, 32, 48))


def original_name(name: str) -> str:
    for theirs, original in (
        ("down_blocks.", "down."),
        ("resnets.", "block."),
        ("downsamplers.0", "downsample"),
        ("conv_shortcut", "nin_shortcut"),
        ("mid_block.block.0", "mid.block_1"),
        ("mid_block.block.1", "mid.block_2"),
        ("mid_block.attentions.0", "mid.attn_1"),
        (".to_", "."),
    ):
        name = name.replace(theirs, original)
    return name


def test_the_original_file_is_the_same_weights(small: Pair, tmp_path: Path) -> None:
    small[0].vae.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    save_file({original_name(name): tensor for name, tensor in tensors.items()}, tmp_path / "hv15.safetensors")
    loaded = encoder.load("hunyuan1.5", weights=str(tmp_path / "hv15.safetensors"))
    assert loaded.weights_sha256 == small[1].weights_sha256
    assert loaded.engine.model.params == small[1].engine.model.params  # type: ignore[attr-defined]
    assert encoder.spec_of("hunyuan1.5").scaling_factor == 1.03682
