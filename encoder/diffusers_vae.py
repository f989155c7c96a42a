"""VAEs as diffusers runs them, behind the interface of the native encoders (`encoder.name: diffusers`).

Clips are encoded whole, as diffusers' `encode` requires; `VideoEncoder.encode_bytes` gives the memory. On a CPU another
number of threads may change the last bits.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from encoder.loading import Kind, Options, assemble
from encoder.models.layouts import Layout
from encoder.spec import DIFFUSERS, LatentSpec
from encoder.video_encoder import VideoEncoder
from encoder.weights import SCALING_FIELDS, WeightsError, assign, read_config, read_tensors

CLASSES = (
    "AutoencoderKLCogVideoX",
    "AutoencoderKLWan",
    "AutoencoderKLHunyuanVideo",
    "AutoencoderKLHunyuanVideo15",
    "AutoencoderKLLTXVideo",
    "AutoencoderKLLTX2Video",
    "AutoencoderKLMochi",
    "AutoencoderKLCosmos",
    "AutoencoderKLMagvit",
)
ONE_CLIP = ("AutoencoderKLHunyuanVideo15",)  # diffusers' attention mask fits one clip only
PLANS = {"AutoencoderKLHunyuanVideo": "tiles 17/12"}  # over 16 frames: tiles of 17 frames, one every 12
DECODER, ENCODER = ("decoder", "post_quant_conv"), ("encoder", "quant_conv")
FIXED = {"chunk_frames": 8, "norm_scope": "chunk", "chunk_plan": "diffusers"}


@dataclass(frozen=True, slots=True)
class DiffusersEngine:
    """An engine that passes whole clips to a diffusers VAE."""

    model: nn.Module
    streams: ClassVar[bool] = False

    def plan(self, frames: int) -> tuple[int, ...]:
        return (frames,)

    def encode_chunk(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        clips = torch.split(x, 1) if type(self.model).__name__ in ONE_CLIP else (x,)
        moments = [self.model.encode(clip).latent_dist.parameters for clip in clips]  # type: ignore[operator]
        return torch.cat(moments) if len(moments) > 1 else moments[0], None


def load_diffusers(weights: str, options: Options) -> VideoEncoder:
    """The encoder of a diffusers VAE folder, whose config.json names one of `CLASSES`.

    Raises:
        ValueError: an option that only native encoders support.
        WeightsError: the folder is missing, its class is unknown, its weights do not fit, or diffusers is missing.
    """
    config = vae_config(weights)
    options.check(temporal_ratio=1)
    changed = [f"{key} {getattr(options, key)}" for key, value in FIXED.items() if getattr(options, key) != value]
    if changed:
        raise ValueError(f"encoder {DIFFUSERS!r} runs a VAE as diffusers does: leave out {', '.join(changed)}")
    model = build_half(config, without=DECODER)
    sha256 = assign(model, half_tensors(weights, without=DECODER), weights)
    choices = {
        "class": config["_class_name"],
        "diffusers": _diffusers().__version__,
        "chunk_plan": PLANS.get(config["_class_name"], "whole"),
    }
    kind = Kind(lambda: build_half(config, without=DECODER), DiffusersEngine, choices)
    spec = spec_of_vae(model)
    check_ratios(spec, config, weights)
    return assemble(spec, model, sha256, kind, options)


@torch.inference_mode()
def check_ratios(spec: LatentSpec, config: dict[str, Any], weights: str) -> None:
    """Raises WeightsError if the model's latents, computed without data, have another shape than the spec's."""
    with torch.device("meta"):
        model = build_half(config, without=DECODER).to("meta")
        clip = torch.empty(1, 3, 1 + spec.temporal_ratio, 2 * spec.spatial_ratio, 2 * spec.spatial_ratio)
    moments, _ = DiffusersEngine(model).encode_chunk(clip, None)
    found, expected = tuple(moments.shape[2:]), spec.latent_shape(*clip.shape[2:])[1:]
    if found != expected:
        raise WeightsError(
            f"{weights}: its config gives ratios of {spec.temporal_ratio} in time and {spec.spatial_ratio} in space, "
            f"with which {tuple(clip.shape[2:])} pixels give a latent of {expected}, but the model gives {found}: "
            "state temporal_compression_ratio and spatial_compression_ratio in config.json"
        )


def spec_of_vae(model: Any) -> LatentSpec:
    """The spec of a diffusers VAE, from its config, computed attributes and buffers."""
    known = dict(model.config) | vars(model) | dict(model.named_buffers())
    spatial = known.get("spatial_compression_ratio") or 2 ** (len(known["block_out_channels"]) - 1)
    temporal = known.get("temporal_compression_ratio") or known["scale_factor_temporal"]
    scaling = {key: _plain(known[key]) for key in SCALING_FIELDS if known.get(key) is not None}
    return LatentSpec(DIFFUSERS, known.get("latent_channels") or known["z_dim"], int(temporal), int(spatial), **scaling)


def _plain(value: Any) -> Any:
    """A scaling value as a number or a tuple of them."""
    if isinstance(value, Tensor):
        value = value.tolist()
    return tuple(value) if isinstance(value, list | tuple) else value


def vae_config(weights: str) -> dict[str, Any]:
    """The config.json of a diffusers VAE folder. Raises WeightsError if it names none of `CLASSES`."""
    path = Path(weights)
    if not path.is_dir():
        raise WeightsError(f"{weights} is not a folder: give a diffusers VAE folder")
    config = read_config(path)
    if config["_class_name"] not in CLASSES:
        raise WeightsError(f"{weights} contains a {config['_class_name']}, but it must be one of: {', '.join(CLASSES)}")
    return config


def build_half(config: dict[str, Any], without: tuple[str, ...]) -> nn.Module:
    """The VAE of a config without its decoder, or without its encoder."""
    model: nn.Module = getattr(_diffusers(), config["_class_name"]).from_config(config).eval()
    for part in without:
        setattr(model, part, None)
    return model


def half_tensors(weights: str, without: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors of a diffusers VAE folder that belong to the half that is built."""
    return read_tensors(Path(weights), Layout("", {}, (), (), tuple(f"{part}." for part in without)))


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError:
        raise WeightsError(f"{DIFFUSERS} VAEs need the diffusers package: pip install diffusers") from None
    return diffusers
