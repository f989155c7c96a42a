"""How far latents move with precision, norm scope and chunk size, on real frames: against float32 and the whole clip.

It does not judge a checkpoint. `python -m benchmarks.fidelity VIDEO… [--weights …]` writes results/fidelity.json, or
the file --results.
"""

import argparse
import json
import math
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import encoder
from encoder import LatentSpec
from encoder.video_encoder import VideoEncoder
from pipeline.clips.plan import ClipRules
from pipeline.config.latents import ClipConfig
from pipeline.config.runtime import LimitsConfig
from pipeline.records import Chunk
from pipeline.video.decode import decode_sample

RESULTS = Path(__file__).parent / "results" / "fidelity.json"
SETTINGS: tuple[dict[str, Any], ...] = (
    {"norm_scope": "clip"},
    {"norm_scope": "chunk", "chunk_frames": 4},
    {"norm_scope": "chunk", "chunk_frames": 8},
    {"norm_scope": "chunk", "chunk_frames": 8, "chunk_plan": "even"},
    {"norm_scope": "chunk", "chunk_frames": 16},
    {"norm_scope": "frame"},
)
DTYPES = ("float32", "bfloat16", "float16")


def main() -> None:
    options = parse()
    results = [measured for video in options.videos for measured in measure(video, options)]
    write_results(options.results, {"encoder": options.name}, options, results)


def write_results(path: Path, of: dict[str, Any], options: argparse.Namespace, results: list[dict[str, Any]]) -> None:
    """Writes what was measured, behind what it was measured `of` and on."""
    values = {
        **of,
        "weights": options.weights,
        "clip": f"{options.frames}x{options.size}",
        "torch": torch.__version__,
        "machine": platform.machine(),
        "results": results,
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values, indent=1) + "\n")


def measure(video: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One line for each precision and setting; the reference is the whole clip in float32."""
    reference: torch.Tensor | None = None
    in_float32: dict[str, torch.Tensor] = {}
    for dtype in options.dtypes:
        for setting in SETTINGS:
            loaded = encoder.load(options.name, weights=options.weights, dtype=dtype, device="auto", **setting)
            mean = loaded.encode(frames_of(video, loaded, options)).mean.cpu()
            reference = mean if reference is None else reference
            same = in_float32.setdefault(json.dumps(setting), mean)
            line = {"video": Path(video).name, "dtype": dtype, **setting}
            line |= {"psnr_db_against_whole_clip": psnr_db(mean, reference), "error_of_dtype": error(mean, same)}
            print(json.dumps(line), flush=True)
            yield line


def frames_of(video: str, loaded: VideoEncoder, options: argparse.Namespace) -> torch.Tensor:
    """`1 3 t h w` in [-1, 1]: the first frames of a video, as a run would take them."""
    clip = ClipConfig(frames=options.frames, fps=None, buckets=(options.size,))
    rules = ClipRules(LatentSpec(options.name, 16, 4, 8), 8)
    items = decode_sample(Path(video).read_bytes(), clip, LimitsConfig(), False, rules)
    return torch.cat([loaded.to_video(item.frames) for item in items if isinstance(item, Chunk)], dim=2)


def psnr_db(latent: torch.Tensor, reference: torch.Tensor) -> float | None:
    """Peak signal-to-noise ratio over the reference's range; None where they are equal."""
    squared = float((latent - reference).square().mean())
    return round(10 * math.log10(float(reference.max() - reference.min()) ** 2 / squared), 2) if squared else None


def error(latent: torch.Tensor, reference: torch.Tensor) -> float:
    """Largest difference over the reference's largest value."""
    return float(f"{float((latent - reference).abs().max() / reference.abs().max()):.3g}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", nargs="+")
    parser.add_argument("--name", default="cogvideox")
    parser.add_argument("--weights", default="random:0")
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--size", default="64x96", help="HEIGHTxWIDTH in pixels")
    parser.add_argument("--dtypes", nargs="+", default=DTYPES, choices=DTYPES)
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
