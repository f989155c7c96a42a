"""What a segment's warm-up is for: how far latents are from those of one stream that began so many chunks earlier.

It does not judge a checkpoint. `python -m benchmarks.segments VIDEO [--weights …]` writes results/segments.json.
"""

import argparse
import json
import time
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

import encoder
from benchmarks.fidelity import error, frames_of, write_results
from encoder import plan_from
from encoder.video_encoder import VideoEncoder

RESULTS = Path(__file__).parent / "results" / "segments.json"
WARM_UP_CHUNKS = (0, 1, 2, 4, 8, 12, 16, 20, 24, 28)
SETTINGS = ({"norm_scope": "chunk"}, {"norm_scope": "frame"})


def main() -> None:
    options = parse()
    results = [measured for name in options.names for measured in measure(name, options)]
    write_results(RESULTS, {"video": Path(options.video).name}, options, results)


def measure(name: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One line for each setting and warm-up: the error over the latents of the clip's last eight frames."""
    for setting in SETTINGS if name != "wan" else SETTINGS[:1]:
        loaded = encoder.load(name, weights=options.weights, device="auto", **setting)
        video = frames_of(options.video, loaded, options)
        began = time.perf_counter()
        whole = loaded.encode(video).mean.cpu()
        seconds = time.perf_counter() - began
        line = {"encoder": name, **setting, "seconds_of_one_stream": round(seconds, 1)}
        for warm_up, begin in begins(loaded, options.frames):
            wanted = latents_from(loaded, video, begin)[:, :, -2:]
            measured = line | {"warm_up": warm_up, "warm_up_frames": options.frames - 8 - begin}
            measured["error"] = error(wanted, whole[:, :, -2:])
            measured["equal"] = torch.equal(wanted, whole[:, :, -2:])
            print(json.dumps(measured), flush=True)
            yield measured


def begins(loaded: VideoEncoder, frames: int) -> Iterator[tuple[str, int]]:
    """Where a stream begins: so many chunks of eight frames before the last one, and where the receptive field says."""
    for chunks in WARM_UP_CHUNKS:
        if (begin := frames - 8 * (chunks + 1) - 1) > 0:
            yield f"{chunks} chunks", begin
    assert loaded.receptive_field is not None
    yield "receptive field", loaded.receptive_field.begin(frames - 5, loaded.plan(frames))


def latents_from(loaded: VideoEncoder, video: torch.Tensor, begin: int) -> torch.Tensor:
    """The latents of the frames from `begin` on, whose chunks end where those of the whole video do."""
    plan = plan_from(begin, video.shape[2], loaded.plan(video.shape[2]))
    stream = loaded.stream(sum(plan), plan)
    ends = accumulate(plan, initial=begin)
    parts = [stream.push(video[:, :, end - size : end]) for size, end in zip(plan, list(ends)[1:], strict=True)]
    return torch.cat([part.mean.cpu() for part in parts if part is not None], 2)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video")
    parser.add_argument("--names", nargs="+", default=["tiny", "cogvideox"])
    parser.add_argument("--weights", default="random:0")
    parser.add_argument("--frames", type=int, default=257, help="1 + 8k")
    parser.add_argument("--size", default="32x48", help="HEIGHTxWIDTH in pixels")
    options = parser.parse_args()
    options.name = options.names[0]  # of which only the ratios count: they are the same for all
    return options


if __name__ == "__main__":
    main()
