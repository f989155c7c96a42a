"""Ray: starting and losing replicas (replica.py), and the loop that hands them shards.

It does not decode (decoder.py), does not know what replicas make, and decides nothing that fleet.py can decide.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.cluster.claims import RunClaims
from pipeline.cluster.fleet import Fleet, ReplicaCount, Work, WorkQueue
from pipeline.cluster.gpus import Gpu, GpuHealth, Waiting
from pipeline.cluster.logs import Logs
from pipeline.cluster.metrics import RayMetrics, of_fleet
from pipeline.cluster.nodes import POLL_SECONDS, Death, Head, Nodes, died_with_node, end_actor, first_line, on_gpus
from pipeline.cluster.replica import Job, ReplicaActor
from pipeline.errors import HeadLostError, LatentmillError, TransientError, UserError
from pipeline.latents.helping import WORKERS_PER_SHARD
from pipeline.monitor.events import (
    Event,
    GpuExcluded,
    Progress,
    ReplicaJoined,
    ReplicaLost,
    ReplicaReleased,
    ShardBegun,
    ShardDone,
    ShardRead,
    SliceDone,
)
from pipeline.monitor.metrics import of_event

LOOK_SECONDS = 1.0  # between looks at the nodes of the cluster: a GPU that joined is idle until then
DRAINED = "its node is being drained"
PLACING_SECONDS = 5.0  # in which replicas are placed where GPUs are free
RETIRE_SECONDS = 5.0  # that replicas have to end what they are writing: those that hang are not waited for


@dataclass(slots=True)
class _Running:
    """A replica's actor: the promise that it says where it is, that it has loaded, then the streams of its work."""

    number: int
    actor: Any
    placing: Any
    loading: Any = None
    node: str = ""
    gpu: Gpu | None = None
    is_ready: bool = False
    drains: bool = False
    working: dict[Any, Work] = field(default_factory=dict)

    @property
    def promises(self) -> list[Any]:
        return list(self.working) if self.is_ready else [self.loading if self.node else self.placing]


class Cluster:
    """Replicas on the connected Ray, as many as it has room for at any time, and the loop that feeds them."""

    def __init__(self, job: Job, queue: WorkQueue) -> None:
        runtime = job.config.runtime
        count = ReplicaCount(*runtime.replica_bounds, WORKERS_PER_SHARD)
        self._job, self._on_gpus, self._nodes, self._head = job, on_gpus(runtime), Nodes(), Head()
        self._nodes.look()
        self._fleet = Fleet(queue, count)
        self.replicas = count.wanted(self._nodes.gpus, len(queue))
        self._running: dict[int, _Running] = {}
        self._gpu_health, self._set_aside = GpuHealth(), list[Any]()
        self._claims = RunClaims(alone=count.stays_one(self.replicas, joins=runtime.address is not None))
        self._deaths: list[tuple[Death, list[Work]]] = []
        self._resize_at, self._last_error = 0.0, ""
        self._waiting = Waiting(runtime.wait_for_gpus_minutes)
        self._metrics = RayMetrics(job.run)
        self._logs = Logs(runtime.logs, job.run)

    def place(self, check: Callable[[], None]) -> int:
        """Starts replicas and gives Ray some seconds to place them. Returns how many it did: others wait for GPUs."""
        self._start_replicas()
        starting, until = [replica.placing for replica in self._running.values()], time.monotonic() + PLACING_SECONDS
        placed: list[Any] = []
        while len(placed) < len(starting) and time.monotonic() < until:
            check()
            placed, _ = ray.wait(starting, num_returns=len(starting), timeout=POLL_SECONDS)
        return len(placed)

    def run(self, check: Callable[[], None]) -> Iterator[Event]:
        """Makes every shard of the queue; events come as they happen. Ends when no shard is left.

        `check` is called at least every half second; what it raises ends the loop.

        Raises:
            TransientError: replicas die again and again, no GPU came for `runtime.wait_for_gpus_minutes`, or Ray's
                head is lost.
            UserError: as a replica says it.
        """
        while self._fleet.unfinished:
            check()
            if time.monotonic() >= self._resize_at:
                if self._head.answers():
                    yield from self._resize()
                else:
                    self._resize_at = time.monotonic() + LOOK_SECONDS
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
        try:
            if not self._head.answers():
                return  # Ray would wait for it
        except HeadLostError:
            return
        for actor in (*(replica.actor for replica in self._running.values()), *self._set_aside):
            end_actor(actor)
        self._logs.end()
        self._claims.end()

    def _resize(self) -> Iterator[Event]:
        """Starts replicas where GPUs have joined or replicas were lost, and ends those that find no work any more."""
        doubtful = {death.node for death, _ in self._deaths}
        self._head.ask(lambda: self._nodes.look(doubtful))
        yield from self._explain_deaths()
        yield from self._drain()
        self._resize_at = time.monotonic() + LOOK_SECONDS
        self._start_replicas()
        for replica in [self._running[number] for number in self._fleet.surplus() if number in self._running]:
            self._let_go(replica)
            yield ReplicaReleased(replica.number, replica.node, self._nodes.address(replica.node))
        yield from self._logs.look()
        placed = sum(bool(replica.node) for replica in self._running.values())
        loading = sum(not replica.is_ready for replica in self._running.values())
        self._metrics.add(of_fleet(self._fleet, loading))
        all_faulty = self._nodes.gpus > 0 and self._gpus == 0
        if self._fleet.hopeless or (all_faulty and not self._fleet.replicas_at_work):
            raise TransientError(f"replicas keep dying; last error: {self._last_error}")
        if self._on_gpus and (event := self._waiting.look(len(self._running), placed, self._gpus, time.monotonic())):
            yield event

    @property
    def _gpus(self) -> int:
        """GPUs that replicas may use."""
        return self._nodes.gpus - self._gpu_health.faulty_on(self._nodes.there)

    def _let_go(self, replica: _Running) -> None:
        end_actor(replica.actor)
        self._logs.left(replica.number)
        del self._running[replica.number]
        self._fleet.leave(replica.number, died=False)

    def _drain(self) -> Iterator[Event]:
        """Has replicas on nodes that had notice end their work, and lets them go when they have."""
        for replica in [each for each in self._running.values() if each.node in self._nodes.draining]:
            if not replica.drains and replica.working:
                replica.actor.drain.remote()
            replica.drains = True
            if not replica.working:
                self._let_go(replica)
                yield ReplicaLost(replica.number, replica.node, DRAINED, self._nodes.address(replica.node))

    def _start_replicas(self) -> None:
        actor_of = ReplicaActor.options(num_gpus=1 if self._on_gpus else 0, **self._nodes.elsewhere())
        for _ in range(self._fleet.to_start(self._gpus)):
            actor = actor_of.remote(self._job, self.replicas, self._claims.of_replica())
            number = self._fleet.join()
            self._running[number] = _Running(number, actor, actor.place.remote())

    def _placed(self, replica: _Running, node: str, gpu_number: str, log_files: dict[str, str]) -> None:
        """Has a replica load; one on a faulty GPU holds it from now on, so that Ray starts no other there."""
        gpu = Gpu(node, gpu_number) if gpu_number else None
        if gpu in self._gpu_health.faulty:
            self._set_aside.append(replica.actor)
            del self._running[replica.number]
            self._fleet.leave(replica.number, died=False)
            self._resize_at = 0.0
            return
        replica.node, replica.gpu, replica.loading = node, gpu, replica.actor.load.remote()
        self._logs.keep(replica.number, node, log_files)

    def _explain_deaths(self) -> Iterator[Event]:
        """Gives back what dead replicas were at, once it is known whether they died with their nodes."""
        doubtful = []
        for death, works in self._deaths:
            node_lost = died_with_node(death, self._nodes.lost, time.monotonic())
            if node_lost is None:
                doubtful.append((death, works))
                continue
            is_suspect = bool(death.gpu) and not node_lost and self._fleet.is_barren(death.replica)
            if is_suspect:
                yield from self._suspect(death, works)
            failed = [self._fleet.failed(death.replica, work, death.error, node_lost, is_suspect) for work in works]
            self._fleet.leave(death.replica, died=not node_lost)
            yield from filter(None, failed)
        self._deaths = doubtful

    def _suspect(self, death: Death, works: list[Work]) -> Iterator[Event]:
        """Notes that a replica died on a GPU before it committed anything."""
        assert death.gpu
        if self._gpu_health.died(death.gpu, [work.shard.name for work in works]):
            yield GpuExcluded(death.node, death.gpu.number, death.error, self._nodes.address(death.node))

    def _feed(self) -> Iterator[Event]:
        """Gives idle replicas their next work, then those that have read their shard to its end the next one."""
        ready = [replica for replica in self._running.values() if replica.is_ready and not replica.drains]
        for replica in ready:
            if not replica.working and (work := self._fleet.assign(replica.number)) is not None:
                yield self._begin(replica, work)
        for replica in ready:
            if replica.working and (work := self._fleet.assign_next(replica.number)) is not None:
                yield self._begin(replica, work)

    def _begin(self, replica: _Running, work: Work) -> Event:
        if work.place == 0:  # nobody else is at this shard: whoever was has failed
            self._claims.forget(work.shard.name)
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
        if replica.number not in self._running or (replica.is_ready and promise not in replica.working):
            return  # the replica failed at its other shard and was lost with both
        try:
            if replica.is_ready:
                event = ray.get(next(promise))
                if isinstance(event, Progress):
                    yield replace(event, replica=replica.number)
                elif self._is_news(replica, event):
                    yield event
            elif replica.node:
                ray.get(promise)
                replica.is_ready = True
                yield ReplicaJoined(replica.number, replica.node, self._nodes.address(replica.node))
            else:
                self._placed(replica, *ray.get(promise))
        except StopIteration:
            self._fleet.idle(replica.number, replica.working.pop(promise))
        except UserError as error:
            raise getattr(error, "cause", error) from None  # Ray's says it with a traceback
        except (LatentmillError, RayError) as error:
            yield from self._failed(replica, promise, error)

    def _is_news(self, replica: _Running, event: Event) -> bool:
        match event:
            case SliceDone():
                if replica.gpu and not event.reused:
                    self._gpu_health.works(replica.gpu)
                return self._fleet.committed(replica.number, event.shard, event.slice_index, event.reused)
            case ShardDone():
                return self._fleet.done(event.shard)
            case ShardRead():
                self._fleet.read(event.shard)
        return True

    def _failed(self, replica: _Running, promise: Any, error: Exception) -> Iterator[Event]:
        self._last_error = first_line(error)
        if replica.is_ready and isinstance(error, LatentmillError):
            work = replica.working.pop(promise)
            self._claims.release(work.shard.name, work.place)
            yield from filter(None, [self._fleet.failed(replica.number, work, self._last_error, replica.drains)])
        else:  # it could not load, is gone, or may be broken
            end_actor(replica.actor)
            self._logs.left(replica.number)
            del self._running[replica.number]
            yield ReplicaLost(replica.number, replica.node, self._last_error, self._nodes.address(replica.node))
            of_itself = isinstance(error, RayTaskError | LatentmillError)
            death = Death(replica.number, replica.node, self._last_error, time.monotonic(), of_itself, replica.gpu)
            self._deaths.append((death, list(replica.working.values())))
            for work in replica.working.values():
                self._claims.release(work.shard.name, work.place)
            replica.working.clear()
            self._resize_at = 0.0
