"""A preview of a run from a few samples: their clips, the encoder's speed on this machine, the free space.

Only headers are decoded, and only blank frames encoded.
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

from encoder import LatentSpec
from encoder.video_encoder import VideoEncoder, timed
from pipeline.clips.continuous import rows_of
from pipeline.config.latents import OutputConfig
from pipeline.config.load import Config
from pipeline.errors import ShardError
from pipeline.estimate.extrapolate import (
    Estimate,
    Picture,
    SamplePreview,
    Shape,
    ShardPreview,
    affordable,
    count_samples,
    estimate,
    shares,
    sizes_to_time,
)
from pipeline.input.samples import samples_of, shard_info
from pipeline.latents.encode import NO_MEMORY
from pipeline.metadata.filters import without_decoding
from pipeline.output.latent_bytes import VALUE_BYTES
from pipeline.records import Failure, Opened, Sample, ShardRef, TableShard
from pipeline.spread import evenly
from pipeline.storage.urls import is_remote
from pipeline.video.decoder import LocalDecoder

READERS = 8
TIMING_SECONDS = 30.0  # for all pictures together
RUNS = 3


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
    """What to expect of a run, and on which device it was timed. `unreadable` has the errors of shards."""

    estimate: Estimate
    previewed: tuple[SamplePreview, ...]
    timings: dict[Picture, Timing]
    device: str
    unreadable: tuple[str, ...]


def preview(config: Config, left: Sequence[ShardRef], loaded: VideoEncoder, count: int) -> Preview:
    """Reads about `count` samples, at the beginning of shards that are evenly spread over those that are left.

    Raises:
        TransientError: storage does not answer.
    """
    tables = [shard for shard in left if isinstance(shard, TableShard)]
    chosen = evenly(left, count)
    with ThreadPoolExecutor(READERS) as pool:
        wanted = shares(count, len(chosen)) if chosen else []
        found = list(pool.map(lambda one: _preview_shard(config, loaded.spec, *one), zip(chosen, wanted, strict=True)))
        sizes_bytes = list(pool.map(_size_bytes, () if tables else left))
    previews = [one for one in found if isinstance(one, ShardPreview)]
    previewed = [sample for shard in previews for sample in shard.previewed]
    known = sum(len(shard.rows) for shard in tables) or None
    clips = Counter(clip for sample in previewed for clip in sample.clips)
    timings = _timings(loaded, clips)
    expected = estimate(
        previewed,
        count_samples(previews, len(left), sum(sizes_bytes), known),
        {shape: stored_bytes(config.output, loaded.spec, shape) for shape in clips},
        {picture: timing.median for picture, timing in timings.items()},
    )
    return Preview(
        expected, tuple(previewed), timings, device_name(loaded), tuple(one for one in found if isinstance(one, str))
    )


def _size_bytes(shard: ShardRef) -> int:
    try:
        return shard_info(shard).size_bytes
    except ShardError:
        return 0


def _preview_shard(config: Config, spec: LatentSpec, shard: ShardRef, count: int) -> ShardPreview | str:
    """The first samples of a shard; or the error that it gives."""
    previewed = []
    sample: Sample | None = None
    try:
        for sample in itertools.islice(samples_of(shard, config), count):
            previewed.append(_preview_sample(sample, config, spec))
    except ShardError as error:
        return str(error)
    ended = sample is None or sample.last
    total = len(previewed) if ended else None
    return ShardPreview(tuple(previewed), sample.next_position if sample else 0, total)


def _preview_sample(sample: Sample, config: Config, spec: LatentSpec) -> SamplePreview:
    """The clips of a sample, by the run's own rules, from its header."""
    if error := without_decoding(config.filter.where, sample):
        return SamplePreview((), (error.code,))
    whole = config.replaced({"clip.segments": 1})
    items = LocalDecoder(whole, spec).start(sample)
    first = next(items)
    items.close()
    if isinstance(first, Failure):
        return SamplePreview((), (first.why.code,))
    assert isinstance(first, Opened), "a sample is opened before its frames come"
    return SamplePreview(
        tuple(
            (row.frames, row.geometry.height_px, row.geometry.width_px)
            for clip in first.clips
            for row, _ in rows_of(clip)
        ),
        tuple(refused.why.code for refused in first.refused),
        (sample.captions or ("",)) if first.clips else (),
    )


def stored_bytes(output: OutputConfig, spec: LatentSpec, shape: Shape) -> int:
    """Bytes of a row's latents before compression. A row that continues another has 4k frames, not 1 + 4k."""
    frames, height_px, width_px = shape
    one_frame = math.prod(spec.latent_shape(1, height_px, width_px))
    values = one_frame * math.ceil(frames / spec.temporal_ratio) * (2 if output.posterior == "moments" else 1)
    if output.image_latent != "none":
        values += one_frame * (math.ceil(frames / spec.temporal_ratio) if output.image_latent == "padded" else 1)
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
    """Encodes blank clips of growing size within a time budget; None where even the smallest exceeds the memory."""
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
    """Seconds a frame of `shape`, from runs with frames of `size`, scaled by the number of pixels."""
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
    """Free bytes on the disk of a local path; None where storage does not tell."""
    if is_remote(path):
        return None
    existing = next(folder for folder in (Path(path).absolute(), *Path(path).absolute().parents) if folder.is_dir())
    return shutil.disk_usage(existing).free
