"""Which frames of a video are used: those of a span of it, and of them those nearest to the times of a rate."""

import math
from array import array
from bisect import bisect_left
from collections.abc import Sequence

from pipeline.errors import SampleError
from pipeline.records import Span, VideoHeader

GRID_TOLERANCE_SECONDS = 0.0005  # containers round times to the millisecond
TIE_SECONDS = 1e-6  # distances this close count as equal: the last bits of a float do not decide
LOWEST_RATE = 0.95  # of the rate asked for; below it frames would be repeated throughout


def frames_of_span(header: VideoHeader, span: Span) -> range:
    """The frames shown from the span's begin up to but excluding its end.

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
        raise SampleError("clip", "empty_span", "no frame falls within it")
    return range(begin, end)


def frames_at_rate(header: VideoHeader, fps: float | None, within: range) -> tuple[Sequence[int], float]:
    """The frames used of those `within`, and their rate: all, or the nearest in time to each point of a grid.

    The grid has `fps` points per second and begins at the first frame.
    """
    pts_seconds, begin, end = header.pts_seconds, within.start, within.stop
    source_fps = mean_fps(header, within)
    if fps is None:
        return within, source_fps
    if len(within) > 1 and source_fps < LOWEST_RATE * fps:
        raise SampleError("clip", "fps_too_low", f"{source_fps:.3f} frames per second, clip.fps asks for {fps:g}")
    begin_seconds = pts_seconds[begin]
    points = math.floor((pts_seconds[end - 1] - begin_seconds + GRID_TOLERANCE_SECONDS) * fps) + 1
    nearest = (nearest_frame(pts_seconds, begin_seconds + point / fps, begin, end) for point in range(points))
    return array("q", nearest), fps


def mean_fps(header: VideoHeader, within: range) -> float:
    """Mean rate of consecutive frames; of a single frame, that of the whole video."""
    span_seconds = header.pts_seconds[within[-1]] - header.pts_seconds[within[0]]
    if span_seconds > 0:
        return (len(within) - 1) / span_seconds
    return header.mean_fps


def nearest_frame(pts_seconds: Sequence[float], time_seconds: float, begin: int, end: int) -> int:
    """Index of the frame nearest in time among [begin, end); of two equally near ones, the earlier."""
    after = bisect_left(pts_seconds, time_seconds, begin, end)
    if after == begin:
        return begin
    if after == end:
        return end - 1
    past_seconds = time_seconds - pts_seconds[after - 1]
    return after if pts_seconds[after] - time_seconds < past_seconds - TIE_SECONDS else after - 1
