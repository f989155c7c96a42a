"""The configuration as a whole: a YAML file and dotted overrides, checked strictly, with the nearest key in errors."""

import copy
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError, model_validator

from pipeline.config.input import FilterConfig, InputConfig
from pipeline.config.latents import ClipConfig, EncoderConfig, OutputConfig
from pipeline.config.runtime import LimitsConfig, RuntimeConfig
from pipeline.config.section import Section
from pipeline.config.text import TextConfig
from pipeline.errors import ConfigError
from pipeline.storage.urls import expanded

# Keys of earlier versions: refused with a message in a configuration, ignored in an old run.json.
REMOVED = {
    "encoder.batch_clips": "leave it out",
    "encoder.compile": "leave it out",
    "encoder.conv_tolerance": "leave it out",
    "runtime.cuda_graphs": "leave it out",
    "runtime.decode_ahead": "leave it out",
    "output.first_frame": "use output.image_latent: none, first_frame or padded",
}


class Config(Section):
    """A whole configuration, as a YAML file gives it."""

    input: InputConfig
    filter: FilterConfig = FilterConfig()
    output: OutputConfig
    clip: ClipConfig = ClipConfig()
    encoder: EncoderConfig
    runtime: RuntimeConfig = RuntimeConfig()
    limits: LimitsConfig = LimitsConfig()
    text: TextConfig | None = None

    @model_validator(mode="after")
    def _continued_rows_have_no_image(self) -> "Config":
        if self.clip.continuous and self.output.image_latent != "none":
            raise ValueError(
                "output.image_latent: rows that continue another have no first frame that is encoded alone: set "
                "output.image_latent: none, or clip.continuous: false"
            )
        return self

    @model_validator(mode="after")
    def _images_have_buckets(self) -> "Config":
        buckets = self.clip.one_frame_buckets
        if self.input.image and not buckets:
            raise ValueError(
                "input.image: images need buckets of one frame: add some to clip.buckets, such as "
                f"{'x'.join(map(str, self.clip.bucket_sizes_px[0]))}x1"
            )
        if self.clip.whole_video and buckets and not self.input.image:
            raise ValueError(
                f"clip.buckets: clips of whole videos have no fixed length, and {buckets[0]} is for images: take it "
                "out, or set input.image to their extensions"
            )
        return self

    @property
    def texts(self) -> TextConfig:
        """The section text. Raises ConfigError where there is none."""
        if self.text is None:
            raise ConfigError("text.encoder is missing: name a text encoder, as in text.encoder=PATH text.preset=wan")
        return self.text

    def replaced(self, values: Mapping[str, Any]) -> "Config":
        """A copy with other values at dotted keys, such as `{"clip.segments": 1}`, checked as those of a file are."""
        return parse_config(with_values(self.model_dump(), values))


def load_config(path: str, overrides: Sequence[str] = ()) -> Config:
    """Reads a YAML file and dotted overrides such as `clip.fps=16`.

    Raises:
        ConfigError: it names the file, the path of the key, what was given and what is allowed.
    """
    try:
        content = Path(expanded(path)).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from None
    tree = read_yaml(content, path)
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} has no sections; it needs at least input, output and encoder")
    return parse_config(apply_overrides(tree, overrides), source=path)


def parse_config(tree: Mapping[str, Any], source: str = "configuration") -> Config:
    """Checks a tree of plain values. Raises one ConfigError that names every wrong key and value."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        problems = "; ".join(_explain(problem) for problem in error.errors())
        raise ConfigError(f"{source}: {problems}") from None


def recorded_config(run: Mapping[str, Any]) -> Config:
    """The configuration in a run.json, which an earlier version may have written.

    Raises:
        ConfigError: as `parse_config`.
    """
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
        return f"{path} was removed: {REMOVED[path]}"
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
        choices = (annotation, *get_args(annotation))  # a section, or a union of one and null
        model = next((one for one in choices if isinstance(one, type) and issubclass(one, BaseModel)), None)
    known = sorted(model.model_fields) if model else []
    near = difflib.get_close_matches(location[-1], known, n=1)
    return f", did you mean {near[0]}?" if near else f"; known here: {', '.join(known)}"


class _Loader(yaml.SafeLoader):
    """Plain values only. A duplicate key is an error, where PyYAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        duplicates = [key for position, key in enumerate(keys) if key in keys[:position]]
        if duplicates:
            raise yaml.constructor.ConstructorError(None, None, f"duplicate key {duplicates[0]}", node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(text: str | bytes, source: str) -> Any:
    """The value of a YAML text. Raises ConfigError where it is not YAML."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2024-13-45 looks like a date
        raise ConfigError(f"{source} is not YAML: {' '.join(str(error).split())}") from None


def apply_overrides(tree: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Returns a copy of `tree` with each `a.b=value` set; values are read as YAML."""
    values = {}
    for override in overrides:
        dotted, equals, text = override.partition("=")
        if not equals or not all(dotted.split(".")):
            raise ConfigError(f"cannot read override {override!r}: write section.key=value, as in clip.fps=16")
        values[dotted] = text if text.startswith("@") else read_yaml(text, override)  # YAML reserves @, as in @list.txt
    return with_values(tree, values)


def with_values(tree: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of `tree` with a value at each dotted key."""
    result: dict[str, Any] = copy.deepcopy(dict(tree))
    for dotted, value in values.items():
        *parents, key = dotted.split(".")
        node = result
        for parent in parents:
            child = node[parent] = {} if node.get(parent) is None else node[parent]  # a section may be null
            if not isinstance(child, dict):
                raise ConfigError(f"cannot set {dotted}: {parent} is a value without keys below it")
            node = child
        node[key] = value
    return result
