"""What all sections of the configuration have in common: they are frozen, and they refuse unknown keys."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from pipeline.storage.urls import expanded

PathText = Annotated[str, AfterValidator(expanded)]  # a path or URL, in which ~ and ${VAR} are replaced


class Section(BaseModel):
    """One section of the configuration, or a part of one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
