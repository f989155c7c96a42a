"""From a preview of a few samples to what a whole run will make and take: pure sums, each with its standard error."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Picture = tuple[int, int]  # height and width in pixels
Shape = tuple[int, int, int]  # frames, height and width of a clip
SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class SamplePreview:
    """What one sample will give: the shapes of its clips, `stage/reason` of what is left out, and its captions."""

    clips: tuple[Shape, ...]
    left_out: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ShardPreview:
    """The samples at the beginning of a shard, and the bytes that were read for them.

    `total` is the number of the shard's samples where it is known, as its end was reached.
    """

    previewed: tuple[SamplePreview, ...]
    read_bytes: int
    total: int | None


@dataclass(frozen=True, slots=True)
class Quantity:
    """An estimated value and its standard error, from having read some of the samples and not all."""

    value: float
    error: float

    def __add__(self, other: "Quantity") -> "Quantity":
        return Quantity(self.value + other.value, math.hypot(self.error, other.error))

    def __str__(self) -> str:
        return f"{self.value:,.0f} ± {self.error:,.0f}"


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is left to make. `buckets` has the clips by shape; `left_out` counts in the previewed samples only."""

    previewed: int
    samples: float
    samples_are_counted: bool
    clips: Quantity
    frames: Quantity
    size_bytes: Quantity
    device_hours: Quantity | None
    buckets: dict[Shape, Quantity]
    left_out: dict[str, int]


def shares(count: int, among: int) -> list[int]:
    """`count` split into `among` numbers that are as equal as possible."""
    return [count // among + (index < count % among) for index in range(among)]


def count_samples(shards: Sequence[ShardPreview], left: int, left_bytes: int, known: int | None) -> tuple[float, bool]:
    """How many samples the `left` shards hold, and whether that was counted rather than estimated.

    Args:
        known: the number, where the input states it.
    """
    if known is not None:
        return known, True
    totals = [shard.total for shard in shards]
    if len(totals) == left and None not in totals:
        return sum(total or 0 for total in totals), True
    read_bytes = sum(shard.read_bytes for shard in shards)
    previewed = sum(len(shard.previewed) for shard in shards)
    return (previewed * left_bytes / read_bytes if read_bytes else 0.0), False


def estimate(
    previewed: Sequence[SamplePreview],
    samples: tuple[float, bool],
    bytes_of: Mapping[Shape, int],
    seconds_a_frame: Mapping[Picture, float],
) -> Estimate:
    """Scales the previewed samples to all samples.

    Args:
        samples: the result of `count_samples`.
        bytes_of: stored bytes of a clip, for each shape that occurs.
        seconds_a_frame: encoding time by picture size; empty where it was not timed.
    """
    total, counted = samples
    seconds = {shape: shape[0] * seconds_a_frame.get(shape[1:], math.nan) for shape in bytes_of}

    def scaled(per_clip: Mapping[Shape, float], divisor: float = 1.0) -> Quantity:
        return scaled_up([sum(per_clip.get(clip, 0.0) for clip in one.clips) / divisor for one in previewed], total)

    hours = scaled(seconds, SECONDS_PER_HOUR)
    return Estimate(
        previewed=len(previewed),
        samples=total,
        samples_are_counted=counted,
        clips=scaled(dict.fromkeys(bytes_of, 1.0)),
        frames=scaled({shape: float(shape[0]) for shape in bytes_of}),
        size_bytes=scaled(bytes_of),
        device_hours=None if math.isnan(hours.value) else hours,
        buckets={shape: scaled({shape: 1.0}) for shape in sorted(bytes_of)},
        left_out=dict(sorted(Counter(reason for one in previewed for reason in one.left_out).items())),
    )


def scaled_up(of_samples: Sequence[float], total: float) -> Quantity:
    """`total` times the mean, with its standard error, which is 0 for a single sample."""
    count = len(of_samples)
    if not count:
        return Quantity(0.0, 0.0)
    mean = sum(of_samples) / count
    variance = sum((value - mean) ** 2 for value in of_samples) / max(1, count - 1)
    missing = max(0.0, 1 - count / total) if total else 0.0  # once nearly all are read, little is unknown
    return Quantity(total * mean, total * math.sqrt(variance / count * missing))


def sizes_to_time(shape: Shape, first_frames: int, step_px: int) -> list[Shape]:
    """Clips to time one after the other, each costlier than the last, up to `shape` itself.

    Args:
        first_frames: a legal number of frames for the smaller clips, such as that of the first chunk.
        step_px: sides are multiples of it.
    """
    _, height_px, width_px = shape
    sizes = []
    for divisor in (16, 8, 4, 2, 1):
        sides = [max(step_px, side_px // divisor // step_px * step_px) for side_px in (height_px, width_px)]
        sizes.append((first_frames, sides[0], sides[1]))
    return sorted({*sizes, shape}, key=lambda size: (math.prod(size), size))


def affordable(size: Shape, seconds: float, next_size: Shape, budget_seconds: float) -> bool:
    """Whether the next clip can be timed within the budget, where `size` took `seconds` and time grows with pixels."""
    return seconds * math.prod(next_size) / math.prod(size) <= budget_seconds
