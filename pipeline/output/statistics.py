"""Statistics of latents per channel: of one latent, merged, and as JSON."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from pipeline.records import FloatLatent

LOGVAR_RANGE = (-30.0, 20.0)  # where a log-variance is used


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


class StatisticsJson(TypedDict, total=False):
    """All keys, or none where there is no latent; a value per channel but for the count.

    `sum_variances` is there where rows have log-variances.
    """

    count: int
    sum: list[float]
    sum_squares: list[float]
    min: list[float]
    max: list[float]
    sum_variances: list[float]


def statistics_of(latent: FloatLatent, logvar: FloatLatent | None = None) -> LatentStatistics:
    """The statistics of one latent `c t h w` and its log-variance, in float64."""
    return of_channels_and_row(latent, logvar)[0]


def of_channels_and_row(latent: FloatLatent, logvar: FloatLatent | None = None) -> tuple[LatentStatistics, list[float]]:
    """The statistics of one latent `c t h w` and its log-variance, in float64; and of the latent as a whole mean,
    standard deviation and largest magnitude.
    """
    flat = latent.reshape(latent.shape[0], -1)
    least, largest = flat.min(1), flat.max(1)
    values = flat.astype(np.float64)
    sums, mean, deviation = values.sum(1), values.mean(), values.std()
    np.square(values, out=values)  # in place: a new array of this size costs more than its values
    of_channels = LatentStatistics(
        count=flat.shape[1],
        sum=tuple(sums.tolist()),
        sum_squares=tuple(values.sum(1).tolist()),
        min=tuple(least.tolist()),
        max=tuple(largest.tolist()),
        sum_variances=() if logvar is None else _variances(logvar, values),
    )
    return of_channels, [float(mean), float(deviation), float(max(abs(least.min()), abs(largest.max())))]


def _variances(logvar: FloatLatent, values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """For each channel the sum of exp(log-variance), computed in `values`, which is of the same size."""
    np.clip(logvar.reshape(values.shape), *LOGVAR_RANGE, out=values)
    return tuple(np.exp(values, out=values).sum(1).tolist())


def merged(left: LatentStatistics, right: LatentStatistics) -> LatentStatistics:
    """The statistics of the latents of both; either may be empty."""
    if not left.count or not right.count:
        return left if left.count else right
    return LatentStatistics(
        count=left.count + right.count,
        sum=tuple(np.add(left.sum, right.sum).tolist()),
        sum_squares=tuple(np.add(left.sum_squares, right.sum_squares).tolist()),
        min=tuple(np.minimum(left.min, right.min).tolist()),
        max=tuple(np.maximum(left.max, right.max).tolist()),
        sum_variances=tuple(np.add(left.sum_variances, right.sum_variances).tolist()),
    )


def total(parts: Iterable[LatentStatistics]) -> LatentStatistics:
    """The statistics of the latents of all parts, summed up in their order."""
    return reduce(merged, parts, LatentStatistics())


def channels(statistics: LatentStatistics) -> Iterator[tuple[float, float, float, float]]:
    """(mean, standard deviation, least, largest) of each channel."""
    columns = zip(statistics.sum, statistics.sum_squares, statistics.min, statistics.max, strict=True)
    for total, squares, least, largest in columns:
        mean = total / statistics.count
        yield mean, math.sqrt(max(squares / statistics.count - mean**2, 0.0)), least, largest


def statistics_to_json(statistics: LatentStatistics) -> StatisticsJson:
    if not statistics.count:
        return {}
    values: StatisticsJson = {
        "count": statistics.count,
        "sum": list(statistics.sum),
        "sum_squares": list(statistics.sum_squares),
        "min": list(statistics.min),
        "max": list(statistics.max),
    }
    return {**values, "sum_variances": list(statistics.sum_variances)} if statistics.sum_variances else values


def statistics_from_json(values: StatisticsJson) -> LatentStatistics:
    if not values:
        return LatentStatistics()
    return LatentStatistics(
        count=values["count"],
        sum=tuple(values["sum"]),
        sum_squares=tuple(values["sum_squares"]),
        min=tuple(values["min"]),
        max=tuple(values["max"]),
        sum_variances=tuple(values.get("sum_variances", ())),
    )
