"""Ray: an actor around ShardTask for each replica, a killable task for each decode, and the loop that feeds them.

It does not know what a latent is, and decides nothing that plan.py can decide.
"""

import contextlib
import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import (
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from pipeline.clips import ClipRules
from pipeline.config import Config, RuntimeConfig
from pipeline.errors import LatentmillError, TransientError, UserError
from pipeline.guard import bounded
from pipeline.plan import WorkQueue, replicas_wanted
from pipeline.records import DecodeItem, Event, Failure, Sample, ShardFailed, ShardRef
from pipeline.store import without_secrets

CHUNKS_AHEAD = 4  # chunks of one sample that may wait in the object store
POLL_SECONDS = 0.5
LOST_WORKER = (WorkerCrashedError, NodeDiedError, ObjectLostError, OutOfMemoryError)  # decode again elsewhere


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
    root = Path(__file__).parent.parent
    return [str(root / package) for package in ("encoder", "pipeline")]


def _decode(video: bytes, config: Config, rules: ClipRules) -> Iterator[DecodeItem | None]:
    """Decodes one sample in a process that may crash or be killed without harm to others."""
    from pipeline.decode import decode_sample  # decord is loaded only where decoding happens

    yield None  # says that a worker has begun: waiting for a free one is no fault of the video
    try:
        items = decode_sample(video, config.clip, config.limits, config.input.strict, rules)
        yield from bounded(items, config.limits.decode_memory_bytes)
    except MemoryError:
        limit = f"{config.limits.decode_memory_bytes:,} bytes"
        yield Failure("decode", "memory_limit", f"took more than {limit} (limits.decode_memory_bytes)")


_decode_task = ray.remote(num_cpus=1, max_retries=0, num_returns="streaming")(_decode)


@dataclass(frozen=True, slots=True)
class RayDecoder:
    """Decodes every sample in a Ray task of its own; chunks come through the object store, a few ahead."""

    config: Config
    config_ref: Any
    rules: ClipRules

    def start(self, sample: Sample) -> Generator[DecodeItem, None, None]:
        return self._items(sample, self._submit(sample))

    def _submit(self, sample: Sample) -> Any:
        task = _decode_task.options(_generator_backpressure_num_objects=CHUNKS_AHEAD)
        return task.remote(sample.video, self.config_ref, self.rules)

    def _items(self, sample: Sample, stream: Any) -> Generator[DecodeItem, None, None]:
        delivered = 0
        try:
            for _ in range(self.config.limits.max_attempts):
                try:
                    # What an attempt delivered before it died, the next one decodes to the same values.
                    for position, item in enumerate(self._delivered(stream)):
                        if position >= delivered:
                            yield item
                            delivered += 1
                    return
                except GetTimeoutError:
                    limit = f"{self.config.limits.decode_timeout_seconds:g} s"
                    yield Failure("decode", "timeout", f"no frame for {limit} (limits.decode_timeout_seconds)")
                    return
                except LOST_WORKER:
                    stream = self._submit(sample)
            yield Failure("decode", "decoder_crashed", f"the decoder's process died {self.config.limits.max_attempts}x")
        finally:
            ray.cancel(stream, force=True)

    def _delivered(self, stream: Any) -> Iterator[DecodeItem]:
        started, timeout_seconds = False, None
        while True:
            ready, _ = ray.wait([stream], timeout=timeout_seconds, fetch_local=False)
            if not ready:
                raise GetTimeoutError
            try:
                item = ray.get(next(stream))
            except StopIteration:
                return
            if started:
                yield item
            started, timeout_seconds = True, self.config.limits.decode_timeout_seconds


class _Replica:
    """One encoder on one device. Its decoding runs elsewhere, so a bad video cannot reach it."""

    def __init__(self, config: Config, weights_sha256: str, threads: int) -> None:
        import encoder
        from pipeline.loading import load_encoder
        from pipeline.store import Store
        from pipeline.task import ShardTask

        encoder.set_threads(threads)
        loaded = load_encoder(config.encoder, device="auto")
        if loaded.weights_sha256 != weights_sha256:
            raise UserError(f"encoder.weights: {config.encoder.weights} holds other weights here than at the driver")
        rules = ClipRules(loaded.spec, config.encoder.chunk_frames)
        decoder = RayDecoder(config, ray.put(config), rules)
        self._task = ShardTask(config, loaded, decoder, Store(config.output.path))

    def ready(self) -> str:
        """Where the encoder computes."""
        return str(self._task.encoder.device)

    def run(self, shard: ShardRef) -> Iterator[Event]:
        yield from self._task.run(shard)


_ReplicaActor = ray.remote(num_cpus=0)(_Replica)


@dataclass(slots=True)
class _Running:
    """A replica and the shard that it makes now, if any; `events` is Ray's stream of its events."""

    actor: Any
    shard: ShardRef | None = None
    events: Any = None


class Cluster:
    """Replicas on the connected Ray, and the loop that gives each its next shard."""

    def __init__(self, config: Config, weights_sha256: str, queue: WorkQueue) -> None:
        self._config, self._weights_sha256, self._queue = config, weights_sha256, queue
        self._gpus = int(ray.cluster_resources().get("GPU", 0))
        self.replicas = replicas_wanted(config.runtime.replicas, self._gpus, len(queue))
        self._running: list[_Running] = []

    def run(self, check: Callable[[], None]) -> Iterator[Event]:
        """Makes every shard of the queue; events come as they happen. Ends when no shard is left.

        `check` is called at least every half second; what it raises ends the loop.

        Raises:
            TransientError: replicas cannot be started.
            UserError: as a replica says it.
        """
        self._running = [_Running(self._start_actor()) for _ in range(self.replicas)]
        started = [replica.actor.ready.remote() for replica in self._running]
        try:
            while ray.wait(started, num_returns=len(started), timeout=POLL_SECONDS)[1]:
                check()
            ray.get(started)
        except RayActorError as error:
            raise TransientError(f"a replica did not start: {_first_line(error)}") from error
        while self._feed():
            check()
            yield from self._next_events()

    def stop(self) -> None:
        """Ends every replica at once; what is not committed is made again by the next run."""
        for replica in self._running:
            ray.kill(replica.actor)

    def _start_actor(self) -> Any:
        gpus = 1 if self._gpus else 0
        threads = max(1, (os.cpu_count() or 1) // (1 if gpus else self.replicas))
        return _ReplicaActor.options(num_gpus=gpus).remote(self._config, self._weights_sha256, threads)

    def _feed(self) -> bool:
        """Gives idle replicas their next shard. Returns whether any is at work."""
        for replica in self._running:
            if replica.shard is None and (shard := self._queue.take()) is not None:
                replica.shard = shard
                replica.events = replica.actor.run.options(num_returns="streaming").remote(shard)
        return any(replica.shard for replica in self._running)

    def _next_events(self) -> Iterator[Event]:
        busy = {replica.events: replica for replica in self._running if replica.shard is not None}
        ready, _ = ray.wait(list(busy), num_returns=1, timeout=POLL_SECONDS)
        for stream in ready:
            yield from self._take_event(busy[stream])

    def _take_event(self, replica: _Running) -> Iterator[Event]:
        assert replica.shard is not None
        try:
            yield ray.get(next(replica.events))
        except StopIteration:
            replica.shard = None
        except UserError:
            raise
        except (LatentmillError, RayError) as error:
            yield self._failed(replica, error)

    def _failed(self, replica: _Running, error: Exception) -> ShardFailed:
        shard, replica.shard = replica.shard, None
        assert shard is not None
        if not isinstance(error, RayTaskError):  # the actor or its node is gone
            ray.kill(replica.actor)
            replica.actor = self._start_actor()
        return ShardFailed(shard.name, _first_line(error), final=self._queue.failed(shard))


def _first_line(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return without_secrets(f"{type(cause).__name__}: {lines[0] if lines else ''}")
