"""Decoding goes where CPUs are free: to the replica's node and, where that is full, to nodes that have no GPU."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster as Nodes
from support.nodes import add_cpus, add_gpus, cluster_of, idle_head
from support.runs import simulated_run, simulated_samples, write_tar

import encoder
from pipeline.clips.plan import ClipRules
from pipeline.cluster import decoder as ray_decoder
from pipeline.cluster.decoder import RayDecoder
from pipeline.cluster.joining import connected
from pipeline.config.load import Config
from pipeline.monitor.events import ShardDone
from pipeline.records import Sample

pytestmark = pytest.mark.ray

VIDEOS = 24


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A head that does no work, a node with a GPU and a single CPU, and two nodes that have CPUs alone."""
    with idle_head() as running:
        add_gpus(running, 1, wait=False)
        for _ in range(2):
            add_cpus(running, 2, wait=False)
        running.wait_for_nodes()
        yield running


@pytest.fixture
def config(tmp_path: Path, nodes: Nodes) -> Config:
    """Videos whose decoding takes a hundred times as long as their encoding, and needs no real CPU."""
    write_tar(tmp_path / "s.tar", simulated_samples(VIDEOS, ms_per_frame=100.0))
    return simulated_run(tmp_path, 1, runtime={"address": nodes.address, "device": "cpu"})


def test_a_gpu_node_with_one_cpu_is_fed_by_the_cpus_of_the_others(config: Config) -> None:
    most_taken = 0.0
    with connected(config.runtime):
        cpus = ray.cluster_resources()["CPU"]
        cluster = cluster_of(config)

        def look() -> None:
            nonlocal most_taken
            most_taken = max(most_taken, cpus - ray.available_resources().get("CPU", 0.0))

        events = list(cluster.run(look))
        cluster.stop()
    assert [event.samples for event in events if isinstance(event, ShardDone)] == [VIDEOS]
    assert most_taken == cpus == 5, "those of all three nodes at once"


def test_a_decode_that_is_tried_again_never_lands_on_a_head_without_cpus(
    config: Config, nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = nodes.head_node.node_id

    def die_twice(video: bytes, *_: object) -> Iterator[str]:  # pickled by value, as it is local
        attempt = len(list(tmp_path.glob("died-*")))
        if attempt < 2:
            (tmp_path / f"died-{attempt}-{ray.get_runtime_context().get_node_id()}").touch()
            os._exit(1)
        yield ray.get_runtime_context().get_node_id()

    task = ray.remote(max_retries=0, num_returns="streaming")(die_twice)
    monkeypatch.setattr(ray_decoder, "_decode_task", task)
    with connected(config.runtime):
        assert ray.get_runtime_context().get_node_id() == head, "where Ray would place a task that asks for no CPU"
        decoder = RayDecoder(config, ray.put(config), ClipRules(encoder.spec_of("simulated"), 8))
        sample = Sample("a", 0, 0, 0, True, 0, b"", "a.simulated", ("",), "", None, None)
        (at,) = (item for item in decoder.start(sample) if item is not None)
    tried = [path.name.rpartition("-")[2] for path in tmp_path.glob("died-*")]
    assert len(tried) == 2
    assert head not in (*tried, at)
