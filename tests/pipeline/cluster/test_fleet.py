"""What is left and who does it next follow from names and counts alone."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cluster.fleet import (
    DEATHS_IN_A_ROW,
    NODES_LOST_ALLOWED,
    Fleet,
    ReplicaCount,
    Work,
    WorkQueue,
    shards_left,
    within_limit,
)
from pipeline.latents.helping import WORKERS_PER_SHARD
from pipeline.monitor.events import ShardFailed
from pipeline.records import ShardRef, TarShard


def refs(names: Iterable[str]) -> list[ShardRef]:
    return [TarShard(name, f"{name}.tar") for name in names]


def test_a_shard_with_a_manifest_is_not_left() -> None:
    assert shards_left(refs("abcd"), frozenset({"b", "d", "another"})) == tuple(refs("ac"))


def test_shards_are_taken_in_order_until_none_waits() -> None:
    queue = WorkQueue(max_attempts=3)
    queue.extend(refs("ab"))
    queue.extend(refs("c"))
    assert len(queue) == 3
    assert [queue.take() for _ in range(4)] == [*refs("abc"), None]
    assert len(queue) == 0


def test_a_failed_shard_waits_behind_the_others() -> None:
    queue = WorkQueue(max_attempts=2)
    queue.extend(refs("abc"))
    first = queue.take()
    assert first is not None
    assert not queue.failed(first)
    assert [queue.take() for _ in range(3)] == refs("bca")


@given(st.integers(1, 5), st.lists(st.sampled_from("abc"), unique=True), st.sets(st.sampled_from("abc")))
def test_each_shard_is_tried_as_often_as_allowed_and_then_given_up(
    max_attempts: int, names: list[str], bad: set[str]
) -> None:
    queue, attempts, given_up = WorkQueue(max_attempts), [], []
    queue.extend(refs(names))
    while (shard := queue.take()) is not None:
        attempts.append(shard.name)
        if shard.name in bad and queue.failed(shard):
            given_up.append(shard.name)
    for name in names:
        assert attempts.count(name) == (max_attempts if name in bad else 1)
    assert sorted(given_up) == sorted(bad.intersection(names))


def test_an_attempt_that_ended_with_its_node_is_not_the_shard_s_fault() -> None:
    queue = WorkQueue(max_attempts=1)
    queue.extend(refs("a"))
    for _ in range(NODES_LOST_ALLOWED - 1):
        shard = queue.take()
        assert shard is not None
        assert not queue.failed(shard, node_lost=True)
    shard = queue.take()
    assert shard is not None
    assert queue.failed(shard, node_lost=True), "a shard that takes its node down each time must end too"


def test_a_shard_is_not_charged_for_the_first_replica_that_dies_on_a_gpu_that_may_be_faulty() -> None:
    queue = WorkQueue(max_attempts=2)
    queue.extend(refs("a"))
    for gpu_suspect, is_last in ((True, False), (True, False), (True, True)):
        shard = queue.take()
        assert shard is not None
        assert queue.failed(shard, gpu_suspect=gpu_suspect) == is_last


@pytest.mark.parametrize(
    ("least", "most", "gpus", "shards", "wanted"),
    [
        (1, 99, 0, 10, 1),
        (1, 99, 4, 10, 4),
        (1, 99, 4, 3, 3),
        (1, 99, 4, 0, 1),
        (2, 2, 0, 10, 2),
        (2, 2, 8, 10, 2),
        (2, 6, 0, 10, 2),
        (2, 6, 4, 10, 4),
        (2, 6, 8, 10, 6),
        (8, 8, 0, 3, 3),
    ],
)
def test_replicas_follow_the_gpus_within_their_bounds_and_never_outnumber_the_shards(
    least: int, most: int, gpus: int, shards: int, wanted: int
) -> None:
    assert ReplicaCount(least, most).wanted(gpus, shards) == wanted


@pytest.mark.parametrize(
    ("most", "wanted", "joins", "stays_one"),
    [(1, 1, True, True), (99, 1, False, True), (99, 1, True, False), (2, 2, False, False)],
)
def test_a_replica_stays_alone_where_no_more_are_asked_for_or_no_node_joins(
    most: int, wanted: int, joins: bool, stays_one: bool
) -> None:
    assert ReplicaCount(1, most).stays_one(wanted, joins) is stays_one


@pytest.mark.parametrize(("gpus", "shards", "wanted"), [(4, 1, 4), (99, 1, WORKERS_PER_SHARD), (99, 3, 24), (4, 0, 1)])
def test_helpers_of_the_last_shards_are_there_from_the_start(gpus: int, shards: int, wanted: int) -> None:
    assert ReplicaCount(1, 99, WORKERS_PER_SHARD).wanted(gpus, shards) == wanted


def fleet_of(names: str, least: int = 1, most: int = 99) -> Fleet:
    queue = WorkQueue(max_attempts=2)
    queue.extend(refs(names))
    return Fleet(queue, ReplicaCount(least, most))


def test_replicas_are_added_as_gpus_join_and_replaced_where_they_were_lost() -> None:
    fleet = fleet_of("abcdef")
    assert fleet.to_start(gpus=0) == 1
    first = fleet.join()
    assert fleet.to_start(gpus=1) == 0
    assert fleet.to_start(gpus=3) == 2
    fleet.join()
    fleet.join()
    fleet.leave(first)
    assert fleet.to_start(gpus=3) == 1
    assert fleet.to_start(gpus=2) == 0


def test_a_shard_whose_replica_was_lost_is_given_to_another() -> None:
    fleet = fleet_of("ab")
    first, second = fleet.join(), fleet.join()
    lost = fleet.assign(first)
    assert lost == Work(TarShard("a", "a.tar"), 0)
    assert fleet.failed(first, lost, "gone", node_lost=True) == ShardFailed("a", "gone", final=False)
    fleet.leave(first)
    other = Work(TarShard("b", "b.tar"), 0)
    assert [fleet.assign(second), fleet.unfinished] == [other, 2]
    assert fleet.done("b")
    fleet.idle(second, other)
    assert fleet.assign(second) == lost


def test_replicas_that_die_again_and_again_with_nothing_made_are_not_replaced_for_ever() -> None:
    fleet = fleet_of("a")
    for _ in range(DEATHS_IN_A_ROW):
        assert fleet.to_start(gpus=1) == 1
        assert not fleet.hopeless
        fleet.leave(fleet.join())
    assert fleet.to_start(gpus=1) == 0
    assert fleet.hopeless
    assert fleet.to_start(gpus=2) == 1, "another node is another chance"
    assert not fleet.hopeless


def test_replicas_that_died_with_their_nodes_say_nothing_about_replicas() -> None:
    fleet = fleet_of("a")
    for _ in range(3 * DEATHS_IN_A_ROW):
        assert fleet.to_start(gpus=1) == 1
        fleet.leave(fleet.join(), died=False)
    assert fleet.to_start(gpus=1) == 1
    assert not fleet.hopeless


def test_a_shard_that_makes_progress_may_lose_any_number_of_nodes() -> None:
    fleet = fleet_of("a")
    for slice_index in range(3 * NODES_LOST_ALLOWED):
        replica = fleet.join()
        work = fleet.assign(replica)
        assert work is not None
        fleet.committed(replica, "a", slice_index, reused=False)
        assert fleet.failed(replica, work, "gone", node_lost=True) == ShardFailed("a", "gone", final=False)
        fleet.leave(replica, died=False)


def test_replicas_that_find_no_work_any_more_are_let_go_and_those_at_work_are_not() -> None:
    fleet = fleet_of("ab")  # as many replicas as shards are of use
    owner, other, idle = (fleet.join() for _ in range(3))
    assert fleet.surplus() == [idle]
    fleet.leave(idle, died=False)
    fleet.assign(owner)
    work = fleet.assign(other)
    assert work is not None
    assert fleet.surplus() == []
    fleet.done(work.shard.name)
    assert fleet.surplus() == [], "both are at work"
    fleet.idle(other, work)
    assert fleet.surplus() == [other]


def test_the_run_goes_on_with_those_who_work_while_others_die_and_what_they_make_gives_hope() -> None:
    fleet = fleet_of("abc")
    assert fleet.to_start(gpus=8) == 3
    good = fleet.join()
    assert fleet.assign(good)
    for _ in range(DEATHS_IN_A_ROW):
        fleet.leave(fleet.join())
    assert fleet.to_start(gpus=8) == 0
    assert not fleet.hopeless
    assert fleet.committed(good, "a", slice_index=0, reused=False)
    assert fleet.to_start(gpus=8) == 2


def test_an_idle_replica_helps_where_fewest_are_at_work_and_the_oldest_shard_first() -> None:
    fleet = fleet_of("ab")
    numbers = [fleet.join() for _ in range(5)]
    works = [fleet.assign(number) for number in numbers]
    assert [(work.shard.name, work.place) for work in works if work] == [
        ("a", 0),
        ("b", 0),
        ("a", 1),
        ("b", 1),
        ("a", 2),
    ]


def test_a_shard_has_no_more_helpers_than_are_of_use() -> None:
    fleet = fleet_of("a")
    works = [fleet.assign(fleet.join()) for _ in range(WORKERS_PER_SHARD + 2)]
    assert works.count(None) == 2


def test_a_shard_counts_once_however_many_finish_it() -> None:
    fleet = fleet_of("a")
    owner, helper = fleet.join(), fleet.join()
    mine, same = fleet.assign(owner), fleet.assign(helper)
    assert mine is not None
    assert same is not None
    assert [fleet.committed(owner, "a", 0, False), fleet.committed(helper, "a", 0, True)] == [True, False]
    assert [fleet.done("a"), fleet.done("a")] == [True, False]
    assert fleet.unfinished == 0
    fleet.idle(owner, mine)
    assert fleet.failed(helper, same, "too late to matter", node_lost=False) is None


def test_a_failure_is_no_failure_while_another_is_at_the_same_shard() -> None:
    fleet = fleet_of("a")
    owner, helper = fleet.join(), fleet.join()
    mine, same = fleet.assign(owner), fleet.assign(helper)
    assert mine is not None
    assert same is not None
    assert fleet.failed(owner, mine, "crash", node_lost=False) is None
    assert fleet.failed(helper, same, "crash", node_lost=False) == ShardFailed("a", "crash", final=False)


def test_the_next_shard_begins_once_all_of_one_is_on_its_way() -> None:
    fleet = fleet_of("abcd")
    replica = fleet.join()
    first = fleet.assign(replica)
    assert first is not None
    assert fleet.assign_next(replica) is None
    fleet.read("a")
    second = fleet.assign_next(replica)
    assert second == Work(TarShard("b", "b.tar"), 0)
    fleet.read("b")
    assert fleet.assign_next(replica) is None, "two at once are enough"
    fleet.idle(replica, first)
    assert fleet.assign_next(replica) == Work(TarShard("c", "c.tar"), 0)


def test_a_replica_at_its_last_samples_takes_waiting_shards_only() -> None:
    fleet = fleet_of("ab")
    owner, other = fleet.join(), fleet.join()
    fleet.assign(owner)
    fleet.assign(other)
    fleet.read("a")
    assert fleet.assign_next(owner) is None, "what it can help with is made while it ends its own"


def test_both_shards_of_a_lost_replica_are_given_to_others() -> None:
    fleet = fleet_of("ab")
    replica = fleet.join()
    first = fleet.assign(replica)
    fleet.read("a")
    second = fleet.assign_next(replica)
    assert first is not None
    assert second is not None
    failed = [fleet.failed(replica, work, "gone", node_lost=True) for work in (first, second)]
    fleet.leave(replica)
    assert [event.shard for event in failed if event] == ["a", "b"]
    assert fleet.assign(fleet.join()) == first


@pytest.mark.parametrize(
    ("rejected", "samples", "max_fraction", "within"),
    [
        (0, 0, 0.0, True),
        (0, 10, 0.0, True),
        (1, 10, 0.0, False),
        (1, 20, 0.05, True),
        (2, 20, 0.05, False),
        (29, 100, 0.29, True),  # 0.29 * 100 is a little less than 29 in floats
        (5, 5, 1.0, True),
    ],
)
def test_rejects_are_counted_against_all_samples(
    rejected: int, samples: int, max_fraction: float, within: bool
) -> None:
    assert within_limit(rejected, samples, max_fraction) is within
