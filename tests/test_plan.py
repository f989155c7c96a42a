"""What is left and who does it next follow from names and counts alone."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan import WorkQueue, replicas_wanted, shards_left, within_limit
from pipeline.records import ShardRef


def refs(names: Iterable[str]) -> list[ShardRef]:
    return [ShardRef(name, f"{name}.tar") for name in names]


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


@pytest.mark.parametrize(
    ("configured", "gpus", "shards", "wanted"),
    [
        ("auto", 0, 10, 1),
        ("auto", 4, 10, 4),
        ("auto", 4, 3, 3),
        ("auto", 4, 0, 1),
        (2, 0, 10, 2),
        (2, 8, 10, 2),
        (8, 0, 3, 3),
    ],
)
def test_there_is_a_replica_for_each_gpu_unless_asked_otherwise_and_never_an_idle_one(
    configured: int | str, gpus: int, shards: int, wanted: int
) -> None:
    assert replicas_wanted(configured, gpus, shards) == wanted


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
