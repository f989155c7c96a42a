"""Ray clusters of several nodes on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.cluster_utils import Cluster as Nodes

OBJECT_STORE_BYTES = 80_000_000
# Its processes take seconds to start. Ray tries its usual port even where no dashboard is wanted, and leaves the socket
# open where another holds the port.
NO_DASHBOARD = {"include_dashboard": False, "dashboard_port": None, "no_monitor": True, "include_log_monitor": False}


@contextmanager
def idle_head() -> Iterator[Nodes]:
    """A head that does no work; the caller adds nodes that do."""
    running = Nodes(
        initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": OBJECT_STORE_BYTES, **NO_DASHBOARD}
    )
    try:
        yield running
    finally:
        running.shutdown()


@contextmanager
def kept(nodes: Nodes) -> Iterator[Nodes]:
    """The same cluster, which is left with the nodes that it has now."""
    before = set(nodes.worker_nodes)
    try:
        yield nodes
    finally:
        for node in set(nodes.worker_nodes) - before:
            nodes.remove_node(node)


def add_gpus(nodes: Nodes, gpus: int) -> Any:
    """Adds a node of one CPU that claims so many GPUs."""
    return nodes.add_node(num_cpus=1, num_gpus=gpus, object_store_memory=OBJECT_STORE_BYTES, include_log_monitor=False)
