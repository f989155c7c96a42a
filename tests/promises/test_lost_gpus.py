"""Losing every GPU is waiting, never the end: raylets are killed and join while a run goes on."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.cluster_utils import Cluster as Nodes
from support.decoders import die_once_then_say_where
from support.paths import ROOT
from support.runs import MakeConfig, output_files, run_all, samples_of, write_tar

import encoder
from encoder.simulated import WEIGHTS_SHA256
from pipeline.clips.plan import ClipRules
from pipeline.cluster import decoder as ray_decoder
from pipeline.cluster.cluster import Cluster, connected
from pipeline.cluster.decoder import RayDecoder
from pipeline.cluster.fleet import DEATHS_IN_A_ROW, WorkQueue
from pipeline.config.load import Config
from pipeline.errors import TransientError
from pipeline.input.listing import list_shards
from pipeline.monitor.events import (
    Event,
    ReplicaJoined,
    ReplicaLost,
    ReplicaReleased,
    ShardDone,
    ShardFailed,
    SliceDone,
    WaitingForGpus,
)
from pipeline.records import Failure, Sample

pytestmark = pytest.mark.ray

OBJECT_STORE_BYTES = 80_000_000


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """A head that does no work."""
    running = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": OBJECT_STORE_BYTES})
    yield running
    running.shutdown()


def add_gpus(nodes: Nodes, gpus: int) -> Any:
    return nodes.add_node(num_cpus=1, num_gpus=gpus, object_store_memory=OBJECT_STORE_BYTES)


def kill(node: Any) -> None:
    """Kills a raylet as a machine that loses its power would: Ray goes on listing the node for a while."""
    (raylet,) = node.all_processes["raylet"]
    os.kill(raylet.process.pid, signal.SIGKILL)


@pytest.fixture
def config(make_config: MakeConfig, tmp_path: Path, videos: tuple[bytes, ...], nodes: Nodes) -> Config:
    """One shard of three slices, to be made by a simulated encoder on the GPUs of the cluster."""
    write_tar(tmp_path / "s.tar", samples_of(videos))
    return make_config(
        encoder={"name": "simulated", "weights": "simulated:1"},
        runtime={"address": nodes.address, "wait_for_gpus_minutes": 5},
    )


def cluster_of(config: Config) -> Cluster:
    queue = WorkQueue(max_attempts=1)  # a shard that is lost with its node must not count
    queue.extend(list_shards(config.input.shards))
    return Cluster(config, WEIGHTS_SHA256, queue)


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


def test_the_only_gpu_node_is_killed_with_more_replicas_than_may_die_and_the_run_waits_for_another(
    nodes: Nodes, config: Config, tmp_path: Path
) -> None:
    lost, joined = add_gpus(nodes, DEATHS_IN_A_ROW + 1), None
    seen: list[Event] = []
    with connected(config.runtime):
        cluster = cluster_of(config)
        place_all(cluster)
        kill(lost)
        for event in events_of(cluster):
            seen.append(event)
            if not joined and isinstance(event, WaitingForGpus):
                joined = add_gpus(nodes, 1)
    assert joined is not None, "the run must say that it waits when the last GPU is gone"
    assert sum(isinstance(event, ReplicaLost) for event in seen) > DEATHS_IN_A_ROW
    assert {event.node for event in seen if isinstance(event, ReplicaJoined)} == {joined.node_id}
    assert sum(isinstance(event, ShardDone) for event in seen) == 1
    undisturbed = config.replaced({"output.path": str(tmp_path / "undisturbed")})
    run_all(undisturbed, encoder.load("simulated", weights="simulated:1"))
    assert output_files(tmp_path / "out") == output_files(tmp_path / "undisturbed")


def test_a_run_without_gpus_ends_when_it_has_waited_as_long_as_it_may(nodes: Nodes, config: Config) -> None:
    config = config.replaced({"runtime.wait_for_gpus_minutes": 0.02})
    with connected(config.runtime):
        events = events_of(cluster_of(config))
        assert isinstance(next(events), WaitingForGpus)
        with pytest.raises(TransientError, match="wait_for_gpus_minutes"):
            next(events)


def test_a_second_run_on_a_busy_cluster_says_so_and_goes_on_when_the_first_lets_its_replicas_go(
    nodes: Nodes, config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    add_gpus(nodes, 2)
    second = config.replaced({"output.path": str(tmp_path / "second")})
    with connected(config.runtime):
        holder, waiter = cluster_of(config), cluster_of(second)
        place_all(holder)
        assert waiter.place(lambda: None) == 0
        assert waiter.replicas == 2
        said = events_of(waiter)
        waiting = next(said)
        assert isinstance(waiting, WaitingForGpus)
        assert (waiting.replicas, waiting.gpus) == (2, 2)
        assert any(isinstance(event, ShardDone) for event in events_of(holder))
        assert any(isinstance(event, ShardDone) for event in said)


def test_replicas_that_find_no_work_any_more_give_their_gpus_back(
    nodes: Nodes, config: Config, monkeypatch: pytest.MonkeyPatch, videos: tuple[bytes, ...], tmp_path: Path
) -> None:
    monkeypatch.setattr("pipeline.cluster.cluster.WORKERS_PER_SHARD", 1)
    monkeypatch.setattr("pipeline.cluster.fleet.WORKERS_PER_SHARD", 1)
    write_tar(tmp_path / "t.tar", samples_of(videos[:1]))
    add_gpus(nodes, 2)
    slow = config.replaced({"encoder.weights": "simulated:200"})
    with connected(slow.runtime):
        events = list(events_of(cluster_of(slow)))
    assert sum(isinstance(event, ReplicaReleased) for event in events) == 1
    assert sum(isinstance(event, ShardDone) for event in events) == 2


def test_a_run_whose_head_is_lost_ends_with_a_line_that_says_how_to_go_on(
    nodes: Nodes, config: Config, tmp_path: Path
) -> None:
    add_gpus(nodes, 1)
    slow = config.replaced({"encoder.weights": "simulated:500"})
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(slow.model_dump(mode="json")))
    command = [sys.executable, "-m", "jobs", "run", str(tmp_path / "c.yaml")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout
        assert run.stderr
        while "joined" not in (line := run.stdout.readline()):
            assert line, run.stderr.read()
        (head,) = nodes.head_node.all_processes["gcs_server"]
        os.kill(head.process.pid, signal.SIGKILL)
        _, errors = run.communicate(timeout=60)
    assert run.returncode == 1
    (line,) = [line for line in errors.splitlines() if "latentmill" in line]
    assert re.search(r"Ray's head at .* does not answer any more.* run the same command again to continue", line)
    assert "Traceback" not in errors


def test_a_decode_that_died_is_tried_again_where_cpus_are_though_its_replica_has_none(
    nodes: Nodes, config: Config, monkeypatch: pytest.MonkeyPatch, videos: tuple[bytes, ...], tmp_path: Path
) -> None:
    with_cpus = nodes.add_node(num_cpus=1, object_store_memory=OBJECT_STORE_BYTES)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    config = config.replaced({"output.path": str(tmp_path / "mark")})
    with connected(config.runtime.model_copy(update={"address": nodes.address})):
        task = ray.remote(max_retries=0, num_returns="streaming")(die_once_then_say_where)
        monkeypatch.setattr(ray_decoder, "_decode_task", task)
        decoder = RayDecoder(config, ray.put(config), ClipRules(encoder.spec_of("tiny"), 8))
        sample = Sample("a", 0, 0, 0, True, 0, videos[0], "a.mp4", ("",), "", None, None)
        (failure,) = (item for item in decoder.start(sample) if item is not None)
    assert isinstance(failure, Failure)
    assert failure.why.detail == with_cpus.node_id


def test_a_replica_whose_node_had_notice_takes_no_more_samples_and_commits_what_it_can(
    nodes: Nodes, config: Config
) -> None:
    leaving, seen = add_gpus(nodes, 1), list[Event]()
    slow = config.replaced({"encoder.weights": "simulated:150"})
    with connected(slow.runtime):
        for event in events_of(cluster_of(slow)):
            seen.append(event)
            if sum(isinstance(each, SliceDone) for each in seen) == 1 and len(nodes.worker_nodes) == 1:
                staying = add_gpus(nodes, 1)
                notify(nodes.address, leaving)
    lost = [event for event in seen if isinstance(event, ReplicaLost)]
    assert [(event.node, event.error) for event in lost] == [(leaving.node_id, "its node is being drained")]
    assert {event.node for event in seen if isinstance(event, ReplicaJoined)} == {leaving.node_id, staying.node_id}
    assert not any(isinstance(event, ShardFailed) and event.final for event in seen)
    assert isinstance(seen[-1], ShardDone)


def notify(address: str, node: Any) -> None:
    """As a cloud's notice does by way of Ray's autoscaler."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", address]
    command += ["--node-id", node.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "notice"]
    subprocess.run([*command, "--deadline-remaining-seconds", "300"], check=True, capture_output=True)
