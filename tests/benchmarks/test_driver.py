"""What replicas of the driver's benchmark report is what replicas would."""

import time
from pathlib import Path

import pytest

from benchmarks.driver import FRAMES, SHARD_CLIPS, Meter, Reporting, TimeIsOverError
from pipeline.latents.stopwatch import Stopwatch
from pipeline.monitor.events import Progress, ReplicaJoined, ShardDone, ShardRead, SliceDone
from pipeline.records import TarShard
from pipeline.storage.store import RetiringStore


def test_a_shard_is_reported_whole_and_its_end_before_its_last_clips(tmp_path: Path) -> None:
    task = Reporting(RetiringStore(str(tmp_path)), clips_per_second=1e6)
    events = list(task.run(TarShard("a", ""), Stopwatch()))
    assert sum(event.frames for event in events if isinstance(event, Progress)) == SHARD_CLIPS * FRAMES
    assert sum(event.rows for event in events if isinstance(event, SliceDone)) == SHARD_CLIPS
    (read,) = [at for at, event in enumerate(events) if isinstance(event, ShardRead)]
    assert any(isinstance(event, Progress) for event in events[read:])
    assert events[-1] == ShardDone("a", SHARD_CLIPS, {})


def test_the_driver_is_measured_once_all_replicas_have_joined_and_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    meter, now = Meter(replicas=2), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for at, event in ((0.0, ReplicaJoined(1, "n")), (5.0, ReplicaJoined(2, "n")), (6.0, Progress("a", FRAMES))):
        now[0] = at
        meter.add(event)
        meter.check()
    now[0] = 15.0
    meter.check()
    now[0] = 45.0
    meter.add(Progress("a", 30 * FRAMES))
    meter.check()
    now[0] = 75.0
    with pytest.raises(TimeIsOverError):
        meter.check()
    figures = meter.figures()
    assert (figures["seconds"], figures["clips_per_second"]) == (60.0, 0.5)
