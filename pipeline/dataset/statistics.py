"""statistics.json: mean and standard deviation of each channel over a run, by bucket and in all."""

import json
import math
from collections.abc import Iterable
from typing import TypedDict

from pipeline.output.manifests import Manifest
from pipeline.output.paths import STATISTICS_FILE
from pipeline.output.statistics import LatentStatistics, channels, statistics_from_json, total
from pipeline.storage.store import Store


class Channels(TypedDict):
    """A value for each channel."""

    mean: list[float]
    std: list[float]


class Statistics(TypedDict):
    """Of the posteriors' means and of samples of them; None for what the rows do not tell."""

    count: int
    means: Channels | None
    samples: Channels | None


class StatisticsFile(TypedDict):
    all: Statistics
    buckets: dict[str, Statistics]


def write_statistics(store: Store, posterior: str, manifests: Iterable[Manifest]) -> StatisticsFile:
    """Writes statistics.json anew from what the manifests say of each part."""
    parts: dict[str, list[LatentStatistics]] = {}
    for part in (part for manifest in manifests for part in manifest["parts"]):
        parts.setdefault(part["bucket"], []).append(statistics_from_json(part["statistics"]))
    by_bucket = {bucket: total(parts[bucket]) for bucket in sorted(parts)}
    file: StatisticsFile = {
        "all": statistics_for(posterior, total(by_bucket.values())),
        "buckets": {bucket: statistics_for(posterior, found) for bucket, found in by_bucket.items()},
    }
    store.replace(STATISTICS_FILE, json.dumps(file, indent=1).encode())
    return file


def statistics_for(posterior: str, statistics: LatentStatistics) -> Statistics:
    """Mean and standard deviation by channel; a sample's variance is the mean's and the expected one of its noise."""
    mean, std = [one[0] for one in channels(statistics)], [one[1] for one in channels(statistics)]
    stored = Channels(mean=mean, std=std)
    if posterior == "sample":
        return Statistics(count=statistics.count, means=None, samples=stored)
    variances = statistics.sum_variances
    if not variances:
        return Statistics(count=statistics.count, means=stored, samples=None)
    of_samples = [math.sqrt(one**2 + noise / statistics.count) for one, noise in zip(std, variances, strict=True)]
    return Statistics(count=statistics.count, means=stored, samples=Channels(mean=mean, std=of_samples))
