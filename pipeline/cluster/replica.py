"""Ray: an actor that holds one encoder on one device and makes shards with it, of latents or of texts."""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import ray

import encoder
from pipeline.clips.plan import rules_of
from pipeline.cluster.cpus import usable_cpus
from pipeline.cluster.decoder import RayDecoder, load_beside
from pipeline.cluster.fleet import MOST_SHARDS, Work
from pipeline.cluster.logs import log_files, told
from pipeline.cluster.metrics import RayMetrics
from pipeline.cluster.nodes import node_here
from pipeline.config.identity import fingerprint, identity, run_name
from pipeline.config.load import Config
from pipeline.errors import RetiredError, UserError
from pipeline.latents.helping import Claims
from pipeline.latents.pace import LEAST_AHEAD, Pace
from pipeline.latents.stopwatch import Stopwatch
from pipeline.monitor.events import Event
from pipeline.monitor.metrics import of_work, thinned
from pipeline.records import ShardRef
from pipeline.storage.store import RetiringStore
from pipeline.video.simulated import EXTENSION

AHEAD_SHARE = 0.5  # of a node's object store, for videos and frames on their way: the rest is Ray's and others'


class Task(Protocol):
    """What a replica does with a shard, once it holds its encoder."""

    @property
    def store(self) -> Any:
        """A store whose writes can be ended."""

    @property
    def draining(self) -> threading.Event: ...

    def run(self, shard: ShardRef, watch: Stopwatch) -> Iterator[Event]: ...

    def help(self, shard: ShardRef, place: int, watch: Stopwatch) -> Iterator[Event]: ...


class Job(Protocol):
    """What all replicas of a run have in common: it travels to each of them."""

    @property
    def config(self) -> Config: ...

    @property
    def run(self) -> str:
        """The name of the run in logs and metrics."""

    @property
    def decodes(self) -> bool:
        """Whether a replica's samples are decoded in tasks beside it."""

    def task(self, device: str, claims: Claims, replicas: int) -> Task:
        """Puts an encoder on the device of a replica."""


@dataclass(frozen=True, slots=True)
class LatentsJob:
    """Videos become latents."""

    config: Config
    weights_sha256: str
    decodes: bool = True

    @property
    def run(self) -> str:
        return run_name(fingerprint(identity(self.config, self.weights_sha256)), self.config.output.path)

    def task(self, device: str, claims: Claims, replicas: int) -> Task:
        """Its decoding runs elsewhere, so that a bad video cannot reach the replica."""
        from pipeline.latents.load import check_device, check_memory, check_model_of_gpu, load_encoder
        from pipeline.latents.task import ShardTask

        config, node = self.config, resources_of(node_here())
        loaded = load_encoder(config.encoder, device)
        if loaded.weights_sha256 != self.weights_sha256:
            raise UserError(f"encoder.weights: {config.encoder.weights} holds other weights here than at the driver")
        store = RetiringStore(config.output.path)
        check_model_of_gpu(config.runtime, loaded, store)
        check_device(config.clip, loaded)
        check_memory(config.clip, loaded)  # here, where the device is
        decoder = RayDecoder(config, ray.put(config), rules_of(config, loaded.spec, loaded.receptive_field))
        pace = pace_of(node, ray.cluster_resources(), replicas, config.runtime.ahead_bytes)
        return ShardTask(config, loaded, decoder, store, pace, claims)


class Replica:
    """One encoder on one device. `replicas` is how many there are in the run, which share the CPUs of the cluster."""

    def __init__(self, job: Job, replicas: int, claims: Claims) -> None:
        self._job, self._replicas, self._claims = job, replicas, claims
        self._task: Any = None
        self._threads = 1
        self._metrics = RayMetrics(job.run)

    def place(self) -> tuple[str, str, dict[str, str]]:
        """Where Ray has placed it: the id of the node, the number of its GPU there ("" without one), and the files of
        its log there, by their names elsewhere.
        """
        return node_here(), gpu_here(), log_files()

    @told("the encoder")
    def load(self) -> None:
        """Puts the encoder on its device."""
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # chunks differ in size
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin take cores from the decoders beside
        node = resources_of(node_here())
        if self._job.decodes:
            cpus_left = int(node.get("CPU", 0)) // _on_node(node, self._replicas) - 1  # the replica itself loads on one
            load_beside(min(LEAST_AHEAD, cpus_left), resizes=self._job.config.input.video != (EXTENSION,))
        self._threads = threads_of(node, self._replicas)
        encoder.set_threads(self._threads)
        device = self._job.config.runtime.device_of(bool(gpu_here()))
        self._task = self._job.task(device, self._claims, self._replicas)

    @ray.method(concurrency_group="work")  # type: ignore[untyped-decorator]
    def run(self, work: Work) -> Iterator[Event]:
        encoder.set_threads(self._threads)  # of the thread that Ray has chosen for this shard
        watch, before = Stopwatch(), dict[str, float]()
        make = self._task.help(work.shard, work.place, watch) if work.place else self._task.run(work.shard, watch)
        # Ray prints errors that nobody fetches, and of a run that is over nobody does.
        with told(f"shard {work.shard.name}, place {work.place}"), suppress(RetiredError):
            for event in thinned(make, self._replicas):
                seconds = dict(watch.seconds)
                self._metrics.add(of_work(event, before, seconds))
                before = seconds
                yield event

    @ray.method(concurrency_group="beside")  # type: ignore[untyped-decorator]
    def retire(self) -> None:
        """Called beside `run`: once it returns, no file is half written, and none will be."""
        self._task.store.retire()

    @ray.method(concurrency_group="beside")  # type: ignore[untyped-decorator]
    def drain(self) -> None:
        """Called beside `run`: no further sample is taken, and what is whole is committed."""
        self._task.draining.set()


ReplicaActor = ray.remote(num_cpus=0, concurrency_groups={"work": MOST_SHARDS, "beside": 1})(Replica)


def pace_of(node: Mapping[str, float], cluster: Mapping[str, float], replicas: int, ahead_bytes: int | None) -> Pace:
    """How far a replica decodes ahead: its part of the cluster's CPUs, and of its node's memory.

    Args:
        node, cluster: resources as Ray names them. The replicas of a node are as many as its GPUs, or all of a run
            where there are none.
        ahead_bytes: `runtime.ahead_bytes`, of each node; None for a share of its object store.
    """
    of_node = int(node.get("object_store_memory", 0) * AHEAD_SHARE) if ahead_bytes is None else ahead_bytes
    return Pace(max(2, int(cluster.get("CPU", 0)) // max(1, replicas)), of_node // _on_node(node, replicas))


def threads_of(node: Mapping[str, float], replicas: int) -> int:
    """The threads of a replica: its share of the CPUs that processes of its node may use."""
    return max(1, usable_cpus() // _on_node(node, replicas))


def _on_node(node: Mapping[str, float], replicas: int) -> int:
    return max(1, int(node.get("GPU", 0)) or replicas)


def gpu_here() -> str:
    """The number of the GPU that Ray has given this process, "" if none."""
    numbers: list[str] = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
    return ",".join(map(str, numbers))


def resources_of(node: str) -> Mapping[str, float]:
    """The resources of a node, as Ray names them."""
    found: Mapping[str, float] = next((one["Resources"] for one in ray.nodes() if one["NodeID"] == node), {})
    return found
