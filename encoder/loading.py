"""From a name and options to an encoder that is ready: model, weights, engine, device.

It does not encode, and it holds no model code.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, cast, get_args

import torch
from torch import nn

from encoder.models import cogvideox, wan
from encoder.models.layouts import Layout, cogvideox_layout, wan_layout
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
    """The options of `encoder.load`; see there."""

    dtype: str
    device: str
    chunk_frames: int
    norm_scope: str
    chunk_plan: str
    tiles: tuple[int, int, int, int] | None
    convolutions: Convolutions = AUTO

    def check(self, temporal_ratio: int) -> None:
        """Raises ValueError for a value that no encoder of this ratio takes."""
        check_chunk_frames(self.chunk_frames, temporal_ratio)
        for what, came, choices in (
            ("dtype", self.dtype, Dtype),
            ("norm_scope", self.norm_scope, NormScope),
            ("chunk_plan", self.chunk_plan, ChunkPlan),
        ):
            if came not in (allowed := get_args(choices)):
                raise ValueError(f"{what} is {came!r}, but it must be one of: {', '.join(allowed)}")
        check_names(self.convolutions)


@dataclass(frozen=True, slots=True)
class Kind:
    """How encoders of one kind are made: their module, its engine, and what of the options makes their latents."""

    build: Callable[[], nn.Module]
    engine: Callable[[Any], Engine]
    choices: dict[str, Any]


def load_video_encoder(name: str, weights: str, options: Options) -> VideoEncoder:
    """What `encoder.load` does for a native encoder; see there."""
    spec = spec_of(name)
    options.check(spec.temporal_ratio)
    kind, layout = _wan(name) if name in wan.PRESETS else _cogvideox(name, options)
    with torch.device("meta"):
        module = kind.build()
    checkpoint = read_weights(weights, module, name, layout)
    weights_sha256 = assign(module, checkpoint.tensors, weights)
    return assemble(replace(spec, **checkpoint.scaling), module, weights_sha256, kind, options)


def layout_of(name: str) -> Layout:
    """How checkpoints of a native encoder are laid out; ValueError where there is no such encoder."""
    spec_of(name)
    return wan_layout(wan.PRESETS[name]) if name in wan.PRESETS else cogvideox_layout(cogvideox.PRESETS[name])


def assemble(spec: LatentSpec, module: nn.Module, weights_sha256: str, kind: Kind, options: Options) -> VideoEncoder:
    """An encoder of a module that has its weights, on its device and in its precision."""
    device, dtype = device_of(options.device), DTYPES[options.dtype]
    with torch.device("meta"):
        shadow = kind.build().to("meta", dtype)
    engine = _tiled(kind.engine(place(module, device, dtype)), options, spec)
    shadow_engine = _tiled(kind.engine(shadow), options, spec)
    shapes = conv_shapes(shadow, shadow_engine, spec, options.chunk_frames)
    choice = choose(module, shapes, options.convolutions)
    apply(module, shapes, choice)
    choices = {"dtype": options.dtype, "weights_sha256": weights_sha256, **kind.choices, "convolutions": choice}
    identity = asdict(spec) | choices | {"tiles": None if options.tiles is None else list(options.tiles)}
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
    """Moves the parameters to where and how they compute: frozen, 3D kernels in channels-last order.

    They are copied even where they need no conversion: read from a file, they may be views of it.
    """
    module.requires_grad_(False).to(device, dtype)
    for parameter in module.parameters():
        memory_format = torch.channels_last_3d if parameter.ndim == 5 else torch.contiguous_format
        parameter.data = parameter.data.clone(memory_format=memory_format)
    return module


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
        made = kind(
            lambda module: Streaming(module, lambda frames: chunk_plan(frames, chunk_frames, ratio, rule)),
            {"norm_scope": scope, "chunk_frames": chunk_frames, "chunk_plan": rule},
        )
    elif scope == "clip":
        choices = {"norm_scope": scope, "chunk_frames": None, "chunk_plan": "whole"}
        made = kind(lambda module: WholeClip(module, chunk_frames), choices)
    else:
        made = kind(_causal(ratio), _causal_choices(scope, ratio))
    return made, cogvideox_layout(params)


def _wan(name: str) -> tuple[Kind, Layout]:
    """Wan's norms look at single pixels: every scope and plan would give the same latents."""
    params, ratio = wan.PRESETS[name], spec_of(name).temporal_ratio
    kind = Kind(lambda: wan.WanEncoder(params), _causal(ratio), _causal_choices("pixel", ratio))
    return kind, wan_layout(params)


def _causal(temporal_ratio: int) -> Callable[[Any], Engine]:
    """The engine of models in which no frame sees a later one: always in the smallest chunks.

    How such a clip is cut changes its latents by rounding alone; cut in one way only, they are the same to the bit.
    """
    return lambda module: Streaming(module, lambda frames: causal_plan(frames, temporal_ratio))


def _causal_choices(norm_scope: str, temporal_ratio: int) -> dict[str, Any]:
    return {"norm_scope": norm_scope, "chunk_frames": temporal_ratio, "chunk_plan": "causal"}
