"""What a run says of itself while it goes on: counts of the last minute, what is on its way, and the last rejects."""

from support.makers import made_reject

from pipeline.errors import Reason
from pipeline.monitor.events import Progress, ReplicaJoined, ReplicaLost, ShardDone, SliceDone
from pipeline.monitor.live import FRESH_SECONDS, is_fresh, live_json, live_line, reject_line
from pipeline.monitor.run_counts import RECENT_REJECTS, RunCounts
from pipeline.records import Reject


def counted() -> RunCounts:
    counts = RunCounts(0, began_at=0.0)
    for replica in (0, 1):
        counts.add(ReplicaJoined(replica, "n"), 1.0)
    counts.add(Progress("a", 500, replica=0, encode_seconds=9.0, idle_seconds=1.0, decoding=4, ready=1), 50.0)
    counts.add(Progress("a", 100, replica=0, encode_seconds=3.0, idle_seconds=1.0, decoding=2, ready=3), 100.0)
    counts.add(Progress("b", 100, replica=1, encode_seconds=4.0, idle_seconds=0.0, decoding=5, ready=0), 101.0)
    return counts


def test_the_busy_fraction_is_that_of_the_last_minute() -> None:
    counts = counted()
    assert counts.recent_busy(105.0) == 0.8889  # 16 of 18 seconds
    assert counts.recent_busy(115.0) == 0.875  # 7 of 8: the first is longer ago
    assert counts.recent_busy(1000.0) is None


def test_samples_on_their_way_are_those_of_shards_that_are_made() -> None:
    counts = counted()
    assert (counts.decoding, counts.ready) == (7, 3)
    counts.add(ShardDone("a", 9, {}), 102.0)
    assert (counts.decoding, counts.ready) == (5, 0)
    counts.add(ReplicaLost(1, "n", "gone"), 103.0)
    assert (counts.decoding, counts.ready) == (0, 0)


def test_the_time_left_is_that_of_the_shards_of_this_run() -> None:
    counts = RunCounts(90, began_at=0.0)
    assert counts.seconds_left(100, 60.0) is None
    counts.add(ShardDone("a", 9, {}), 60.0)
    assert counts.seconds_left(100, 60.0) == 9 * 60.0


def test_the_last_rejects_are_kept_with_their_shard_and_filtered_samples_are_none() -> None:
    counts = RunCounts(0)
    filtered = Reject("k", 0, -1, Reason("filter", "short", "it is"))
    counts.add(SliceDone("a", 0, 9, 0, (*map(made_reject, range(RECENT_REJECTS + 2)), filtered), 10, reused=False), 1.0)
    live = live_json(counts, "host", 0, 1.0, 2.0)
    assert [reject["key"] for reject in live["recent_rejects"]] == [
        made_reject(number).key for number in range(2, RECENT_REJECTS + 2)
    ]
    assert reject_line(live["recent_rejects"][-1]).startswith(f"rejected lately: a/{made_reject(6).key}: ")


def test_a_run_is_told_in_a_line() -> None:
    live = live_json(counted(), "host-7", began_unix_seconds=1000, now_seconds=105.0, at_unix_seconds=1105.0)
    assert live_line(live, 1110.0) == (
        "a run at host-7 since 110 s, 2 replicas, 11.7 frames/s (6.7 on average), "
        "device busy 89%, samples decoding: 7, ready: 3"
    )


def test_a_run_that_says_nothing_any_more_is_told() -> None:
    live = live_json(counted(), "host-7", began_unix_seconds=1000, now_seconds=105.0, at_unix_seconds=1105.0)
    assert is_fresh(live, 1105.0 + FRESH_SECONDS)
    assert not is_fresh(live, 1106.0 + FRESH_SECONDS)
    assert live_line(live, 1405.0).startswith("a run at host-7 has said nothing for 5 min")
