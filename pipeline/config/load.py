"""The configuration: YAML and dotted overrides, checked strictly, frozen.

It does not open shards or weights: what depends on them is checked where they are read.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from pipeline.config.input import InputConfig, Section
from pipeline.config.runtime import RuntimeConfig
from pipeline.config.tree import apply_overrides, read_yaml
from pipeline.errors import ConfigError
from pipeline.metadata.filters import parse_condition

WINDOW_PATTERN = re.compile(r"head|center|full|(uniform|slide):[1-9]\d*")
# Keys of earlier versions: a configuration that has one is told so, and in an old run.json they are passed over.
REMOVED = {"encoder.batch_clips", "encoder.compile", "encoder.conv_tolerance", "runtime.cuda_graphs"}
BUCKET_PATTERN = re.compile(r"[1-9]\d*x[1-9]\d*(x[1-9]\d*)?")


class FilterConfig(Section):
    """Which samples are left out before anything is encoded; null asks for nothing."""

    min_seconds: float | None = Field(None, gt=0)
    min_short_side_px: int | None = Field(None, ge=1)
    min_fps: float | None = Field(None, gt=0)
    where: str | None = None

    @field_validator("where")
    @classmethod
    def _where_understood(cls, where: str | None) -> str | None:
        if where is not None:
            parse_condition(where)
        return where


class OutputConfig(Section):
    """Where latents go and in which form. `seed` is that of `posterior: sample`."""

    path: str = Field(min_length=1)
    posterior: Literal["moments", "mean", "sample"] = "moments"
    seed: int = 0
    first_frame: bool = False
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    part_samples: int = Field(64, ge=1)


class ClipConfig(Section):
    """Which frames of a video become clips, and their picture size. `fps: null` keeps the source's frames.

    A bucket with a third number, as in 480x720x81, has clips of that many frames instead of `frames`. `continuous`
    cuts the latent of a whole video into rows: the first of `frames`, later ones of one less; replicas share the rows
    of one video in `segments`.
    """

    frames: int | Literal["full"] = 49
    fps: float | None = Field(8.0, gt=0)
    window: str = "head"
    tail: Literal["trim", "drop", "error"] = "trim"
    buckets: tuple[str, ...] = Field(("480x720", "720x480", "480x480"), min_length=1)
    upscale: bool = False
    continuous: bool = False
    segments: int = Field(1, ge=1)

    @field_validator("frames")
    @classmethod
    def _frames_positive(cls, frames: int | str) -> int | str:
        if isinstance(frames, int) and frames < 1:
            raise ValueError(f"{frames} is not a number of frames: give 1 or more, or full")
        return frames

    @field_validator("window")
    @classmethod
    def _window_known(cls, window: str) -> str:
        if not WINDOW_PATTERN.fullmatch(window):
            raise ValueError(f"{window!r} is no window: head, center, full, uniform:N or slide:STRIDE are")
        return window

    @field_validator("buckets")
    @classmethod
    def _buckets_known(cls, buckets: tuple[str, ...]) -> tuple[str, ...]:
        for bucket in buckets:
            if not BUCKET_PATTERN.fullmatch(bucket):
                raise ValueError(f"{bucket!r} is no bucket: write HEIGHTxWIDTH in pixels, or HEIGHTxWIDTHxFRAMES")
        if len(set(buckets)) < len(buckets):
            raise ValueError(f"a bucket stands twice in {list(buckets)}")
        return buckets

    @model_validator(mode="after")
    def _full_has_one_window(self) -> "ClipConfig":
        if self.frames == "full" and self.window not in ("head", "full"):
            raise ValueError(f"frames: full is one clip of the whole video, which window: {self.window} contradicts")
        if self.whole_video and any(bucket.count("x") > 1 for bucket in self.buckets):
            raise ValueError("a clip of the whole video has the video's frames: buckets name none, write HEIGHTxWIDTH")
        return self

    @model_validator(mode="after")
    def _continuous_rows_have_a_length(self) -> "ClipConfig":
        if self.continuous and (self.window != "full" or not isinstance(self.frames, int) or self.frames == 1):
            raise ValueError(
                "continuous: true cuts a whole video into rows of one length: it needs window: full, and frames: a "
                f"number, 1 + 4k for CogVideoX, such as 49 (got window: {self.window}, frames: {self.frames})"
            )
        if self.segments > 1 and not self.continuous:
            raise ValueError(f"segments: {self.segments} divides the rows of a video, which needs continuous: true")
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

    def _bucket_sides(self) -> list[list[int]]:
        return [[int(side) for side in bucket.split("x")] for bucket in self.buckets]


class EncoderConfig(Section):
    """Which encoder, with which weights, computing in which precision over which chunks.

    `tiles` are height, width and their strides in pixels: larger pictures are encoded in such overlapping tiles.
    `convolutions: auto` measures at a run's start which way is fastest, and notes it in run.json; `winograd_c` is for
    CPUs with a C compiler.
    """

    name: str = "cogvideox"
    weights: str = Field(min_length=1)
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    chunk_frames: int = Field(8, ge=1)
    chunk_plan: Literal["diffusers", "even"] = "diffusers"
    norm_scope: Literal["chunk", "clip", "frame"] = "chunk"
    tiles: tuple[int, int, int, int] | None = None
    convolutions: Literal["auto", "direct", "winograd_height", "winograd", "winograd_c"] | dict[str, str] = "auto"

    def load_options(self) -> dict[str, Any]:
        """The keyword arguments of `encoder.load`."""
        return self.model_dump(exclude={"name", "weights"})

    def rules(self) -> dict[str, Any]:
        """All of it but where the weights lie, as plain values: what changes latents."""
        return self.model_dump(mode="json", exclude={"weights"})


class LimitsConfig(Section):
    """When to give up on a sample, a shard or a run. Sizes bound what a decoder may be asked to hold."""

    max_reject_fraction: float = Field(0.05, ge=0, le=1)
    decode_timeout_seconds: float = Field(60.0, gt=0)
    max_attempts: int = Field(3, ge=1)
    max_frame_px: int = Field(8192 * 4320, ge=1)
    max_video_frames: int = Field(1_000_000, ge=1)
    max_video_bytes: int = Field(4 << 30, ge=1)
    decode_memory_bytes: int = Field(8 << 30, ge=1)


class Config(Section):
    """A whole configuration, as a YAML file gives it."""

    input: InputConfig
    filter: FilterConfig = FilterConfig()
    output: OutputConfig
    clip: ClipConfig = ClipConfig()
    encoder: EncoderConfig
    runtime: RuntimeConfig = RuntimeConfig()
    limits: LimitsConfig = LimitsConfig()

    @model_validator(mode="after")
    def _continued_rows_have_no_first_frame(self) -> "Config":
        if self.clip.continuous and self.output.first_frame:
            raise ValueError(
                "output.first_frame: a row that continues another begins with a latent of several frames, so none is "
                "encoded alone in it: set output.first_frame: false, or clip.continuous: false"
            )
        return self


def load_config(path: str, overrides: Sequence[str] = ()) -> Config:
    """Reads a YAML file and dotted overrides such as `clip.fps=16`.

    Raises:
        ConfigError: naming the file, the path of the key, what came and what is allowed.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from None
    tree = read_yaml(content, path)
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds no sections; it needs at least input, output and encoder")
    return parse_config(apply_overrides(tree, overrides), source=path)


def parse_config(tree: Mapping[str, Any], source: str = "configuration") -> Config:
    """Checks a tree of plain values; every wrong key or value is named in one message."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        problems = "; ".join(_explain(problem) for problem in error.errors())
        raise ConfigError(f"{source}: {problems}") from None


def recorded_config(run: Mapping[str, Any]) -> Config:
    """The configuration in a run.json, which an earlier version may have written. Raises as `parse_config`."""
    sections = {name: value for name, value in run["config"].items() if isinstance(value, Mapping)}
    known = {
        name: {key: value for key, value in section.items() if f"{name}.{key}" not in REMOVED}
        for name, section in sections.items()
    }
    return parse_config(run["config"] | known, source="run.json")


def _explain(problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    path = ".".join(location)
    if path in REMOVED:
        return f"{path} was removed: leave it out"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {path}{_nearest(location)}"
    if problem["type"] == "missing":
        return f"{path} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    came = "" if problem["type"] == "value_error" else f" (got {problem['input']!r})"
    return f"{path}: {message}{came}".removeprefix(": ")


def _nearest(location: list[str]) -> str:
    model: type[BaseModel] | None = Config
    for part in location[:-1]:
        annotation = model.model_fields[part].annotation if model else None
        choices = (annotation, *get_args(annotation))  # a section, or one that may be null
        model = next((one for one in choices if isinstance(one, type) and issubclass(one, BaseModel)), None)
    known = sorted(model.model_fields) if model else []
    near = difflib.get_close_matches(location[-1], known, n=1)
    return f", did you mean {near[0]}?" if near else f"; known here: {', '.join(known)}"
