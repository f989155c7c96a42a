"""Several Ray nodes on this machine, with GPUs that are only declared: nodes come and go while a run goes on."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster as Nodes
from support.nodes import add_cpus, add_gpus, cluster_of, idle_head, kept
from support.runs import (
    moved,
    output_files,
    published_files,
    run_all,
    simulated_run,
    simulated_samples,
    write_tar,
)

import encoder
from benchmarks.faults import family
from pipeline.cluster import cluster, fleet
from pipeline.cluster.fleet import Fleet
from pipeline.cluster.joining import connected
from pipeline.config.load import Config
from pipeline.monitor.events import Event, ReplicaLost, ShardDone, SliceDone, WaitingForGpus

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def head() -> Iterator[Nodes]:
    """A head that does no work and a node that only decodes."""
    with idle_head() as running:
        add_cpus(running, 1)
        yield running


@pytest.fixture
def nodes(head: Nodes) -> Iterator[Nodes]:
    """The head for one test, which adds nodes and loses them."""
    with kept(head) as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, nodes: Nodes) -> Config:
    """Four shards of three slices, to be made by a simulated encoder on the GPUs of the cluster."""
    for number in range(4):
        write_tar(tmp_path / f"s{number}.tar", simulated_samples(8))
    return simulated_run(tmp_path, 30, runtime={"address": nodes.address})


@dataclass
class Run:
    """A run of the cluster's own loop, which a test looks into."""

    config: Config

    def __post_init__(self) -> None:
        self.cluster = cluster_of(self.config)

    def events(self) -> Iterator[Event]:
        yield from self.cluster.run(check=lambda: None)

    def hear_out_helpers(self) -> None:
        """Takes the last events of helpers, which a run does not wait for once its last shard is done."""
        while any(replica.working for replica in self.cluster._running.values()):
            list(self.cluster._next_events())

    def nodes_at_work(self) -> set[str]:
        return {replica.node for replica in self.cluster._running.values() if replica.working}

    def visible_devices(self) -> list[str]:
        """What each replica sees of its node's GPUs."""
        list(self.cluster._resize())
        asked = [
            replica.actor.__ray_call__.remote(lambda _: os.environ["CUDA_VISIBLE_DEVICES"])
            for replica in self.cluster._running.values()
        ]
        return sorted(ray.get(asked))


def kill(node: Any) -> None:
    """Kills all of a node as a machine that loses its power would: Ray goes on listing it for a while."""
    (raylet,) = node.all_processes["raylet"]
    for process, _ in family(raylet.process.pid):
        os.kill(process, signal.SIGKILL)


def check_nothing_is_missing(config: Config, tmp_path: Path) -> None:
    run_all(moved(config, tmp_path / "undisturbed"), encoder.load("simulated", weights="simulated:0"))
    assert published_files(tmp_path / "out") == output_files(tmp_path / "undisturbed")


def test_nodes_are_lost_one_after_the_other_until_none_is_left_and_another_joins_and_nothing_is_missing(
    nodes: Nodes, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "DEATHS_IN_A_ROW", 1)  # fewer than are lost with the last node
    config = config.replaced({"encoder.weights": "simulated:80"})  # some is left when the slowest replica has loaded
    there, joined, at_work = [add_gpus(nodes, 2, wait=False), add_gpus(nodes, 1)], None, set()
    nodes.wait_for_nodes()
    made_by_the_last = 0
    with connected(config.runtime):
        run, seen = Run(config), list[Event]()
        for event in run.events():
            seen.append(event)
            at_work |= run.nodes_at_work()
            if len(there) == 2 and len(run.nodes_at_work()) == 2:
                nodes.remove_node(there.pop())
            elif len(there) == 1 and isinstance(event, SliceDone):
                made_by_the_last += 1
                missed = [event for event in seen if isinstance(event, WaitingForGpus) and not event.gpus]
                assert not missed, "it works while one GPU is left"
                if made_by_the_last == 2:
                    kill(there.pop())
            elif not there and not joined and isinstance(event, WaitingForGpus):
                joined = add_gpus(nodes, 1)
        run.cluster.stop()
    assert joined is not None, "the run must say that it waits when the last GPU is gone"
    assert sum(isinstance(event, ReplicaLost) for event in seen) == 3
    assert len(at_work) == 3, "every node must have been at work"
    assert joined.node_id in at_work
    assert sum(isinstance(event, ShardDone) for event in seen) == 4
    check_nothing_is_missing(config, tmp_path)


def test_four_replicas_on_an_empty_root_make_hardly_any_part_of_a_shard_twice(
    nodes: Nodes, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_gpus(nodes, 4)
    shard = write_tar(tmp_path / "one.tar", simulated_samples(24))
    one = {"input.shards": str(shard), "output.part_samples": 1, "encoder.weights": "simulated:60"}
    config = config.replaced(one)
    made, by, committed = list[int](), set[int](), Fleet.committed

    def note(fleet: Fleet, replica: int, shard: str, slice_index: int, reused: bool) -> bool:
        if not reused:
            made.append(slice_index)
            by.add(replica)
        return committed(fleet, replica, shard, slice_index, reused)

    monkeypatch.setattr(Fleet, "committed", note)
    with connected(config.runtime):
        run = Run(config)
        assert run.visible_devices() == ["0", "1", "2", "3"]
        events = list(run.events())
        run.hear_out_helpers()
        run.cluster.stop()
    assert isinstance(events[-1], ShardDone)
    assert len(by) > 1, "several must have shared the shard"
    assert set(made) == set(range(24))
    assert len(made) <= 24 * 1.1


def is_there(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def test_a_replica_that_hangs_with_the_last_slice_of_all_does_not_hold_the_run_up(
    nodes: Nodes, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "RETIRE_SECONDS", 1.0)  # nobody waits for what hangs
    add_gpus(nodes, 2)
    config = config.replaced({"input.shards": str(write_tar(tmp_path / "one.tar", simulated_samples(3)))})
    hanging: list[int] = []

    def hang_the_owner_before_it_begins() -> None:
        for replica in [] if hanging else run.cluster._running.values():
            if replica.is_ready and not replica.working:
                hanging.append(ray.get(replica.actor.__ray_call__.remote(lambda _: os.getpid())))
                os.kill(hanging[0], signal.SIGSTOP)
                return

    with connected(config.runtime):
        run = Run(config)
        events = list(run.cluster.run(hang_the_owner_before_it_begins))
        assert [is_there(process) for process in hanging] == [True]
        run.cluster.stop()
    assert [(event.slice_index, event.reused) for event in events if isinstance(event, SliceDone)] == [(0, False)]
    assert isinstance(events[-1], ShardDone)
    check_nothing_is_missing(config, tmp_path)
    deadline = time.monotonic() + 60
    while is_there(hanging[0]):
        assert time.monotonic() < deadline, "a replica that hangs is left behind"
        time.sleep(0.2)
