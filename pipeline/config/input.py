"""The input section of the configuration: which shards or tables, and what of a sample is taken.

It does not open any of them.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from pipeline.metadata.fields import Column, parse_column

NAME_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _as_tuple(value: object) -> object:
    """Lets a user write one string where a list of strings is meant."""
    return (value,) if isinstance(value, str) else value


Strings = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


class TableConfig(Section):
    """Tables of videos. `video` is the column of their paths, URLs or bytes; `key` null numbers the rows.

    `rows_per_shard` rows make a shard, which is what one replica takes at a time.
    """

    files: Strings = Field(min_length=1)
    video: str = Field(min_length=1)
    key: str | None = Field(None, min_length=1)
    rows_per_shard: int = Field(1000, ge=1)


class InputConfig(Section):
    """Where samples come from. `video` are extensions that hold the video; `caption` the first source that exists.

    `columns` are values of the sample's JSON that become columns, `spans` where in it clip boundaries stand.
    """

    shards: Annotated[Strings, BeforeValidator(lambda value: () if value is None else value)] = ()
    table: TableConfig | None = None
    video: Strings = ("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "ts", "flv", "wmv", "3gp", "ogv", "gif")
    caption: Strings = ("txt", "json:caption")
    columns: dict[str, str] = Field(default_factory=dict)
    spans: str | None = None
    spans_unit: Literal["seconds", "frames"] = "seconds"
    strict: bool = False

    @field_validator("columns")
    @classmethod
    def _columns_known(cls, columns: dict[str, str]) -> dict[str, str]:
        for name, source in columns.items():
            if not NAME_PATTERN.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a column: letters, digits and _ are")
            parse_column(source)
        return columns

    @field_validator("spans")
    @classmethod
    def _spans_in_json(cls, spans: str | None) -> str | None:
        if spans is not None and not re.fullmatch(r"json:[^:\s]+", spans):
            raise ValueError(f"{spans!r} names no spans: write json:PATH, as in json:spans")
        return spans

    @model_validator(mode="after")
    def _one_source(self) -> "InputConfig":
        if bool(self.shards) == (self.table is not None):
            came = "both came" if self.shards else "neither came"
            raise ValueError(f"give shards (WebDataset tars) or table (Parquet, CSV, JSONL), one of them: {came}")
        return self

    @property
    def parsed_columns(self) -> dict[str, Column]:
        return {name: parse_column(source) for name, source in self.columns.items()}

    def rules(self) -> dict[str, Any]:
        """All of it but where the input lies, as plain values: what a sample is made by."""
        values = self.model_dump(mode="json", exclude={"shards": True, "table": {"files"}})
        return {key: value for key, value in values.items() if key != "table" or value is not None}
