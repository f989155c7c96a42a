"""CPU seconds of clips deep in long films: by key frames, from the start, and out of files of their own.

The films repeat two groups of 250 coded pictures with rising times, so that hours take no hour to make.
`python -m benchmarks.decode [--minutes …]` writes results/decode.json.
"""

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import decord
from PIL import Image

from pipeline.clips.plan import ClipRules, plan_clips
from pipeline.config.latents import ClipConfig
from pipeline.config.runtime import LimitsConfig
from pipeline.records import Chunk, Failure
from pipeline.video.bench.clip_cost import RULES
from pipeline.video.decode import decode_sample, memory_file
from pipeline.video.pixels.resize import get_ready
from pipeline.video.probe import probe
from pipeline.video.pyav_pictures import PyavPictures
from pipeline.video.signatures import container_of
from pipeline.video.synthetic.videos import make_video

RESULTS = Path(__file__).parent / "results" / "decode.json"
GROUP_FRAMES, FPS, CLIP_FRAMES = 250, 30, 181  # of the source, that a clip of 49 frames at 8 a second spans


def main() -> None:
    options = parse()
    get_ready()
    width_px, height_px = (int(side) for side in options.size.split("x"))
    coding = {"g": str(GROUP_FRAMES), "keyint_min": str(GROUP_FRAMES), "sc_threshold": "0", "bf": "3", "crf": "23"}
    groups = make_video(2 * GROUP_FRAMES, FPS, width_px, height_px, options=coding)
    film = repeated(groups, options.minutes * 60 * FPS // (2 * GROUP_FRAMES))
    one_clip = make_video(CLIP_FRAMES + 1, FPS, width_px, height_px, options=coding)
    results = [
        {"what": "one clip, as it was before and now", **before_and_now(one_clip, options.rounds)},
        {"what": f"{options.clips} clips of a film, by key frames", **cost(film, options.clips, seeks=True)},
        {"what": f"{options.clips} clips as files of their own", **own_files(one_clip, options.clips)},
    ]
    if options.from_the_start:
        results.append({"what": "the same of the film, from its start", **cost(film, options.clips, seeks=False)})
    machine = {"size": options.size, "minutes": options.minutes, "clips": options.clips}
    Path(options.json).write_text(json.dumps({**machine, "results": results}, indent=1) + "\n")


def repeated(video: bytes, times: int) -> bytes:
    """The video so often after itself, without decoding it."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream, offset = None, 0
        for _ in range(times):
            with av.open(io.BytesIO(video)) as source:
                stream = stream or output.add_stream_from_template(source.streams.video[0])
                for packet in _packets(source):
                    packet.pts, packet.dts, packet.stream = packet.pts + offset, packet.dts + offset, stream
                    output.mux(packet)
                offset += source.streams.video[0].duration
    return file.getvalue()


def _packets(source: av.container.InputContainer) -> Iterator[av.Packet]:
    return (packet for packet in source.demux(video=0) if packet.size)


def cost(video: bytes, clips: int, seeks: bool) -> dict[str, Any]:
    """CPU seconds of so many clips of one video, evenly spaced."""
    original = PyavPictures.pictures
    if not seeks:
        PyavPictures.pictures = PyavPictures.from_the_start  # type: ignore[method-assign]
    began = time.process_time()
    frames = decoded(video, f"uniform:{clips}", RULES)
    PyavPictures.pictures = original  # type: ignore[method-assign]
    return report(time.process_time() - began, frames)


def before_and_now(video: bytes, rounds: int) -> dict[str, Any]:
    """Medians for one clip: by Decord and Pillow, as up to format 1, and by what stands in pipeline/video."""
    before, now = [], []
    for _ in range(rounds):
        before.append(own_cost(as_before, video))
        now.append(own_cost(lambda data: decoded(data, "head", RULES), video))
    medians = {"cpu_seconds_before": statistics.median(before), "cpu_seconds": statistics.median(now)}
    print(json.dumps(medians), flush=True)
    return medians


def own_cost(work: Callable[[bytes], object], video: bytes) -> float:
    began = time.process_time()
    work(video)
    return round(time.process_time() - began, 3)


def as_before(video: bytes) -> None:
    with memory_file(video) as path:
        clip = plan_clips(probe(path, container_of(video), LimitsConfig()).header, ClipConfig(), RULES)[0]
        size_px = (clip.geometry.resized_width_px, clip.geometry.resized_height_px)
        reader, wanted = decord.VideoReader(path, num_threads=1, fault_tol=0.0001), set(clip.frame_indices)
        for index in range(clip.frame_indices[-1] + 1):
            picture = reader.next()
            if index in wanted:
                Image.fromarray(picture.asnumpy()).resize(size_px, Image.Resampling.BICUBIC)


def own_files(video: bytes, clips: int) -> dict[str, Any]:
    began = time.process_time()
    frames = sum(decoded(video, "head", RULES) for _ in range(clips))
    return report(time.process_time() - began, frames)


def decoded(video: bytes, window: str, rules: ClipRules) -> int:
    frames = 0
    for item in decode_sample(video, ClipConfig(window=window), LimitsConfig(), False, rules):
        assert not isinstance(item, Failure), item
        frames += len(item.frames) if isinstance(item, Chunk) else 0
    return frames


def report(cpu_seconds: float, frames: int) -> dict[str, Any]:
    line = {"cpu_seconds": round(cpu_seconds, 2), "frames": frames}
    print(json.dumps(line), flush=True)
    return line


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, default=120, help="length of the film (default: 120)")
    parser.add_argument("--clips", type=int, default=10)
    parser.add_argument("--size", default="1280x720", help="WIDTHxHEIGHT in pixels")
    parser.add_argument("--rounds", type=int, default=5, help="of one clip, before and now interleaved")
    parser.add_argument("--json", default=str(RESULTS))
    parser.add_argument("--from-the-start", action="store_true", help="also decode everything before each clip")
    return parser.parse_args()


if __name__ == "__main__":
    main()
