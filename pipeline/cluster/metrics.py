"""Ray: the metrics of metrics.py as Ray's own, which every node of a cluster offers to Prometheus.

It does not decide what is counted.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from ray._private.internal_api import get_memory_info_reply
from ray._private.state import state
from ray.util.metrics import Counter, Gauge

from pipeline.cluster.fleet import Fleet
from pipeline.monitor.metrics import METRICS, REPLICAS, SHARDS, Metric, Point


class RayMetrics:
    """The metrics of one process for the run of a name. Ray's begin with `ray_` where Prometheus reads them."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._metrics: dict[Metric, Any] = {}

    def add(self, points: Iterable[Point]) -> None:
        """Counts points, and sets those of gauges."""
        for point in points:
            if point.metric not in self._metrics:
                self._metrics[point.metric] = _register(point.metric)
            tags = {"run": self._run, **point.tags}
            if point.metric.kind == "gauge":
                self._metrics[point.metric].set(point.value, tags)
            elif point.value > 0:
                self._metrics[point.metric].inc(point.value, tags)


def _register(metric: Metric) -> Any:
    assert metric in METRICS
    kind = {"counter": Counter, "gauge": Gauge}[metric.kind]
    return kind(metric.name, description=f"{metric.description} ({metric.unit})", tag_keys=("run", *metric.tags))


def of_fleet(fleet: Fleet, loading: int) -> Iterator[Point]:
    """How much is left and who is at it, now. `loading` replicas do not hold an encoder yet."""
    yield Point(SHARDS, len(fleet.queue), {"state": "waiting"})
    yield Point(SHARDS, fleet.unfinished - len(fleet.queue), {"state": "at_work"})
    yield Point(REPLICAS, loading, {"state": "loading"})
    yield Point(REPLICAS, fleet.replicas - fleet.replicas_at_work - loading, {"state": "idle"})
    yield Point(REPLICAS, fleet.replicas_at_work, {"state": "at_work"})


def object_store_used_bytes() -> int:
    """Bytes of shared memory that objects take on all nodes, now, for benchmarks. Ray has no public way to ask."""
    return int(get_memory_info_reply(state).store_stats.object_store_bytes_used)
