"""Which frames of a video become clips, and what is done to each: rates, windows, buckets, geometry.

It does not read or decode anything: a header and the rules come in, `ClipSpec`s go out.
"""

import math
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from encoder.spec import LatentSpec
from encoder.streaming.chunks import chunk_plan
from encoder.streaming.receptive_field import Recall
from pipeline.clips.continuous import clips_of_segment, row_lengths, whole_frames, windows_of_segment
from pipeline.config.load import ClipConfig
from pipeline.errors import ConfigError, SampleError
from pipeline.records import ClipSpec, Geometry, Refused, Span, VideoHeader

GRID_TOLERANCE_SECONDS = 0.0005  # containers round times to the millisecond
TIE_SECONDS = 1e-6  # two frames are equally near, whatever the last bits of a float say
LOWEST_RATE = 0.95  # of the rate asked for; below it frames would be repeated throughout


@dataclass(frozen=True, slots=True)
class ClipRules:
    """What the encoder asks of a clip: legal counts and sizes, and how many frames it takes in one pass.

    `spans` are those of one sample, None where clips are taken from its whole video. `segment` is which of
    `clip.segments` is wanted of its rows, for which `recall` says how far back latents look; without it all are, as for
    who looks at frames and encodes nothing.
    """

    spec: LatentSpec
    chunk_frames: int
    spans: tuple[Span, ...] | None = None
    segment: int = 0
    recall: Recall | None = None


def check_clip_config(clip: ClipConfig, spec: LatentSpec) -> None:
    """Refuses a clip length or a bucket that the encoder cannot take.

    Raises:
        ConfigError: naming the value and the nearest ones that are allowed.
    """
    ratio = spec.spatial_ratio
    if clip.continuous and isinstance(clip.frames, int):
        _check_frames("clip.frames", clip.frames, spec)
    for bucket, size_px, frames in zip(clip.buckets, clip.bucket_sizes_px, clip.bucket_frames, strict=True):
        if frames is not None:
            _check_frames("clip.frames" if frames == clip.frames else f"clip.buckets: {bucket}", frames, spec)
        if any(side_px % ratio for side_px in size_px):
            nearest = "x".join(str(max(ratio, round(side_px / ratio) * ratio)) for side_px in size_px)
            raise ConfigError(
                f"clip.buckets: {bucket} is not legal for {spec.name}, whose sides are multiples of {ratio}: "
                f"take {nearest}"
            )


def _check_frames(key: str, frames: int, spec: LatentSpec) -> None:
    if not spec.is_legal_frames(frames):
        below = spec.trim_frames(frames)
        raise ConfigError(
            f"{key}: {frames} is not legal for {spec.name}, whose counts are 1 + {spec.temporal_ratio}*k: "
            f"take {below} or {below + spec.temporal_ratio}"
        )


def check_segments(clip: ClipConfig, recall: Recall | None) -> None:
    """Refuses segments of a video that must be encoded whole.

    Raises:
        ConfigError: saying what can be divided.
    """
    if clip.segments > 1 and recall is None:
        raise ConfigError(
            f"clip.segments: {clip.segments} replicas cannot share a video whose latents depend on all of its frames: "
            "take clip.segments: 1, or a native encoder with encoder.norm_scope: chunk or frame"
        )


def plan_clips(header: VideoHeader, clip: ClipConfig, rules: ClipRules) -> tuple[ClipSpec, ...]:
    """The clips of one video, by window.

    Raises:
        SampleError: the video can give no clip.
        ShardError: its frame count is not legal and `clip.tail` is error.
    """
    return _clips_within(header, range(header.frames), choose_geometry(header, clip), clip, rules, 0)


def plan_spans(
    header: VideoHeader, clip: ClipConfig, rules: ClipRules
) -> tuple[tuple[ClipSpec, ...], tuple[Refused, ...]]:
    """The clips of the spans of one video, no frame outside them; a span that can give none counts as one window.

    Without spans those of the whole video; with segments, of either those in `rules.segment`.

    Raises:
        SampleError, ShardError: as `plan_clips`, for what concerns all spans alike.
    """
    clips, refused = _plan_all(header, clip, rules)
    if clip.segments == 1 or rules.recall is None:
        return clips, refused
    windows = len(refused) + sum(len(spec.row_frames) for spec in clips)
    within = windows_of_segment(rules.segment, clip.segments, windows)
    mine = tuple(clips_of_segment(clips, within, rules.chunk_frames, rules.recall))
    return mine, tuple(one for one in refused if one.window_index in within)


def _plan_all(
    header: VideoHeader, clip: ClipConfig, rules: ClipRules
) -> tuple[tuple[ClipSpec, ...], tuple[Refused, ...]]:
    if rules.spans is None:
        return plan_clips(header, clip, rules), ()
    geometry = choose_geometry(header, clip)
    clips: list[ClipSpec] = []
    refused: list[Refused] = []
    for span in rules.spans:
        window_index = sum(len(spec.row_frames) or 1 for spec in clips) + len(refused)
        try:
            clips += _clips_within(header, frames_of_span(header, span), geometry, clip, rules, window_index)
        except SampleError as error:
            why = replace(error.why, detail=f"span {span}: {error.why.detail}")
            refused.append(Refused(window_index, why))
    return tuple(clips), tuple(refused)


def frames_of_span(header: VideoHeader, span: Span) -> range:
    """The frames shown from the span's begin until before its end.

    Raises:
        SampleError: the span ends more than a frame after the video does, or holds no frame.
    """
    pts_seconds = header.pts_seconds
    if span.unit == "frames":
        begin, end = math.ceil(span.begin), math.ceil(span.end)
        over = end > header.frames
    else:
        begin, end = (bisect_left(pts_seconds, at - GRID_TOLERANCE_SECONDS) for at in (span.begin, span.end))
        frame_seconds = 1 / header.mean_fps
        over = span.end > max(header.duration_seconds, pts_seconds[-1] + frame_seconds) + frame_seconds
    if over:
        what = f"the video has {header.frames} frames and {header.duration_seconds:.3f} s"
        raise SampleError("clip", "span_beyond_video", what)
    if begin >= end:
        raise SampleError("clip", "empty_span", "no frame is shown in it")
    return range(begin, end)


def _clips_within(
    header: VideoHeader, within: range, geometry: Geometry, clip: ClipConfig, rules: ClipRules, first_window: int
) -> tuple[ClipSpec, ...]:
    frames, fps = frames_at_rate(header, clip.fps, within)
    row_frames: tuple[int, ...] = ()
    if clip.continuous:
        row_frames = row_lengths(len(frames), clip, rules.spec)
        windows = [range(sum(row_frames))]
    elif clip.whole_video:
        windows = [range(whole_frames(len(frames), clip, rules.spec))]
    else:
        windows = cut_windows(len(frames), fps, clip, geometry)
    return tuple(
        ClipSpec(
            window_index=index,
            frame_indices=frames[window.start : window.stop],
            fps=fps,
            geometry=geometry,
            chunk_frames=chunk_plan(len(window), rules.chunk_frames, rules.spec.temporal_ratio),
            row_frames=row_frames,
        )
        for index, window in enumerate(windows, start=first_window)
    )


def frames_at_rate(header: VideoHeader, fps: float | None, within: range) -> tuple[Sequence[int], float]:
    """The frames used of those `within`, and their rate: all, or the nearest in time to each point of a grid.

    The grid has `fps` points a second and begins with the first frame.
    """
    pts_seconds, begin, end = header.pts_seconds, within.start, within.stop
    source_fps = mean_fps(header, within)
    if fps is None:
        return within, source_fps
    if len(within) > 1 and source_fps < LOWEST_RATE * fps:
        raise SampleError("clip", "fps_too_low", f"{source_fps:.3f} frames a second, clip.fps asks for {fps:g}")
    begin_seconds = pts_seconds[begin]
    points = math.floor((pts_seconds[end - 1] - begin_seconds + GRID_TOLERANCE_SECONDS) * fps) + 1
    nearest = (nearest_frame(pts_seconds, begin_seconds + point / fps, begin, end) for point in range(points))
    return array("q", nearest), fps


def mean_fps(header: VideoHeader, within: range) -> float:
    """Frames a second of some frames in a row; of a single frame, that of the whole video."""
    span_seconds = header.pts_seconds[within[-1]] - header.pts_seconds[within[0]]
    if span_seconds > 0:
        return (len(within) - 1) / span_seconds
    return header.mean_fps


def nearest_frame(pts_seconds: Sequence[float], time_seconds: float, begin: int, end: int) -> int:
    """Index of the frame nearest in time among [begin, end); of two equally near, the earlier."""
    after = bisect_left(pts_seconds, time_seconds, begin, end)
    if after == begin:
        return begin
    if after == end:
        return end - 1
    past_seconds = time_seconds - pts_seconds[after - 1]
    return after if pts_seconds[after] - time_seconds < past_seconds - TIE_SECONDS else after - 1


def cut_windows(available: int, fps: float, clip: ClipConfig, geometry: Geometry) -> list[range]:
    """Windows of as many positions as the longest bucket of this picture size that the `available` frames fill."""
    counts = [
        frames
        for frames, size_px in zip(clip.bucket_frames, clip.bucket_sizes_px, strict=True)
        if frames is not None and size_px == (geometry.height_px, geometry.width_px)
    ]
    frames = max((count for count in counts if count <= available), default=None)
    if frames is None:
        raise SampleError(
            "clip",
            "too_short",
            f"{available} frames ({available / fps:.2f} s) at {fps:.3f} a second, "
            f"a clip has {min(counts)} ({min(counts) / fps:.2f} s)",
        )
    return [range(start, start + frames) for start in window_starts(available - frames, clip.window)]


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
