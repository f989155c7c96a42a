"""Small encoders."""

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

import encoder
from encoder.video_encoder import Posterior, VideoEncoder

IS_SOAK = "LATENTMILL_SOAK" in os.environ
ENCODERS: list[tuple[str, dict[str, Any]]] = [
    ("tiny", {"norm_scope": "frame"}),
    ("tiny", {"norm_scope": "chunk"}),
    ("tiny", {"norm_scope": "chunk", "chunk_frames": 4}),
    ("tiny", {"norm_scope": "chunk", "chunk_plan": "even"}),
    ("tiny", {"norm_scope": "frame", "tiles": (16, 16, 8, 8)}),
    ("wan", {}),
]
TINY: dict[str, dict[str, Any]] = {
    "AutoencoderKLCogVideoX": {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4},
    "AutoencoderKLWan": {"base_dim": 4, "num_res_blocks": 1},
    "AutoencoderKLHunyuanVideo": {
        "block_out_channels": (8, 8, 8, 8),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "latent_channels": 4,
    },
    "AutoencoderKLLTXVideo": {
        "block_out_channels": (8, 8, 8, 8),
        "decoder_block_out_channels": (8, 8, 8, 8),
        "layers_per_block": (1, 1, 1, 1, 1),
        "decoder_layers_per_block": (1, 1, 1, 1, 1),
        "latent_channels": 8,
    },
    "AutoencoderKLMochi": {
        "encoder_block_out_channels": (32, 32, 32, 32),
        "decoder_block_out_channels": (32, 32, 32, 32),
        "layers_per_block": (1, 1, 1, 1, 1),
    },
    "AutoencoderKLCosmos": {
        "encoder_block_out_channels": (8, 8, 8, 8),
        "decode_block_out_channels": (8, 8, 8, 8),
        "num_layers": 1,
        "latent_channels": 4,
        "attention_resolutions": (),
    },
    "AutoencoderKLHunyuanVideo15": {
        "block_out_channels": (8, 8, 16, 16, 16),
        "layers_per_block": 1,
        "latent_channels": 8,
    },
    "AutoencoderKLLTX2Video": {
        "block_out_channels": (8, 16, 32, 32),
        "decoder_block_out_channels": (8, 16, 32),
        "layers_per_block": (1, 1, 1, 1, 1),
        "decoder_layers_per_block": (1, 1, 1, 1),
        "latent_channels": 8,
        "spatial_compression_ratio": 32,
        "temporal_compression_ratio": 8,
    },
    "AutoencoderKLQwenImage": {"base_dim": 4, "num_res_blocks": 1},
    "AutoencoderKLKVAEVideo": {"ch": 32, "ch_mult": (1, 1, 1, 1), "num_res_blocks": 1, "z_channels": 4},
    "Kandinsky6SRVAE": {
        "encoder_block_out_channels": (8, 16, 32, 64, 128),
        "decoder_block_out_channels": (8, 16, 32, 64, 128),
        "layers_per_block": 1,
        "latent_channels": 4,
    },
    "AutoencoderKLMagvit": {
        "block_out_channels": (8, 8, 16, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "latent_channels": 4,
    },
}


def save(class_name: str, folder: Path, **config: Any) -> Any:
    """A tiny VAE of random weights, saved in `folder`."""
    torch.manual_seed(1)
    vae = getattr(diffusers, class_name)(**(TINY[class_name] | config)).eval()
    vae.save_pretrained(folder)
    return vae


Pair = tuple[Any, VideoEncoder]


def pair_of(kind: Any, config: dict[str, Any], name: str, folder: Path, **options: Any) -> Pair:
    """A diffusers VAE of random weights, norms included, and our encoder `name` read from its folder."""
    torch.manual_seed(11)
    theirs = kind(**config).eval()
    for parameter in theirs.parameters():
        if parameter.ndim == 1 or sum(side > 1 for side in parameter.shape) == 1:
            parameter.data += torch.randn_like(parameter) * 0.2
    theirs.save_pretrained(folder)
    return theirs, encoder.load(name, weights=str(folder), **options)


def video(batch: int, frames: int, height_px: int, width_px: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, frames, height_px, width_px, generator=generator) * 2 - 1


@contextmanager
def unchecked_memory() -> Iterator[None]:
    """Clips are encoded without a look at the memory that they need, which takes ten times as long for small ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VideoEncoder, "check_clip", lambda *_: None)
        yield


def frame_counts(step: int) -> list[int]:
    """Frame counts from 1 to 97; only in soaks those between 49 and 97, where chunks go on as the ones before."""
    return [frames for frames in range(1, 98, step) if IS_SOAK or frames <= 49 or frames == 97]


@torch.no_grad()
def moments_of(theirs: Any, clip: Tensor) -> Tensor:
    """The moments that a diffusers VAE gives a clip."""
    moments: Tensor = theirs.encode(clip).latent_dist.parameters
    return moments


def error_of(posterior: Posterior, expected: Tensor) -> float:
    """The largest error of our moments over the largest value of those expected."""
    moments = torch.cat([posterior.mean, posterior.logvar], 1)
    assert moments.shape == expected.shape
    return float((moments - expected).abs().max() / expected.abs().max())


def relative_error(pair: Pair, clip: Tensor) -> float:
    """The largest error of our moments over the largest value of diffusers'."""
    theirs, ours = pair
    return error_of(ours.encode(clip), moments_of(theirs, clip))


def error_in_chunks(ours: VideoEncoder, clip: Tensor, cuts: Sequence[int], whole: Posterior) -> float:
    """The error of moments made in chunks cut at these frames, beside what the encoder makes of the clip itself."""
    model = ours.engine.model  # type: ignore[attr-defined]
    state, parts = None, []
    with torch.inference_mode():
        for begin, end in itertools.pairwise((0, *cuts, clip.shape[2])):
            moments, state = model(clip[:, :, begin:end], state)
            parts.append(moments)
    return error_of(whole, torch.cat(parts, 2))


def wan_name(name: str) -> str:
    """The name of a diffusers tensor in the layout that Wan 2.1 was published in."""
    for theirs, original in (
        ("encoder.conv_in", "encoder.conv1"),
        ("encoder.down_blocks", "encoder.downsamples"),
        ("encoder.mid_block.resnets.0", "encoder.middle.0"),
        ("encoder.mid_block.attentions.0", "encoder.middle.1"),
        ("encoder.mid_block.resnets.1", "encoder.middle.2"),
        ("encoder.norm_out", "encoder.head.0"),
        ("encoder.conv_out", "encoder.head.2"),
        ("post_quant_conv", "conv2"),
        ("quant_conv", "conv1"),
    ):
        if name.startswith(theirs):
            name = name.replace(theirs, original)
    if "downsamples" in name or "middle.0" in name or "middle.2" in name:
        for theirs, original in (("norm1", "0"), ("conv1", "2"), ("norm2", "3"), ("conv2", "6")):
            name = name.replace(f".{theirs}.", f".residual.{original}.")
    return name.replace("conv_shortcut", "shortcut")
