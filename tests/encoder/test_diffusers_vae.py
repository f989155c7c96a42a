"""VAEs run by diffusers behind our interface: each kind, tiny, with random weights."""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.encoders import TINY, Pair, relative_error, save
from support.encoders import video as made_video

import encoder
from encoder import diffusers_vae, video_encoder
from encoder.diffusers_vae import CACHING, CLASSES, DECODER, REFUSED
from encoder.video_encoder import ClipMemoryError, joined
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
    "AutoencoderKLQwenImage": (4, 8),
    "AutoencoderKLKVAEVideo": (4, 8),
    "Kandinsky6SRVAE": (4, 16),
}
EXACT = ("AutoencoderKLCogVideoX", "AutoencoderKLWan", "AutoencoderKLHunyuanVideo", "AutoencoderKLMochi")


def video(frames: int, height_px: int = 16, width_px: int = 32) -> torch.Tensor:
    return made_video(1, frames, height_px, width_px)


@cache
def pair(class_name: str) -> Pair:
    """A VAE of this class and our encoder of it, which no test changes."""
    with TemporaryDirectory() as folder:
        return save(class_name, Path(folder)), encoder.load("diffusers", weights=folder)


@pytest.mark.parametrize("class_name", CLASSES)
def test_every_class_gives_what_diffusers_gives_and_says_its_shapes(class_name: str) -> None:
    theirs, ours = pair(class_name)
    assert (ours.spec.temporal_ratio, ours.spec.spatial_ratio) == RATIOS[class_name]
    clip = video(1 + 2 * ours.spec.temporal_ratio, 32, 64)  # the last bits of smaller pictures may differ
    with torch.no_grad():
        expected = theirs.encode(clip).latent_dist
    posterior = ours.encode(clip)
    atol = 0 if class_name in EXACT else 1e-5  # memory order may change the last bits
    torch.testing.assert_close(posterior.mean, expected.mode(), rtol=0, atol=atol)
    assert posterior.mean.shape == posterior.logvar.shape == (1, *ours.spec.latent_shape(*clip.shape[2:]))
    assert json.loads(json.dumps(ours.identity))["class"] == class_name


def test_what_diffusers_makes_when_it_imports_a_class_has_values(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    class Importing:
        """As diffusers, whose class for Cosmos makes tensors when its module is imported."""

        def __getattr__(self, name: str) -> Any:
            made.append(torch.zeros(1).device.type)
            return getattr(diffusers, name)

    monkeypatch.setattr(diffusers_vae, "_diffusers", Importing)
    with torch.device("meta"):
        half = diffusers_vae.build_half({"_class_name": "AutoencoderKLWan", **TINY["AutoencoderKLWan"]}, DECODER)
    assert next(half.parameters()).is_meta
    assert made == ["cpu"]


def test_scaling_is_recorded_from_config_or_checkpoint() -> None:
    specs = {name: pair(name)[1].spec for name in CLASSES}
    assert specs["AutoencoderKLCogVideoX"].scaling_factor == 1.15258426
    assert specs["AutoencoderKLHunyuanVideo"].scaling_factor == 0.476986
    assert specs["AutoencoderKLWan"].latents_mean == encoder.spec_of("wan").latents_mean
    assert specs["AutoencoderKLWan"].latents_std == encoder.spec_of("wan").latents_std
    assert specs["AutoencoderKLLTXVideo"].latents_std == (1.0,) * 8
    assert len(specs["AutoencoderKLMochi"].latents_mean or ()) == 12
    assert specs["AutoencoderKLWan"].scaling_formula == "(z - latents_mean) / latents_std"
    for name in ("AutoencoderKLLTXVideo", "AutoencoderKLLTX2Video", "AutoencoderKLMochi"):
        assert specs[name].scaling_formula == "(z - latents_mean) * scaling_factor / latents_std"
    assert "* sigma_data / latents_std" in (specs["AutoencoderKLCosmos"].scaling_formula or "")
    for name in ("CogVideoX", "HunyuanVideo", "HunyuanVideo15", "Magvit"):
        assert specs[f"AutoencoderKL{name}"].scaling_formula == "z * scaling_factor"


def test_clips_go_one_by_one_where_diffusers_takes_no_batch() -> None:
    ours = pair("AutoencoderKLHunyuanVideo15")[1]
    both = torch.cat((video(5), -video(5)))
    assert torch.equal(ours.encode(both).mean[1:], ours.encode(-video(5)).mean)


def test_a_config_whose_ratios_are_not_those_of_the_model_is_refused(tmp_path: Path) -> None:
    save("AutoencoderKLLTX2Video", tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"spatial_compression_ratio": 64}))
    with pytest.raises(WeightsError, match=r"ratios of 8 in time and 64 in space.* but the model gives"):
        encoder.load("diffusers", weights=str(tmp_path))


def test_a_vae_without_variance_gives_the_least_log_variance() -> None:
    assert pair("AutoencoderKLCosmos")[1].encode(video(9)).logvar.unique().tolist() == [-30.0]


def test_illegal_frame_counts_are_refused_with_the_rule_of_the_vae() -> None:
    with pytest.raises(ValueError, match=r"cannot encode 8 frames: a legal count is 1 \+ 6k, such as 7 or 13"):
        pair("AutoencoderKLMochi")[1].encode(video(8))


def test_a_clip_goes_in_whole_so_its_memory_is_computed_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = pair("AutoencoderKLMagvit")[1]
    assert not ours.streams
    assert ours.encode_bytes(9, 16, 32) > 3 * 9 * 16 * 32 * 4
    monkeypatch.setattr(video_encoder, "available_bytes", lambda device: 10**5)
    with pytest.raises(ClipMemoryError, match="must be encoded whole, or with what every frame leaves, which needs"):
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


@pytest.mark.slow
@pytest.mark.parametrize("class_name", CACHING)
def test_where_diffusers_takes_a_cache_clips_stream_and_memory_does_not_grow(class_name: str) -> None:
    theirs, ours = pair(class_name)
    assert ours.streams
    clip = torch.cat([video(5), -video(8), video(8), -video(8), video(8), -video(12)], 2)  # 49 frames
    stream, parts = ours.stream(49), []
    for frames in torch.split(clip, 7, dim=2):
        if (ready := stream.push(frames)) is not None:
            parts.append(ready)
    stream.finish()
    with torch.no_grad():
        expected = theirs.encode(clip).latent_dist.mode()
    torch.testing.assert_close(joined(parts).mean, expected, rtol=0, atol=1e-5)
    assert len(parts) > 1
    assert ours.encode_bytes(481, 16, 32) == ours.encode_bytes(97, 16, 32)  # 97 is 1 + 12k and 1 + 16k


@pytest.mark.parametrize("frames", range(13, 54, 4))
def test_hunyuan_video_is_cut_into_the_tiles_that_diffusers_blends(frames: int) -> None:
    hunyuan = pair("AutoencoderKLHunyuanVideo")
    assert relative_error(hunyuan, video(frames, 16, 24)) < 1e-6
    assert hunyuan[1].identity["chunk_plan"] == "tiles 17/12"


def test_a_vae_that_must_see_the_clip_whole_collects_it() -> None:
    ours = pair("AutoencoderKLMochi")[1]
    stream = ours.stream(7)
    assert stream.push(video(7)[:, :, :4]) is None
    last = stream.push(video(7)[:, :, 4:])
    assert last is not None
    assert torch.equal(last.mean, ours.encode(video(7)).mean)


def test_a_load_warns_of_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save("AutoencoderKLWan", tmp_path)
    encoder.load("diffusers", weights=str(tmp_path), dtype="bfloat16")
    encoder.load_decoder(str(tmp_path))
    assert not caplog.records


@pytest.mark.parametrize("class_name", REFUSED)
def test_classes_with_another_rule_are_refused_with_the_reason(class_name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": class_name}))
    with pytest.raises(WeightsError, match=f"contains a {class_name}, which .*: it is not supported"):
        encoder.load("diffusers", weights=str(tmp_path))


def test_a_file_with_a_config_beside_it_is_its_folder_and_one_without_is_answered_with_its_encoder(
    tmp_path: Path,
) -> None:
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    save("AutoencoderKLWan", tmp_path)
    folder, alone = (encoder.load("diffusers", weights=str(path)) for path in (tmp_path, file))
    assert folder.identity == alone.identity
    (tmp_path / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"is a file without a config: use encoder\.name: wan$"):
        encoder.load("diffusers", weights=str(file))
    save_file({"x": torch.zeros(1)}, file)
    with pytest.raises(WeightsError, match="without a config: give the folder of a diffusers VAE"):
        encoder.load("diffusers", weights=str(file))


def test_8_bit_weights_are_read(tmp_path: Path) -> None:
    vae = save("AutoencoderKLWan", tmp_path)
    tensors = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in vae.state_dict().items()}
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    posterior = encoder.load("diffusers", weights=str(tmp_path)).encode(video(5))
    assert posterior.mean.isfinite().all()


def test_a_decoder_that_also_removes_noise_decodes(tmp_path: Path) -> None:
    save("AutoencoderKLLTXVideo", tmp_path, timestep_conditioning=True)
    frames = encoder.load_decoder(str(tmp_path)).decode(np.zeros((8, 1, 2, 2), np.float32))
    assert frames.shape == (1, 64, 64, 3)


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
