"""GPUs that are busy, faulty, leave with notice or do not come, and a head that is lost.

That a run waits when it has lost every GPU is tried by test_several_nodes.py.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster as Nodes
from support.jobs import config_file
from support.nodes import add_gpus, cluster_of, idle_head, kept
from support.paths import ROOT
from support.runs import simulated_run, simulated_samples, write_tar

from pipeline.cluster import cluster as ray_cluster
from pipeline.cluster import fleet
from pipeline.cluster import gpus as cluster_gpus
from pipeline.cluster import nodes as ray_nodes
from pipeline.cluster.cluster import DRAINED, Cluster
from pipeline.cluster.gpus import DEATHS_OF_A_GPU
from pipeline.cluster.joining import connected
from pipeline.config.load import Config
from pipeline.errors import TransientError
from pipeline.monitor.events import (
    Event,
    GpuExcluded,
    ReplicaJoined,
    ReplicaLost,
    ReplicaReleased,
    ShardDone,
    ShardFailed,
    SliceDone,
    WaitingForGpus,
)

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def head() -> Iterator[Nodes]:
    """A head that does no work."""
    with idle_head() as running:
        yield running


@pytest.fixture
def nodes(head: Nodes) -> Iterator[Nodes]:
    """The head for one test, which adds nodes and loses them."""
    with kept(head) as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, nodes: Nodes) -> Config:
    """One shard of three slices, to be made by a simulated encoder on the GPUs of the cluster."""
    write_tar(tmp_path / "s.tar", simulated_samples(8))
    return simulated_run(tmp_path, 1, runtime={"address": nodes.address, "wait_for_gpus_minutes": 5})


def place_all(cluster: Cluster) -> None:
    """Waits until every replica has its place, which takes longer than a run would wait where cores are few."""
    until = time.monotonic() + 90
    while cluster.place(lambda: None) < cluster.replicas:
        assert time.monotonic() < until, "Ray does not place the replicas"


def events_of(cluster: Cluster, check: Callable[[], None] = lambda: None) -> Iterator[Event]:
    try:
        yield from cluster.run(check)
    finally:
        cluster.stop()


def test_a_run_without_gpus_ends_when_it_has_waited_as_long_as_it_may(nodes: Nodes, config: Config) -> None:
    config = config.replaced({"runtime.wait_for_gpus_minutes": 0.02})
    with connected(config.runtime):
        events = events_of(cluster_of(config))
        assert isinstance(next(events), WaitingForGpus)
        with pytest.raises(TransientError, match="wait_for_gpus_minutes"):
            next(events)


def test_a_second_run_on_a_busy_cluster_says_so_and_begins_when_the_first_has_an_idle_replica(
    nodes: Nodes, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_gpus, "BUSY_SECONDS", 1.0)
    monkeypatch.setattr(ray_cluster, "PLACING_SECONDS", 1.0)
    monkeypatch.setattr(ray_cluster, "LOOK_SECONDS", 0.2)
    for module in (fleet, ray_cluster):  # a replica that has no shard of its own is idle
        monkeypatch.setattr(module, "WORKERS_PER_SHARD", 1)
    add_gpus(nodes, 2)
    write_tar(tmp_path / "long.tar", simulated_samples(32))
    first = config.replaced({"encoder.weights": "simulated:50"})
    second = config.replaced({"output.path": str(tmp_path / "second"), "input.shards": str(tmp_path / "s.tar")})
    with connected(config.runtime):
        holder, waiter = cluster_of(first), cluster_of(second)
        place_all(holder)
        assert waiter.place(lambda: None) == 0
        waits = events_of(waiter)
        waiting = next(waits)
        assert isinstance(waiting, WaitingForGpus)
        assert (waiting.replicas, waiting.gpus) == (1, 2)
        holds = events_of(holder)
        assert any(isinstance(event, ReplicaReleased) for event in holds), "one has nothing to do after the short shard"
        assert isinstance([*waits][-1], ShardDone), "though the first run has not ended"
        assert isinstance([*holds][-1], ShardDone)


def test_a_replica_whose_node_had_notice_takes_no_more_samples_and_commits_what_it_can(
    nodes: Nodes, config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_tar(tmp_path / "s.tar", simulated_samples(24))
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    leaving, staying, seen = add_gpus(nodes, 1), None, list[Event]()
    slow = config.replaced({"encoder.weights": "simulated:150"})  # much is left when another node has come
    with ExitStack() as started, connected(slow.runtime):
        for event in events_of(cluster_of(slow)):
            seen.append(event)
            if staying is None and isinstance(event, SliceDone):
                command = [sys.executable, "-m", "jobs.submit.notice", f"--node-id={leaving.node_id}"]
                notice = started.enter_context(subprocess.Popen(command, cwd=ROOT))
                staying = add_gpus(nodes, 1)
        assert notice.wait(60) == 0, "a pod is stopped once no replica is there"
    assert staying is not None
    lost = [event for event in seen if isinstance(event, ReplicaLost)]
    assert [(event.node, event.error) for event in lost] == [(leaving.node_id, DRAINED)]
    assert {event.node for event in seen if isinstance(event, ReplicaJoined)} == {leaving.node_id, staying.node_id}
    assert not any(isinstance(event, ShardFailed) and event.final for event in seen)
    assert isinstance(seen[-1], ShardDone)


def test_a_gpu_on_which_replicas_die_is_excluded_and_a_run_that_has_no_other_ends(
    nodes: Nodes, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_nodes, "VERDICT_SECONDS", 0.5)  # the node is there, and nothing else is killed
    add_gpus(nodes, 2)
    dying: list[str] = []

    def kill_on_faulty_gpus() -> None:
        for replica in cluster._running.values():
            if replica.gpu is not None and not replica.is_ready:
                dying[:] = dying or [replica.gpu.number]
                if replica.gpu.number in dying:
                    ray.kill(replica.actor)

    with connected(config.runtime):
        cluster = cluster_of(config.replaced({"runtime.replicas": 1}))
        seen = list(events_of(cluster, kill_on_faulty_gpus))
        assert [event.number for event in seen if isinstance(event, GpuExcluded)] == dying
        assert sum(isinstance(event, ReplicaLost) for event in seen) == DEATHS_OF_A_GPU
        assert isinstance(seen[-1], ShardDone), "by the other GPU"
        dying[:] = ["0", "1"]
        cluster = cluster_of(config.replaced({"output.path": config.output.path + "-2"}))
        with pytest.raises(TransientError, match="replicas keep dying"):
            list(events_of(cluster, kill_on_faulty_gpus))


def test_a_run_whose_head_is_lost_says_how_to_go_on_and_one_that_is_stopped_just_then_does_not_end_well(
    config: Config, tmp_path: Path
) -> None:
    with idle_head() as nodes:  # of its own, and in the last test: a cluster after it would be a second one
        add_gpus(nodes, 2)
        config = config.replaced({"runtime.address": nodes.address})
        with started_run(config, tmp_path / "out") as run, started_run(config, tmp_path / "stopped") as stopped:
            wait_until_joined(run)
            wait_until_joined(stopped)
            stopped.send_signal(signal.SIGTERM)
            (gcs,) = nodes.head_node.all_processes["gcs_server"]
            os.kill(gcs.process.pid, signal.SIGKILL)
            _, errors = run.communicate(timeout=60)
            _, stopped_errors = stopped.communicate(timeout=60)
    assert run.returncode == 1, errors
    (line,) = [line for line in errors.splitlines() if "latentmill" in line]
    assert re.search(r"Ray's head at .* does not answer any more.* run the same command again to continue", line)
    assert "Traceback" not in errors
    assert stopped.returncode == 143, stopped_errors


def started_run(config: Config, out: Path) -> "subprocess.Popen[str]":
    """A run with one replica in a process of its own, which has much left when its replica joins."""
    slow = {"encoder.weights": "simulated:500", "runtime.replicas": 1, "output.path": str(out)}
    command = [sys.executable, "-m", "jobs", "run", config_file(config.replaced(slow), out.with_suffix(".yaml"))]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until_joined(run: "subprocess.Popen[str]") -> None:
    assert run.stdout
    assert run.stderr
    while "joined" not in (line := run.stdout.readline()):
        assert line, run.stderr.read()
