"""Ray clusters of several nodes on this machine, and the loop of a run on one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from ray.cluster_utils import Cluster as Nodes

from encoder.simulated import WEIGHTS_SHA256
from pipeline.cluster import joining
from pipeline.cluster.cluster import Cluster
from pipeline.cluster.fleet import WorkQueue
from pipeline.cluster.replica import LatentsJob
from pipeline.config.load import Config
from pipeline.input.listing import list_shards

# What a node does without here, as each process takes seconds of a core to start.
LIGHT = {"object_store_memory": 80_000_000, "include_log_monitor": False}
# Ray tries its usual port even where no dashboard is wanted, and leaves the socket open where another holds the port.
HEAD = {"num_cpus": 0, "include_dashboard": False, "dashboard_port": None, "no_monitor": True, **LIGHT}


@contextmanager
def idle_head() -> Iterator[Nodes]:
    """A head that does no work; the caller adds nodes that do. That it can be joined is not asked in this process."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(joining, "check_cluster", lambda _: None)  # which starts a process
        running = Nodes(initialize_head=True, head_node_args=HEAD)
        try:
            yield running
        finally:
            running.shutdown()


def cluster_of(config: Config) -> Cluster:
    """The loop of a run with the simulated encoder, in which a shard that is lost with its node must not count."""
    queue = WorkQueue(max_attempts=1)
    queue.extend(list_shards(config.input.shards))
    return Cluster(LatentsJob(config, WEIGHTS_SHA256), queue)


@contextmanager
def kept(nodes: Nodes) -> Iterator[Nodes]:
    """The same cluster, which is left with the nodes that it has now."""
    before = set(nodes.worker_nodes)
    try:
        yield nodes
    finally:
        for node in set(nodes.worker_nodes) - before:
            nodes.remove_node(node)
        nodes.wait_for_nodes()  # Ray goes on listing one that was killed for a while


def add_cpus(nodes: Nodes, cpus: int, wait: bool = True) -> Any:
    """Adds a node that has so many CPUs and no GPU. Without waiting for it, others can start beside it."""
    return nodes.add_node(wait, num_cpus=cpus, **LIGHT)


def add_gpus(nodes: Nodes, gpus: int, wait: bool = True) -> Any:
    """Adds a node of one CPU that claims so many GPUs."""
    return nodes.add_node(wait, num_cpus=1, num_gpus=gpus, **LIGHT)
