"""The sections runtime and limits of the configuration: how a run is carried out. No key in them changes a latent."""

import sys
from typing import Any, Literal

from pydantic import Field, field_validator

from pipeline.config.section import Section


class ReplicaRange(Section):
    """`min` replicas are requested at once, so that an autoscaler adds their GPUs; more as GPUs join, up to `max`."""

    min: int
    max: int


class RuntimeConfig(Section):
    """Replicas, and where they run.

    `replicas: auto` and `{min, max}` follow the GPUs of a cluster; a number uses CPUs if the cluster has no GPU.
    `wait_for_gpus_minutes` is how long a run may be without any GPU before it ends; null waits for ever.
    `device: auto` is CUDA where Ray gives a GPU, and never the CPU instead; `cpu` rehearses a run on GPUs without them.
    `mixed_gpus: refuse` ends a run that meets a GPU of another model than it began on, whose last bits differ.
    `ahead_bytes` bounds the videos and decoded frames that wait on a node; null takes half of its object store.
    `log: json` writes one JSON object per line to standard error instead of a progress display.
    `logs` is a folder or URL to which the logs of replicas are copied, now and then and when they end.
    """

    replicas: int | ReplicaRange | Literal["auto"] = "auto"
    address: str | None = None
    device: Literal["auto", "cuda", "cpu"] = "auto"
    wait_for_gpus_minutes: float | None = Field(None, ge=0)
    mixed_gpus: Literal["allow", "refuse"] = "allow"
    ahead_bytes: int | None = Field(None, ge=1)
    log: Literal["text", "json"] = "text"
    logs: str | None = None

    @field_validator("replicas", mode="before")
    @classmethod
    def _replicas_make_sense(cls, value: Any) -> Any:
        both = isinstance(value, dict) and value.keys() == {"min", "max"}
        ends: tuple[Any, Any] = (value["min"], value["max"]) if both else (value, value)
        counts = all(type(end) is int for end in ends) and 1 <= ends[0] <= ends[1]
        if not counts and value != "auto":
            raise ValueError(f"cannot use {value!r} replicas: write auto, 8, or {{min: 1, max: 8}}")
        return value

    def device_of(self, holds_gpu: bool) -> str:
        """The device of a process, to which Ray has given a GPU or not: one that holds a GPU never falls back."""
        return "cuda" if self.device == "auto" and holds_gpu else self.device

    @property
    def replica_bounds(self) -> tuple[int, int]:
        """How many replicas are requested even before there are GPUs for them, and the most that there may be."""
        if isinstance(self.replicas, ReplicaRange):
            return self.replicas.min, self.replicas.max
        return (1, sys.maxsize) if self.replicas == "auto" else (self.replicas, self.replicas)

    @property
    def waits_for_gpus(self) -> bool:
        """Whether a cluster without GPUs is expected to get some."""
        return isinstance(self.replicas, ReplicaRange) or (self.replicas == "auto" and self.address is not None)


class LimitsConfig(Section):
    """When to give up on a sample, a shard or a run. The sizes bound the memory of a decoder."""

    max_reject_fraction: float = Field(0.05, ge=0, le=1)
    decode_timeout_seconds: float = Field(60.0, gt=0)
    max_attempts: int = Field(3, ge=1)
    max_frame_px: int = Field(8192 * 4320, ge=1)
    max_video_frames: int = Field(1_000_000, ge=1)
    max_video_bytes: int = Field(4 << 30, ge=1)
    decode_memory_bytes: int = Field(8 << 30, ge=1)
