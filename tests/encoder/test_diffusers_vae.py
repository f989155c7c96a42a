"""VAEs run by diffusers behind our interface: each kind, tiny, with random weights."""

import json
from pathlib import Path

import pytest
import torch
from support.encoders import save

import encoder
from encoder import video_encoder
from encoder.diffusers_vae import CLASSES
from encoder.video_encoder import ClipMemoryError
from encoder.weights import WeightsError

RATIOS = {  # temporal, spatial
    "AutoencoderKLCogVideoX": (4, 8),
    "AutoencoderKLWan": (4, 8),
    "AutoencoderKLHunyuanVideo": (4, 8),
    "AutoencoderKLLTXVideo": (8, 32),
    "AutoencoderKLMochi": (6, 8),
    "AutoencoderKLCosmos": (8, 8),
    "AutoencoderKLHunyuanVideo15": (4, 16),
    "AutoencoderKLLTX2Video": (8, 32),
    "AutoencoderKLMagvit": (4, 8),
}
OTHER_MEMORY_ORDER = ("AutoencoderKLHunyuanVideo15", "AutoencoderKLLTX2Video")  # than in diffusers: last bits differ


def video(frames: int) -> torch.Tensor:
    return torch.rand(1, 3, frames, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("class_name", CLASSES)
def test_every_class_gives_what_diffusers_gives_and_says_its_shapes(class_name: str, tmp_path: Path) -> None:
    theirs = save(class_name, tmp_path)
    ours = encoder.load("diffusers", weights=str(tmp_path))
    assert (ours.spec.temporal_ratio, ours.spec.spatial_ratio) == RATIOS[class_name]
    frames = 1 + 2 * ours.spec.temporal_ratio
    with torch.no_grad():
        expected = theirs.encode(video(frames)).latent_dist
    posterior = ours.encode(video(frames))
    atol = 1e-5 if class_name in OTHER_MEMORY_ORDER else 0
    torch.testing.assert_close(posterior.mean, expected.mode(), rtol=0, atol=atol)
    assert posterior.mean.shape == posterior.logvar.shape == (1, *ours.spec.latent_shape(frames, 64, 96))
    assert json.loads(json.dumps(ours.identity))["class"] == class_name


def test_scaling_is_recorded_from_config_or_checkpoint(tmp_path: Path) -> None:
    for class_name in CLASSES:
        save(class_name, tmp_path / class_name)
    specs = {name: encoder.load("diffusers", weights=str(tmp_path / name)).spec for name in CLASSES}
    assert specs["AutoencoderKLCogVideoX"].scaling_factor == 1.15258426
    assert specs["AutoencoderKLHunyuanVideo"].scaling_factor == 0.476986
    assert specs["AutoencoderKLWan"].latents_mean == encoder.spec_of("wan").latents_mean
    assert specs["AutoencoderKLWan"].latents_std == encoder.spec_of("wan").latents_std
    assert specs["AutoencoderKLLTXVideo"].latents_std == (1.0,) * 8
    assert len(specs["AutoencoderKLMochi"].latents_mean or ()) == 12
    per_channel = ", latents_mean and latents_std as (-1, 1, 1, 1)"
    assert specs["AutoencoderKLWan"].scaling_formula == "(z - latents_mean) / latents_std" + per_channel
    for name in ("AutoencoderKLLTXVideo", "AutoencoderKLLTX2Video", "AutoencoderKLMochi"):
        assert specs[name].scaling_formula == "(z - latents_mean) * scaling_factor / latents_std" + per_channel
    assert "sigma_data" in (specs["AutoencoderKLCosmos"].scaling_formula or "")
    for name in ("CogVideoX", "HunyuanVideo", "HunyuanVideo15", "Magvit"):
        assert specs[f"AutoencoderKL{name}"].scaling_formula == "z * scaling_factor"


def test_clips_go_one_by_one_where_diffusers_takes_no_batch(tmp_path: Path) -> None:
    save("AutoencoderKLHunyuanVideo15", tmp_path)
    ours = encoder.load("diffusers", weights=str(tmp_path))
    both = torch.cat((video(5), -video(5)))
    assert torch.equal(ours.encode(both).mean[1:], ours.encode(-video(5)).mean)


def test_a_config_whose_ratios_are_not_those_of_the_model_is_refused(tmp_path: Path) -> None:
    save("AutoencoderKLLTX2Video", tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"spatial_compression_ratio": 64}))
    with pytest.raises(WeightsError, match=r"ratios of 8 in time and 64 in space.* but the model gives"):
        encoder.load("diffusers", weights=str(tmp_path))


def test_a_vae_without_variance_gives_the_least_log_variance(tmp_path: Path) -> None:
    save("AutoencoderKLCosmos", tmp_path)
    assert encoder.load("diffusers", weights=str(tmp_path)).encode(video(9)).logvar.unique().tolist() == [-30.0]


def test_illegal_frame_counts_are_refused_with_the_rule_of_the_vae(tmp_path: Path) -> None:
    save("AutoencoderKLMochi", tmp_path)
    with pytest.raises(ValueError, match=r"cannot encode 8 frames: a legal count is 1 \+ 6k, such as 7 or 13"):
        encoder.load("diffusers", weights=str(tmp_path)).encode(video(8))


def test_a_clip_goes_in_whole_so_its_memory_is_computed_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("AutoencoderKLHunyuanVideo", tmp_path)
    ours = encoder.load("diffusers", weights=str(tmp_path))
    assert not ours.streams
    assert ours.encode_bytes(9, 64, 96) > 3 * 9 * 64 * 96 * 4
    monkeypatch.setattr(video_encoder, "available_bytes", lambda device: 10**6)
    with pytest.raises(ClipMemoryError, match="must be encoded whole"):
        ours.encode(video(9))


def test_the_decoder_is_neither_read_nor_part_of_the_identity(tmp_path: Path) -> None:
    vae = save("AutoencoderKLWan", tmp_path)
    before = encoder.load("diffusers", weights=str(tmp_path)).weights_sha256
    for parameter in vae.decoder.parameters():
        parameter.data += 1
    vae.save_pretrained(tmp_path)
    assert encoder.load("diffusers", weights=str(tmp_path)).weights_sha256 == before
    for parameter in vae.encoder.parameters():
        parameter.data += 1
    vae.save_pretrained(tmp_path)
    assert encoder.load("diffusers", weights=str(tmp_path)).weights_sha256 != before


def test_streams_collect_the_clip(tmp_path: Path) -> None:
    save("AutoencoderKLWan", tmp_path)
    ours = encoder.load("diffusers", weights=str(tmp_path))
    stream = ours.stream(9)
    assert stream.push(video(9)[:, :, :4]) is None
    last = stream.push(video(9)[:, :, 4:])
    assert last is not None
    assert torch.equal(last.mean, ours.encode(video(9)).mean)


def test_options_of_native_encoders_and_other_models_are_refused(tmp_path: Path) -> None:
    save("AutoencoderKLWan", tmp_path)
    with pytest.raises(ValueError, match="as diffusers does: leave out chunk_frames 4, norm_scope clip"):
        encoder.load("diffusers", weights=str(tmp_path), norm_scope="clip", chunk_frames=4)
    with pytest.raises(WeightsError, match="random:0 is not a folder: give a diffusers VAE folder"):
        encoder.load("diffusers", weights="random:0")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": "AutoencoderTiny"}))
    with pytest.raises(WeightsError, match="contains a AutoencoderTiny, but it must be one of: AutoencoderKLCogVideoX"):
        encoder.load("diffusers", weights=str(tmp_path))


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    save("AutoencoderKLWan", tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_res_blocks": 2}))
    with pytest.raises(WeightsError, match="missing: encoder"):
        encoder.load("diffusers", weights=str(tmp_path))
