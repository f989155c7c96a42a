"""Where an encoder spends its time, by class of kernel, as torch's profiler sees it.

python -m benchmarks.gpu_kernels cogvideox 49x480x720 bfloat16
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

import encoder
from encoder.bench import clip_of, streamed

# Words in the names of kernels, most telling first; on a CPU, of operations
CLASSES = {
    "norms": ("channel_moments", "merge_groups", "group_normalize", "rms_normalize", "group_norm"),
    "residuals": ("add_residual",),
    "convolutions": ("conv", "implicit", "cudnn", "wgrad", "dgrad", "fprop"),
    "linear": ("gemm", "addmm", "bmm", "aten::mm", "attention"),
    "copies": ("copy", "memcpy", "memset", "fill", "cat"),
}


class Kernel(NamedTuple):
    """All launches of one kernel."""

    name: str
    seconds: float
    launches: int


def class_of(name: str) -> str:
    """The class of a kernel; `other` where no word tells."""
    lower = name.lower()
    return next((kind for kind, words in CLASSES.items() if any(word in lower for word in words)), "other")


def by_class(kernels: Iterable[Kernel]) -> dict[str, dict[str, Any]]:
    """Seconds and launches of each class, the longest first."""
    totals: dict[str, list[float]] = {}
    for kernel in kernels:
        total = totals.setdefault(class_of(kernel.name), [0.0, 0])
        total[0] += kernel.seconds
        total[1] += kernel.launches
    ordered = sorted(totals.items(), key=lambda item: -item[1][0])
    return {kind: {"seconds": round(seconds, 6), "launches": int(n)} for kind, (seconds, n) in ordered}


@torch.inference_mode()
def kernels_of(name: str, shape: tuple[int, int, int], dtype: str, device: str) -> list[Kernel]:
    """Every kernel of one clip, after one that warms up, the longest first."""
    loaded = encoder.load(name, weights="random:0", dtype=dtype, device=device, convolutions=encoder.DIRECT)
    clip, on_gpu = clip_of(shape), loaded.device.type == "cuda"
    for _ in streamed(loaded, clip):
        pass
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiled:
        for _ in streamed(loaded, clip):
            pass
        if on_gpu:
            torch.cuda.synchronize()
    found = (
        Kernel(one.key, (one.self_device_time_total if on_gpu else one.self_cpu_time_total) / 1e6, one.count)
        for one in profiled.key_averages()
    )
    return sorted((kernel for kernel in found if kernel.seconds), key=lambda kernel: -kernel.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("shape", help="FRAMESxHEIGHTxWIDTH")
    parser.add_argument("dtype")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    frames, height_px, width_px = map(int, chosen.shape.split("x"))
    kernels = kernels_of(chosen.name, (frames, height_px, width_px), chosen.dtype, chosen.device)
    classes = by_class(kernels)
    for kind, total in classes.items():
        print(f"{kind:14} {total['seconds']:9.4f} s {total['launches']:7,} launches")
    if chosen.json:
        longest = [kernel._asdict() for kernel in kernels[:30]]
        measured = {"encoder": chosen.name, "shape": chosen.shape, "dtype": chosen.dtype, "device": chosen.device}
        chosen.json.write_text(json.dumps(measured | {"by_class": classes, "longest": longest}, indent=1) + "\n")


if __name__ == "__main__":
    main()
