"""The section text of the configuration: which text encoder embeds which captions, after a run."""

import re
from typing import Any, Literal

from pydantic import Field, model_validator

from encoder import Dtype, TextPresetName
from pipeline.config.input import Strings
from pipeline.config.section import PathText, Section

OF_PIPELINE = "diffusers:"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class TextConfig(Section):
    """How captions are embedded. `encoder` is a folder or URL with a text encoder and its tokenizer, to which `preset`
    gives the rules of a family; or `diffusers:FOLDER` for a pipeline's own `encode_prompt`.

    Captions are those of the rows, or a `column` of the table `captions` that has the `key` of a row. `negative` are
    prompts that are embedded beside the empty one.
    """

    encoder: PathText = Field(min_length=1)
    preset: TextPresetName | None = None
    captions: PathText | None = None
    key: Literal["id", "key"] = "id"
    column: str = Field("caption", min_length=1)
    dtype: Dtype = "bfloat16"
    negative: Strings = ()

    @model_validator(mode="after")
    def _rules_are_known(self) -> "TextConfig":
        if self.of_pipeline and self.preset:
            raise ValueError(f"{OF_PIPELINE} has the pipeline's own rules: leave out preset: {self.preset}")
        if not self.of_pipeline and not self.preset:
            raise ValueError(
                f"give preset: cogvideox, wan or mochi; or encoder: {OF_PIPELINE}FOLDER for a pipeline's own rules"
            )
        return self

    @property
    def of_pipeline(self) -> bool:
        return self.encoder.startswith(OF_PIPELINE)

    @property
    def location(self) -> str:
        """The folder or URL of the encoder."""
        return self.encoder.removeprefix(OF_PIPELINE)

    def rules(self) -> dict[str, Any]:
        """What decides which captions are embedded, without the path of their table."""
        captions = {"key": self.key, "column": self.column} if self.captions else None
        return {"captions": captions, "negative": list(self.negative)}
