"""The configuration: YAML and dotted overrides, checked strictly, frozen; and the fingerprint of what makes latents.

It does not open shards or weights: what depends on them is checked where they are read.
"""

import copy
import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipeline.errors import ConfigError
from pipeline.runtime import RuntimeConfig

FORMAT_VERSION = 1  # of the rows, the footers and the rules that make them: another number makes another fingerprint

WINDOW_PATTERN = re.compile(r"head|center|full|(uniform|slide):[1-9]\d*")
BUCKET_PATTERN = re.compile(r"([1-9]\d*)x([1-9]\d*)")


def _as_tuple(value: object) -> object:
    """Lets a user write one string where a list of strings is meant."""
    return (value,) if isinstance(value, str) else value


Strings = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


class InputConfig(Section):
    """Where samples come from. `video` are extensions that hold the video; `caption` the first source that exists."""

    shards: Strings = Field(min_length=1)
    video: Strings = ("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "ts", "flv", "wmv", "3gp", "ogv", "gif")
    caption: Strings = ("txt", "json:caption")
    strict: bool = False


class OutputConfig(Section):
    """Where latents go and in which form. `seed` is that of `posterior: sample`."""

    path: str = Field(min_length=1)
    posterior: Literal["moments", "mean", "sample"] = "moments"
    seed: int = 0
    first_frame: bool = False
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    part_samples: int = Field(64, ge=1)


class ClipConfig(Section):
    """Which frames of a video become clips, and their picture size. `fps: null` keeps the source's frames."""

    frames: int | Literal["full"] = 49
    fps: float | None = Field(8.0, gt=0)
    window: str = "head"
    tail: Literal["trim", "drop", "error"] = "trim"
    buckets: tuple[str, ...] = Field(("480x720", "720x480", "480x480"), min_length=1)
    upscale: bool = False

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
                raise ValueError(f"{bucket!r} is no bucket: write HEIGHTxWIDTH in pixels, as in 480x720")
        if len(set(buckets)) < len(buckets):
            raise ValueError(f"a bucket stands twice in {list(buckets)}")
        return buckets

    @model_validator(mode="after")
    def _full_has_one_window(self) -> "ClipConfig":
        if self.frames == "full" and self.window not in ("head", "full"):
            raise ValueError(f"frames: full is one clip of the whole video, which window: {self.window} contradicts")
        return self

    @property
    def whole_video(self) -> bool:
        return self.frames == "full" or self.window == "full"

    @property
    def bucket_sizes_px(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of each bucket."""
        sizes = (bucket.split("x") for bucket in self.buckets)
        return tuple((int(height), int(width)) for height, width in sizes)


class EncoderConfig(Section):
    """Which encoder, with which weights, computing in which precision over which chunks.

    `tiles` are height, width and their strides in pixels: larger pictures are encoded in such overlapping tiles.
    """

    name: str = "cogvideox"
    weights: str = Field(min_length=1)
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    chunk_frames: int = Field(8, ge=1)
    chunk_plan: Literal["diffusers", "even"] = "diffusers"
    norm_scope: Literal["chunk", "clip", "frame"] = "chunk"
    tiles: tuple[int, int, int, int] | None = None

    def load_options(self) -> dict[str, Any]:
        """The keyword arguments of `encoder.load`."""
        return self.model_dump(exclude={"name", "weights"})


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
    output: OutputConfig
    clip: ClipConfig = ClipConfig()
    encoder: EncoderConfig
    runtime: RuntimeConfig = RuntimeConfig()
    limits: LimitsConfig = LimitsConfig()


def load_config(path: str, overrides: Sequence[str] = ()) -> Config:
    """Reads a YAML file and dotted overrides such as `clip.fps=16`.

    Raises:
        ConfigError: naming the file, the path of the key, what came and what is allowed.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from None
    tree = _read_yaml(content, path)
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds no sections; it needs at least input, output and encoder")
    return parse_config(apply_overrides(tree, overrides), source=path)


class _Loader(yaml.SafeLoader):
    """Plain values only; a key that stands twice is refused, where PyYAML drops the first in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twins = [key for position, key in enumerate(keys) if key in keys[:position]]
        if twins:
            raise yaml.constructor.ConstructorError(None, None, f"{twins[0]} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _read_yaml(text: str | bytes, source: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2024-13-45 looks like a date
        raise ConfigError(f"{source} is not YAML: {' '.join(str(error).split())}") from None


def apply_overrides(tree: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Returns a copy of `tree` with each `a.b=value` set; values are read as YAML."""
    result: dict[str, Any] = copy.deepcopy(dict(tree))
    for override in overrides:
        dotted, equals, text = override.partition("=")
        *parents, key = dotted.split(".")
        if not equals or not all((*parents, key)):
            raise ConfigError(f"{override!r} is no override: write section.key=value, as in clip.fps=16")
        node = result
        for parent in parents:
            child = node.setdefault(parent, {})
            if not isinstance(child, dict):
                raise ConfigError(f"{override!r}: {parent} is a value, it has no keys below it")
            node = child
        node[key] = _read_yaml(text, override)
    return result


def parse_config(tree: Mapping[str, Any], source: str = "configuration") -> Config:
    """Checks a tree of plain values; every wrong key or value is named in one message."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        problems = "; ".join(_explain(problem) for problem in error.errors())
        raise ConfigError(f"{source}: {problems}") from None


def _explain(problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    path = ".".join(location)
    if problem["type"] == "extra_forbidden":
        return f"unknown key {path}{_nearest(location)}"
    if problem["type"] == "missing":
        return f"{path} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{path}: {message}" + ("" if problem["type"] == "value_error" else f" (got {problem['input']!r})")


def _nearest(location: list[str]) -> str:
    model: type[BaseModel] | None = Config
    for part in location[:-1]:
        annotation = model.model_fields[part].annotation if model else None
        model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    known = sorted(model.model_fields) if model else []
    near = difflib.get_close_matches(location[-1], known, n=1)
    return f", did you mean {near[0]}?" if near else f"; known here: {', '.join(known)}"


def identity(config: Config, weights_sha256: str) -> dict[str, Any]:
    """All that changes rows or bytes, as plain values: what two runs must share to write in one root."""
    return {
        "format_version": FORMAT_VERSION,
        "input": config.input.model_dump(mode="json", exclude={"shards"}),
        "output": config.output.model_dump(mode="json", exclude={"path"}),
        "clip": config.clip.model_dump(mode="json"),
        "encoder": config.encoder.model_dump(mode="json", exclude={"weights"}) | {"weights_sha256": weights_sha256},
    }


def fingerprint(identity_values: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON of an identity."""
    canonical = json.dumps(identity_values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def differing_fields(theirs: Mapping[str, Any], ours: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One `path: theirs -> ours` line for every leaf that differs."""
    lines: list[str] = []
    for key in sorted(theirs.keys() | ours.keys()):
        path, left, right = f"{prefix}{key}", theirs.get(key), ours.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            lines += differing_fields(left, right, f"{path}.")
        elif left != right:
            lines.append(f"{path}: {json.dumps(left)} there, {json.dumps(right)} now")
    return lines
