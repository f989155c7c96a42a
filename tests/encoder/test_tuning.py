"""The frames that convolutions see, which decide their algorithms, are told without running an encoder."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from encoder.families import Kind, Options, family_of
from encoder.spec import NormScope
from encoder.tuning import candidates, conv_shapes

LATER_CHUNKS = 3


def cases() -> Iterator[Any]:
    """The encoders that have such convolutions, with few blocks, in the ways of cutting clips that each has."""
    ways: dict[str, tuple[tuple[NormScope, int, str], ...]] = {
        "cogvideox": (("chunk", 4, "diffusers"), ("chunk", 12, "even"), ("frame", 8, "even"), ("clip", 8, "diffusers")),
        "wan": (("chunk", 8, "diffusers"),),
        "wan2.2": (("chunk", 8, "diffusers"),),
        "ltx": (("chunk", 8, "diffusers"),),
    }
    for name, of_encoder in ways.items():
        family = family_of(name)
        params = family.presets[name]
        if name != "ltx":
            params = replace(params, blocks_per_level=1)
        for scope, chunk_frames, plan in of_encoder:
            kind = family.kind(params, Options("float32", "cpu", chunk_frames, scope, plan, None))
            yield pytest.param(kind, params, chunk_frames, id=f"{name}-{scope}-{chunk_frames}-{plan}")


def frames_seen(kind: Kind, params: Any, chunk_frames: int) -> dict[str, int]:
    """By the names of candidates, the frames of their results in a later chunk, of a model that runs without values."""
    with torch.device("meta"):
        model: Any = kind.build()
    engine, seen = kind.engine(model), dict[str, int]()
    for name, conv in candidates(model):
        conv.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output[0].shape[2]}))
    state: Any = None
    side_px = 8 * params.spatial_ratio
    with torch.no_grad():
        for frames in engine.plan(1 + (1 + LATER_CHUNKS) * chunk_frames)[:2]:
            _, state = engine.encode_chunk(torch.empty(1, 3, frames, side_px, side_px, device="meta"), state)
    return seen


@pytest.mark.parametrize(("kind", "params", "chunk_frames"), list(cases()))
def test_shapes_are_those_that_convolutions_see(kind: Kind, params: Any, chunk_frames: int) -> None:
    with torch.device("meta"):
        model = kind.build()
    shapes = conv_shapes(model, kind.engine(model), chunk_frames)
    assert shapes
    assert {name: shape.frames for name, shape in shapes.items()} == frames_seen(kind, params, chunk_frames)
