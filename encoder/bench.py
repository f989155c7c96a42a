"""The speed of an encoder beside diffusers' on the same weights and clip: interleaved, with error and memory.

The timed work goes from a clip's uint8 frames in host memory to its moments. Ours takes the clip chunk by chunk, as in
a run; diffusers takes it whole, as its interface requires.
"""

import contextlib
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import encoder
from encoder.checkpoints.known import LAYOUTS
from encoder.computed_by import machine
from encoder.device.cuda import exact_arithmetic
from encoder.device.timing import timed
from encoder.families import DTYPES, family_of
from encoder.loading import cuda_shadow, device_of
from encoder.spec import DIFFUSERS
from encoder.streaming.footprint import encode_flops
from encoder.streaming.traffic import traffic
from encoder.tuning import kernel_bytes
from encoder.video_encoder import VideoEncoder
from encoder.weights import RANDOM, found_path

CHUNK_FRAMES = 8  # our default, and that of diffusers
LONG_SECONDS = 0.1  # for a matrix product
Shape = tuple[int, int, int]  # frames, height and width in pixels
Clip = npt.NDArray[np.uint8]  # `t h w c`
Encode = Callable[[Clip], Iterator[Tensor]]  # to moments `1 2z t' h' w'`, as they become ready
Loaded = tuple[Encode, dict[str, Any]]  # how to encode, and more fields for its line


@dataclass(frozen=True, slots=True)
class Variant:
    """What is measured: `convolutions` as for `encoder.load`, or `diffusers` for diffusers' own code."""

    dtype: str
    convolutions: str


@dataclass(frozen=True, slots=True)
class Bench:
    """What to measure; `weights` is a diffusers folder or random:SEED. Errors are relative to the first variant."""

    name: str
    weights: str
    shapes: tuple[Shape, ...]
    variants: tuple[Variant, ...]
    rounds: int
    device: str
    threads: int


def run(bench: Bench) -> Iterator[dict[str, Any]]:
    """First the machine, then one line for each shape and variant.

    Raises:
        ValueError: an unknown encoder or device, bad weights, or a shape that it cannot encode.
    """
    encoder.set_threads(bench.threads)
    device = device_of(bench.device)
    yield {
        "encoder": bench.name,
        "weights": bench.weights,
        **machine(device, bench.threads),
        "rounds": bench.rounds,
        "matmul_gflops": {dtype: _matmul_gflops(dtype, device) for dtype in {each.dtype for each in bench.variants}},
    }
    with _folder(bench) as folder:
        encodes = {each: _load(bench, folder, each) for each in bench.variants}
        direct = encoder.load(bench.name, weights="random:0", convolutions="direct")
        for shape in bench.shapes:
            flops = direct.encode_flops(*shape)
            yield from _of_shape(bench, folder, encodes, shape, flops)


def _of_shape(
    bench: Bench, folder: str, encodes: Mapping[Variant, Loaded], shape: Shape, flops: int
) -> Iterator[dict[str, Any]]:
    clip, device = clip_of(shape), device_of(bench.device)
    seconds: dict[Variant, list[float]] = {variant: [] for variant in bench.variants}
    moments: dict[Variant, Tensor] = {}
    for encode, _ in encodes.values():
        _timed(encode, clip[: few_frames(len(clip))], device)  # warm-up
    for _ in range(bench.rounds):
        for variant, (encode, _) in encodes.items():
            took, moments[variant] = _timed(encode, clip, device)
            seconds[variant].append(took)
    exact = _exactly(encodes[bench.variants[0]][0], clip, device, moments[bench.variants[0]]).float()
    for variant, times in seconds.items():
        median, details = statistics.median(times), encodes[variant][1]
        peak_bytes = _peak_bytes(bench, folder, variant, details.get("chosen"), shape)
        yield {
            "shape": "x".join(map(str, shape)),
            **asdict(variant),
            "seconds": [round(second, 4) for second in times],
            "median_seconds": round(median, 4),
            "seconds_per_frame": float(f"{median / len(clip):.4g}"),
            "relative_error": float(f"{_error(moments[variant], exact):.3g}"),
            "direct_gflops": round(flops / median / 1e9, 1),
            "peak_bytes": peak_bytes,
            **details,
        }


def with_ratios(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each line with its speed and its memory relative to diffusers in the same precision."""
    peers = {(line["shape"], line["dtype"]): line for line in lines if line["convolutions"] == DIFFUSERS}
    return [line | _ratios(line, peers.get((line["shape"], line["dtype"]))) for line in lines]


def _ratios(line: dict[str, Any], peer: dict[str, Any] | None) -> dict[str, Any]:
    if peer is None:
        return {}
    ratios = {"times_faster": round(peer["median_seconds"] / line["median_seconds"], 2)}
    if line["peak_bytes"] and peer["peak_bytes"]:
        ratios["of_the_memory"] = round(line["peak_bytes"] / peer["peak_bytes"], 2)
    return ratios


@contextlib.contextmanager
def _folder(bench: Bench) -> Iterator[str]:
    """Weights that every variant can load: for diffusers and random:SEED, a folder with its own random weights."""
    compares = any(variant.convolutions == DIFFUSERS for variant in bench.variants)
    if not (compares and bench.weights.startswith(RANDOM)):
        yield bench.weights if bench.weights.startswith(RANDOM) else str(found_path(bench.weights))
        return
    family = family_of(bench.name)
    torch.manual_seed(int(bench.weights.removeprefix(RANDOM)))
    with tempfile.TemporaryDirectory() as folder:
        _class(bench.name)(**family.checkpoints.config_of(family.presets[bench.name])).save_pretrained(folder)
        yield folder


def _load(bench: Bench, folder: str, variant: Variant, chosen: Mapping[str, str] | None = None) -> Loaded:
    """`chosen` is the earlier result of `auto`."""
    if variant.convolutions == DIFFUSERS:
        model = _class(bench.name).from_pretrained(folder, torch_dtype=DTYPES[variant.dtype], low_cpu_mem_usage=False)
        model = model.eval().to(device_of(bench.device))
        return lambda clip: iter([model.encode(whole_video(clip, model)).latent_dist.parameters]), {}
    convolutions = variant.convolutions if chosen is None else chosen
    loaded = encoder.load(
        bench.name, weights=folder, dtype=variant.dtype, device=bench.device, convolutions=convolutions
    )
    engine: Any = loaded.engine
    details = {"chosen": loaded.identity["convolutions"], "kernel_bytes": kernel_bytes(engine.model)}
    return partial(streamed, loaded), details


def _class(name: str) -> Any:
    """The class in diffusers of a native encoder."""
    import diffusers  # optional

    return getattr(diffusers, LAYOUTS[name].classes[0])


def streamed(loaded: VideoEncoder, clip: Clip) -> Iterator[Tensor]:
    """As in a run: frames are copied to the device chunk by chunk."""
    stream, begin = loaded.stream(len(clip)), 0
    for frames in loaded.plan(len(clip)):
        posterior = stream.push(loaded.to_video(clip[begin : begin + frames]))
        begin += frames
        if posterior is not None:
            yield torch.cat([posterior.mean, posterior.logvar], 1)
    stream.finish()


def whole_video(clip: Clip, model: Any) -> Tensor:
    """The clip as diffusers takes it, `1 3 t h w` on its device, made without another copy of its size."""
    frames, height_px, width_px, _ = clip.shape
    video = torch.empty(1, 3, frames, height_px, width_px, dtype=model.dtype, device=model.device)
    for begin in range(0, frames, CHUNK_FRAMES):
        part = torch.from_numpy(clip[begin : begin + CHUNK_FRAMES]).to(model.device)
        video[0, :, begin : begin + CHUNK_FRAMES] = part.float().div_(127.5).sub_(1).permute(3, 0, 1, 2)
    return video


def few_frames(frames: int) -> int:
    """The frames of a short clip whose chunks have all the lengths of the whole clip's."""
    return min(frames, 2 * CHUNK_FRAMES + frames % CHUNK_FRAMES)


def clip_of(shape: Shape) -> Clip:
    """Smooth motion with some noise, like a video; made frame by frame, so that little memory is used."""
    frames, height_px, width_px = shape
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(frames // 4 + 2, 3, height_px // 16 + 1, width_px // 16 + 1, generator=generator)
    clip = np.empty((frames, height_px, width_px, 3), np.uint8)
    for number, picture in enumerate(clip):
        between = torch.lerp(coarse[number // 4], coarse[number // 4 + 1], number % 4 / 4)
        smooth = torch.nn.functional.interpolate(between[None], (height_px, width_px), mode="bilinear")[0]
        noisy = smooth + 0.025 * torch.randn(smooth.shape, generator=generator)
        picture[:] = noisy.clamp_(0, 1).mul_(255).round_().to(torch.uint8).permute(1, 2, 0).numpy()
    return clip


@torch.inference_mode()
def _timed(encode: Encode, clip: Clip, device: torch.device) -> tuple[float, Tensor]:
    seconds, parts = timed(lambda: list(encode(clip)), device)
    return seconds, torch.cat(parts, 2).cpu()


def _exactly(encode: Encode, clip: Clip, device: torch.device, as_timed: Tensor) -> Tensor:
    """What the first variant gives in IEEE arithmetic: others may use TF32 on a GPU, which errors must not hide."""
    if device.type == "cpu":
        return as_timed
    with exact_arithmetic():
        return _timed(encode, clip, device)[1]


def _error(moments: Tensor, exact: Tensor) -> float:
    return float((moments.float() - exact).norm() / exact.norm())


def _matmul_gflops(dtype: str, device: torch.device, repeats: int = 3) -> float:
    """The speed of matrix products here, the best of several sizes up to one that takes long.

    A processor without instructions for bfloat16 takes half a minute for what others do in milliseconds.
    """
    best = 0.0
    for side in (256, 512, 1024, 2048):
        a, b = (torch.randn(side, side).to(device, DTYPES[dtype]) for _ in range(2))
        seconds = min(timed(lambda a=a, b=b: torch.mm(a, b), device)[0] for _ in range(repeats))  # type: ignore[misc]
        best = max(best, 2 * side**3 / seconds / 1e9)
        if seconds > LONG_SECONDS:
            break
    return round(best, 1)


def _peak_bytes(
    bench: Bench, folder: str, variant: Variant, chosen: Mapping[str, str] | None, shape: Shape
) -> int | None:
    """Peak memory above that of the loaded encoder, measured in its own process; None if it cannot be read."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_bytes_here, (bench, folder, variant, chosen, shape))


@torch.inference_mode()
def _peak_bytes_here(
    bench: Bench, folder: str, variant: Variant, chosen: Mapping[str, str] | None, shape: Shape
) -> int | None:
    encoder.set_threads(bench.threads)
    device = device_of(bench.device)
    encode, _ = _load(bench, folder, variant, chosen)
    first, clip = clip_of((5, 16, 16)), clip_of(shape)  # frames in host memory exist before, and are not counted
    for _ in encode(first):  # what is allocated once does not count
        pass
    before = _memory_bytes(device, reset=True)
    for _ in encode(clip):  # moments are dropped, as in a run after a row is written
        pass
    after = _memory_bytes(device)
    return None if before is None or after is None else after - before


def _memory_bytes(device: torch.device, reset: bool = False) -> int | None:
    """Peak memory of the device, or on a CPU of this process, so far; with `reset`, its memory now."""
    if device.type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device)
    resets, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not (resets.exists() and status.exists()):
        return None  # not on Linux
    if reset:
        resets.write_text("5")
    lines = (line.split() for line in status.read_text().splitlines())
    return next(int(words[1]) * 1024 for words in lines if words[0] == "VmHWM:")


def count(name: str, shapes: Sequence[tuple[int, int, int]], dtype: str) -> list[dict[str, Any]]:
    """What the CUDA path moves, launches and multiplies for one clip of each shape, counted without a GPU."""
    engine, lines = cuda_shadow(name, dtype), []
    for shape in shapes:
        by_kind = traffic(engine, *shape, DTYPES[dtype])
        lines.append(
            {
                "shape": "x".join(map(str, shape)),
                "dtype": dtype,
                "flops": encode_flops(engine, *shape, DTYPES[dtype]),
                "bytes_moved": sum(each.bytes_moved for each in by_kind.values()),
                "kernels": sum(each.kernels for each in by_kind.values()),
                "by_kind": {kind: asdict(each) for kind, each in sorted(by_kind.items())},
            }
        )
    return lines
