"""The native encoders by name: how each is built and run with which options, and what its checkpoints say."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast, get_args

import torch
from torch import nn

from encoder.checkpoints import cogvideox as cogvideox_checkpoints
from encoder.checkpoints import hunyuan15 as hunyuan15_checkpoints
from encoder.checkpoints import ltx as ltx_checkpoints
from encoder.checkpoints import wan as wan_checkpoints
from encoder.checkpoints.layout import Config, Shapes
from encoder.models import cogvideox, hunyuan15, ltx, wan
from encoder.models.cogvideox import CogVideoXParams
from encoder.models.hunyuan15 import Hunyuan15Params
from encoder.models.ltx import LtxParams
from encoder.models.wan import WanParams
from encoder.spec import AUTO, ChunkPlan, Dtype, NormScope, spec_of
from encoder.streaming.chunks import causal_plan, check_chunk_frames, chunk_plan
from encoder.streaming.engines import Engine, Remembering, Streaming, WholeClip
from encoder.tuning import Convolutions, check_names

Params = Any  # of one family
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
    scaling_factor: float | None = None

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


class Checkpoints(Protocol):
    """What the module of a family in encoder/checkpoints/ says."""

    def params_of_config(self, config: Config, /) -> Params: ...

    def params_of_shapes(self, shapes: Shapes, default: Any, /) -> Params: ...

    def config_of(self, params: Any, /) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Family:
    """Encoders that differ in their parameters only.

    `presets` are the parameters of published models by name; others are read off a checkpoint's config or off the
    shapes of its tensors.
    """

    presets: Mapping[str, Params]
    checkpoints: Checkpoints
    kind: Callable[[Params, Options], Kind]


def family_of(name: str) -> Family:
    """Raises ValueError for an unknown native encoder."""
    spec_of(name)
    return next(family for family in FAMILIES if name in family.presets)


def _cogvideox(params: CogVideoXParams, options: Options) -> Kind:
    scope = cast(NormScope, options.norm_scope)
    kind = partial(Kind, lambda: cogvideox.Encoder(params, scope))
    ratio, chunk_frames, rule = params.temporal_ratio, options.chunk_frames, options.chunk_plan
    if scope == "chunk":
        return kind(
            lambda module: Streaming(module, lambda frames: chunk_plan(frames, chunk_frames, ratio, rule)),
            {"norm_scope": scope, "chunk_frames": chunk_frames, "chunk_plan": rule},
        )
    if scope == "clip":
        choices = {"norm_scope": scope, "chunk_frames": None, "chunk_plan": "whole"}
        return kind(lambda module: WholeClip(module, chunk_frames), choices)
    return kind(_causal(ratio), _causal_choices(scope, ratio))


def _wan(params: WanParams, options: Options) -> Kind:
    return _pixelwise(lambda: wan.WanEncoder(params), params.temporal_ratio)


def _ltx(params: LtxParams, options: Options) -> Kind:
    return _pixelwise(lambda: ltx.LtxEncoder(params), params.temporal_ratio)


def _hunyuan15(params: Hunyuan15Params, options: Options) -> Kind:
    ratio = params.temporal_ratio
    build = partial(hunyuan15.Hunyuan15Encoder, params)
    return Kind(build, lambda module: Remembering(module, ratio), _causal_choices("pixel", ratio))


def _pixelwise(build: Callable[[], nn.Module], temporal_ratio: int) -> Kind:
    """Of models that normalise single pixels, so that norm scopes and chunk plans make no difference."""
    return Kind(build, _causal(temporal_ratio), _causal_choices("pixel", temporal_ratio))


def _causal(temporal_ratio: int) -> Callable[[Any], Engine]:
    """The engine of models in which no frame depends on a later one: always in the smallest chunks.

    Other chunks would change the latents only by rounding; with one plan for all, they are the same to the bit.
    """
    return lambda module: Streaming(module, lambda frames: causal_plan(frames, temporal_ratio))


def _causal_choices(norm_scope: str, temporal_ratio: int) -> dict[str, Any]:
    return {"norm_scope": norm_scope, "chunk_frames": temporal_ratio, "chunk_plan": "causal"}


FAMILIES = (
    Family(cogvideox.PRESETS, cogvideox_checkpoints, _cogvideox),
    Family(wan.PRESETS, wan_checkpoints, _wan),
    Family(ltx.PRESETS, ltx_checkpoints, _ltx),
    Family(hunyuan15.PRESETS, hunyuan15_checkpoints, _hunyuan15),
)
