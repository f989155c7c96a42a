"""VAEs as diffusers runs them, behind the interface of the native encoders (`encoder.name: diffusers`).

Clips are encoded whole, as diffusers' `encode` requires; `VideoEncoder.encode_bytes` gives the memory. On a CPU another
number of threads may change the last bits.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

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
    "AutoencoderKLLTXVideo",
    "AutoencoderKLMochi",
    "AutoencoderKLCosmos",
)
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
        moments: Tensor = self.model.encode(x).latent_dist.parameters  # type: ignore[operator]
        return moments, None


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
    choices = {"class": config["_class_name"], "diffusers": _diffusers().__version__, "chunk_plan": "whole"}
    kind = Kind(lambda: build_half(config, without=DECODER), DiffusersEngine, choices)
    return assemble(spec_of_vae(model), model, sha256, kind, options)


def spec_of_vae(model: Any) -> LatentSpec:
    """The spec of a diffusers VAE, from its config, computed attributes and buffers."""
    known = dict(model.config) | vars(model) | dict(model.named_buffers())
    spatial = known.get("spatial_compression_ratio") or 2 ** (len(known["block_out_channels"]) - 1)
    temporal = known.get("temporal_compression_ratio") or known["scale_factor_temporal"]
    scaling = {key: _plain(known.get(key)) for key in SCALING_FIELDS}
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
