"""Continuous clips: one stream of frames whose latent is cut into rows. Which rows, and where each begins.

Only frames are counted here; latents/encode.py cuts the latents.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate

from encoder import LatentSpec, ReceptiveField, chunk_plan, plan_from
from pipeline.clips.objects import objects_of
from pipeline.config.latents import ClipConfig
from pipeline.errors import SampleError, ShardError
from pipeline.records import ClipSpec


def whole_frames(available: int, clip: ClipConfig, spec: LatentSpec) -> int:
    """How many frames of a whole video are encoded: a legal count, reached as `clip.tail` says.

    Raises:
        SampleError, ShardError: `available` is not a legal count, and `clip.tail` is drop or error.
    """
    legal = spec.trim_frames(available)
    if legal == available or clip.tail == "trim":
        return legal
    what = f"{available} frames, not 1 + {spec.temporal_ratio}*k; nearest below: {legal}"
    if clip.tail == "drop":
        raise SampleError("clip", "illegal_frame_count", what)
    raise ShardError(
        f"a video has {what}. clip.tail: error stops the run; use trim to cut its last frames, or drop to reject it"
    )


def row_lengths(available: int, clip: ClipConfig, spec: LatentSpec) -> tuple[int, ...]:
    """Frames of each row of one continuous clip: `clip.frames`, then one less each; the last row may be shorter.

    With `tail: drop` no row is shorter.

    Raises:
        SampleError: with `tail: drop`, the video is too short for the first row.
        ShardError: as `whole_frames`.
    """
    assert isinstance(clip.frames, int), "continuous clips have rows of one length"
    later = clip.frames - 1
    if clip.tail == "drop":
        if available < clip.frames:
            raise SampleError("clip", "too_short", f"{available} frames, the first row needs {clip.frames}")
        legal = 1 + (available - 1) // later * later
    else:
        legal = whole_frames(available, clip, spec)
    return (min(clip.frames, legal), *(min(later, legal - start) for start in range(clip.frames, legal, later)))


def rows_of(clip: ClipSpec) -> Iterator[tuple[ClipSpec, int]]:
    """Each row of a clip, as a clip of its own, and the position of its first frame in the clip."""
    if not clip.row_frames:
        yield clip, 0
        return
    starts = accumulate(clip.row_frames, initial=clip.warm_up_frames)
    for number, (start, frames) in enumerate(zip(starts, clip.row_frames, strict=False)):
        indices = clip.frame_indices[start : start + frames]
        continues = clip.continues or number > 0
        yield (
            ClipSpec(
                window_index=clip.window_index + number,
                frame_indices=indices,
                fps=clip.fps,
                geometry=clip.geometry,
                chunk_frames=(frames,),
                continues=continues,
                span_index=clip.span_index,
            ),
            start,
        )


def latent_frames(row: ClipSpec, spec: LatentSpec) -> int:
    """Latent frames of a row. A row that continues another has no latent frame for a single first frame."""
    return row.frames // spec.temporal_ratio if row.continues else spec.latent_frames(row.frames)


def windows_of_segment(segment: int, segments: int, windows: int) -> range:
    """The windows of one segment of a video that has `windows`: window w is in segment w * segments // windows.

    Segments are as even as possible; where there are more of them than windows, some are empty.
    """
    first, end = (-(-number * windows // segments) for number in (segment, segment + 1))
    return range(first, end)


def clips_of_segment(
    clips: Sequence[ClipSpec], within: range, chunk_frames: int, field: ReceptiveField
) -> Iterator[ClipSpec]:
    """The parts of continuous clips whose rows are the windows `within`."""
    for clip in clips:
        first = max(0, within.start - clip.window_index)
        end = min(len(clip.row_frames), within.stop - clip.window_index)
        if first < end:
            yield _part(clip, first, end, chunk_frames, field)


def _part(clip: ClipSpec, first: int, end: int, chunk_frames: int, field: ReceptiveField) -> ClipSpec:
    """Rows [first, end) of a clip as a clip of their own, with no more frames around them than their latents need.

    Its chunks end where those of the whole clip do.
    """
    plan, ratio = field.plan(clip.frames), field.temporal_ratio
    rows_begin, rows_end = sum(clip.row_frames[:first]), sum(clip.row_frames[:end])
    begin = field.begin(rows_begin + ratio - 1, plan) if first else 0
    plan_frames = plan_from(begin, rows_end, plan)
    frames = sum(plan_frames)
    return ClipSpec(
        window_index=clip.window_index + first,
        frame_indices=clip.frame_indices[begin : begin + frames],
        fps=clip.fps,
        geometry=clip.geometry,
        chunk_frames=objects_of(chunk_plan(frames, chunk_frames, ratio), clip.geometry),
        continues=first > 0,
        row_frames=clip.row_frames[first:end],
        warm_up_frames=rows_begin - begin,
        plan_frames=plan_frames,
        span_index=clip.span_index,
    )
