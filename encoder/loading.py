"""From a name and options to an encoder that is ready: model, weights, engine, device.

It does not encode, and it holds no model code.
"""

from dataclasses import asdict, replace
from typing import Any, cast, get_args

import torch
from torch import nn

from encoder.chunks import PLANS, check_chunk_frames
from encoder.cogvideox import PRESETS, Encoder
from encoder.engines import Causal, Engine, Streaming, WholeClip
from encoder.layers import NormScope
from encoder.layouts import cogvideox_layout
from encoder.replica import VideoEncoder
from encoder.spec import LatentSpec, spec_of
from encoder.tiles import Tiled, Tiles
from encoder.weights import assign, read_weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_video_encoder(
    name: str,
    weights: str,
    dtype: str,
    device: str,
    chunk_frames: int,
    norm_scope: str,
    chunk_plan: str,
    tiles: tuple[int, int, int, int] | None,
) -> VideoEncoder:
    """What `encoder.load` does; see there."""
    spec, params, where = spec_of(name), PRESETS[name], device_of(device)
    check_chunk_frames(chunk_frames, spec.temporal_ratio)
    _check_choice("dtype", dtype, tuple(DTYPES))
    _check_choice("norm_scope", norm_scope, get_args(NormScope))
    _check_choice("chunk_plan", chunk_plan, PLANS)
    with torch.device("meta"):
        module = Encoder(params, cast(NormScope, norm_scope))
    checkpoint = read_weights(weights, module, name, cogvideox_layout(params))
    weights_sha256 = assign(module, checkpoint.tensors, weights)
    place(module, where, DTYPES[dtype])
    spec = replace(spec, **checkpoint.scaling)
    engine, choices = _engine(module, spec, chunk_frames, norm_scope, chunk_plan)
    engine, tile_choice = _tiled(engine, tiles, spec)
    identity = asdict(spec) | {"dtype": dtype, "weights_sha256": weights_sha256} | choices | tile_choice
    return VideoEncoder(engine, spec, identity, where, DTYPES[dtype])


def place(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Moves the parameters to where and how they compute: frozen, 3D kernels in channels-last order."""
    module.requires_grad_(False).to(device, dtype)
    for parameter in module.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)


def device_of(name: str) -> torch.device:
    """The torch device of a name; ValueError where there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"{name!r} is no device: cpu, cuda, cuda:N and auto are") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name} was asked for, but torch sees no CUDA device here: use cpu")
    return device


def _engine(
    module: Encoder, spec: LatentSpec, chunk_frames: int, norm_scope: str, chunk_plan: str
) -> tuple[Engine, dict[str, Any]]:
    """The engine of a norm scope, and what of the options makes its latents what they are."""
    ratio = spec.temporal_ratio
    if norm_scope == "frame":
        return Causal(module, ratio), {"norm_scope": norm_scope, "chunk_frames": ratio, "chunk_plan": "causal"}
    if norm_scope == "clip":
        return WholeClip(module, chunk_frames), {"norm_scope": norm_scope, "chunk_frames": None, "chunk_plan": "whole"}
    choices = {"norm_scope": norm_scope, "chunk_frames": chunk_frames, "chunk_plan": chunk_plan}
    return Streaming(module, ratio, chunk_frames, chunk_plan), choices


def _tiled(
    engine: Engine, sizes_px: tuple[int, int, int, int] | None, spec: LatentSpec
) -> tuple[Engine, dict[str, Any]]:
    if sizes_px is None:
        return engine, {"tiles": None}
    tiles = Tiles(*sizes_px)
    tiles.check(spec.spatial_ratio)
    return Tiled(engine, tiles, spec.spatial_ratio), {"tiles": list(sizes_px)}


def _check_choice(what: str, came: str, allowed: tuple[str, ...]) -> None:
    if came not in allowed:
        raise ValueError(f"{what} is {came!r}, but it must be one of: {', '.join(allowed)}")
