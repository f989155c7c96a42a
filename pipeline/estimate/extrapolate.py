"""From a few samples that were looked at to what a whole run will make and take: pure sums, each with its error.

It does not read samples or time an encoder: preview.py does.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Picture = tuple[int, int]  # height and width in pixels
Shape = tuple[int, int, int]  # frames, height and width of a clip
SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Looked:
    """What one sample gives: the shapes of its clips, and `stage/reason` for what of it is left out."""

    clips: tuple[Shape, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stretch:
    """Samples at the beginning of a shard, and how much of the shard they are.

    `total` is the number of the shard's samples where that is known: its end was reached, or it is of a table.
    """

    looked: tuple[Looked, ...]
    read_bytes: int
    total: int | None


@dataclass(frozen=True, slots=True)
class Figure:
    """An estimate and its standard error, which is that of having looked at some samples and not at all."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:,.0f} ± {self.error:,.0f}"


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is left to make. `buckets` says clips by shape; `left_out` counts in the samples looked at alone."""

    looked: int
    samples: float
    samples_are_counted: bool
    clips: Figure
    frames: Figure
    size_bytes: Figure
    device_hours: Figure | None
    buckets: dict[Shape, Figure]
    left_out: dict[str, int]


def evenly(count: int, among: int) -> list[int]:
    """`count` of `among` places, or all where there are fewer, evenly spread; the first is always one."""
    taken = min(count, among)
    return [index * among // taken for index in range(taken)]


def shares(count: int, among: int) -> list[int]:
    """`count` things dealt to `among` as equally as can be."""
    return [count // among + (index < count % among) for index in range(among)]


def count_samples(stretches: Sequence[Stretch], left: int, left_bytes: int, known: int | None) -> tuple[float, bool]:
    """How many samples the `left` shards hold, and whether that was counted rather than estimated.

    Args:
        known: the number, where the input says it.
    """
    if known is not None:
        return known, True
    totals = [stretch.total for stretch in stretches]
    if len(totals) == left and None not in totals:
        return sum(total or 0 for total in totals), True
    read_bytes = sum(stretch.read_bytes for stretch in stretches)
    looked = sum(len(stretch.looked) for stretch in stretches)
    return (looked * left_bytes / read_bytes if read_bytes else 0.0), False


def estimate(
    looked: Sequence[Looked],
    samples: tuple[float, bool],
    bytes_of: Mapping[Shape, int],
    seconds_a_frame: Mapping[Picture, float],
) -> Estimate:
    """Scales what the samples gave to all samples.

    Args:
        samples: as `count_samples` says.
        bytes_of: what is stored of a clip of each shape that occurs.
        seconds_a_frame: that encoding takes by picture; empty where it was not timed.
    """
    total, counted = samples
    seconds = {shape: shape[0] * seconds_a_frame.get(shape[1:], math.nan) for shape in bytes_of}

    def scaled(per_clip: Mapping[Shape, float], divisor: float = 1.0) -> Figure:
        return _scaled([sum(per_clip.get(clip, 0.0) for clip in one.clips) / divisor for one in looked], total)

    hours = scaled(seconds, SECONDS_PER_HOUR)
    return Estimate(
        looked=len(looked),
        samples=total,
        samples_are_counted=counted,
        clips=scaled(dict.fromkeys(bytes_of, 1.0)),
        frames=scaled({shape: float(shape[0]) for shape in bytes_of}),
        size_bytes=scaled(bytes_of),
        device_hours=None if math.isnan(hours.value) else hours,
        buckets={shape: scaled({shape: 1.0}) for shape in sorted(bytes_of)},
        left_out=dict(sorted(Counter(reason for one in looked for reason in one.left_out).items())),
    )


def _scaled(of_samples: Sequence[float], total: float) -> Figure:
    """`total` times the mean, with the standard error of the mean; without an error from one sample alone."""
    count = len(of_samples)
    if not count:
        return Figure(0.0, 0.0)
    mean = sum(of_samples) / count
    variance = sum((value - mean) ** 2 for value in of_samples) / max(1, count - 1)
    missing = max(0.0, 1 - count / total) if total else 0.0  # of a sample that is nearly all, little is unknown
    return Figure(total * mean, total * math.sqrt(variance / count * missing))


def sizes_to_time(shape: Shape, first_frames: int, step_px: int) -> list[Shape]:
    """Clips to time one after the other, each costing more, up to `shape` itself: small pictures come first.

    Args:
        first_frames: a legal count, such as that of the first chunk.
        step_px: what sides are multiples of.
    """
    _, height_px, width_px = shape
    sizes = []
    for divisor in (16, 8, 4, 2, 1):
        sides = [max(step_px, side_px // divisor // step_px * step_px) for side_px in (height_px, width_px)]
        sizes.append((first_frames, sides[0], sides[1]))
    return sorted({*sizes, shape}, key=lambda size: (math.prod(size), size))


def affordable(size: Shape, seconds: float, next_size: Shape, budget_seconds: float) -> bool:
    """Whether the next clip can be timed in what is left, when `size` took `seconds` and cost goes with pixels."""
    return seconds * math.prod(next_size) / math.prod(size) <= budget_seconds
