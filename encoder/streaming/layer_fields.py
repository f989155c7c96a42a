"""How many earlier frames each layer of a model depends on, read off its modules."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from encoder.models.cogvideox import Downsample, Encoder, Head
from encoder.models.layers import CausalConv3d, ResidualBlock, SpaceAttention
from encoder.models.ltx import FoldDown, LtxEncoder, LtxHead, StridedConv
from encoder.models.stem import Stem
from encoder.models.wan import WanDownsample, WanEncoder, WanHead, WanResidualLevel
from encoder.streaming.receptive_field import LayerField, ReceptiveField

NativeStreaming = Encoder | WanEncoder | LtxEncoder


def receptive_field_of(model: Callable[..., Any], identity: Mapping[str, Any]) -> ReceptiveField:
    """The receptive field of a native model, whose `identity` says in which chunks it runs."""
    assert isinstance(model, NativeStreaming), "only native models stream"
    return ReceptiveField(
        layers=tuple(_layer_fields(model)),
        temporal_ratio=identity["temporal_ratio"],
        # Winograd filtering mixes the frames of a chunk, so that each one's rounding depends on the others
        whole_chunks=identity["norm_scope"] == "chunk" or bool(identity.get("convolutions")),
        chunk_frames=identity["chunk_frames"],
        rule=identity["chunk_plan"],
    )


def _layer_fields(model: NativeStreaming) -> Iterator[LayerField]:
    for layer, stride_frames in with_strides(model):
        if past_frames := _halving_past_frames(layer):
            yield LayerField(stride_frames, past_frames, normed=False)
        for past_frames, normed in _same_rate_fields(layer):
            yield LayerField(stride_frames, past_frames, normed)


def with_strides(model: NativeStreaming) -> Iterator[tuple[nn.Module, int]]:
    """The layers in order, each with how many frames of a clip one frame of its input stands for."""
    stride_frames = 1
    for layer in _parts(model):
        yield layer, stride_frames
        stride_frames *= 2 if _halving_past_frames(layer) else 1


def _parts(model: NativeStreaming) -> Iterator[nn.Module]:
    """The layers, with those inside a level: its averaged input looks no further back than they do."""
    for layer in model.layers():
        yield from layer.parts() if isinstance(layer, WanResidualLevel) else (layer,)


def _halving_past_frames(layer: nn.Module) -> int:
    """Earlier frames that enter each output frame of a layer that halves time; 0 for other layers."""
    if isinstance(layer, Downsample):
        return int(layer.in_time)
    if isinstance(layer, WanDownsample) and layer.time is not None:
        return int(layer.time.weight.shape[2]) - 1
    if isinstance(layer, StridedConv):
        return int(layer.weight.shape[2]) - 1
    if isinstance(layer, FoldDown) and layer.stride[0] == 2:
        return _past_frames(layer.conv) + 1  # of the first frame of a pair
    return 0


def _same_rate_fields(layer: nn.Module) -> Iterator[tuple[int, bool]]:
    """For each operation of a layer that keeps the frame rate: its past frames, and whether a norm precedes it."""
    match layer:
        case Stem():
            yield _past_frames(layer.conv), False
        case ResidualBlock():
            yield _past_frames(layer.conv1), True
            yield _past_frames(layer.conv2), True
        case SpaceAttention():
            yield 0, True
        case Head() | WanHead() | LtxHead():
            yield _past_frames(layer.conv), True
        case FoldDown() if layer.stride[0] == 1:
            yield _past_frames(layer.conv), False
        case Downsample() | WanDownsample() | FoldDown() | StridedConv():
            return
        case _:
            raise TypeError(f"{type(layer).__name__} has no receptive field here: add it to layer_fields.py")


def _past_frames(conv: CausalConv3d) -> int:
    return int(conv.weight.shape[2]) - 1
