"""From a name and options to a loaded encoder: model, weights, engine, device."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, cast, get_args

import torch
from torch import nn

from encoder.device.cuda import cuda_setup, known_bad, missing
from encoder.kernels.fused_norms import has_triton
from encoder.models import cogvideox, wan
from encoder.models.layouts import Layout, cogvideox_layout, wan_layout
from encoder.models.norms import fuse
from encoder.spec import AUTO, ChunkPlan, Dtype, LatentSpec, NormScope, spec_of
from encoder.streaming.chunks import causal_plan, check_chunk_frames, chunk_plan
from encoder.streaming.engines import Engine, Streaming, WholeClip
from encoder.streaming.tiles import Tiled, Tiles
from encoder.tuning import Convolutions, apply, check_names, choose, conv_shapes
from encoder.video_encoder import VideoEncoder
from encoder.weights import assign, read_weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `encoder.load`, which describes them."""

    dtype: str
    device: str
    chunk_frames: int
    norm_scope: str
    chunk_plan: str
    tiles: tuple[int, int, int, int] | None
    convolutions: Convolutions = AUTO

    def check(self, temporal_ratio: int) -> None:
        """Raises ValueError for a value that no encoder with this ratio accepts."""
        check_chunk_frames(self.chunk_frames, temporal_ratio)
        for option, value, choices in (
            ("dtype", self.dtype, Dtype),
            ("norm_scope", self.norm_scope, NormScope),
            ("chunk_plan", self.chunk_plan, ChunkPlan),
        ):
            if value not in (allowed := get_args(choices)):
                raise ValueError(f"{option} is {value!r}, but it must be one of: {', '.join(allowed)}")
        check_names(self.convolutions)


@dataclass(frozen=True, slots=True)
class Kind:
    """How to build one kind of encoder: its module, its engine, and the options that change its latents."""

    build: Callable[[], nn.Module]
    engine: Callable[[Any], Engine]
    choices: dict[str, Any]


def load_video_encoder(name: str, weights: str, options: Options) -> VideoEncoder:
    """`encoder.load` for a native encoder."""
    spec = spec_of(name)
    options.check(spec.temporal_ratio)
    kind, layout = _wan(name) if name in wan.PRESETS else _cogvideox(name, options)
    with torch.device("meta"):
        module = kind.build()
    checkpoint = read_weights(weights, module, name, layout)
    weights_sha256 = assign(module, checkpoint.tensors, weights)
    return assemble(replace(spec, **checkpoint.scaling), module, weights_sha256, kind, options)


def layout_of(name: str) -> Layout:
    """The layout of a native encoder's checkpoints. Raises ValueError for an unknown encoder."""
    spec_of(name)
    return wan_layout(wan.PRESETS[name]) if name in wan.PRESETS else cogvideox_layout(cogvideox.PRESETS[name])


def assemble(spec: LatentSpec, module: nn.Module, weights_sha256: str, kind: Kind, options: Options) -> VideoEncoder:
    """The encoder of a module that has its weights, on its device and in its precision."""
    device, dtype = device_of(options.device), DTYPES[options.dtype]
    if device.type == "cuda" and (problem := known_bad(cuda_setup(), options.dtype)):
        raise ValueError(problem)
    with torch.device("meta"):
        shadow = kind.build().to("meta", dtype)
    if device.type == "cuda" and has_triton():
        fuse(module)
        fuse(shadow)
    engine = _tiled(kind.engine(place(module, device, dtype)), options, spec)
    shadow_engine = _tiled(kind.engine(shadow), options, spec)
    shapes = conv_shapes(shadow, shadow_engine, spec, options.chunk_frames)
    choice = choose(module, shapes, options.convolutions)
    apply(module, shapes, choice)
    choices = {"dtype": options.dtype, "weights_sha256": weights_sha256, **kind.choices, "convolutions": choice}
    tiles = None if options.tiles is None else list(options.tiles)
    identity = asdict(spec) | {"scaling_formula": spec.scaling_formula} | choices | {"tiles": tiles}
    return VideoEncoder(
        engine,
        shadow_engine,
        spec,
        identity,
        device,
        dtype,
        tunable=tuple(sorted({shape.key for shape in shapes.values()})),
    )


def place(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Freezes the parameters and moves them to their device and precision, 3D kernels in channels-last order.

    They are copied even if nothing changes: parameters that were read from a file may be views of it.
    """
    module.requires_grad_(False).to(device, dtype)
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


def _cogvideox(name: str, options: Options) -> tuple[Kind, Layout]:
    params, scope = cogvideox.PRESETS[name], cast(NormScope, options.norm_scope)
    kind = partial(Kind, lambda: cogvideox.Encoder(params, scope))
    ratio, chunk_frames, rule = params.temporal_ratio, options.chunk_frames, options.chunk_plan
    if scope == "chunk":
        built = kind(
            lambda module: Streaming(module, lambda frames: chunk_plan(frames, chunk_frames, ratio, rule)),
            {"norm_scope": scope, "chunk_frames": chunk_frames, "chunk_plan": rule},
        )
    elif scope == "clip":
        choices = {"norm_scope": scope, "chunk_frames": None, "chunk_plan": "whole"}
        built = kind(lambda module: WholeClip(module, chunk_frames), choices)
    else:
        built = kind(_causal(ratio), _causal_choices(scope, ratio))
    return built, cogvideox_layout(params)


def _wan(name: str) -> tuple[Kind, Layout]:
    """Wan normalises single pixels, so that norm scopes and chunk plans make no difference."""
    params, ratio = wan.PRESETS[name], spec_of(name).temporal_ratio
    kind = Kind(lambda: wan.WanEncoder(params), _causal(ratio), _causal_choices("pixel", ratio))
    return kind, wan_layout(params)


def _causal(temporal_ratio: int) -> Callable[[Any], Engine]:
    """The engine of models in which no frame depends on a later one: always in the smallest chunks.

    Other chunks would change the latents only by rounding; with one plan for all, they are the same to the bit.
    """
    return lambda module: Streaming(module, lambda frames: causal_plan(frames, temporal_ratio))


def _causal_choices(norm_scope: str, temporal_ratio: int) -> dict[str, Any]:
    return {"norm_scope": norm_scope, "chunk_frames": temporal_ratio, "chunk_plan": "causal"}


def cuda_shadow(name: str, dtype: str) -> Engine:
    """The engine that a GPU would run, with a model on the meta device and no weights."""
    options = Options(dtype, "cuda", 8, "chunk", "diffusers", None)
    options.check(spec_of(name).temporal_ratio)
    kind, _ = _wan(name) if name in wan.PRESETS else _cogvideox(name, options)
    with torch.device("meta"):
        module = kind.build().to("meta", DTYPES[dtype]).requires_grad_(False)
    fuse(module)
    return kind.engine(module)
