"""Which way each convolution of an encoder is computed: as told, or by a short measurement on the device at hand.

It does not compute them (kernels/). A choice is plain JSON: a run can note it and the next one repeat it.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder.device.timing import timed
from encoder.device.workspace import Workspace
from encoder.kernels.c_norms import by_c
from encoder.kernels.c_winograd import InTimeAndSpaceByC
from encoder.kernels.direct import convolve
from encoder.kernels.torch_winograd import TILE_PX, InTimeAndHeight, InTimeAndSpace, Way
from encoder.kernels.winograd import MOST_OUTPUTS, TAPS
from encoder.models.layers import CausalConv3d
from encoder.models.norms import GroupNorm
from encoder.spec import AUTO, DIRECT, LatentSpec
from encoder.streaming.engines import Engine

Choice = dict[str, str]  # by the key of a shape, the name of an algorithm; what is not there is computed directly
Convolutions = str | Mapping[str, str]

ALGORITHMS: Mapping[str, type[Way]] = {
    "winograd_height": InTimeAndHeight,
    "winograd": InTimeAndSpace,
    "winograd_c": InTimeAndSpaceByC,
}
LEAST_CHANNELS = 96  # narrower layers are too cheap to be worth their measuring
# Error of one convolution, root mean square, relative: float32 gives 5e-6 by Winograd, bfloat16 2e-3 when direct and
# 1e-2 when filtered in time and height.
TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 1.2e-2, torch.float16: 1.5e-3}
# Multiplications of a convolution when measured: a tenth of a second of a CPU's core, and more for a GPU, which is
# fast on large pictures only.
PRODUCTS = {"cpu": 1e10, "cuda": 4e11}
REPEATS = 2


class ConvShape(NamedTuple):
    """What decides which algorithm is fastest: channels, and how many frames come at once in a clip's later chunks."""

    in_channels: int
    out_channels: int
    frames: int

    @property
    def key(self) -> str:
        return f"{self.in_channels}-{self.out_channels}x{self.frames}"

    @property
    def filtered_frames(self) -> int:
        """Frames that are worth filtering together."""
        return max(1, min(MOST_OUTPUTS, self.frames))

    def side_px(self, products: float) -> int:
        """The side of a square picture whose convolution has about so many products: whole tiles."""
        products_of_a_pixel = TAPS**3 * self.in_channels * self.out_channels * self.frames
        return max(2, round(math.sqrt(products / products_of_a_pixel) / TILE_PX)) * TILE_PX


def conv_shapes(model: nn.Module, engine: Engine, spec: LatentSpec, chunk_frames: int) -> dict[str, ConvShape]:
    """The convolutions that may be computed in another way, by name, as later chunks of a clip find them.

    `engine` runs `model`, which is on the meta device: it is run over a clip without values.
    """
    shapes: dict[str, ConvShape] = {}
    if not any(True for _ in candidates(model)):
        return shapes

    def note(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(conv: Any, inputs: Any) -> None:
            out_channels, in_channels = conv.weight.shape[:2]
            shapes[name] = ConvShape(in_channels, out_channels, inputs[0].shape[2] - TAPS + 1)

        return hook

    hooks = [conv.register_forward_pre_hook(note(name)) for name, conv in candidates(model)]
    state: Any = None
    with torch.no_grad():
        for frames in engine.plan(1 + 4 * chunk_frames)[:2]:
            side_px, dtype = 8 * spec.spatial_ratio, next(model.parameters()).dtype
            x = torch.empty(1, 3, frames, side_px, side_px, dtype=dtype, device="meta")
            _, state = engine.encode_chunk(x, state)
    for registered in hooks:
        registered.remove()
    return shapes


def candidates(model: nn.Module) -> Iterator[tuple[str, CausalConv3d]]:
    """The convolutions that may be computed in another way, with their names."""
    for name, conv in model.named_modules():
        if isinstance(conv, CausalConv3d) and conv.room_frames == TAPS - 1 and conv.weight.shape[1] >= LEAST_CHANNELS:
            yield name, conv


def choose(model: nn.Module, shapes: Mapping[str, ConvShape], convolutions: Convolutions) -> Choice:
    """What `convolutions` means for these shapes: a mapping as it is, one algorithm for all, or the fastest of each.

    Raises:
        ValueError: no such algorithm, one that computes none of these shapes here, or a mapping for other shapes.
    """
    keys = {shape.key for shape in shapes.values()}
    check_names(convolutions)
    if not isinstance(convolutions, str):
        if unknown := convolutions.keys() - keys:
            raise ValueError(
                f"convolutions names {min(unknown)}, the shapes of this encoder are: {', '.join(sorted(keys))}"
            )
        return dict(convolutions)
    convs = dict(candidates(model))
    one_of_each = {shape: convs[name].weight for name, shape in shapes.items()}
    if convolutions == DIRECT:
        return {}
    if convolutions != AUTO:
        way = ALGORITHMS[convolutions]
        taken = sorted(shape.key for shape, weight in one_of_each.items() if way.takes(weight))
        if one_of_each and not taken:
            raise ValueError(_takes_none(convolutions, next(iter(one_of_each.values()))))
        return dict.fromkeys(taken, convolutions)
    measured = {shape.key: fastest(weight, shape) for shape, weight in one_of_each.items()}
    return {key: name for key, name in measured.items() if name != DIRECT}


def _takes_none(name: str, weight: Tensor) -> str:
    return (
        f"convolutions is {name!r}, which computes {ALGORITHMS[name].takes_only}, "
        f"not {' to '.join(map(str, weight.shape[1::-1]))} channels in {weight.dtype} on {weight.device}: choose auto, "
        "or go on with a run that noted it on such a machine as it began on"
    )


def check_names(convolutions: Convolutions) -> None:
    """Raises ValueError where an algorithm is named that there is not."""
    named = {convolutions} - {AUTO, DIRECT} if isinstance(convolutions, str) else set(convolutions.values())
    if unknown := named - ALGORITHMS.keys():
        allowed = ", ".join((AUTO, DIRECT, *ALGORITHMS))
        raise ValueError(f"convolutions is {min(unknown)!r}, but it must be one of: {allowed}")


def kernel_bytes(model: nn.Module) -> int:
    """Memory that the algorithms chosen for a model hold beside its weights."""
    return sum(conv.computed_by.kernel_bytes for _, conv in candidates(model) if conv.computed_by)


def apply(model: nn.Module, shapes: Mapping[str, ConvShape], choice: Choice) -> None:
    """Makes the convolutions of a model compute by the algorithms chosen, and its norms in C where any of them does.

    Raises:
        ValueError: one of them does not compute such a convolution on this device, or not on this machine.
    """
    workspace = Workspace()
    for name, conv in candidates(model):
        algorithm, frames = choice.get(shapes[name].key), shapes[name].filtered_frames
        if algorithm and not ALGORITHMS[algorithm].takes(conv.weight):
            raise ValueError(_takes_none(algorithm, conv.weight))
        conv.computed_by = ALGORITHMS[algorithm].of(conv.weight, frames, workspace, conv.before) if algorithm else None
    if any(isinstance(conv.computed_by, InTimeAndSpaceByC) for _, conv in candidates(model)):
        arithmetic = by_c()
        for norm in model.modules():
            if isinstance(norm, GroupNorm) and arithmetic.takes(len(norm.weight)):
                norm.computed_by = arithmetic


@torch.inference_mode()
def fastest(weight: Tensor, shape: ConvShape) -> str:
    """The name of the fastest algorithm among those within TOLERANCES of direct float32."""
    side_px = shape.side_px(PRODUCTS.get(weight.device.type, PRODUCTS["cpu"]))
    generator = torch.Generator().manual_seed(0)
    video = torch.randn(1, shape.in_channels, shape.frames + TAPS - 1, side_px, side_px, generator=generator)
    x = video.to(weight.device, weight.dtype).contiguous(memory_format=torch.channels_last_3d)
    bias, exact = weight.new_zeros(shape.out_channels), F.conv3d(x.float(), weight.float(), padding=(0, 1, 1))
    convolve(x, weight, bias, padding_px=1)  # the first call sets things up
    seconds = {DIRECT: _seconds(lambda: convolve(x, weight, bias, padding_px=1), x.device)}
    for name, way in ALGORITHMS.items():
        if not (way.takes(weight) and way.is_there()):
            continue
        convolution = way.of(weight, shape.filtered_frames, Workspace())
        error = (convolution(x, bias).float() - exact).norm() / exact.norm()
        if float(error) <= TOLERANCES[weight.dtype]:
            seconds[name] = _seconds(partial(convolution, x, bias), x.device)
    return min(seconds, key=lambda name: seconds[name])


def _seconds(call: Callable[[], Any], device: torch.device) -> float:
    """The shortest of some calls."""
    return min(timed(call, device)[0] for _ in range(REPEATS))
