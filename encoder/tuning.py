"""Which algorithm computes each convolution of an encoder: the one asked for, or the fastest measured on the device.

A choice is plain JSON, so that a run can record it and the next one repeat it.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder.device.cuda import exact_arithmetic
from encoder.device.timing import timed
from encoder.device.workspace import Workspace
from encoder.kernels.c_norms import c_norm_backend
from encoder.kernels.c_winograd import CWinograd
from encoder.kernels.direct import convolve
from encoder.kernels.torch_winograd import TILE_PX, Algorithm, Winograd, WinogradHeight
from encoder.kernels.winograd import MAX_OUTPUTS, TAPS
from encoder.models.layers import CausalConv3d, EdgeConv3d
from encoder.models.norms import GroupNorm
from encoder.spec import AUTO, DIRECT
from encoder.streaming.chunks import segments_plan
from encoder.streaming.engines import Engine, WholeClip
from encoder.streaming.layer_fields import with_strides

Choice = dict[str, str]  # algorithm by key of a shape; other shapes are computed directly
Convolutions = str | Mapping[str, str]

ALGORITHMS: Mapping[str, type[Algorithm]] = {
    "winograd_height": WinogradHeight,
    "winograd": Winograd,
    "winograd_c": CWinograd,
}
LEAST_CHANNELS = 96  # narrower layers are too cheap to be worth measuring
# `auto` computes wider layers directly: they see small pictures, and transformed kernels take up to 23 times their
# bytes in half precision, which would be tens of gigabytes for LTX-2.
MOST_PARAMETERS = 640 * 640 * 27
# Relative root mean square error of one convolution. float32 has 5e-6 by Winograd; bfloat16 2e-3 directly, and 1e-2
# when filtered in time and height.
TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 1.2e-2, torch.float16: 1.5e-3}
# Multiplications of a measured convolution: a tenth of a second on a CPU core, and more on a GPU, which is fast only on
# large pictures.
PRODUCTS = {"cpu": 1e10, "cuda": 4e11}
REPEATS = 2


class ConvShape(NamedTuple):
    """What decides which algorithm is fastest: channels, and the frames of each of a clip's later chunks."""

    in_channels: int
    out_channels: int
    frames: int

    @property
    def key(self) -> str:
        return f"{self.in_channels}-{self.out_channels}x{self.frames}"

    @property
    def filtered_frames(self) -> int:
        """Frames to filter together."""
        return max(1, min(MAX_OUTPUTS, self.frames))

    def side_px(self, products: float) -> int:
        """The side of a square picture of whole tiles whose convolution has about this many products."""
        products_of_a_pixel = TAPS**3 * self.in_channels * self.out_channels * self.frames
        return max(2, round(math.sqrt(products / products_of_a_pixel) / TILE_PX)) * TILE_PX


def conv_shapes(model: Any, engine: Engine, chunk_frames: int) -> dict[str, ConvShape]:
    """The shapes of the `candidates`, by name, in a clip's later chunks. `engine` is the one that runs `model`."""
    named = dict(candidates(model))
    if not named:
        return {}
    strides = {conv: stride for layer, stride in with_strides(model) for conv in layer.modules()}
    return {name: _shape(conv, engine, chunk_frames, strides[conv]) for name, conv in named.items()}


def _shape(conv: CausalConv3d, engine: Engine, chunk_frames: int, stride_frames: int) -> ConvShape:
    out_channels, in_channels = conv.weight.shape[:2]
    return ConvShape(in_channels, out_channels, _later_frames(engine, chunk_frames, stride_frames))


def _later_frames(engine: Engine, chunk_frames: int, stride_frames: int) -> int:
    """The frames of each later chunk of a clip, where one stands for `stride_frames` frames of the clip."""
    clip_frames = 1 + 4 * chunk_frames
    if isinstance(engine, WholeClip):  # each layer cuts all frames of its input into chunks
        return segments_plan(1 + (clip_frames - 1) // stride_frames, 1 + chunk_frames, chunk_frames)[-1]
    return engine.plan(clip_frames)[1] // stride_frames


def candidates(model: nn.Module) -> Iterator[tuple[str, CausalConv3d]]:
    """The convolutions that another algorithm than the direct one may compute, with their names."""
    for name, conv in model.named_modules():
        if not isinstance(conv, CausalConv3d) or isinstance(conv, EdgeConv3d):  # filtering pads with zeros
            continue
        if conv.pad_frames == TAPS - 1 and conv.weight.shape[1] >= LEAST_CHANNELS:
            yield name, conv


def choose(model: nn.Module, shapes: Mapping[str, ConvShape], convolutions: Convolutions) -> Choice:
    """The choice for these shapes: a mapping as given, one algorithm for all, or the fastest for each.

    Raises:
        ValueError: an unknown algorithm, one that supports none of these shapes here, or a mapping with other shapes.
    """
    keys = {shape.key for shape in shapes.values()}
    check_names(convolutions)
    if not isinstance(convolutions, str):
        if unknown := convolutions.keys() - keys:
            raise ValueError(
                f"convolutions names the shape {min(unknown)}, but the encoder's shapes are: {', '.join(sorted(keys))}"
            )
        return dict(convolutions)
    convs = dict(candidates(model))
    one_of_each = {shape: convs[name].weight for name, shape in shapes.items()}
    if convolutions == AUTO:
        one_of_each = {shape: weight for shape, weight in one_of_each.items() if weight.numel() <= MOST_PARAMETERS}
    if convolutions == DIRECT or (convolutions == AUTO and not _worth_measuring(one_of_each.values())):
        return {}
    if convolutions != AUTO:
        algorithm = ALGORITHMS[convolutions]
        supported = sorted(shape.key for shape, weight in one_of_each.items() if algorithm.supports(weight))
        if one_of_each and not supported:
            raise ValueError(_unsupported(convolutions, next(iter(one_of_each.values()))))
        return dict.fromkeys(supported, convolutions)
    measured = {shape.key: fastest(weight, shape) for shape, weight in one_of_each.items()}
    return {key: name for key, name in measured.items() if name != DIRECT}


def _worth_measuring(weights: Iterable[Tensor]) -> bool:
    """Not on a GPU in half precision: Winograd moves 29 to 44 times the bytes of direct convolutions there."""
    return any(weight.device.type != "cuda" or weight.dtype == torch.float32 for weight in weights)


def _unsupported(name: str, weight: Tensor) -> str:
    return (
        f"convolutions is {name!r}, which computes {ALGORITHMS[name].supported}, "
        f"not {' to '.join(map(str, weight.shape[1::-1]))} channels in {weight.dtype} on {weight.device}: choose auto, "
        "or continue the run that recorded it on a machine like the one it began on"
    )


def check_names(convolutions: Convolutions) -> None:
    """Raises ValueError for an unknown algorithm."""
    named = {convolutions} - {AUTO, DIRECT} if isinstance(convolutions, str) else set(convolutions.values())
    if unknown := named - ALGORITHMS.keys():
        allowed = ", ".join((AUTO, DIRECT, *ALGORITHMS))
        raise ValueError(f"convolutions is {min(unknown)!r}, but it must be one of: {allowed}")


def kernel_bytes(model: nn.Module) -> int:
    """Memory that the algorithms of a model hold beside its weights."""
    return sum(conv.algorithm.kernel_bytes for _, conv in candidates(model) if conv.algorithm)


def apply(model: nn.Module, shapes: Mapping[str, ConvShape], choice: Choice) -> None:
    """Sets the chosen algorithms of a model's convolutions; where any of them is in C, its norms are too.

    Raises:
        ValueError: an algorithm does not support a convolution on this device or this machine.
    """
    workspace = Workspace()
    for name, conv in candidates(model):
        algorithm, frames = choice.get(shapes[name].key), shapes[name].filtered_frames
        if algorithm and not ALGORITHMS[algorithm].supports(conv.weight):
            raise ValueError(_unsupported(algorithm, conv.weight))
        conv.algorithm = ALGORITHMS[algorithm].of(conv.weight, frames, workspace, conv.padding) if algorithm else None
    if any(isinstance(conv.algorithm, CWinograd) for _, conv in candidates(model)):
        backend = c_norm_backend()
        for norm in model.modules():
            if isinstance(norm, GroupNorm) and backend.supports(len(norm.weight)):
                norm.backend = backend


@exact_arithmetic()
@torch.inference_mode()
def fastest(weight: Tensor, shape: ConvShape) -> str:
    """The name of the fastest algorithm among those within TOLERANCES of direct float32."""
    side_px = shape.side_px(PRODUCTS.get(weight.device.type, PRODUCTS["cpu"]))
    generator = torch.Generator().manual_seed(0)
    video = torch.randn(1, shape.in_channels, shape.frames + TAPS - 1, side_px, side_px, generator=generator)
    x = video.to(weight.device, weight.dtype).contiguous(memory_format=torch.channels_last_3d)
    bias, exact = weight.new_zeros(shape.out_channels), F.conv3d(x.float(), weight.float(), padding=(0, 1, 1))
    convolve(x, weight, bias, padding_px=1)  # the first call also sets up the kernels
    seconds = {DIRECT: _seconds(lambda: convolve(x, weight, bias, padding_px=1), x.device)}
    for name, algorithm in ALGORITHMS.items():
        if not (algorithm.supports(weight) and algorithm.is_available()):
            continue
        convolution = algorithm.of(weight, shape.filtered_frames, Workspace())
        error = (convolution(x, bias).float() - exact).norm() / exact.norm()
        if float(error) <= TOLERANCES[weight.dtype]:
            seconds[name] = _seconds(partial(convolution, x, bias), x.device)
    return min(seconds, key=lambda name: seconds[name])


def _seconds(call: Callable[[], Any], device: torch.device) -> float:
    """The shortest time of several calls."""
    return min(timed(call, device)[0] for _ in range(REPEATS))
