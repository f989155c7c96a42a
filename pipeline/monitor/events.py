"""What happens in a run, as frozen values: replicas report to the driver, which shows, logs and counts it."""

from dataclasses import dataclass

from pipeline.records import Reject


@dataclass(frozen=True, slots=True)
class Progress:
    """Event: one more sample is finished; `frames`, or of texts `tokens`, were encoded since the last such event.

    Since then the device was busy for `encode_seconds` and idle for `idle_seconds`. Of the shard's samples `decoding`
    have nothing for the device yet, and the next frames of `ready` wait for it. The driver says by which `replica`.
    """

    shard: str
    frames: int
    tokens: int = 0
    replica: int = -1
    encode_seconds: float = 0.0
    idle_seconds: float = 0.0
    decoding: int = 0
    ready: int = 0


@dataclass(frozen=True, slots=True)
class ShardRead:
    """Event: every sample of a shard has begun; whoever makes it has room for the next one."""

    shard: str


@dataclass(frozen=True, slots=True)
class SliceDone:
    """Event: a slice is committed; `reused` if it already was before this run. `captions` are the rows of texts."""

    shard: str
    slice_index: int
    samples: int
    rows: int
    rejects: tuple[Reject, ...]
    size_bytes: int
    reused: bool
    captions: int = 0


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
    """Event: none of `replicas` has a GPU: others use the `gpus` of the cluster, or it has none at the moment."""

    replicas: int
    gpus: int = 0

    def __str__(self) -> str:
        if self.gpus:
            return f"0 of {self.replicas} replicas placed: the cluster's {self.gpus} GPUs are in use"
        return "waiting for GPUs: the cluster has none (an integer runtime.replicas would use its CPUs)"


@dataclass(frozen=True, slots=True)
class ReplicaJoined:
    """Event: a replica has loaded its encoder; `node` is Ray's id of its node, `address` its IP address."""

    replica: int
    node: str
    address: str = ""


@dataclass(frozen=True, slots=True)
class ReplicaLost:
    """Event: a replica died, or was given up; `node` is "" if it was never ready."""

    replica: int
    node: str
    error: str
    address: str = ""


@dataclass(frozen=True, slots=True)
class ReplicaReleased:
    """Event: a replica was let go, as what is left has work for fewer."""

    replica: int
    node: str
    address: str = ""


@dataclass(frozen=True, slots=True)
class GpuExcluded:
    """Event: replicas died one after another on GPU `number` of a node, so that no further one is started there."""

    node: str
    number: str
    error: str
    address: str = ""

    def __str__(self) -> str:
        place = self.address or f"node {self.node}"
        return f"GPU {self.number} of {place} is excluded: replicas die there, the last of {self.error}"


@dataclass(frozen=True, slots=True)
class ConvolutionsHalved:
    """Event: a GPU had too little memory for a convolution of a shard, which was computed in two halves, `times`."""

    shard: str
    times: int

    def __str__(self) -> str:
        return (
            f"shard {self.shard}: too little GPU memory, {self.times} convolutions were computed in halves; "
            "the last bits of their latents may differ"
        )


@dataclass(frozen=True, slots=True)
class LogsNotKept:
    """Event: logs of replicas could not be copied to `runtime.logs`; later ones are tried again and not told."""

    error: str


@dataclass(frozen=True, slots=True)
class ShardBegun:
    """Event: a replica was given a shard; `helps` if another replica already works on it."""

    shard: str
    replica: int
    helps: bool


Event = (
    Progress
    | ShardRead
    | SliceDone
    | ShardBegun
    | ShardDone
    | ShardFailed
    | ReplicaJoined
    | ReplicaLost
    | ReplicaReleased
    | WaitingForGpus
    | GpuExcluded
    | ConvolutionsHalved
    | LogsNotKept
)
