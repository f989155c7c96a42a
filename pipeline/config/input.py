"""The sections input and filter of the configuration: which shards or tables, and what is taken from a sample."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from pipeline.config.section import PathText, Section
from pipeline.metadata.conditions import parse_condition
from pipeline.metadata.fields import Column, parse_column
from pipeline.metadata.filters import check_video_condition

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "avif")  # usual ones of the formats that are read
NAME_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _as_tuple(value: object) -> object:
    """One string is as good as a list of one."""
    return (value,) if isinstance(value, str) else value


Strings = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
Paths = Annotated[tuple[PathText, ...], BeforeValidator(_as_tuple)]


class TableConfig(Section):
    """Tables of videos (and images). `video` is the column with their paths, URLs or bytes; `key: null` numbers rows.

    `rows_per_shard` rows make a shard, the work that one replica takes at a time. `quotes` says whether quotes enclose
    cells or are part of the text; null: they enclose those of CSV.
    """

    files: Paths = Field(min_length=1)
    video: str = Field(min_length=1)
    key: str | None = Field(None, min_length=1)
    quotes: bool | None = None
    rows_per_shard: int = Field(1000, ge=1)


class InputConfig(Section):
    """Where samples come from. `video` lists extensions of videos; the first source of `caption` that exists counts.

    Where `image` lists extensions, images are samples too; a sample that has a video stays that of the video.
    `columns` are values of the sample's JSON that become columns; `spans` is the path of clip boundaries in it,
    and with `captions_of: span` each span has a caption of its own.
    """

    shards: Annotated[Paths, BeforeValidator(lambda value: () if value is None else value)] = ()
    table: TableConfig | None = None
    video: Strings = ("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "ts", "flv", "wmv", "3gp", "ogv", "gif")
    image: Strings = ()
    caption: Strings = ("txt", "json:caption")
    columns: dict[str, str] = Field(default_factory=dict)
    spans: str | None = None
    spans_unit: Literal["seconds", "frames"] = "seconds"
    captions_of: Literal["sample", "span"] = "sample"
    strict: bool = False

    @field_validator("columns")
    @classmethod
    def _columns_known(cls, columns: dict[str, str]) -> dict[str, str]:
        for name, source in columns.items():
            if not NAME_PATTERN.fullmatch(name):
                raise ValueError(f"column name {name!r} is not allowed: use letters, digits and _")
            parse_column(source)
        return columns

    @field_validator("spans")
    @classmethod
    def _spans_in_json(cls, spans: str | None) -> str | None:
        if spans is not None and not re.fullmatch(r"json:[^:\s]+", spans):
            raise ValueError(f"cannot read {spans!r}: write json:PATH, as in json:spans")
        return spans

    @model_validator(mode="after")
    def _spans_have_captions(self) -> "InputConfig":
        if self.captions_of == "span" and self.spans is None:
            raise ValueError("captions_of: span gives each span its caption: say where spans stand, as in json:spans")
        return self

    @model_validator(mode="after")
    def _extensions_are_of_one_kind(self) -> "InputConfig":
        if both := sorted({*self.image} & {*self.video}):
            raise ValueError(f"{', '.join(both)} in image is in video too: take it out of one of them")
        return self

    @model_validator(mode="after")
    def _one_source(self) -> "InputConfig":
        if bool(self.shards) == (self.table is not None):
            came = "both" if self.shards else "neither"
            raise ValueError(f"give either shards (WebDataset tars) or table (Parquet, CSV, JSONL): got {came}")
        return self

    @property
    def parsed_columns(self) -> dict[str, Column]:
        return {name: parse_column(source) for name, source in self.columns.items()}

    def rules(self) -> dict[str, Any]:
        """Everything but the paths of the input, as plain values: what decides how samples are made.

        `table` and `image` are there where they are set, so that outputs of runs without them keep their fingerprints.
        """
        values = self.model_dump(mode="json", exclude={"shards": True, "table": {"files"}})
        return {key: value for key, value in values.items() if value or key not in ("table", "image")}


class FilterConfig(Section):
    """Which samples are kept; null sets no bound.

    `where` is a condition on the sample's JSON, `video` one on what the video's header says.
    """

    min_seconds: float | None = Field(None, gt=0)
    min_short_side_px: int | None = Field(None, ge=1)
    min_fps: float | None = Field(None, gt=0)
    where: str | None = None
    video: str | None = None

    @field_validator("where")
    @classmethod
    def _where_understood(cls, where: str | None) -> str | None:
        if where is not None:
            parse_condition(where)
        return where

    @field_validator("video")
    @classmethod
    def _video_understood(cls, video: str | None) -> str | None:
        if video is not None:
            check_video_condition(video)
        return video
