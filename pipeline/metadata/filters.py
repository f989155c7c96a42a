"""Which samples are left out on purpose: by a condition on their JSON, or by the header of their video.

The condition is decided before a decoder starts, the header before the first frame is decoded.
"""

from pipeline.errors import SampleError
from pipeline.metadata.conditions import MissingFieldError, evaluate, parse_condition
from pipeline.metadata.fields import read_json
from pipeline.records import FILTER_STAGE as STAGE
from pipeline.records import Reason, Sample, VideoHeader


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
    header: VideoHeader, min_seconds: float | None, min_short_side_px: int | None, min_fps: float | None
) -> None:
    """Raises SampleError of stage `filter` where a video is below one of the bounds; None sets no bound."""
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
