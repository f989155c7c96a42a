"""The frozen values that flow through the pipeline, from a shard's URL to a committed part.

It does not compute anything with them: rules live in clips.py, plan.py and ledger.py.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Uint8Frames = npt.NDArray[np.uint8]  # t h w c, RGB


@dataclass(frozen=True, slots=True)
class ShardRef:
    """One input tar. `name` is unique in the run and safe as a file name; `etag` is "" where storage has none."""

    name: str
    url: str
    size_bytes: int
    etag: str


@dataclass(frozen=True, slots=True)
class Sample:
    """The files of one WebDataset sample that we use. `offset_bytes` is where its first tar header begins."""

    key: str
    index: int
    offset_bytes: int
    video: bytes | None
    video_name: str
    caption: str
    metadata: str


@dataclass(frozen=True, slots=True)
class VideoHeader:
    """What a video's container says, before a frame is decoded.

    `width_px`, `height_px` and `sample_aspect` (pixel width / pixel height) describe the picture as shown, after
    `rotation_degrees` (0 | 90 | 180 | 270, counter-clockwise turn that shows the stored picture upright).
    `pts_seconds` has one ascending time for every frame shown; the first is 0.
    """

    container: str
    codec: str
    width_px: int
    height_px: int
    sample_aspect: float
    rotation_degrees: int
    pts_seconds: tuple[float, ...]
    duration_seconds: float

    @property
    def frames(self) -> int:
        return len(self.pts_seconds)


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a shown frame becomes a bucket's picture: resize to `resized_*`, then cut `height_px x width_px`."""

    resized_width_px: int
    resized_height_px: int
    left_px: int
    top_px: int
    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """The frames of one clip: indices into the frames shown, their times, and what is done to each."""

    window_index: int
    frame_indices: tuple[int, ...]
    pts_seconds: tuple[float, ...]
    fps: float
    geometry: Geometry
    chunk_frames: tuple[int, ...]

    @property
    def frames(self) -> int:
        return len(self.frame_indices)


@dataclass(frozen=True, slots=True)
class Opened:
    """First item of a decoded sample: what it is, and the clips that will follow."""

    header: VideoHeader
    clips: tuple[ClipSpec, ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next frames of one clip, `t h w c` uint8 RGB, as many as the clip's chunk plan says."""

    window_index: int
    frames: Uint8Frames


@dataclass(frozen=True, slots=True)
class Failure:
    """Last item of a sample that failed: every clip not complete by now is a reject with these words."""

    stage: str
    reason: str
    detail: str


DecodeItem = Opened | Chunk | Failure


@dataclass(frozen=True, slots=True)
class Reject:
    """A sample (`window_index` is -1) or one clip of it that gave no latent, and why."""

    key: str
    sample_index: int
    window_index: int
    stage: str
    reason: str
    detail: str
