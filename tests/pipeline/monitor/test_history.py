"""Frames are counted by replica and step, and steps grow with the run."""

from pipeline.monitor.events import Progress, ShardRead
from pipeline.monitor.history import MOST_STEPS, History, rates_of
from pipeline.monitor.live import live_json
from pipeline.monitor.run_counts import RunCounts

LIVE = live_json(RunCounts(0, began_at=0.0), "host", 5, now_seconds=1.0, at_unix_seconds=6.0)


def test_frames_are_counted_by_replica_and_step() -> None:
    history = History(5, began_at=100.0)
    for at, frames, replica in ((100.2, 49, 0), (100.9, 49, 0), (102.0, 10, 1), (103.5, 0, 1)):
        history.add(Progress("a", frames, replica=replica), at)
    history.add(ShardRead("a"), 104.0)
    kept = history.to_json(9, LIVE)
    assert kept == {
        "began_unix_seconds": 5,
        "ended_unix_seconds": 9,
        "live": LIVE,
        "step_seconds": 1.0,
        "frames": {"0": [98], "1": [0, 0, 10]},
    }
    assert rates_of(kept) == {"0": [98.0, 0.0, 0.0], "1": [0.0, 0.0, 10.0]}


def test_a_long_run_has_no_more_steps_and_loses_no_frame() -> None:
    history = History(0, began_at=0.0)
    for second in range(3 * MOST_STEPS):
        history.add(Progress("a", 2, replica=second % 2), float(second))
    kept = history.to_json(None, LIVE)
    assert kept["step_seconds"] == 4.0
    assert all(len(steps) <= MOST_STEPS for steps in kept["frames"].values())
    assert sum(map(sum, kept["frames"].values())) == 6 * MOST_STEPS
