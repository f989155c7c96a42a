"""The encoders of LTX-Video and LTX-2 against diffusers' with the same random weights, and their causality."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLLTX2Video, AutoencoderKLLTXVideo
from safetensors.torch import load_file, save_file
from support.encoders import Pair, error_in_chunks, error_of, frame_counts, moments_of, pair_of, relative_error, video

import encoder
from encoder.weights import WeightsError

DECODER = {"decoder_block_out_channels": (8, 8, 8), "decoder_layers_per_block": (1, 1, 1, 1)}
LTX2: dict[str, Any] = {
    "block_out_channels": (16, 32, 64, 64),
    "layers_per_block": (2, 1, 1, 1, 2),
    "latent_channels": 8,
    "spatial_compression_ratio": 32,
    "temporal_compression_ratio": 8,
    **DECODER,
}
LTX095: dict[str, Any] = {
    "block_out_channels": (8, 16, 32, 64, 64),
    "down_block_types": ("LTXVideo095DownBlock3D",) * 4,
    "layers_per_block": (1, 2, 1, 1, 1),
    "spatio_temporal_scaling": (True,) * 4,
    "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
    "latent_channels": 8,
    "decoder_block_out_channels": (8, 8, 8),
    "decoder_layers_per_block": (1, 1, 1, 1),
    "decoder_spatio_temporal_scaling": (True, True, True),
    "decoder_inject_noise": (False,) * 4,
    "upsample_residual": (True,) * 3,
    "upsample_factor": (2,) * 3,
    "timestep_conditioning": True,
}
LTX090: dict[str, Any] = {
    "block_out_channels": (8, 16, 24, 24),
    "layers_per_block": (2, 1, 1, 1, 1),
    "decoder_block_out_channels": (8, 8, 8, 8),
    "decoder_layers_per_block": (1, 1, 1, 1, 1),
    "latent_channels": 8,
}
KINDS = {
    "2": (AutoencoderKLLTX2Video, LTX2),
    "0.9.5": (AutoencoderKLLTXVideo, LTX095),
    "0.9.0": (AutoencoderKLLTXVideo, LTX090),
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    made = {}
    for kind, (vae, config) in KINDS.items():
        theirs, _ = made[kind] = pair_of(vae, config, "ltx", folder := tmp_path_factory.mktemp("ltx"))
        theirs.latents_mean += 0.25
        theirs.latents_std *= 2
        theirs.save_pretrained(folder)
        made[kind] = (theirs, encoder.load("ltx", weights=str(folder)))
    return made


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    return video(1, 97, 32, 64)


@pytest.fixture(scope="module")
def expected(pairs: dict[str, Pair], clip: torch.Tensor) -> dict[str, torch.Tensor]:
    """diffusers' latents of the clip, which begin with those of fewer frames."""
    return {kind: moments_of(theirs, clip) for kind, (theirs, _) in pairs.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frames", frame_counts(8))
def test_every_legal_frame_count_equals_diffusers(
    pairs: dict[str, Pair], clip: torch.Tensor, expected: dict[str, torch.Tensor], kind: str, frames: int
) -> None:
    posterior = pairs[kind][1].encode(clip[:, :, :frames])
    assert error_of(posterior, expected[kind][:, :, : 1 + frames // 8]) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("batch", "height_px", "width_px"), [(2, 32, 32), (1, 96, 160), (2, 64, 96)])
def test_batches_and_odd_pictures_equal_diffusers(
    pairs: dict[str, Pair], kind: str, batch: int, height_px: int, width_px: int
) -> None:
    assert relative_error(pairs[kind], video(batch, 9, height_px, width_px)) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_any_chunks_give_the_same_latents(pairs: dict[str, Pair], kind: str) -> None:
    clip, ours = video(1, 25, 32, 64), pairs[kind][1]
    whole = ours.encode(clip)
    errors = {cuts: error_in_chunks(ours, clip, cuts, whole) for cuts in ((), (1,), (17,), (9, 17))}
    assert all(error < 1e-5 for error in errors.values()), errors


@pytest.mark.parametrize("kind", KINDS)
def test_no_latent_sees_a_later_frame_and_the_first_frame_alone_is_the_first_latent(
    pairs: dict[str, Pair], kind: str
) -> None:
    clip, other, ours = video(1, 25, 32, 64), video(1, 25, 32, 64), pairs[kind][1]
    other[:, :, 17:] = -other[:, :, 17:]
    one, two = ours.encode(clip), ours.encode(other)
    assert torch.equal(one.mean[:, :, :3], two.mean[:, :, :3])
    assert not torch.equal(one.mean[:, :, 3:], two.mean[:, :, 3:])
    assert torch.equal(ours.encode_image(clip).mean, one.mean[:, :, :1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_begins_at_the_receptive_field_has_the_same_bits(pairs: dict[str, Pair], kind: str) -> None:
    ours = pairs[kind][1]
    field = ours.receptive_field
    assert field is not None
    frames = 1 + 8 * -(-(field.warm_up_frames + 8) // 8)
    clip = video(1, frames, 32, 32)
    begin = field.begin(frames - 1, field.plan(frames))
    assert begin > 0
    whole, late = ours.encode(clip), ours.encode(clip[:, :, begin:])
    assert torch.equal(whole.mean[:, :, -1], late.mean[:, :, -1])


@pytest.mark.parametrize("kind", KINDS)
def test_scaling_is_that_of_the_tensors(pairs: dict[str, Pair], kind: str) -> None:
    spec = pairs[kind][1].spec
    assert (spec.temporal_ratio, spec.spatial_ratio) == (8, 32)
    assert spec.scaling is not None
    assert (spec.scaling["shift"], spec.scaling["scale"]) == ([0.25] * 8, [0.5] * 8)


def original_tensors(kind: str, folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a diffusers folder in the layout of LTX's own files, with those of an audio encoder."""
    numbers = {"0.9.0": {"0": 0, "1": 3, "2": 6, "3": 8}}.get(kind, {"0": 0, "1": 2, "2": 4, "3": 6})
    middle = 9 if kind == "0.9.0" else 8
    tensors = {}
    for name, tensor in load_file(folder / "diffusion_pytorch_model.safetensors").items():
        if found := re.match(r"encoder\.down_blocks\.(\d)\.(\w+)\.", name):
            number, rest = numbers[found[1]], name[found.end() :]
            change = "" if kind != "0.9.0" else f"encoder.down_blocks.{number + 2}.{rest}"
            name = {
                "resnets": f"encoder.down_blocks.{number}.res_blocks.{rest}",
                "downsamplers": f"encoder.down_blocks.{number + 1}.{rest.removeprefix('0.')}",
                "conv_out": change,
            }[found[2]]
        name = name.replace("encoder.mid_block.resnets", f"encoder.down_blocks.{middle}.res_blocks")
        statistics = "per_channel_statistics."
        name = name.replace("latents_mean", f"{statistics}mean-of-means")
        name = name.replace("latents_std", f"{statistics}std-of-means").replace("norm3.", "norm3.norm.")
        tensors[f"vae.{name}"] = tensor
    audio = {
        "audio_vae.encoder.conv_in.conv.weight": torch.zeros(2, 2, 3, 3),
        "vae.per_channel_statistics.channel": torch.zeros(1),
    }
    return tensors | audio


@pytest.mark.parametrize("kind", KINDS)
def test_the_original_all_in_one_file_is_the_same_weights_and_scaling(
    pairs: dict[str, Pair], kind: str, tmp_path: Path
) -> None:
    pairs[kind][0].save_pretrained(tmp_path)
    save_file(original_tensors(kind, tmp_path), tmp_path / "ltx.safetensors")
    loaded = encoder.load("ltx", weights=str(tmp_path / "ltx.safetensors"))
    assert loaded.weights_sha256 == pairs[kind][1].weights_sha256
    assert loaded.spec.scaling == pairs[kind][1].spec.scaling
    assert loaded.engine.model.params == pairs[kind][1].engine.model.params  # type: ignore[attr-defined]
    with pytest.raises(WeightsError, match=r"the weights of 'ltx', .* use encoder\.name: ltx"):
        encoder.load("wan", weights=str(tmp_path / "ltx.safetensors"))


def test_an_encoder_that_sees_later_frames_is_refused(tmp_path: Path) -> None:
    AutoencoderKLLTX2Video(**LTX2, encoder_causal=False).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="encoder_causal is False, and only True is supported"):
        encoder.load("ltx", weights=str(tmp_path))
