"""What a model's layers see of the past, read off its modules.

It does not run the model; receptive_field.py says what follows from it.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from encoder.models.cogvideox import Downsample, Encoder, Head
from encoder.models.layers import CausalConv3d, ResidualBlock, SpaceAttention, Stem
from encoder.models.wan import WanDownsample, WanEncoder, WanHead
from encoder.streaming.receptive_field import Look, Recall


def recall_of(model: Callable[..., Any], identity: Mapping[str, Any]) -> Recall:
    """The recall of a native model, whose `identity` says in which chunks it runs."""
    assert isinstance(model, Encoder | WanEncoder), "these stream"
    return Recall(
        looks=tuple(_looks(model)),
        temporal_ratio=identity["temporal_ratio"],
        # a convolution by Winograd's filtering mixes a chunk's frames, and so rounds each by what the others are
        whole_chunks=identity["norm_scope"] == "chunk" or bool(identity.get("convolutions")),
        chunk_frames=identity["chunk_frames"],
        rule=identity["chunk_plan"],
    )


def _looks(model: Encoder | WanEncoder) -> Iterator[Look]:
    rate = 1
    for layer in model.layers():
        back = _frames_joined(layer)
        if back:
            yield Look(rate, back, normed=False)
            rate *= 2
        for conv, normed in _convolutions(layer):
            yield Look(rate, conv, normed)


def _frames_joined(layer: nn.Module) -> int:
    """Frames before its last that a layer sees which halves time; 0 for others."""
    if isinstance(layer, Downsample):
        return int(layer.in_time)
    if isinstance(layer, WanDownsample) and layer.time is not None:
        return int(layer.time.weight.shape[2]) - 1
    return 0


def _convolutions(layer: nn.Module) -> Iterator[tuple[int, bool]]:
    """(frames that it sees before each, whether a norm comes first) of each look of a layer within one rate."""
    match layer:
        case Stem():
            yield _back(layer.conv), False
        case ResidualBlock():
            yield _back(layer.conv1), True
            yield _back(layer.conv2), True
        case SpaceAttention():
            yield 0, True
        case Head() | WanHead():
            yield _back(layer.conv), True
        case Downsample() | WanDownsample():
            return
        case _:
            raise TypeError(f"{type(layer).__name__} is a layer whose look at the past is not written down here")


def _back(conv: CausalConv3d) -> int:
    return int(conv.weight.shape[2]) - 1
