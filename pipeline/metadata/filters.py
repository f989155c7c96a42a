"""Which samples are left out on purpose: by a condition on their JSON, or by the header of their video.

The condition is decided before a decoder starts, the header before the first frame is decoded.
"""

from array import array
from typing import Any

from pipeline.errors import FILTER_STAGE as STAGE
from pipeline.errors import Reason, SampleError
from pipeline.metadata.conditions import MissingFieldError, evaluate, names_in, parse_condition
from pipeline.metadata.fields import read_json
from pipeline.records import Sample, VideoHeader


def without_decoding(where: str | None, sample: Sample) -> Reason | None:
    """Why a sample is left out before it is decoded: by the condition `where`, or because it cannot be read."""
    try:
        check_metadata(where, sample.metadata)
    except SampleError as error:
        return error.why
    return Reason("read", *sample.problem) if sample.problem else None


def check_metadata(where: str | None, metadata: str) -> None:
    """Raises SampleError of stage `filter` where the sample's JSON does not satisfy `where`."""
    if where is None:
        return
    try:
        if evaluate(parse_condition(where), read_json(metadata)):
            return
    except MissingFieldError as error:
        raise SampleError(
            STAGE, "missing_field", f"filter.where uses {error}, which is missing from the sample's JSON"
        ) from None
    except TypeError as error:
        raise SampleError(STAGE, "not_comparable", f"filter.where: {error}") from None
    raise SampleError(STAGE, "where", f"not {where}")


def check_header(
    header: VideoHeader,
    min_seconds: float | None,
    min_short_side_px: int | None,
    min_fps: float | None,
    video: str | None = None,
) -> None:
    """Raises SampleError of stage `filter` where a video is below one of the bounds or does not satisfy `video`.

    None sets no bound, and images have no times that could be below one.
    """
    has_times = header.media_type == "video"
    _check_bounds(header, min_seconds if has_times else None, min_short_side_px, min_fps if has_times else None)
    if video is None:
        return
    try:
        if evaluate(parse_condition(video), video_fields(header)):
            return
    except TypeError as error:
        raise SampleError(STAGE, "not_comparable", f"filter.video: {error}") from None
    raise SampleError(STAGE, "video", f"not {video}")


def video_fields(header: VideoHeader) -> dict[str, Any]:
    """What `filter.video` may use, by name: those of a row's columns where a column has it."""
    return {
        "container": header.container,
        "codec": header.codec,
        "pixel_format": header.pixel_format,
        "color_transfer": header.color_transfer,
        "color_primaries": header.color_primaries,
        "interlaced": header.interlaced,
        "has_alpha": header.has_alpha,
        "source_width": header.width_px,
        "source_height": header.height_px,
        "source_fps": header.mean_fps,
        "source_frames": header.frames,
        "duration_seconds": header.duration_seconds,
        "rotation_degrees": header.rotation_degrees,
        "media_type": header.media_type,
    }


def check_video_condition(text: str) -> None:
    """Raises ValueError where a condition cannot be read or uses a name that videos do not have."""
    known = video_fields(VideoHeader("", "", 1, 1, 1.0, 0, array("d", [0.0]), 0.0))
    if unknown := sorted(names_in(text) - known.keys()):
        raise ValueError(f"unknown {', '.join(unknown)} in {text!r}: a video has {', '.join(known)}")


def _check_bounds(
    header: VideoHeader, min_seconds: float | None, min_short_side_px: int | None, min_fps: float | None
) -> None:
    short_side_px = min(header.width_px, header.height_px)
    if min_seconds is not None and header.duration_seconds < min_seconds:
        raise SampleError(STAGE, "too_short", f"{header.duration_seconds:.3f} s, filter.min_seconds is {min_seconds:g}")
    if min_short_side_px is not None and short_side_px < min_short_side_px:
        what = f"{header.width_px}x{header.height_px} (width x height)"
        raise SampleError(STAGE, "too_small", f"{what}, filter.min_short_side_px is {min_short_side_px}")
    if min_fps is not None and header.mean_fps < min_fps:
        raise SampleError(
            STAGE, "fps_too_low", f"{header.mean_fps:.3f} frames per second, filter.min_fps is {min_fps:g}"
        )
