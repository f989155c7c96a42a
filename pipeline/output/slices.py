"""What storage holds of a slice: its parts, what became of its samples, and statistics of its latents."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.records import Reject


@dataclass(frozen=True, slots=True)
class PartInfo:
    """A committed part, as a manifest lists it. `computed_by` is what the encoder ran on, empty where unknown."""

    path: str
    slice_index: int
    bucket: str
    rows: int
    size_bytes: int
    sha256: str
    computed_by: Mapping[str, str] = field(default_factory=dict, hash=False)
    statistics: "LatentStatistics | None" = None


@dataclass(frozen=True, slots=True)
class SliceRecord:
    """The account of one slice, kept in the footer of each of its parts: any one of them is enough.

    `clips` names for each bucket the (sample_index, window_index) of its rows; `last` says that the shard ends here.
    `keys` are those of its samples, in order; `without_caption` are the indices of samples that have none.
    """

    index: int
    samples: int
    next_position: int
    last: bool
    ignored_files: int
    clips: dict[str, tuple[tuple[int, int], ...]]
    rejects: tuple[Reject, ...]
    keys: tuple[str, ...] = ()
    without_caption: tuple[int, ...] = ()
    losses: Mapping[str, int] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class LatentStatistics:
    """Of some latents: values in a channel, and for each channel sum, sum of squares, least and largest value.

    `sum_variances` is the sum of exp(log-variance), empty where posteriors have none.
    """

    count: int = 0
    sum: tuple[float, ...] = ()
    sum_squares: tuple[float, ...] = ()
    min: tuple[float, ...] = ()
    max: tuple[float, ...] = ()
    sum_variances: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class CommittedSlice:
    """What storage holds of one slice. It is complete when every bucket that its record names has its part."""

    record: SliceRecord
    parts: tuple[PartInfo, ...]
    statistics: LatentStatistics

    @property
    def missing_buckets(self) -> frozenset[str]:
        return frozenset(self.record.clips) - {part.bucket for part in self.parts}
