"""Continuous clips: one stream of frames whose latent is cut into rows, which rows those are, and where each begins.

It does not encode or cut latents (encode.py does): counts of frames come in and go out.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate

from encoder.spec import LatentSpec
from encoder.streaming.chunks import chunk_plan
from encoder.streaming.receptive_field import Recall, plan_from
from pipeline.config.load import ClipConfig
from pipeline.errors import SampleError, ShardError
from pipeline.records import ClipSpec


def whole_frames(available: int, clip: ClipConfig, spec: LatentSpec) -> int:
    """Frames of a whole video that are encoded, a legal count, as `clip.tail` says.

    Raises:
        SampleError, ShardError: `available` is no legal count, and the tail is to be dropped or an error.
    """
    legal = spec.trim_frames(available)
    if legal == available or clip.tail == "trim":
        return legal
    what = f"{available} frames, not 1 + {spec.temporal_ratio}*k; nearest below: {legal}"
    if clip.tail == "drop":
        raise SampleError("clip", "illegal_frame_count", what)
    raise ShardError(f"a video has {what}. clip.tail: error stops here; trim cuts the last frames, drop rejects it")


def row_lengths(available: int, clip: ClipConfig, spec: LatentSpec) -> tuple[int, ...]:
    """Frames of the rows of one continuous clip: `clip.frames`, then one less each, the last shorter if it must be.

    With `tail: drop` there is no shorter row.

    Raises:
        SampleError: with `tail: drop` not even the first row is full.
        ShardError: as `whole_frames`.
    """
    assert isinstance(clip.frames, int), "continuous clips have rows of one length"
    later = clip.frames - 1
    if clip.tail == "drop":
        if available < clip.frames:
            raise SampleError("clip", "too_short", f"{available} frames, the first row of a clip has {clip.frames}")
        legal = 1 + (available - 1) // later * later
    else:
        legal = whole_frames(available, clip, spec)
    return (min(clip.frames, legal), *(min(later, legal - start) for start in range(clip.frames, legal, later)))


def rows_of(clip: ClipSpec) -> Iterator[tuple[ClipSpec, int]]:
    """Each row of a clip, as a clip of its own, and the position of its first frame in it."""
    if not clip.row_frames:
        yield clip, 0
        return
    starts = accumulate(clip.row_frames, initial=clip.warm_up_frames)
    for number, (start, frames) in enumerate(zip(starts, clip.row_frames, strict=False)):
        indices = clip.frame_indices[start : start + frames]
        continues = clip.continues or number > 0
        yield ClipSpec(clip.window_index + number, indices, clip.fps, clip.geometry, (frames,), continues), start


def latent_frames(row: ClipSpec, spec: LatentSpec) -> int:
    """Latent frames of a row: one that continues another has none for a first frame alone."""
    return row.frames // spec.temporal_ratio if row.continues else spec.latent_frames(row.frames)


def windows_of_segment(segment: int, segments: int, windows: int) -> range:
    """The windows of a video with `windows` of them that are in one of its segments: where w * segments // windows is.

    Segments are as even as can be; where they are more than the windows, some have none.
    """
    first, end = (-(-number * windows // segments) for number in (segment, segment + 1))
    return range(first, end)


def clips_of_segment(clips: Sequence[ClipSpec], within: range, chunk_frames: int, recall: Recall) -> Iterator[ClipSpec]:
    """Of continuous clips the parts whose rows are windows `within`."""
    for clip in clips:
        first = max(0, within.start - clip.window_index)
        end = min(len(clip.row_frames), within.stop - clip.window_index)
        if first < end:
            yield _part(clip, first, end, chunk_frames, recall)


def _part(clip: ClipSpec, first: int, end: int, chunk_frames: int, recall: Recall) -> ClipSpec:
    """Rows [first, end) of a clip as a clip of their own: as late a begin and as early an end as their latents allow.

    Its chunks end where those of the whole clip do.
    """
    plan, ratio = recall.plan(clip.frames), recall.temporal_ratio
    rows_begin, rows_end = sum(clip.row_frames[:first]), sum(clip.row_frames[:end])
    begin = recall.begin(rows_begin + ratio - 1, plan) if first else 0
    plan_frames = plan_from(begin, rows_end, plan)
    frames = sum(plan_frames)
    return ClipSpec(
        window_index=clip.window_index + first,
        frame_indices=clip.frame_indices[begin : begin + frames],
        fps=clip.fps,
        geometry=clip.geometry,
        chunk_frames=chunk_plan(frames, chunk_frames, ratio),
        continues=first > 0,
        row_frames=clip.row_frames[first:end],
        warm_up_frames=rows_begin - begin,
        plan_frames=plan_frames,
    )
