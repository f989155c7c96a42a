"""What all sections of the configuration have in common: they are frozen, and they refuse unknown keys."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One section of the configuration, or a part of one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
