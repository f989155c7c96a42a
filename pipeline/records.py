"""The frozen values that flow through the pipeline, from a shard's URL to a committed part."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.errors import FILTER_STAGE, REMOVE_STAGE, Reason

Uint8Frames = npt.NDArray[np.uint8]  # t h w c, RGB
FloatLatent = npt.NDArray[np.float32]  # c t h w


class ShardRef(Protocol):
    """A piece of the input, read and committed as one. `name` is unique and safe as a file name."""

    @property
    def name(self) -> str: ...

    @property
    def url(self) -> str: ...


@dataclass(frozen=True, slots=True)
class TarShard:
    """One input tar."""

    name: str
    url: str


@dataclass(frozen=True, slots=True)
class TableShard:
    """Some rows of a table, and the bytes at which a table of text holds them."""

    name: str
    url: str
    rows: range
    rows_bytes: range = range(0)


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What storage says about a file. `etag` changes when the content does; "" where storage provides none."""

    size_bytes: int
    etag: str


@dataclass(frozen=True, slots=True)
class Span:
    """Part of a video, from `begin` up to but excluding `end`, in `unit`: seconds | frames (of those shown)."""

    begin: float
    end: float
    unit: str

    def __str__(self) -> str:
        return f"[{self.begin:g}, {self.end:g}) {self.unit}"


@dataclass(frozen=True, slots=True)
class Sample:
    """The files of one WebDataset sample, or the values of a table's row, that we use.

    `position` and `next_position` say where it and the next sample begin in the shard: at a byte of a tar (that of the
    first header), at a row of a table. `last` says that the shard's end was read and proved right after it.
    `ignored_files` counts the files before it that have no extension and so belong to no sample. Clips are taken from
    `spans`, None for the whole video; `caption_by_span` gives each of them one of the captions. `problem` is
    (reason, detail) where no video can be taken from it. `others` are names, without extension, of files in it that may
    belong to another sample; `losses` counts, by name, what of it is not in its rows.
    """

    key: str
    index: int
    position: int
    next_position: int
    last: bool
    ignored_files: int
    video: bytes
    video_name: str
    captions: tuple[str, ...]
    metadata: str
    spans: tuple[Span, ...] | None
    problem: tuple[str, str] | None
    others: tuple[str, ...] = ()
    losses: Mapping[str, int] = field(default_factory=dict, hash=False)
    caption_by_span: bool = False

    @property
    def caption(self) -> str:
        return self.captions[0] if self.captions else ""

    @property
    def has_caption(self) -> bool:
        return any(text.strip() for text in (self.captions if self.caption_by_span else (self.caption,)))


@dataclass(frozen=True, slots=True)
class VideoHeader:
    """What a video's container says, in FFmpeg's names, or an image's file: `media_type` is video | image.

    `width_px`, `height_px` and `sample_aspect` (pixel width / pixel height) describe the picture as shown, after
    `rotation_degrees` (0 | 90 | 180 | 270, counter-clockwise turn that shows the stored picture upright).
    `pts_seconds` has one ascending time for every frame shown; the first is 0, which is `start_seconds` by the
    container's clock (None where frames carry no times).
    """

    container: str
    codec: str
    width_px: int
    height_px: int
    sample_aspect: float
    rotation_degrees: int
    pts_seconds: "array[float]"
    duration_seconds: float
    start_seconds: float | None = None
    video_stream: int = 0
    pixel_format: str = "unknown"
    color_transfer: str = "unknown"
    color_primaries: str = "unknown"
    interlaced: bool = False
    has_alpha: bool = False
    media_type: str = "video"

    @property
    def frames(self) -> int:
        return len(self.pts_seconds)

    @property
    def mean_fps(self) -> float:
        """Frames a second over the whole video; of a single frame, the inverse of the time it is shown."""
        if self.pts_seconds[-1] > 0:
            return (self.frames - 1) / self.pts_seconds[-1]
        return self.frames / self.duration_seconds if self.duration_seconds > 0 else 1.0


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a frame as shown becomes the bucket's size: resize to `resized_*`, then crop `height_px x width_px`."""

    resized_width_px: int
    resized_height_px: int
    left_px: int
    top_px: int
    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """The frames of one clip: indices into the frames shown (a range, or an array), and what is done to each.

    It becomes one row, or rows of `row_frames` after `warm_up_frames` that belong to none (continuous.py).
    `window_index` is that of its first row, which `continues` that of another clip or not; `span_index` says in which
    span it lies. Frames arrive in `chunk_frames`; the encoder regroups them by its own plan, or by `plan_frames`.
    """

    window_index: int
    frame_indices: Sequence[int]
    fps: float
    geometry: Geometry
    chunk_frames: tuple[int, ...]
    continues: bool = False
    row_frames: tuple[int, ...] = ()
    warm_up_frames: int = 0
    plan_frames: tuple[int, ...] = ()
    span_index: int = 0

    @property
    def frames(self) -> int:
        return len(self.frame_indices)


@dataclass(frozen=True, slots=True)
class Refused:
    """A span that gives no clip, and why. It counts as one window."""

    window_index: int
    why: Reason


@dataclass(frozen=True, slots=True)
class Opened:
    """First item of a decoded sample: its header, the clips that will follow, and the spans that give none."""

    header: VideoHeader
    clips: tuple[ClipSpec, ...]
    refused: tuple[Refused, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next frames of one clip, `t h w c` uint8 RGB, as many as the clip's chunk plan says."""

    window_index: int
    frames: Uint8Frames


@dataclass(frozen=True, slots=True)
class Failure:
    """Last item of a sample that failed: every clip that is not complete by now is rejected for this reason."""

    why: Reason


DecodeItem = Opened | Chunk | Failure


@dataclass(frozen=True, slots=True)
class Reject:
    """A sample (`window_index` is -1) or one clip of it that gave no latent, and why."""

    key: str
    sample_index: int
    window_index: int
    why: Reason

    @property
    def is_filtered(self) -> bool:
        """Whether the sample was left out on purpose: such rejects are counted apart."""
        return self.why.stage == FILTER_STAGE

    @property
    def is_removed(self) -> bool:
        """Whether the row was taken out of a finished run."""
        return self.why.stage == REMOVE_STAGE


@dataclass(frozen=True, slots=True)
class Row:
    """One clip as it is written. `latent` is the mean or a sample, `image_latent` that of an image condition."""

    sample: Sample
    clip: ClipSpec
    header: VideoHeader
    id: str
    latent: FloatLatent
    logvar: FloatLatent | None
    image_latent: FloatLatent | None = None

    @property
    def captions(self) -> tuple[str, ...]:
        """Those of its sample, or the one of its span."""
        index, captions = self.clip.span_index, self.sample.captions
        return captions[index : index + 1] if self.sample.caption_by_span else captions
