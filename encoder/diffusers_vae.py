"""VAEs as diffusers runs them, behind the interface of the native encoders (`encoder.name: diffusers`).

Where diffusers' encoder takes its cache as an argument, clips are streamed in the chunks that diffusers itself cuts.
Others are encoded whole, as diffusers' `encode` requires; `VideoEncoder.encode_bytes` gives the memory. On a CPU
another number of threads may change the last bits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from encoder.checkpoints.known import native_of_tensors
from encoder.families import Kind, Options
from encoder.loading import assemble
from encoder.models.boxes import folded
from encoder.spec import DIFFUSERS, LatentSpec
from encoder.streaming.chunks import causal_plan, chunk_plan, segments_plan
from encoder.streaming.engines import Engine
from encoder.video_encoder import VideoEncoder
from encoder.weights import SCALING_FIELDS, WeightsError, assign, found_path, read_config, read_published

CLASSES = (
    "AutoencoderKLCogVideoX",
    "AutoencoderKLWan",
    "AutoencoderKLQwenImage",
    "AutoencoderKLHunyuanVideo",
    "AutoencoderKLHunyuanVideo15",
    "AutoencoderKLLTXVideo",
    "AutoencoderKLLTX2Video",
    "AutoencoderKLMochi",
    "AutoencoderKLCosmos",
    "AutoencoderKLMagvit",
    "AutoencoderKLKVAEVideo",
    "Kandinsky6SRVAE",
)
REFUSED = {
    "AutoencoderKLMiniMaxH3": "cuts videos into clips of 17 frames and drops the last 3 latents, so that its frame "
    "counts are not 1 + 4k",
    "AutoencoderKLAllegro": "encodes 24 + 16k frames, in blended tiles of 24x320x320 only, not 1 + 4k",
    "AutoencoderVidTok": "pads clips to whole chunks by a rule of its own",
    "AutoencoderKLTemporalDecoder": "encodes pictures",
    "AutoencoderKL": "encodes pictures",
    "AutoencoderDC": "encodes pictures",
    "AutoencoderKLQwenImage21": "encodes pictures with transparency",
}
TILE_OVERLAP_FRAMES = 5  # of HunyuanVideo
ONE_CLIP = ("AutoencoderKLHunyuanVideo15",)  # diffusers' attention mask fits one clip only
DECODER, ENCODER = ("decoder", "post_quant_conv"), ("encoder", "quant_conv")
SIGMA_DATA = {"AutoencoderKLCosmos": 0.5}  # of the published schedulers, which a VAE's folder does not contain
TEMPORAL_RATIO = ("temporal_compression_ratio", "scale_factor_temporal", "temporal_compress_times")
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


@dataclass(frozen=True, slots=True)
class CachingEngine:
    """An engine that passes chunks to the encoder of a diffusers VAE, with the cache that it takes as an argument."""

    model: nn.Module
    rule: "Caching"
    streams: ClassVar[bool] = True

    def plan(self, frames: int) -> tuple[int, ...]:
        return self.rule.plan(frames)

    def encode_chunk(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self.rule.encode(self.model, x, state)


@dataclass(frozen=True, slots=True)
class Caching:
    """How diffusers cuts the clips of a class, by what name that is recorded, and how one chunk is encoded."""

    name: str
    plan: Callable[[int], tuple[int, ...]]
    encode: Callable[[Any, Tensor, Any], tuple[Tensor, Any]]


def _encode_wan(model: Any, x: Tensor, cache: list[Any] | None) -> tuple[Tensor, list[Any]]:
    cache = [None] * model._cached_conv_counts["encoder"] if cache is None else cache
    folds = folded(x, getattr(model.config, "patch_size", None) or 1)
    return model.quant_conv(model.encoder(folds, feat_cache=cache, feat_idx=[0])), cache


def _encode_cogvideox(model: Any, x: Tensor, cache: Any) -> tuple[Tensor, Any]:
    moments, cache = model.encoder(x, conv_cache=cache)
    return (moments if model.quant_conv is None else model.quant_conv(moments)), cache


def _encode_kandinsky(model: Any, x: Tensor, cache: Any) -> tuple[Tensor, Any]:
    cache = model.encoder.make_cache() if cache is None else cache
    return model.encoder(x, cache), cache


def _encode_kvae(model: Any, x: Tensor, cache: Any) -> tuple[Tensor, Any]:
    """The mean alone: diffusers adds a log-variance of 0, which would be noise as large as the latents."""
    cache = model._make_encoder_cache() if cache is None else cache
    return model.encoder(x, cache).chunk(2, dim=1)[0], cache


def _encode_hunyuan(model: Any, x: Tensor, overlap: Tensor | None) -> tuple[Tensor, Tensor]:
    """A tile of 17 frames begins 12 frames after the one before, and nothing else is carried over.

    Of the 5 latents of a tile but the first, diffusers drops the first and takes the second from the tile before.
    """
    tile = x if overlap is None else torch.cat([overlap, x], 2)
    moments = model.quant_conv(model.encoder(tile))
    return (moments if overlap is None else moments[:, :, 2:]), tile[:, :, -TILE_OVERLAP_FRAMES:].clone()


def _segments(frames: int) -> tuple[int, ...]:
    return segments_plan(frames, 17, 16)


_WAN = Caching("causal", lambda frames: causal_plan(frames, 4), _encode_wan)
CACHING = {
    "AutoencoderKLWan": _WAN,
    "AutoencoderKLQwenImage": _WAN,
    "AutoencoderKLCogVideoX": Caching("diffusers", lambda frames: chunk_plan(frames, 8), _encode_cogvideox),
    "AutoencoderKLHunyuanVideo": Caching("tiles 17/12", lambda frames: segments_plan(frames, 17, 12), _encode_hunyuan),
    "Kandinsky6SRVAE": Caching("segments 17/16", _segments, _encode_kandinsky),
    "AutoencoderKLKVAEVideo": Caching("segments 17/16", _segments, _encode_kvae),
}


def load_diffusers(weights: str, options: Options) -> VideoEncoder:
    """The encoder of a diffusers VAE folder, or of the file in one, whose config.json names one of `CLASSES`.

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
    rule = CACHING.get(class_name := config["_class_name"])
    choices = {
        "class": class_name,
        "diffusers": _diffusers().__version__,
        "chunk_plan": "whole" if rule is None else rule.name,
    }
    kind = Kind(lambda: build_half(config, without=DECODER), engine_of, choices)
    spec = spec_of_vae(model)
    if options.scaling_factor is not None:
        raise ValueError("scaling_factor is set, but the folder of a VAE says how its latents are scaled: leave it out")
    check_ratios(spec, config, weights)
    return assemble(spec, model, sha256, kind, options)


def engine_of(model: Any) -> Engine:
    rule = CACHING.get(type(model).__name__)
    return DiffusersEngine(model) if rule is None else CachingEngine(model, rule)


@torch.inference_mode()
def check_ratios(spec: LatentSpec, config: dict[str, Any], weights: str) -> None:
    """Raises WeightsError if the model's latents, computed without data, have another shape than the spec's."""
    with torch.device("meta"):
        model = nn.Module.to(build_half(config, without=DECODER), "meta")
        clip = torch.empty(1, 3, 1 + spec.temporal_ratio, 2 * spec.spatial_ratio, 2 * spec.spatial_ratio)
    state, shapes, engine = None, [], engine_of(model)
    for chunk in torch.split(clip, list(engine.plan(clip.shape[2])), dim=2):
        moments, state = engine.encode_chunk(chunk, state)
        shapes.append(moments.shape[2:])
    found = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    expected = spec.latent_shape(*clip.shape[2:])[1:]
    if found != expected:
        raise WeightsError(
            f"{weights}: its config gives ratios of {spec.temporal_ratio} in time and {spec.spatial_ratio} in space, "
            f"with which {tuple(clip.shape[2:])} pixels give a latent of {expected}, but the model gives {found}: "
            "state temporal_compression_ratio and spatial_compression_ratio in config.json"
        )


def spec_of_vae(model: Any) -> LatentSpec:
    """The spec of a diffusers VAE, from its config, computed attributes and buffers."""
    known = dict(model.config) | vars(model) | dict(model.named_buffers())
    spatial = known.get("spatial_compression_ratio") or 2 ** (len(_levels(known)) - 1)
    temporal = _first(known, *TEMPORAL_RATIO) or 2 ** sum(known["temperal_downsample"])
    scaling = {key: _plain(known[key]) for key in SCALING_FIELDS if known.get(key) is not None}
    scaling["sigma_data"] = SIGMA_DATA.get(type(model).__name__)
    return LatentSpec(
        DIFFUSERS, _first(known, "latent_channels", "z_dim", "z_channels"), int(temporal), int(spatial), **scaling
    )


def _first(known: dict[str, Any], *keys: str) -> Any:
    """The value of the first key that has one; None if none has."""
    return next((known[key] for key in keys if known.get(key)), None)


def _levels(known: dict[str, Any]) -> Any:
    """A value for each level of the encoder."""
    return known.get("block_out_channels") or known["ch_mult"]


def _plain(value: Any) -> Any:
    """A scaling value as a number or a tuple of them."""
    if isinstance(value, Tensor):
        value = value.tolist()
    return tuple(value) if isinstance(value, list | tuple) else value


def vae_config(weights: str) -> dict[str, Any]:
    """The config.json of a diffusers VAE folder. Raises WeightsError if it names none of `CLASSES`."""
    if weights.startswith("random:"):
        raise WeightsError(f"{weights} is not a folder: give a diffusers VAE folder")
    config = read_config(path := found_path(weights))
    if not config:
        native = native_of_tensors(read_published(path))
        use = f"use encoder.name: {native}" if native else "give the folder of a diffusers VAE, with its config.json"
        raise WeightsError(f"{weights} is a file without a config: {use}")
    class_name = config["_class_name"]
    if why := REFUSED.get(class_name):
        raise WeightsError(f"{weights} contains a {class_name}, which {why}: it is not supported")
    if class_name not in CLASSES:
        raise WeightsError(f"{weights} contains a {class_name}, but it must be one of: {', '.join(CLASSES)}")
    return config


def build_half(config: dict[str, Any], without: tuple[str, ...]) -> nn.Module:
    """The VAE of a config without its decoder, or without its encoder."""
    with torch.device("cpu"):  # diffusers imports a class when it is asked for, and some make tensors then, for good
        class_ = getattr(_diffusers(), config["_class_name"])
    model: nn.Module = class_.from_config(config).eval()
    for part in without:
        setattr(model, part, nn.Module())  # some count the layers of both halves
    return model


def half_tensors(weights: str, without: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors of a diffusers VAE folder that belong to the half that is built."""
    foreign = tuple(f"{part}." for part in without)
    return {
        name: tensor for name, tensor in read_published(found_path(weights)).items() if not name.startswith(foreign)
    }


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError:
        raise WeightsError(f"{DIFFUSERS} VAEs need the diffusers package: pip install diffusers") from None
    return diffusers
