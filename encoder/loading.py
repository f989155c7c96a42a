"""From a name and options to a loaded encoder: model, weights, engine, device."""

from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn

from encoder.device.cuda import cuda_setup, known_bad, missing
from encoder.families import DTYPES, Family, Kind, Options, family_of
from encoder.kernels.fused_norms import has_triton
from encoder.models.norms import fuse
from encoder.models.stem import widen
from encoder.spec import LatentSpec, spec_of
from encoder.streaming.engines import Engine
from encoder.streaming.tiles import Tiled, Tiles
from encoder.tuning import apply, choose, conv_shapes
from encoder.video_encoder import VideoEncoder
from encoder.weights import RANDOM, Checkpoint, WeightsError, assign, random_weights, read_checkpoint


def load_video_encoder(name: str, weights: str, options: Options) -> VideoEncoder:
    """`encoder.load` for a native encoder."""
    family = family_of(name)
    if weights.startswith(RANDOM):
        params, checkpoint = family.presets[name], None
    else:
        checkpoint = read_checkpoint(weights, name)
        params = params_of(family, name, checkpoint)
    options.check(params.temporal_ratio)
    kind = family.kind(params, options)
    with torch.device("meta"):
        module = kind.build()
    tensors = random_weights(module, weights) if checkpoint is None else checkpoint.tensors
    spec = latent_spec(name, params, checkpoint, options.scaling_factor)
    return assemble(spec, module, assign(module, tensors, weights), kind, options)


def params_of(family: Family, name: str, checkpoint: Checkpoint) -> Any:
    """The architecture that a checkpoint's config, or else the shapes of its tensors, describe."""
    try:
        if checkpoint.config:
            return family.checkpoints.params_of_config(checkpoint.config)
        shapes = {name: tuple(tensor.shape) for name, tensor in checkpoint.tensors.items()}
        return family.checkpoints.params_of_shapes(shapes, family.presets[name])
    except ValueError as error:
        raise WeightsError(f"{checkpoint.source} is not an encoder {name!r} that can be computed: {error}") from None


def latent_spec(name: str, params: Any, checkpoint: Checkpoint | None, factor: float | None) -> LatentSpec:
    """What the latents of an encoder are.

    The scaling is that of the checkpoint's config or tensors, else that of the published models if the latents have
    as many channels; `factor`, where given, is the scaling factor.

    Raises:
        WeightsError: CogVideoX without a config, whose releases differ in their factor alone, without a `factor`; a
            factor where config gives another, or where the latents are scaled by channel.
    """
    ratios = {"temporal_ratio": params.temporal_ratio, "spatial_ratio": params.spatial_ratio}
    published = spec_of(name)
    if params.latent_channels != published.latent_channels:
        published = LatentSpec(name, params.latent_channels, 1, 1)
    stated = {} if checkpoint is None else checkpoint.scaling
    spec = replace(published, **ratios, **stated)
    if checkpoint is not None and name == "cogvideox" and factor is None and "scaling_factor" not in stated:
        raise WeightsError(
            f"{checkpoint.source} does not say how its latents are scaled, and the releases of CogVideoX differ: set "
            "encoder.scaling_factor to 1.15258426 for CogVideoX-2b, or to 0.7 for 5b and 1.5"
        )
    if factor is None:
        return spec
    if spec.latents_mean is not None or stated.get("scaling_factor", factor) != factor:
        raise WeightsError(
            f"scaling_factor is {factor}, but the latents of {name!r} are scaled by `{spec.scaling_formula}` with "
            f"the values of the weights (scaling_factor {spec.scaling_factor}): leave it out"
        )
    return replace(spec, scaling_factor=factor)


def assemble(spec: LatentSpec, module: nn.Module, weights_sha256: str, kind: Kind, options: Options) -> VideoEncoder:
    """The encoder of a module that has its weights, on its device and in its precision."""
    device, dtype = device_of(options.device), DTYPES[options.dtype]
    if device.type == "cuda" and (problem := known_bad(cuda_setup(), options.dtype)):
        raise ValueError(problem)
    with torch.device("meta"):
        shadow = nn.Module.to(kind.build(), "meta", dtype)
    if device.type == "cuda" and has_triton():
        fuse(module)
        fuse(shadow)
    module = place(module, device, dtype)
    plain_engine = kind.engine(module)
    engine = _tiled(plain_engine, options, spec)
    shadow_engine = _tiled(kind.engine(shadow), options, spec)
    shapes = conv_shapes(module, plain_engine, options.chunk_frames)
    choice = choose(module, shapes, options.convolutions)
    apply(module, shapes, choice)
    if device.type == "cuda":
        widen(module)
        widen(shadow)
    choices = {"dtype": options.dtype, "weights_sha256": weights_sha256, **kind.choices, "convolutions": choice}
    tiles = None if options.tiles is None else list(options.tiles)
    identity = described(spec) | choices | {"tiles": tiles}
    return VideoEncoder(
        engine,
        shadow_engine,
        spec,
        identity,
        device,
        dtype,
        tunable=tuple(sorted({shape.key for shape in shapes.values()})),
    )


def described(spec: LatentSpec) -> dict[str, Any]:
    """What files record of a spec: its fields and how latents are scaled."""
    return asdict(spec) | {"scaling_formula": spec.scaling_formula, "scaling": spec.scaling}


def place(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Freezes the parameters and moves them to their device and precision, 3D kernels in channels-last order.

    They are copied even if nothing changes: parameters that were read from a file may be views of it.
    """
    nn.Module.to(module.requires_grad_(False), device, dtype)  # diffusers' own `to` warns of nothing
    for parameter in module.parameters():
        memory_format = torch.channels_last_3d if parameter.ndim == 5 else torch.contiguous_format
        parameter.data = parameter.data.clone(memory_format=memory_format)
    return module


def device_of(name: str) -> torch.device:
    """The torch device of a name. Raises ValueError if there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"unknown device {name!r}: use cpu, cuda, cuda:N or auto") from None
    if device.type == "cuda" and (problem := missing(cuda_setup())):
        raise ValueError(f"device is {name!r}, but {problem}; or use cpu")
    return device


def _tiled(engine: Engine, options: Options, spec: LatentSpec) -> Engine:
    if options.tiles is None:
        return engine
    tiles = Tiles(*options.tiles)
    tiles.check(spec.spatial_ratio)
    return Tiled(engine, tiles, spec.spatial_ratio)


def cuda_shadow(name: str, dtype: str) -> Engine:
    """The engine that a GPU would run, with a model on the meta device and no weights."""
    options, family = Options(dtype, "cuda", 8, "chunk", "diffusers", None), family_of(name)
    params = family.presets[name]
    options.check(params.temporal_ratio)
    kind = family.kind(params, options)
    with torch.device("meta"):
        module = kind.build().to("meta", DTYPES[dtype]).requires_grad_(False)
    fuse(module)
    widen(module)
    return kind.engine(module)
