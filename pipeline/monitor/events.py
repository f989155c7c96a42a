"""What happens in a run, as frozen values: replicas tell the driver, and the driver whoever shows, logs or counts it.

It does not show, log or count anything.
"""

from dataclasses import dataclass

from pipeline.records import Reject


@dataclass(frozen=True, slots=True)
class Progress:
    """Event: one more sample went through; `frames` were encoded since the last such event."""

    shard: str
    frames: int


@dataclass(frozen=True, slots=True)
class SliceDone:
    """Event: a slice is committed; `reused` where it was so before this run."""

    shard: str
    slice_index: int
    samples: int
    rows: int
    rejects: tuple[Reject, ...]
    size_bytes: int
    reused: bool


@dataclass(frozen=True, slots=True)
class ShardDone:
    """Event: a shard's manifest is there; `seconds` by stage is what this process spent on it."""

    shard: str
    samples: int
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class ShardFailed:
    """Event: an attempt at a shard failed; it will be tried again unless `final`."""

    shard: str
    error: str
    final: bool


@dataclass(frozen=True, slots=True)
class WaitingForGpus:
    """Event: the cluster has no GPU now; `replicas` begin as GPUs join."""

    replicas: int


@dataclass(frozen=True, slots=True)
class ReplicaJoined:
    """Event: a replica holds its encoder; `node` is Ray's id of where."""

    replica: int
    node: str


@dataclass(frozen=True, slots=True)
class ReplicaLost:
    """Event: a replica died, or was given up; `node` is "" where it never was ready."""

    replica: int
    node: str
    error: str


@dataclass(frozen=True, slots=True)
class ShardBegun:
    """Event: a replica was given a shard; `helps` where another is at it already."""

    shard: str
    replica: int
    helps: bool


Event = Progress | SliceDone | ShardBegun | ShardDone | ShardFailed | ReplicaJoined | ReplicaLost | WaitingForGpus
