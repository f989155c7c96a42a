"""What is counted, once, and where; cluster/test_cluster.py reads it as Prometheus would."""

from collections.abc import Callable, Iterable, Iterator

import pytest
from support.makers import made_reject

from pipeline.cluster.fleet import Fleet, ReplicaCount, WorkQueue
from pipeline.cluster.metrics import of_fleet
from pipeline.errors import Reason, ShardError
from pipeline.monitor.events import Event, Progress, ReplicaLost, ShardDone, ShardFailed, SliceDone, WaitingForGpus
from pipeline.monitor.metrics import METRICS, Metric, Point, of_event, of_work, thinned
from pipeline.records import Reject, TarShard

FILTERED = Reject("clip-000", 0, -1, Reason("filter", "where", "not nsfw"))
SLICE = SliceDone("a", 0, 4, 3, (made_reject(0), made_reject(1, 2), FILTERED), 1234, reused=False)
DONE = ShardDone("a", 4, {})

Values = dict[tuple[str, ...], float]


def values_of(points: Iterable[Point]) -> Values:
    """Sums by the metric's name and the values of its tags."""
    sums: Values = {}
    for point in points:
        at = (point.metric.name, *point.tags.values())
        sums[at] = sums.get(at, 0) + point.value
        assert set(point.tags) == set(point.metric.tags)
    return sums


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric_is_named_as_prometheus_wants_it_and_never_tagged_without_end(metric: Metric) -> None:
    assert metric.name.startswith("latentmill_")
    assert metric.name.endswith("_total") is (metric.kind == "counter")
    assert metric.unit in metric.name
    assert set(metric.tags) <= {"stage", "reason", "state", "fate"}


def test_no_two_metrics_share_a_name() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_a_slice_made_now_counts_its_samples_clips_bytes_and_rejects() -> None:
    assert values_of(of_event(SLICE)) == {
        ("latentmill_samples_total",): 4,
        ("latentmill_clips_total",): 3,
        ("latentmill_written_bytes_total",): 1234,
        ("latentmill_rejects_total", "clip", "too_short"): 2,
        ("latentmill_filtered_samples_total", "where"): 1,
    }


@pytest.mark.parametrize(
    "event", [SliceDone("a", 0, 4, 3, (made_reject(0),), 1234, reused=True), Progress("a", 5), WaitingForGpus(1)]
)
def test_the_driver_counts_neither_what_was_there_before_nor_what_replicas_count(event: Event) -> None:
    assert values_of(of_event(event)) == {}


def test_shards_and_failed_attempts_count_one_each() -> None:
    assert values_of(of_event(DONE)) == {("latentmill_shards_done_total",): 1}
    for final, fate in ((True, "given_up"), (False, "retried")):
        counted = values_of(of_event(ShardFailed("a", "gone", final=final)))
        assert counted == {("latentmill_shard_attempts_failed_total", fate): 1}
    assert values_of(of_event(ReplicaLost(3, "", "gone"))) == {("latentmill_replicas_lost_total",): 1}


def test_a_replica_counts_the_seconds_since_its_last_event_and_the_frames_of_this_one() -> None:
    before, seconds = {"encode": 2.0, "write": 1.0}, {"encode": 3.5, "write": 1.0, "commit": 0.25}
    assert values_of(of_work(Progress("a", 49), before, seconds)) == {
        ("latentmill_frames_total",): 49,
        ("latentmill_stage_seconds_total", "encode"): 1.5,
        ("latentmill_stage_seconds_total", "commit"): 0.25,
    }
    assert values_of(of_work(SLICE, seconds, seconds)) == {}


def test_gauges_of_shards_and_replicas_follow_the_fleet() -> None:
    queue = WorkQueue(max_attempts=1)
    queue.extend(TarShard(name, f"{name}.tar") for name in "abcde")
    fleet = Fleet(queue, ReplicaCount(1, 9))
    for number in [fleet.join() for _ in range(4)][:2]:
        fleet.assign(number)
    assert values_of(of_fleet(fleet, loading=1)) == {
        ("latentmill_shards", "waiting"): 3,
        ("latentmill_shards", "at_work"): 2,
        ("latentmill_replicas", "loading"): 1,
        ("latentmill_replicas", "idle"): 1,
        ("latentmill_replicas", "at_work"): 2,
    }


def clock_of(*times: float) -> Callable[[], float]:
    return iter(times).__next__


def test_a_driver_hears_of_frames_once_a_second_and_of_all_of_them() -> None:
    events = [Progress("a", 1), Progress("a", 2), Progress("a", 4), Progress("a", 8), Progress("a", 16)]
    heard = list(thinned(events, now_seconds=clock_of(0, 0, 0.5, 0.9, 1.1, 1.2)))
    assert heard == [Progress("a", 1), Progress("a", 14), Progress("a", 16)]


def test_a_driver_hears_of_each_of_many_replicas_less_often() -> None:
    events = [Progress("a", 1), Progress("a", 2), Progress("a", 4), Progress("a", 8)]
    heard = list(thinned(events, replicas=32, now_seconds=clock_of(0, 0, 2, 3.9, 4.1)))
    assert heard == [Progress("a", 1), Progress("a", 14)]


def test_frames_that_are_held_come_before_the_event_that_follows_them() -> None:
    events: list[Event] = [Progress("a", 1), Progress("a", 2), SLICE, DONE]
    assert list(thinned(events, now_seconds=clock_of(0, 0, 0.1))) == [Progress("a", 1), Progress("a", 2), SLICE, DONE]


def test_frames_that_are_held_when_a_shard_fails_are_said_before_it() -> None:
    def failing() -> Iterator[Event]:
        yield from (Progress("a", 1), Progress("a", 2))
        raise ShardError("cut short")

    heard = thinned(failing(), now_seconds=clock_of(0, 0, 0.1))
    assert [next(heard), next(heard)] == [Progress("a", 1), Progress("a", 2)]
    with pytest.raises(ShardError, match="cut short"):
        next(heard)


def test_a_thousand_samples_of_a_fast_replica_are_a_handful_of_events() -> None:
    times = (number / 500 for number in range(-1, 2000))  # two seconds and what begins them
    heard = list(thinned([Progress("a", 3)] * 1000, now_seconds=lambda: next(times)))
    assert len(heard) <= 4
    assert sum(event.frames for event in heard if isinstance(event, Progress)) == 3000
