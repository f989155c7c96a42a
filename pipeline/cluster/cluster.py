"""Ray: an actor around ShardTask for each replica, and the loop that feeds them.

It does not decode (ray_decoder.py), does not know what a latent is, and decides nothing that plan.py can decide.
"""

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from pipeline.clips.plan import ClipRules
from pipeline.cluster.decoder import RayDecoder
from pipeline.cluster.fleet import Fleet, ReplicaCount, Work, WorkQueue
from pipeline.cluster.metrics import RayMetrics, of_fleet
from pipeline.config.latents import EncoderConfig
from pipeline.config.load import Config
from pipeline.config.runtime import RuntimeConfig
from pipeline.errors import LatentmillError, TransientError, UserError
from pipeline.latents.helping import WORKERS_PER_SHARD
from pipeline.monitor.events import Event, ReplicaJoined, ReplicaLost, ShardBegun, ShardDone, SliceDone, WaitingForGpus
from pipeline.monitor.metrics import of_event, of_work, thinned
from pipeline.storage.store import RetiringStore
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


class _Replica:
    """One encoder on one device. Its decoding runs elsewhere, so a bad video cannot reach it."""

    def __init__(self, config: Config, weights_sha256: str, threads: int) -> None:
        self._config, self._weights_sha256, self._threads = config, weights_sha256, threads
        self._task: Any = None
        self._metrics = RayMetrics(config, weights_sha256)

    def load(self) -> str:
        """Puts the encoder on its device. Returns the id of the node."""
        import encoder
        from pipeline.latents.load import check_memory, load_encoder
        from pipeline.latents.task import ShardTask

        config = self._config
        encoder.set_threads(self._threads)
        loaded = load_encoder(config.encoder, device="auto")
        if loaded.weights_sha256 != self._weights_sha256:
            raise UserError(f"encoder.weights: {config.encoder.weights} holds other weights here than at the driver")
        check_memory(config.clip, loaded)  # here, where the device is
        rules = ClipRules(loaded.spec, config.encoder.chunk_frames, recall=loaded.recall)
        decoder = RayDecoder(config, ray.put(config), rules)
        self._task = ShardTask(config, loaded, decoder, RetiringStore(config.output.path))
        return str(ray.get_runtime_context().get_node_id())

    def run(self, work: Work) -> Iterator[Event]:
        events = self._task.help(work.shard, work.place) if work.place else self._task.run(work.shard)
        before: dict[str, float] = {}
        for event in thinned(events):
            seconds = dict(self._task.watch.seconds)
            self._metrics.add(of_work(event, before, seconds))
            before = seconds
            yield event

    @ray.method(concurrency_group="beside")  # type: ignore[untyped-decorator]
    def retire(self) -> None:
        """Called beside `run`: once it returns, no file is half written, and none will be."""
        self._task.store.retire()


_ReplicaActor = ray.remote(num_cpus=0, concurrency_groups={"beside": 1})(_Replica)


def _measure(config: EncoderConfig, threads: int) -> dict[str, str]:
    """Which ways of computing convolutions are fastest on the device of this process."""
    import encoder
    from pipeline.latents.load import load_encoder

    encoder.set_threads(threads)
    chosen: dict[str, str] = load_encoder(config, device="auto").identity["convolutions"]
    return chosen


def measure_convolutions(config: Config, check: Callable[[], None]) -> dict[str, str]:
    """What `encoder.convolutions: auto` comes to where a replica would run; waits for a GPU where one is expected.

    `check` is called at least every half second; what it raises ends the waiting.
    """
    task = ray.remote(_measure).options(num_gpus=1 if _on_gpus(config.runtime) else 0, num_cpus=0)
    promise = task.remote(config.encoder, os.cpu_count() or 1)
    while not ray.wait([promise], timeout=POLL_SECONDS)[0]:
        check()
    chosen: dict[str, str] = ray.get(promise)
    return chosen


@dataclass(slots=True)
class _Running:
    """A replica's actor. `pending` is what it promised: first to load, then the events of its work; None: idle."""

    number: int
    actor: Any
    pending: Any
    node: str = ""


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
        busy = [replica for replica in self._running.values() if replica.node and replica.pending is not None]
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
        actor_of = _ReplicaActor.options(num_gpus=1 if self._on_gpus else 0)
        actor = actor_of.remote(self._config, self._weights_sha256, threads)
        number = self._fleet.join()
        self._running[number] = _Running(number, actor, actor.load.remote())

    def _feed(self) -> Iterator[Event]:
        """Gives idle replicas their next work, for as long as there is any."""
        for replica in self._running.values():
            if replica.pending is None:
                work = self._fleet.assign(replica.number)
                if work is None:
                    return
                replica.pending = replica.actor.run.options(num_returns="streaming").remote(work)
                yield ShardBegun(work.shard.name, replica.number, helps=work.place > 0)

    def _next_events(self) -> Iterator[Event]:
        pending = {replica.pending: replica for replica in self._running.values() if replica.pending is not None}
        if not pending:
            time.sleep(POLL_SECONDS)
        elif ray.wait(list(pending), num_returns=1, timeout=POLL_SECONDS)[0]:
            ready, _ = ray.wait(list(pending), num_returns=len(pending), timeout=0)
            for promise in ready:
                yield from self._take(pending[promise])

    def _take(self, replica: _Running) -> Iterator[Event]:
        """What a replica has ready: that it is loaded, its next event, the end of its work, or how it failed."""
        try:
            if replica.node:
                event = ray.get(next(replica.pending))
                if self._is_news(replica, event):
                    yield event
            else:
                replica.node, replica.pending = ray.get(replica.pending), None
                yield ReplicaJoined(replica.number, replica.node)
        except StopIteration:
            replica.pending = None
            self._fleet.idle(replica.number)
        except UserError as error:
            raise getattr(error, "cause", error) from None  # Ray's says it with a traceback
        except (LatentmillError, RayError) as error:
            yield from self._failed(replica, error)

    def _is_news(self, replica: _Running, event: Event) -> bool:
        if isinstance(event, SliceDone):
            return self._fleet.committed(replica.number, event.slice_index, event.reused)
        return self._fleet.done(event.shard) if isinstance(event, ShardDone) else True

    def _failed(self, replica: _Running, error: Exception) -> Iterator[Event]:
        self._last_error, replica.pending = _first_line(error), None
        failed = self._fleet.failed(replica.number, self._last_error, _lost_with_node(replica, error))
        if not (replica.node and isinstance(error, LatentmillError)):  # it could not load, is gone, or may be broken
            ray.kill(replica.actor)
            del self._running[replica.number]
            self._fleet.leave(replica.number)
            self._resize_at = 0.0
            yield ReplicaLost(replica.number, replica.node, self._last_error)
        if failed is not None:
            yield failed


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
