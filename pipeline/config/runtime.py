"""The runtime section of the configuration: how a run is carried out. Nothing in it changes a latent.

It does not start anything.
"""

import sys
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ReplicaRange(BaseModel):
    """`min` replicas are asked for at once, so that an autoscaler brings their GPUs; more as GPUs join, up to `max`."""

    model_config = STRICT

    min: int
    max: int


class RuntimeConfig(BaseModel):
    """Replicas, and where they run.

    `replicas: auto` and `{min, max}` follow the GPUs of a cluster; a number uses its CPUs where it has no GPU.
    `log: json` writes one JSON object a line to the standard error instead of progress for people.
    """

    model_config = STRICT

    replicas: int | ReplicaRange | Literal["auto"] = "auto"
    address: str | None = None
    decode_ahead: int = Field(4, ge=1)
    log: Literal["text", "json"] = "text"

    @field_validator("replicas", mode="before")
    @classmethod
    def _replicas_make_sense(cls, value: Any) -> Any:
        both = isinstance(value, dict) and value.keys() == {"min", "max"}
        ends: tuple[Any, Any] = (value["min"], value["max"]) if both else (value, value)
        counts = all(type(end) is int for end in ends) and 1 <= ends[0] <= ends[1]
        if not counts and value != "auto":
            raise ValueError(f"{value!r} is no number of replicas: write auto, 8, or {{min: 1, max: 8}}")
        return value

    @property
    def replica_bounds(self) -> tuple[int, int]:
        """How many replicas are asked for even before there are GPUs for them, and how many there are at most."""
        if isinstance(self.replicas, ReplicaRange):
            return self.replicas.min, self.replicas.max
        return (1, sys.maxsize) if self.replicas == "auto" else (self.replicas, self.replicas)

    @property
    def waits_for_gpus(self) -> bool:
        """Whether a cluster without GPUs is one whose GPUs have not joined yet."""
        return isinstance(self.replicas, ReplicaRange) or (self.replicas == "auto" and self.address is not None)
