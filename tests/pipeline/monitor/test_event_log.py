"""A run's log for machines: a JSON object on each line that says which run, shard, slice and sample it is about."""

import io
import json
from datetime import datetime
from typing import Any

import pytest
from support.makers import made_reject

from pipeline.errors import Reason
from pipeline.monitor import event_log
from pipeline.monitor.event_log import EventLog, values_of
from pipeline.monitor.events import (
    ConvolutionsHalved,
    Event,
    GpuExcluded,
    LogsNotKept,
    Progress,
    ReplicaJoined,
    ReplicaLost,
    ReplicaReleased,
    ShardBegun,
    ShardDone,
    ShardFailed,
    SliceDone,
    WaitingForGpus,
)
from pipeline.records import Reject

REJECTS = (made_reject(1, 2), Reject("clip-000", 0, -1, Reason("filter", "where", "not nsfw")))


@pytest.mark.parametrize(
    ("event", "level", "values"),
    [
        (ShardBegun("a", 3, helps=False), "info", {"event": "shard_begun", "shard": "a", "replica": 3, "helps": False}),
        (
            ShardDone("a", 9, {"encode": 1.23456}),
            "info",
            {"event": "shard_done", "shard": "a", "samples": 9, "seconds": {"encode": 1.235}},
        ),
        (ShardFailed("a", "gone", final=False), "warning", {"event": "shard_failed", "shard": "a", "final": False}),
        (ShardFailed("a", "gone", final=True), "error", {"event": "shard_failed", "shard": "a", "final": True}),
        (ReplicaJoined(3, "n1"), "info", {"event": "replica_joined", "replica": 3, "node": "n1", "address": ""}),
        (ReplicaLost(3, "n1", "gone"), "warning", {"event": "replica_lost", "replica": 3, "node": "n1", "address": ""}),
        (
            ReplicaReleased(3, "n1", "10.0.0.7"),
            "info",
            {"event": "replica_released", "replica": 3, "node": "n1", "address": "10.0.0.7"},
        ),
        (
            GpuExcluded("n1", "3", "gone", "10.0.0.7"),
            "warning",
            {"event": "gpu_excluded", "node": "n1", "address": "10.0.0.7", "gpu": "3", "error": "gone"},
        ),
        (ConvolutionsHalved("a", 2), "warning", {"event": "convolutions_halved", "shard": "a", "times": 2}),
        (LogsNotKept("OSError: full"), "warning", {"event": "logs_not_kept"}),
        (WaitingForGpus(2, 4), "warning", {"event": "waiting_for_gpus", "replicas": 2, "gpus": 4}),
    ],
)
def test_an_event_is_a_line_with_what_it_is_about(event: Event, level: str, values: dict[str, Any]) -> None:
    (line,) = values_of(event)
    assert line.pop("message")
    assert line == {"level": level} | values


def test_a_slice_is_a_line_and_each_of_its_rejects_another_with_its_sample() -> None:
    committed, reject = values_of(SliceDone("a", 4, 3, 1, REJECTS, 77, reused=False))
    counts = {"samples": 3, "clips": 1, "bytes": 77, "rejects": 1, "filtered": 1}
    assert committed == {
        "level": "info",
        "event": "slice_committed",
        "shard": "a",
        "slice": 4,
        **counts,
        "message": "slice 4 is committed",
    }
    assert reject == {
        "level": "warning",
        "event": "reject",
        "shard": "a",
        "slice": 4,
        "sample": "clip-001",
        "sample_index": 1,
        "window_index": 2,
        "stage": "clip",
        "reason": "too_short",
        "message": "in some detail",
    }


def test_a_slice_committed_before_is_logged_as_such_without_its_rejects() -> None:
    (line,) = values_of(SliceDone("a", 4, 3, 1, REJECTS, 77, reused=True))
    assert (line["event"], line["rejects"]) == ("slice_found", 1)


def test_progress_is_not_logged() -> None:
    assert list(values_of(Progress("a", 49))) == []


def test_no_message_repeats_a_secret() -> None:
    event = ShardFailed("a", "OSError: http://user:word@host/x.tar?token=secret is gone", final=True)
    (line,) = values_of(event)
    assert line["message"] == "OSError: http://host/x.tar is gone"


def written(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_the_time_and_the_run_and_stays_one_line_whatever_it_says() -> None:
    stream = io.StringIO()
    with EventLog(shards=10, shards_done=4, stream=stream) as log:
        log.started(replicas=1, wanted=2, run="0123456789ab")
        log.event(ShardFailed("a", "first\nsecond \u2028 third", final=False))
    begun, failed = written(stream)
    assert {key: begun[key] for key in ("event", "run", "shards", "shards_left", "replicas", "replicas_wanted")} == {
        "event": "run_started",
        "run": "0123456789ab",
        "shards": 10,
        "shards_left": 6,
        "replicas": 1,
        "replicas_wanted": 2,
    }
    assert datetime.fromisoformat(failed["time"]).utcoffset() is not None
    assert (failed["run"], failed["message"]) == ("0123456789ab", "first\nsecond \u2028 third")


def test_a_heartbeat_tells_how_far_the_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, clock = io.StringIO(), [100.0]
    monkeypatch.setattr(event_log.time, "monotonic", lambda: clock[0])
    with EventLog(shards=10, shards_done=4, stream=stream) as log:
        for _ in range(130):
            log.tick()
            clock[0] += 1
    first, second = written(stream)
    assert (first["event"], first["shards"], first["shards_done"], first["replicas"]) == ("heartbeat", 10, 4, 0)
    assert second["event"] == "heartbeat"
    assert "recent_busy_fraction" not in first, "no device has said anything"


def test_a_heartbeat_tells_how_well_devices_are_fed(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, clock = io.StringIO(), [100.0]
    monkeypatch.setattr(event_log.time, "monotonic", lambda: clock[0])
    with EventLog(shards=1, shards_done=0, stream=stream) as log:
        clock[0] += 61
        log.event(Progress("a", 49, encode_seconds=9.0, idle_seconds=1.0, decoding=3, ready=2))
        log.tick()
    (beat,) = written(stream)
    assert (beat["recent_busy_fraction"], beat["decoding"], beat["ready"]) == (0.9, 3, 2)


def test_the_last_line_of_a_run_that_breaks_says_why() -> None:
    stream = io.StringIO()
    with pytest.raises(ValueError, match="broken"), EventLog(1, 0, stream):
        raise ValueError("broken")
    (line,) = written(stream)
    assert (line["event"], line["level"], line["message"]) == ("run_stopped", "error", "ValueError: broken")
