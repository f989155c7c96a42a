"""Ray: starting and losing replicas (replica.py), and the loop that hands them shards.

It does not decode (decoder.py), does not know what a latent is, and decides nothing that fleet.py can decide.
"""

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from pipeline.cluster.fleet import Fleet, ReplicaCount, Work, WorkQueue
from pipeline.cluster.metrics import RayMetrics, of_fleet
from pipeline.cluster.replica import ReplicaActor, measure
from pipeline.config.load import Config
from pipeline.config.runtime import RuntimeConfig
from pipeline.errors import LatentmillError, TransientError, UserError
from pipeline.latents.helping import WORKERS_PER_SHARD
from pipeline.latents.tuned import Choice, kept, key_here
from pipeline.monitor.events import (
    Event,
    ReplicaJoined,
    ReplicaLost,
    ShardBegun,
    ShardDone,
    ShardRead,
    SliceDone,
    WaitingForGpus,
)
from pipeline.monitor.metrics import of_event
from pipeline.storage.urls import without_secrets

POLL_SECONDS = 0.5
RESIZE_SECONDS = 5.0  # between looks at what GPUs the cluster has
RETIRE_SECONDS = 5.0  # that replicas have to end what they are writing: those that hang are not waited for


@contextlib.contextmanager
def connected(runtime: RuntimeConfig) -> Iterator[None]:
    """Starts a local Ray, or joins the cluster at `runtime.address` and brings it our code.

    Raises:
        UserError: no cluster answers at the address.
    """
    options: dict[str, Any] = {"address": "local", "include_dashboard": False}
    if runtime.address is not None:
        options = {"address": runtime.address, "runtime_env": {"py_modules": _our_packages()}}
    try:
        ray.init(log_to_driver=False, logging_level="ERROR", namespace="latentmill", **options)
    except ConnectionError as error:
        raise UserError(f"runtime.address: no Ray cluster answers at {runtime.address}: {error}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _our_packages() -> list[str]:
    return [str(Path(__file__).parents[2] / package) for package in ("encoder", "pipeline")]


def measure_convolutions(config: Config, shapes: Sequence[str], check: Callable[[], None]) -> Choice:
    """What `encoder.convolutions: auto` comes to where a replica would run; waits for a GPU where one is expected.

    `check` is called at least every half second; what it raises ends the waiting.
    """
    on_gpus, threads = _on_gpus(config.runtime), os.cpu_count() or 1
    is_here = config.runtime.address is None and not on_gpus
    if is_here and (choice := kept(key_here(config.encoder, shapes, threads))) is not None:
        return choice  # without waiting for a process that would say the same
    task = ray.remote(measure).options(num_gpus=1 if on_gpus else 0, num_cpus=0)
    promise = task.remote(config.encoder, shapes, threads)
    while not ray.wait([promise], timeout=POLL_SECONDS)[0]:
        check()
    measured: Choice = ray.get(promise)
    return measured


@dataclass(slots=True)
class _Running:
    """A replica's actor: the promise that it loads, until it has and `node` is known, then the streams of its work."""

    number: int
    actor: Any
    loading: Any
    node: str = ""
    working: dict[Any, Work] = field(default_factory=dict)

    @property
    def promises(self) -> list[Any]:
        return list(self.working) if self.node else [self.loading]


class Cluster:
    """Replicas on the connected Ray, as many as it has room for at any time, and the loop that feeds them."""

    def __init__(self, config: Config, weights_sha256: str, queue: WorkQueue) -> None:
        self._config, self._weights_sha256 = config, weights_sha256
        count, gpus = ReplicaCount(*config.runtime.replica_bounds, WORKERS_PER_SHARD), _gpus()
        self._on_gpus = _on_gpus(config.runtime)
        self._fleet = Fleet(queue, count)
        self.replicas = count.wanted(gpus, len(queue))
        self._running: dict[int, _Running] = {}
        self._resize_at, self._waits, self._last_error = 0.0, False, ""
        self._metrics = RayMetrics(config, weights_sha256)

    def run(self, check: Callable[[], None]) -> Iterator[Event]:
        """Makes every shard of the queue; events come as they happen. Ends when no shard is left.

        `check` is called at least every half second; what it raises ends the loop.

        Raises:
            TransientError: replicas die again and again.
            UserError: as a replica says it.
        """
        while self._fleet.unfinished:
            check()
            if time.monotonic() >= self._resize_at:
                yield from self._resize()
            for event in itertools.chain(self._feed(), self._next_events()):
                self._metrics.add(of_event(event))
                yield event
        self._retire()

    def _retire(self) -> None:
        """Lets replicas that still help with what is done already end the file that they may be writing."""
        busy = [replica for replica in self._running.values() if replica.working]
        if busy:
            ray.wait([each.actor.retire.remote() for each in busy], num_returns=len(busy), timeout=RETIRE_SECONDS)

    def stop(self) -> None:
        """Ends every replica at once; what is not committed is made again by the next run."""
        for replica in self._running.values():
            ray.kill(replica.actor)

    def _resize(self) -> Iterator[Event]:
        """Starts replicas where GPUs have joined or replicas were lost; Ray places each when there is room."""
        self._resize_at, gpus = time.monotonic() + RESIZE_SECONDS, _gpus()
        for _ in range(self._fleet.to_start(gpus)):
            self._start_replica()
        loading = sum(not replica.node for replica in self._running.values())
        self._metrics.add(of_fleet(self._fleet, loading))
        if self._fleet.hopeless:
            raise TransientError(f"replicas die again and again, the last one of: {self._last_error}")
        waited, self._waits = self._waits, self._on_gpus and not gpus
        if self._waits and not waited:
            yield WaitingForGpus(len(self._running))

    def _start_replica(self) -> None:
        threads = max(1, (os.cpu_count() or 1) // (1 if self._on_gpus else self.replicas))
        actor_of = ReplicaActor.options(num_gpus=1 if self._on_gpus else 0)
        actor = actor_of.remote(self._config, self._weights_sha256, threads, self.replicas)
        number = self._fleet.join()
        self._running[number] = _Running(number, actor, actor.load.remote())

    def _feed(self) -> Iterator[Event]:
        """Gives idle replicas their next work, then those that have read their shard to its end the next one."""
        ready = [replica for replica in self._running.values() if replica.node]
        for replica in ready:
            if not replica.working and (work := self._fleet.assign(replica.number)) is not None:
                yield self._begin(replica, work)
        for replica in ready:
            if replica.working and (work := self._fleet.assign_next(replica.number)) is not None:
                yield self._begin(replica, work)

    def _begin(self, replica: _Running, work: Work) -> Event:
        stream = replica.actor.run.options(num_returns="streaming").remote(work)
        replica.working[stream] = work
        return ShardBegun(work.shard.name, replica.number, helps=work.place > 0)

    def _next_events(self) -> Iterator[Event]:
        pending = {promise: replica for replica in self._running.values() for promise in replica.promises}
        if not pending:
            time.sleep(POLL_SECONDS)
        elif ray.wait(list(pending), num_returns=1, timeout=POLL_SECONDS)[0]:
            ready, _ = ray.wait(list(pending), num_returns=len(pending), timeout=0)
            for promise in ready:
                yield from self._take(pending[promise], promise)

    def _take(self, replica: _Running, promise: Any) -> Iterator[Event]:
        """What a replica has ready: that it is loaded, its next event, the end of its work, or how it failed."""
        if replica.node and promise not in replica.working:
            return  # the replica failed at its other shard and was lost with both
        try:
            if replica.node:
                event = ray.get(next(promise))
                if self._is_news(replica, event):
                    yield event
            else:
                replica.node = ray.get(promise)
                yield ReplicaJoined(replica.number, replica.node)
        except StopIteration:
            self._fleet.idle(replica.number, replica.working.pop(promise))
        except UserError as error:
            raise getattr(error, "cause", error) from None  # Ray's says it with a traceback
        except (LatentmillError, RayError) as error:
            yield from self._failed(replica, promise, error)

    def _is_news(self, replica: _Running, event: Event) -> bool:
        match event:
            case SliceDone():
                return self._fleet.committed(replica.number, event.shard, event.slice_index, event.reused)
            case ShardDone():
                return self._fleet.done(event.shard)
            case ShardRead():
                self._fleet.read(event.shard)
        return True

    def _failed(self, replica: _Running, promise: Any, error: Exception) -> Iterator[Event]:
        self._last_error, node_lost = _first_line(error), _lost_with_node(replica, error)
        survives = bool(replica.node) and isinstance(error, LatentmillError)
        failed = [replica.working.pop(promise)] if survives else list(replica.working.values())
        events = [self._fleet.failed(replica.number, work, self._last_error, node_lost) for work in failed]
        if not survives:  # it could not load, is gone, or may be broken
            ray.kill(replica.actor)
            replica.working.clear()
            del self._running[replica.number]
            self._fleet.leave(replica.number)
            self._resize_at = 0.0
            yield ReplicaLost(replica.number, replica.node, self._last_error)
        yield from (event for event in events if event is not None)


def _on_gpus(runtime: RuntimeConfig) -> bool:
    """Whether replicas are to run on GPUs: there are some, or some are expected."""
    return _gpus() > 0 or runtime.waits_for_gpus


def _gpus() -> int:
    return int(ray.cluster_resources().get("GPU", 0))


def _lost_with_node(replica: _Running, error: Exception) -> bool:
    """Whether a replica died because its node did."""
    if isinstance(error, RayTaskError) or not replica.node:
        return False
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return isinstance(error, ActorUnavailableError) or replica.node not in alive


def _first_line(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return without_secrets(f"{type(cause).__name__}: {lines[0] if lines else ''}")
