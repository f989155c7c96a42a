"""Which frames of a video become clips, and what is done to each: rates, windows, buckets, geometry.

It does not read or decode anything: a header and the rules come in, `ClipSpec`s go out.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from encoder.chunks import chunk_plan
from encoder.spec import LatentSpec
from pipeline.config import ClipConfig
from pipeline.errors import ConfigError, SampleError, ShardError
from pipeline.records import ClipSpec, Geometry, VideoHeader

GRID_TOLERANCE_SECONDS = 0.0005  # containers round times to the millisecond
TIE_SECONDS = 1e-6  # two frames are equally near, whatever the last bits of a float say
LOWEST_RATE = 0.95  # of the rate asked for; below it frames would be repeated throughout


@dataclass(frozen=True, slots=True)
class ClipRules:
    """What the encoder asks of a clip: legal counts and sizes, and how many frames it takes in one pass."""

    spec: LatentSpec
    chunk_frames: int


def check_clip_config(clip: ClipConfig, spec: LatentSpec) -> None:
    """Refuses a clip length or a bucket that the encoder cannot take.

    Raises:
        ConfigError: naming the value and the nearest ones that are allowed.
    """
    if isinstance(clip.frames, int) and not spec.is_legal_frames(clip.frames):
        below = spec.trim_frames(clip.frames)
        raise ConfigError(
            f"clip.frames: {clip.frames} is not legal for {spec.name}, whose counts are 1 + {spec.temporal_ratio}*k: "
            f"take {below} or {below + spec.temporal_ratio}"
        )
    ratio = spec.spatial_ratio
    for bucket, size_px in zip(clip.buckets, clip.bucket_sizes_px, strict=True):
        if any(side_px % ratio for side_px in size_px):
            nearest = "x".join(str(max(ratio, round(side_px / ratio) * ratio)) for side_px in size_px)
            raise ConfigError(
                f"clip.buckets: {bucket} is not legal for {spec.name}, whose sides are multiples of {ratio}: "
                f"take {nearest}"
            )


def plan_clips(header: VideoHeader, clip: ClipConfig, rules: ClipRules) -> tuple[ClipSpec, ...]:
    """The clips of one video, by window.

    Raises:
        SampleError: the video can give no clip.
        ShardError: its frame count is not legal and `clip.tail` is error.
    """
    geometry = choose_geometry(header, clip)
    frames, fps = frames_at_rate(header, clip.fps)
    windows = whole_window(len(frames), clip, rules.spec) if clip.whole_video else cut_windows(len(frames), fps, clip)
    return tuple(
        ClipSpec(
            window_index=index,
            frame_indices=tuple(frames[position] for position in window),
            pts_seconds=tuple(header.pts_seconds[frames[position]] for position in window),
            fps=fps,
            geometry=geometry,
            chunk_frames=chunk_plan(len(window), rules.chunk_frames, rules.spec.temporal_ratio),
        )
        for index, window in enumerate(windows)
    )


def frames_at_rate(header: VideoHeader, fps: float | None) -> tuple[Sequence[int], float]:
    """The frames used, and their rate: all of them, or the nearest in time to each point of a grid of `fps`."""
    pts_seconds = header.pts_seconds
    source_fps = mean_fps(header)
    if fps is None:
        return range(len(pts_seconds)), source_fps
    if len(pts_seconds) > 1 and source_fps < LOWEST_RATE * fps:
        raise SampleError("clip", "fps_too_low", f"{source_fps:.3f} frames a second, clip.fps asks for {fps:g}")
    points = math.floor((pts_seconds[-1] + GRID_TOLERANCE_SECONDS) * fps) + 1
    return [nearest_frame(pts_seconds, point / fps) for point in range(points)], fps


def mean_fps(header: VideoHeader) -> float:
    """Frames a second over the whole video; of a single frame, the inverse of the time it is shown."""
    span_seconds = header.pts_seconds[-1]
    if span_seconds > 0:
        return (header.frames - 1) / span_seconds
    return header.frames / header.duration_seconds if header.duration_seconds > 0 else 1.0


def nearest_frame(pts_seconds: Sequence[float], time_seconds: float) -> int:
    """Index of the frame nearest in time; of two equally near, the earlier."""
    after = bisect_left(pts_seconds, time_seconds)
    if after == 0:
        return 0
    if after == len(pts_seconds):
        return after - 1
    past_seconds = time_seconds - pts_seconds[after - 1]
    return after if pts_seconds[after] - time_seconds < past_seconds - TIE_SECONDS else after - 1


def whole_window(available: int, clip: ClipConfig, spec: LatentSpec) -> list[range]:
    """One window of all frames, made legal as `clip.tail` says."""
    legal = spec.trim_frames(available)
    if legal == available or clip.tail == "trim":
        return [range(legal)]
    what = f"{available} frames, not 1 + {spec.temporal_ratio}*k; nearest below: {legal}"
    if clip.tail == "drop":
        raise SampleError("clip", "illegal_frame_count", what)
    raise ShardError(f"a video has {what}. clip.tail: error stops here; trim cuts the last frames, drop rejects it")


def cut_windows(available: int, fps: float, clip: ClipConfig) -> list[range]:
    """Windows of `clip.frames` positions each, within the `available` frames."""
    assert isinstance(clip.frames, int)
    spare = available - clip.frames
    if spare < 0:
        raise SampleError(
            "clip",
            "too_short",
            f"{available} frames ({available / fps:.2f} s) at {fps:.3f} a second, "
            f"clip.frames asks for {clip.frames} ({clip.frames / fps:.2f} s)",
        )
    return [range(start, start + clip.frames) for start in window_starts(spare, clip.window)]


def window_starts(spare: int, window: str) -> list[int]:
    """First positions of the windows, ascending and distinct, each within [0, spare]."""
    name, _, number = window.partition(":")
    if name == "head":
        return [0]
    if name == "slide":
        return list(range(0, spare + 1, int(number)))
    count = int(number) if name == "uniform" else 1
    if count == 1:
        return [spare // 2]
    return sorted({index * spare // (count - 1) for index in range(count)})


def choose_geometry(header: VideoHeader, clip: ClipConfig) -> Geometry:
    """The bucket nearest in aspect ratio, by logarithm, and the way there.

    Of equally near buckets the one with most pixels that needs no upscaling, else the least upscaled.
    """
    fits = [cover(header, height_px, width_px) for height_px, width_px in clip.bucket_sizes_px]
    if not clip.upscale:
        fits = [fit for fit in fits if not is_upscaled(header, fit)]
    if not fits:
        aspect = f", pixels {header.sample_aspect:.3f} wide" if header.sample_aspect != 1 else ""
        raise SampleError(
            "clip",
            "too_small",
            f"{header.height_px}x{header.width_px} (height x width{aspect}) fills none of {', '.join(clip.buckets)} "
            "without upscaling, which clip.upscale: true allows",
        )
    return min(fits, key=lambda fit: _preference(header, fit))


def cover(header: VideoHeader, height_px: int, width_px: int) -> Geometry:
    """The smallest resize in proportion, square pixels, that covers a bucket; and the cut from its centre."""
    shown_width_px = header.width_px * header.sample_aspect
    scale = max(width_px / shown_width_px, height_px / header.height_px)
    resized_width_px = max(width_px, round(shown_width_px * scale))
    resized_height_px = max(height_px, round(header.height_px * scale))
    return Geometry(
        resized_width_px=resized_width_px,
        resized_height_px=resized_height_px,
        left_px=(resized_width_px - width_px) // 2,
        top_px=(resized_height_px - height_px) // 2,
        width_px=width_px,
        height_px=height_px,
    )


def is_upscaled(header: VideoHeader, fit: Geometry) -> bool:
    """Whether either side gets more pixels than are stored."""
    return fit.resized_width_px > header.width_px or fit.resized_height_px > header.height_px


def _preference(header: VideoHeader, fit: Geometry) -> tuple[float, bool, int, int]:
    aspect = header.width_px * header.sample_aspect / header.height_px
    distance = abs(math.log(aspect) - math.log(fit.width_px / fit.height_px))
    upscaled = is_upscaled(header, fit)
    area_px = fit.width_px * fit.height_px
    # width last: a square source is as far from 480x720 as from 720x480, and the answer must not hang on list order
    return round(distance, 6), upscaled, area_px if upscaled else -area_px, fit.width_px
