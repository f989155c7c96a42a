"""A look at a few samples before a run: what they would give, how fast this machine encodes it, the room that is there.

It does not add up (estimate.py) and encodes nothing but blank frames, to time it.
"""

import itertools
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from encoder.device.timing import timed
from encoder.spec import LatentSpec
from encoder.video_encoder import VideoEncoder
from pipeline.clips.continuous import rows_of
from pipeline.config.latents import OutputConfig
from pipeline.config.load import Config
from pipeline.errors import ShardError
from pipeline.estimate.extrapolate import (
    Estimate,
    Looked,
    Picture,
    Shape,
    Stretch,
    affordable,
    count_samples,
    estimate,
    evenly,
    shares,
    sizes_to_time,
)
from pipeline.input.samples import samples_of, shard_info
from pipeline.latents.encode import NO_MEMORY
from pipeline.metadata.filters import without_decoding
from pipeline.records import Failure, Opened, Sample, ShardRef, TableShard
from pipeline.video.decoder import LocalDecoder

READERS = 8
TIMING_SECONDS = 30.0  # for all pictures together
RUNS = 3
VALUE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds that the encoder takes for a frame: the median of several runs, their least and most.

    `size` is the clip that was encoded, smaller than the real one where that would have taken too long.
    """

    size: Shape
    runs: int
    least: float
    median: float
    most: float


@dataclass(frozen=True, slots=True)
class Preview:
    """What is expected of a run, and on which device it was timed. `unreadable` are shards that were not."""

    estimate: Estimate
    timings: dict[Picture, Timing]
    device: str
    unreadable: tuple[str, ...]


def preview(config: Config, left: Sequence[ShardRef], loaded: VideoEncoder, count: int) -> Preview:
    """Looks at about `count` samples, at the beginning of shards that are evenly spread over those that are left.

    Raises:
        TransientError: storage does not answer now.
    """
    tables = [shard for shard in left if isinstance(shard, TableShard)]
    chosen = [left[place] for place in evenly(count, len(left))]
    with ThreadPoolExecutor(READERS) as pool:
        wanted = shares(count, len(chosen)) if chosen else []
        found = list(pool.map(lambda one: _look(config, loaded.spec, *one), zip(chosen, wanted, strict=True)))
        sizes_bytes = list(pool.map(_size_bytes, () if tables else left))
    stretches = [one for one in found if isinstance(one, Stretch)]
    looked = [sample for stretch in stretches for sample in stretch.looked]
    known = sum(len(shard.rows) for shard in tables) or None
    clips = Counter(clip for sample in looked for clip in sample.clips)
    timings = _timings(loaded, clips)
    expected = estimate(
        looked,
        count_samples(stretches, len(left), sum(sizes_bytes), known),
        {shape: stored_bytes(config.output, loaded.spec, shape) for shape in clips},
        {picture: timing.median for picture, timing in timings.items()},
    )
    return Preview(expected, timings, device_name(loaded), tuple(one for one in found if isinstance(one, str)))


def _size_bytes(shard: ShardRef) -> int:
    try:
        return shard_info(shard).size_bytes
    except ShardError:
        return 0


def _look(config: Config, spec: LatentSpec, shard: ShardRef, count: int) -> Stretch | str:
    """The first samples of a shard; or what is wrong with it."""
    looked = []
    sample: Sample | None = None
    try:
        for sample in itertools.islice(samples_of(shard, config), count):
            looked.append(_looked(sample, config, spec))
    except ShardError as error:
        return str(error)
    ended = sample is None or sample.last
    total = len(looked) if ended else None
    return Stretch(tuple(looked), sample.next_position if sample else 0, total)


def _looked(sample: Sample, config: Config, spec: LatentSpec) -> Looked:
    """What decoding a sample would begin with: its clips, by the run's own rules, from its header."""
    if error := without_decoding(config.filter.where, sample):
        return Looked((), (error.code,))
    whole = config.replaced({"clip.segments": 1})
    items = LocalDecoder(whole, spec).start(sample)
    first = next(items)
    items.close()
    if isinstance(first, Failure):
        return Looked((), (first.why.code,))
    assert isinstance(first, Opened), "a sample is opened before its frames come"
    return Looked(
        tuple(
            (row.frames, row.geometry.height_px, row.geometry.width_px)
            for clip in first.clips
            for row, _ in rows_of(clip)
        ),
        tuple(refused.why.code for refused in first.refused),
    )


def stored_bytes(output: OutputConfig, spec: LatentSpec, shape: Shape) -> int:
    """Bytes of a row's latents before they are compressed. One that continues another has 4k frames, not 1 + 4k."""
    frames, height_px, width_px = shape
    one_frame = math.prod(spec.latent_shape(1, height_px, width_px))
    values = one_frame * math.ceil(frames / spec.temporal_ratio) * (2 if output.posterior == "moments" else 1)
    values += one_frame if output.first_frame else 0
    return values * VALUE_BYTES[output.dtype]


def _timings(loaded: VideoEncoder, clips: "Counter[Shape]") -> dict[Picture, Timing]:
    """Seconds a frame by picture, each from its most frequent length."""
    pictures = sorted({shape[1:] for shape in clips})
    budget_seconds = TIMING_SECONDS / max(1, len(pictures))
    timings = {}
    for picture in pictures:
        usual = max((shape for shape in clips if shape[1:] == picture), key=clips.__getitem__)
        if timing := time_encoder(loaded, (loaded.spec.trim_frames(usual[0]), *picture), budget_seconds):
            timings[picture] = timing
    return timings


def time_encoder(loaded: VideoEncoder, shape: Shape, budget_seconds: float) -> Timing | None:
    """Encodes blank clips of growing size while the next fits the time; None where even the smallest has no memory."""
    ends = time.monotonic() + budget_seconds
    few_frames = next((total for total in itertools.accumulate(loaded.plan(shape[0])) if total > 1), 1)
    size, runs = shape, [0.0]
    best: Timing | None = None
    for next_size in sizes_to_time(shape, few_frames, loaded.spec.spatial_ratio):
        if best and not affordable(size, sum(runs), next_size, ends - time.monotonic()):
            break
        try:
            # the first run of a size also prepares kernels
            size, runs = next_size, [_encode_blank(loaded, next_size) for _ in range(1 + RUNS)]
        except NO_MEMORY:
            break
        best = _timing(size, shape, runs[1:])
    return best


def _timing(size: Shape, shape: Shape, runs: list[float]) -> Timing:
    """The seconds that clips of `size` took, as those of a frame of `shape`, by the number of pixels."""
    scale = math.prod(shape[1:]) / math.prod(size)
    seconds = sorted(run * scale for run in runs)
    return Timing(size, len(runs), seconds[0], seconds[len(seconds) // 2], seconds[-1])


def _encode_blank(loaded: VideoEncoder, size: Shape) -> float:
    return timed(lambda: loaded.encode(loaded.to_video(np.zeros((*size, 3), np.uint8))), loaded.device)[0]


def device_name(loaded: VideoEncoder) -> str:
    """What the encoder was timed on, for people."""
    if loaded.device.type != "cpu":
        return f"this machine's {loaded.device.type} device ({loaded.device_name})"
    return f"this machine's CPU ({os.cpu_count()} cores)"


def free_bytes(path: str) -> int | None:
    """Room where a local path is or would be; None where storage does not say."""
    if "://" in path:
        return None
    there = next(folder for folder in (Path(path).absolute(), *Path(path).absolute().parents) if folder.is_dir())
    return shutil.disk_usage(there).free
