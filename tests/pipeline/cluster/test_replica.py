"""A replica has its part of the cluster's CPUs and of its node's memory."""

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch

from pipeline.cluster.fleet import Work
from pipeline.cluster.replica import AHEAD_SHARE, Replica, pace_of
from pipeline.config.runtime import RuntimeConfig
from pipeline.errors import RetiredError
from pipeline.monitor.events import Event, ShardRead
from pipeline.records import TarShard

GPU_NODE = {"CPU": 4.0, "GPU": 8.0, "object_store_memory": 80e9}
CPU_NODE = {"CPU": 2.0, "object_store_memory": 6e9}


@pytest.mark.parametrize(
    ("node", "cpus", "replicas", "ahead_bytes", "expected"),
    [
        (GPU_NODE, 256, 64, None, (4, int(80e9 * AHEAD_SHARE) // 8)),
        (GPU_NODE, 256, 64, 8000, (4, 1000)),
        (GPU_NODE, 8, 64, None, (2, int(80e9 * AHEAD_SHARE) // 8)),
        (CPU_NODE, 2, 2, None, (2, int(6e9 * AHEAD_SHARE) // 2)),
        (CPU_NODE, 16, 1, 500, (16, 500)),
    ],
)
def test_cpus_are_shared_by_the_run_and_memory_by_the_node(
    node: dict[str, float], cpus: int, replicas: int, ahead_bytes: int | None, expected: tuple[int, int]
) -> None:
    pace = pace_of(node, {"CPU": float(cpus)}, replicas, ahead_bytes)
    assert (pace.cpus, pace.ahead_bytes) == expected


@pytest.mark.parametrize(
    ("device", "holds_gpu", "expected"),
    [
        ("auto", True, "cuda"),  # or a refusal, where torch finds none
        ("auto", False, "auto"),
        ("cuda", False, "cuda"),
        ("cpu", True, "cpu"),
    ],
)
def test_a_replica_that_holds_a_gpu_computes_there_unless_told_otherwise(
    device: Literal["auto", "cuda", "cpu"], holds_gpu: bool, expected: str
) -> None:
    assert RuntimeConfig(device=device).device_of(holds_gpu) == expected


def replica_that(make: Callable[..., Iterator[Event]], threads: int) -> Any:
    """A replica outside of Ray that has loaded."""
    replica: Any = Replica(SimpleNamespace(run="a run"), 1, None)  # type: ignore[arg-type]
    replica._task, replica._threads = SimpleNamespace(run=make), threads
    return replica


def test_what_a_run_that_is_over_does_not_want_any_more_is_no_failure() -> None:
    done = ShardRead("a")

    def make(*_: object) -> Iterator[Event]:
        yield done
        raise RetiredError("the run is over")

    replica = replica_that(make, torch.get_num_threads())
    assert list(replica.run(Work(TarShard("a", "a.tar"), 0))) == [done]


def test_a_shard_has_all_threads_though_another_that_is_being_made_holds_torch_to_one() -> None:
    before, found = torch.get_num_threads(), list[int]()

    def make(*_: object) -> Iterator[Event]:
        found.append(torch.get_num_threads())
        yield from ()

    replica = replica_that(make, before + 1)
    torch.set_num_threads(1)  # as between two products, in a thread that has begun before
    thread = threading.Thread(target=lambda: list(replica.run(Work(TarShard("a", "a.tar"), 0))))
    thread.start()
    thread.join()
    torch.set_num_threads(before)
    assert found == [before + 1]
