"""The sections of the configuration that make latents: clip, encoder and output."""

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from encoder import ChunkPlan, Convolutions, Dtype, NormScope
from pipeline.config.section import PathText, Section

WINDOW_PATTERN = re.compile(r"head|center|full|(uniform|slide):[1-9]\d*")
BUCKET_PATTERN = re.compile(r"[1-9]\d*x[1-9]\d*(x[1-9]\d*)?")


class ClipConfig(Section):
    """Which frames of a video become clips, and their picture size. `fps: null` keeps the source's frames.

    A bucket with a third number, as in 480x720x81, has clips of that many frames instead of `frames`; with
    `input.image`, those of one frame are for images and the others for videos. `continuous` cuts the latent of a whole
    video into rows, the first of `frames` frames and later ones of one frame less; `segments` is how many parts of one
    video replicas may encode at the same time. `hdr` says what becomes of videos whose transfer is PQ or HLG, and
    `deinterlace` whether interlaced ones lose their combs.
    """

    frames: int | Literal["full"] = 49
    fps: float | None = Field(8.0, gt=0)
    window: str = "head"
    tail: Literal["trim", "drop", "error"] = "trim"
    buckets: tuple[str, ...] = Field(("480x720", "720x480", "480x480"), min_length=1)
    upscale: bool = False
    continuous: bool = False
    segments: int = Field(1, ge=1)
    hdr: Literal["reject", "tonemap", "keep"] = "reject"
    deinterlace: bool = False

    @field_validator("frames")
    @classmethod
    def _frames_positive(cls, frames: int | str) -> int | str:
        if isinstance(frames, int) and frames < 1:
            raise ValueError(f"{frames} frames are too few: give 1 or more, or full")
        return frames

    @field_validator("window")
    @classmethod
    def _window_known(cls, window: str) -> str:
        if not WINDOW_PATTERN.fullmatch(window):
            raise ValueError(f"unknown window {window!r}: use head, center, full, uniform:N or slide:STRIDE")
        return window

    @field_validator("buckets")
    @classmethod
    def _buckets_known(cls, buckets: tuple[str, ...]) -> tuple[str, ...]:
        for bucket in buckets:
            if not BUCKET_PATTERN.fullmatch(bucket):
                raise ValueError(f"cannot read bucket {bucket!r}: write HEIGHTxWIDTH in pixels, or HEIGHTxWIDTHxFRAMES")
        if repeated := [bucket for bucket in buckets if buckets.count(bucket) > 1]:
            raise ValueError(f"bucket {repeated[0]} is listed twice")
        return buckets

    @model_validator(mode="after")
    def _full_has_one_window(self) -> "ClipConfig":
        if self.frames == "full" and self.window not in ("head", "full"):
            raise ValueError(
                f"frames: full makes one clip of the whole video, which window: {self.window} contradicts: use full"
            )
        if self.whole_video and any(sides[2:] not in ([], [1]) for sides in self._bucket_sides()):
            raise ValueError(
                "clips of whole videos have no fixed length: write buckets as HEIGHTxWIDTH, without frames"
            )
        return self

    @model_validator(mode="after")
    def _continuous_rows_have_a_length(self) -> "ClipConfig":
        if self.continuous and (self.window != "full" or not isinstance(self.frames, int) or self.frames == 1):
            raise ValueError(
                "continuous: true cuts a whole video into rows of one length: it needs window: full, and frames: a "
                f"number, 1 + 4k for CogVideoX, such as 49 (got window: {self.window}, frames: {self.frames})"
            )
        if self.segments > 1 and not self.continuous:
            raise ValueError(
                f"segments: {self.segments} divides the rows of one video among replicas and needs continuous: true"
            )
        return self

    @property
    def whole_video(self) -> bool:
        return self.frames == "full" or self.window == "full"

    @property
    def bucket_sizes_px(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of each bucket."""
        return tuple((sides[0], sides[1]) for sides in self._bucket_sides())

    @property
    def bucket_frames(self) -> tuple[int | None, ...]:
        """Frames of a clip of each bucket, its own or `frames`; None for whole videos."""
        frames = None if self.whole_video or self.frames == "full" else self.frames
        return tuple(sides[2] if len(sides) > 2 else frames for sides in self._bucket_sides())

    @property
    def one_frame_buckets(self) -> tuple[str, ...]:
        """The buckets that are written with one frame."""
        return tuple(
            bucket for bucket, sides in zip(self.buckets, self._bucket_sides(), strict=True) if sides[2:] == [1]
        )

    def _bucket_sides(self) -> list[list[int]]:
        return [[int(side) for side in bucket.split("x")] for bucket in self.buckets]


class EncoderConfig(Section):
    """Which encoder, with which weights, computing in which precision over which chunks.

    `tiles` are height, width and their strides in pixels: larger pictures are encoded in such overlapping tiles.
    `convolutions: auto` measures when a run begins which algorithm is fastest, and records it in run.json;
    `winograd_c` is for CPUs with a C compiler. `scaling_factor` is recorded where the weights do not say it.
    """

    name: str = "cogvideox"
    weights: PathText = Field(min_length=1)
    dtype: Dtype = "bfloat16"
    chunk_frames: int = Field(8, ge=1)
    chunk_plan: ChunkPlan = "diffusers"
    norm_scope: NormScope = "chunk"
    tiles: tuple[int, int, int, int] | None = None
    convolutions: Convolutions | dict[str, str] = "auto"
    scaling_factor: float | None = Field(None, gt=0)

    def load_options(self) -> dict[str, Any]:
        """The keyword arguments of `encoder.load`."""
        return self.model_dump(exclude={"name", "weights"})

    def rules(self) -> dict[str, Any]:
        """Everything but the path of the weights, as plain values: what changes latents or what files say of them.

        A scaling factor is there where it is set, so that outputs of runs without it keep their fingerprints.
        """
        unset = set() if self.scaling_factor is not None else {"scaling_factor"}
        return self.model_dump(mode="json", exclude={"weights"} | unset)


class OutputConfig(Section):
    """Where latents are written and in which form. `seed` is used by `posterior: sample`."""

    path: PathText = Field(min_length=1)
    posterior: Literal["moments", "mean", "sample"] = "moments"
    seed: int = 0
    image_latent: Literal["none", "first_frame", "padded"] = "none"
    dtype: Dtype = "float16"
    part_samples: int = Field(64, ge=1)
