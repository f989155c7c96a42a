"""Ray: the nodes of the connected cluster, and whether a replica died with its node.

Ray lists a node that was lost for another 15 seconds or so. Replicas that died on it must not count as failures, and
their successors must not start there, so the driver asks the raylets of doubtful nodes itself.
"""

import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import ray
from ray._private.state import state
from ray.exceptions import RayActorError, RayError, RaySystemError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.cluster.gpus import Gpu
from pipeline.config.runtime import RuntimeConfig
from pipeline.errors import HeadLostError
from pipeline.storage.urls import without_secrets

POLL_SECONDS = 0.5  # that Ray is waited for before a run looks whether it is to stop
VERDICT_SECONDS = 5.0  # after a death: a node that shuts down may take its processes first
COINCIDENCE_SECONDS = 30.0  # between a death and the loss of a node that may explain it
RELAPSE_SECONDS = 60.0  # after which a node that Ray still lists may be trusted again
PROBE_SECONDS = 1.0
HEAD_LOST_SECONDS = 10.0  # without an answer of the head
LOOK_SECONDS = 180.0  # that a node has for a call of `on_each_node`
SEES_GPUS = {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}}  # also where the task holds none

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Death:
    """A replica that died, on `node`, or on one that it never named (""), as it had not begun to load.

    `of_itself`: it raised an error, which no node explains. `gpu` is None where it had none.
    """

    replica: int
    node: str
    error: str
    at_seconds: float
    of_itself: bool = False
    gpu: Gpu | None = None


def end_actor(actor: Any) -> None:
    """Kills an actor, and lets be one that Ray has given up before it ran, for which `ray.kill` raises."""
    with suppress(RaySystemError):
        ray.kill(actor)


def died_with_node(death: Death, lost: Mapping[str, float], now_seconds: float) -> bool | None:
    """Whether a replica died because its node did; None where it is too early to tell.

    Args:
        lost: when each lost node was missed first.
    """
    if death.of_itself:
        return False
    on_node = [at for node, at in lost.items() if death.node in (node, "")]
    if any(abs(at - death.at_seconds) <= COINCIDENCE_SECONDS for at in on_node):
        return True
    return False if now_seconds - death.at_seconds > VERDICT_SECONDS else None


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A node that is there, and what Ray may give out of it."""

    id: str
    address: str
    gpus: int
    cpus: int


def node_facts() -> list[NodeFacts]:
    """The nodes of the connected cluster, in the order of their addresses."""
    listed = [node for node in ray.nodes() if node["Alive"]]
    facts = [
        NodeFacts(
            str(node["NodeID"]),
            str(node["NodeManagerAddress"]),
            *(int(node["Resources"].get(what, 0)) for what in ("GPU", "CPU")),
        )
        for node in listed
    ]
    return sorted(facts, key=lambda node: (node.address, node.id))


def on_each_node(
    nodes: Iterable[NodeFacts], call: Callable[[T, NodeFacts], R], value: T
) -> Iterator[tuple[NodeFacts, R | str]]:
    """What `call(value, node)` gives in a task on each of the nodes, or in words why it gives nothing."""
    task = ray.remote(num_cpus=0, max_retries=0, runtime_env=SEES_GPUS)(call)
    held = ray.put(value)
    asked = [
        (node, task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(held, node))
        for node in nodes
    ]
    for node, promise in asked:
        try:
            yield node, ray.get(promise, timeout=LOOK_SECONDS)
        except RayError as error:
            yield node, first_line(error)


@dataclass(slots=True)
class Nodes:
    """The nodes that are there, those lost so far, and those that had notice to end; `look` brings all up to date."""

    lost: dict[str, float] = field(default_factory=dict)
    draining: frozenset[str] = frozenset()
    _listed: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def look(self, doubtful: Collection[str] = ()) -> None:
        """Lists the nodes anew, and asks those that are doubtful whether they are there; "" stands for all."""
        now, before = time.monotonic(), self._listed
        self._listed = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        self.draining = frozenset(state.get_draining_nodes())
        for node, at in list(self.lost.items()):
            if node in self._listed and now - at > RELAPSE_SECONDS:
                del self.lost[node]
        asked = [node for name, node in self._listed.items() if name in doubtful or "" in doubtful]
        for node in {*before.keys() - self._listed.keys(), *_silent(asked)}:
            self.lost.setdefault(node, now)

    @property
    def there(self) -> frozenset[str]:
        """The nodes that are there and stay."""
        return frozenset(self._listed) - self.lost.keys() - self.draining

    @property
    def gpus(self) -> int:
        """GPUs of the nodes that are there and stay."""
        return sum(int(self._listed[node]["Resources"].get("GPU", 0)) for node in self.there)

    def elsewhere(self) -> dict[str, Any]:
        """Options for an actor that must not start on a node that was lost, though Ray still lists it."""
        avoided = sorted(self.lost.keys() & self._listed.keys())
        return {"label_selector": {"ray.io/node-id": f"!in({','.join(avoided)})"}} if avoided else {}

    def address(self, node: str) -> str:
        """The address of a node, "" where it is not known any more."""
        return str(self._listed.get(node, {}).get("NodeManagerAddress", ""))


@dataclass(slots=True)
class Head:
    """Watches the head of the connected cluster, as Ray waits for one that is lost, and then aborts the process."""

    address: str = field(default_factory=lambda: ray.get_runtime_context().gcs_address)
    _answered_at: float = field(default_factory=time.monotonic)
    _asking: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def answers(self) -> bool:
        """Whether the head is there now. Raises HeadLostError where it has been gone for some time."""
        host, _, port = self.address.rpartition(":")
        if connects(host, int(port)):
            self._answered_at = time.monotonic()
            return True
        if time.monotonic() - self._answered_at > HEAD_LOST_SECONDS:
            raise HeadLostError(f"Ray's head at {self.address} does not answer any more; start the cluster")
        return False

    def ask(self, call: Callable[[], R]) -> R:
        """What a call gives that asks the head. Raises as `answers` where that is lost meanwhile, as Ray would wait."""
        answer = self._asking.submit(call)
        while not wait([answer], PROBE_SECONDS).done:
            self.answers()
        return answer.result()


def _silent(nodes: Iterable[Mapping[str, Any]]) -> list[str]:
    """The ids of those whose raylet takes no connection."""
    asked = list(nodes)
    with ThreadPoolExecutor(16) as pool:
        return [node["NodeID"] for node, answers in zip(asked, pool.map(_answers, asked), strict=True) if not answers]


def _answers(node: Mapping[str, Any]) -> bool:
    return connects(str(node["NodeManagerAddress"]), int(node["NodeManagerPort"]))


def connects(host: str, port: int) -> bool:
    """Whether something listens there."""
    try:
        with socket.create_connection((host.strip("[]"), port), timeout=PROBE_SECONDS):
            return True
    except OSError:
        return False


def node_here() -> str:
    """The id of the node of this process."""
    return str(ray.get_runtime_context().get_node_id())


def on_gpus(runtime: RuntimeConfig) -> bool:
    """Whether replicas are to run on GPUs: there are some, or some are expected."""
    return count_gpus() > 0 or runtime.waits_for_gpus


def count_gpus() -> int:
    """GPUs of the cluster as Ray lists them."""
    return int(ray.cluster_resources().get("GPU", 0))


def first_line(error: Exception) -> str:
    """What went wrong; of a dead actor, the line that says why."""
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    line = next((line for line in lines if isinstance(error, RayActorError) and "because" in line), *lines[:1] or [""])
    return without_secrets(f"{type(cause).__name__}: {line}")
