"""The clips of a video: a header and the rules come in, `ClipSpec`s go out; nothing is read or decoded."""

from dataclasses import dataclass, replace

from encoder import LatentSpec, ReceptiveField, chunk_plan
from pipeline.clips.continuous import clips_of_segment, row_lengths, whole_frames, windows_of_segment
from pipeline.clips.frames import frames_at_rate, frames_of_span
from pipeline.clips.geometry import choose_geometry
from pipeline.clips.objects import objects_of
from pipeline.config.latents import ClipConfig
from pipeline.config.load import Config
from pipeline.errors import ConfigError, SampleError
from pipeline.records import ClipSpec, Geometry, Refused, Span, VideoHeader


@dataclass(frozen=True, slots=True)
class ClipRules:
    """What the encoder asks of a clip: legal counts and sizes, and how many frames it takes in one pass.

    `spans` are those of one sample, None where clips are taken from its whole video. `segment` selects the rows of one
    of `clip.segments`, and `receptive_field` says how many earlier frames their latents depend on. Without it all rows
    are planned, which is enough to look at frames without encoding them. With `images`, images are taken too, and
    buckets of one frame are theirs alone.
    """

    spec: LatentSpec
    chunk_frames: int
    spans: tuple[Span, ...] | None = None
    segment: int = 0
    receptive_field: ReceptiveField | None = None
    images: bool = False


def rules_of(config: Config, spec: LatentSpec, receptive_field: ReceptiveField | None = None) -> ClipRules:
    """The rules of a run; `spans` and `segment` are those of a sample."""
    images = bool(config.input.image)
    return ClipRules(spec, config.encoder.chunk_frames, receptive_field=receptive_field, images=images)


def check_clip_config(clip: ClipConfig, spec: LatentSpec) -> None:
    """Checks that the encoder can take the clip lengths and buckets.

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
                f"clip.buckets: {bucket} does not fit {spec.name}, whose sides are multiples of {ratio}: use {nearest}"
            )


def _check_frames(key: str, frames: int, spec: LatentSpec) -> None:
    if not spec.is_legal_frames(frames):
        below = spec.trim_frames(frames)
        raise ConfigError(
            f"{key}: {frames} does not fit {spec.name}, whose frame counts are 1 + {spec.temporal_ratio}*k: "
            f"use {below} or {below + spec.temporal_ratio}"
        )


def check_segments(clip: ClipConfig, receptive_field: ReceptiveField | None) -> None:
    """Checks that the encoder can encode a video in segments.

    Raises:
        ConfigError: naming the encoders that can.
    """
    if clip.segments > 1 and receptive_field is None:
        raise ConfigError(
            f"clip.segments: {clip.segments} replicas cannot share a video whose latents depend on all of its frames: "
            "use clip.segments: 1, or a native encoder with encoder.norm_scope: chunk or frame"
        )


def clip_of_kind(header: VideoHeader, clip: ClipConfig, rules: ClipRules) -> ClipConfig:
    """The configuration as it holds for an image, or for a video beside images.

    Raises:
        SampleError: it has no bucket for videos.
    """
    if not rules.images:
        return clip
    of_images = clip.one_frame_buckets
    if header.media_type == "image":
        return clip.model_copy(update={"buckets": of_images, "fps": None, "tail": "trim"})
    of_videos = tuple(bucket for bucket in clip.buckets if bucket not in of_images)
    if not of_videos:
        what = f"a video, and all of clip.buckets are for images: {', '.join(clip.buckets)}"
        raise SampleError("clip", "no_bucket", what)
    return clip.model_copy(update={"buckets": of_videos})


def plan_clips(header: VideoHeader, clip: ClipConfig, rules: ClipRules) -> tuple[ClipSpec, ...]:
    """The clips of one video or image, by window.

    Raises:
        SampleError: the video can give no clip.
        ShardError: its frame count is not legal and `clip.tail` is error.
    """
    clip = clip_of_kind(header, clip, rules)
    return _clips_within(header, range(header.frames), choose_geometry(header, clip), clip, rules)


def plan_spans(
    header: VideoHeader, clip: ClipConfig, rules: ClipRules
) -> tuple[tuple[ClipSpec, ...], tuple[Refused, ...]]:
    """The clips of the spans of one video, with no frame outside them; a span that gives none counts as one window.

    Without spans, the clips of the whole video; an image has none. With segments, only the rows in `rules.segment`.

    Raises:
        SampleError, ShardError: as `plan_clips`, for what all spans share.
    """
    clips, refused = _plan_all(header, clip, rules)
    if clip.segments == 1 or rules.receptive_field is None:
        return clips, refused
    windows = len(refused) + sum(len(spec.row_frames) for spec in clips)
    within = windows_of_segment(rules.segment, clip.segments, windows)
    mine = tuple(clips_of_segment(clips, within, rules.chunk_frames, rules.receptive_field))
    return mine, tuple(one for one in refused if one.window_index in within)


def _plan_all(
    header: VideoHeader, clip: ClipConfig, rules: ClipRules
) -> tuple[tuple[ClipSpec, ...], tuple[Refused, ...]]:
    if rules.spans is None or header.media_type == "image":
        return plan_clips(header, clip, rules), ()
    clip = clip_of_kind(header, clip, rules)
    geometry = choose_geometry(header, clip)
    clips: list[ClipSpec] = []
    refused: list[Refused] = []
    for span_index, span in enumerate(rules.spans):
        window_index = sum(len(spec.row_frames) or 1 for spec in clips) + len(refused)
        try:
            within = frames_of_span(header, span)
            clips += _clips_within(header, within, geometry, clip, rules, window_index, span_index)
        except SampleError as error:
            why = replace(error.why, detail=f"span {span}: {error.why.detail}")
            refused.append(Refused(window_index, why))
    return tuple(clips), tuple(refused)


def _clips_within(
    header: VideoHeader,
    within: range,
    geometry: Geometry,
    clip: ClipConfig,
    rules: ClipRules,
    first_window: int = 0,
    span_index: int = 0,
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
            chunk_frames=objects_of(chunk_plan(len(window), rules.chunk_frames, rules.spec.temporal_ratio), geometry),
            row_frames=row_frames,
            span_index=span_index,
        )
        for index, window in enumerate(windows, start=first_window)
    )


def cut_windows(available: int, fps: float, clip: ClipConfig, geometry: Geometry) -> list[range]:
    """Windows as long as the longest bucket of this size that the `available` frames fill."""
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
            f"{available} frames ({available / fps:.2f} s) at {fps:.3f} per second, "
            f"a clip needs {min(counts)} ({min(counts) / fps:.2f} s)",
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
