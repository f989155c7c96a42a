"""What is left to do and who does it next: pure decisions over names and counts.

It does not read storage, start anything or know what a replica is made of.
"""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.latents.helping import WORKERS_PER_SHARD
from pipeline.monitor.events import ShardFailed
from pipeline.records import ShardRef

NODES_LOST_ALLOWED = 10  # attempts at one shard that may end with their node and nothing made: more are no accident
MOST_SHARDS = 2  # of one replica at once: the next one begins while the last samples of one are made
DEATHS_IN_A_ROW = 6  # replicas that may die one after another with nothing committed between


def shards_left(shards: Iterable[ShardRef], done: frozenset[str]) -> tuple[ShardRef, ...]:
    """The shards that have no manifest yet, in order."""
    return tuple(shard for shard in shards if shard.name not in done)


@dataclass(slots=True)
class WorkQueue:
    """Shards waiting for a replica. A failed one goes to the end, until it failed `max_attempts` times.

    An attempt that ended with its node is not the shard's fault, and is counted apart. The first that ended with a
    replica on a GPU that may be faulty is not counted.
    """

    max_attempts: int
    _waiting: deque[ShardRef] = field(default_factory=deque)
    _attempts: Counter[str] = field(default_factory=Counter)
    _nodes_lost: Counter[str] = field(default_factory=Counter)
    _excused: set[str] = field(default_factory=set)

    def extend(self, shards: Iterable[ShardRef]) -> None:
        self._waiting.extend(shards)

    def take(self) -> ShardRef | None:
        """The next shard, or None where none waits."""
        return self._waiting.popleft() if self._waiting else None

    def progressed(self, shard: str) -> None:
        """Something of a shard was committed: however many nodes it loses, it comes to its end."""
        self._nodes_lost.pop(shard, None)

    def failed(self, shard: ShardRef, node_lost: bool = False, gpu_suspect: bool = False) -> bool:
        """Notes a failed attempt. Returns whether it was the last."""
        if gpu_suspect and shard.name not in self._excused:
            self._excused.add(shard.name)
            self._waiting.append(shard)
            return False
        count, allowed = (self._nodes_lost, NODES_LOST_ALLOWED) if node_lost else (self._attempts, self.max_attempts)
        count[shard.name] += 1
        if count[shard.name] >= allowed:
            return True
        self._waiting.append(shard)
        return False

    def __len__(self) -> int:
        return len(self._waiting)


@dataclass(frozen=True, slots=True)
class ReplicaCount:
    """`least` replicas are asked for even where no GPU is there yet; there is one per GPU above that, up to `most`.

    `per_shard` of them find work in one shard.
    """

    least: int
    most: int
    per_shard: int = 1

    def wanted(self, gpus: int, shards: int) -> int:
        """How many replicas there should be: never more than can find work."""
        return min(max(self.least, min(gpus, self.most)), self.useful(shards))

    def stays_one(self, wanted: int, joins: bool) -> bool:
        """Whether there is never a second replica. `joins`: nodes may join, as they do in a cluster."""
        return wanted == 1 and (self.most == 1 or not joins)

    def useful(self, shards: int) -> int:
        """How many replicas can find work in so many shards."""
        return max(1, shards * self.per_shard)


@dataclass(frozen=True, slots=True)
class Work:
    """A shard for a replica: `place` is 0 for its first worker, 1, 2 … for helpers, who begin elsewhere in it."""

    shard: ShardRef
    place: int


@dataclass(slots=True)
class _Shared:
    """A shard that is being made, and the replicas that are at it."""

    shard: ShardRef
    replicas: set[int] = field(default_factory=set)
    places: int = 1
    slices: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Fleet:
    """Which replicas there are and what each is at. Replicas are numbers; they join, work, and leave at any time."""

    queue: WorkQueue
    count: ReplicaCount
    _at: dict[int, list[Work]] = field(default_factory=dict)
    _making: dict[str, _Shared] = field(default_factory=dict)
    _read: set[str] = field(default_factory=set)
    _barren: set[int] = field(default_factory=set)
    _joined: int = 0
    _gpus: int = 0
    _deaths_in_a_row: int = 0

    @property
    def unfinished(self) -> int:
        """Shards that are neither done nor given up."""
        return len(self.queue) + len(self._making)

    @property
    def replicas(self) -> int:
        return len(self._at)

    @property
    def replicas_at_work(self) -> int:
        return sum(map(bool, self._at.values()))

    @property
    def hopeless(self) -> bool:
        """Whether replicas died again and again, and none is left at work."""
        return self._deaths_in_a_row >= DEATHS_IN_A_ROW and not any(self._at.values())

    def to_start(self, gpus: int) -> int:
        """How many replicas to start now. None after many deaths in a row, until the cluster grows."""
        if gpus > self._gpus:
            self._deaths_in_a_row = 0
        self._gpus = gpus
        if self._deaths_in_a_row >= DEATHS_IN_A_ROW:
            return 0
        return max(0, self.count.wanted(gpus, self.unfinished) - len(self._at))

    def surplus(self) -> list[int]:
        """Replicas that will find no work any more, the newest first: others may use their GPUs."""
        idle = [replica for replica, works in reversed(self._at.items()) if not works]
        return idle[: max(0, len(self._at) - self.count.useful(self.unfinished))]

    def join(self) -> int:
        """A new replica; returns its number."""
        self._joined += 1
        self._at[self._joined] = []
        self._barren.add(self._joined)
        return self._joined

    def is_barren(self, replica: int) -> bool:
        """Whether a replica has committed nothing so far."""
        return replica in self._barren

    def leave(self, replica: int, died: bool = True) -> None:
        """A replica is gone. What it was at must have been given back by `failed`.

        Args:
            died: false where its node was lost, or it was let go: that says nothing about replicas.
        """
        assert not self._at.pop(replica), "its work was given back"
        self._deaths_in_a_row += died and replica in self._barren
        self._barren.discard(replica)

    def assign(self, replica: int) -> Work | None:
        """The next work of a replica that has none: a waiting shard, else a place in the one that has fewest at it."""
        assert not self._at[replica], "only an idle replica takes any work"
        if (work := self.assign_next(replica)) is None and (shared := self._to_help()) is not None:
            work = Work(shared.shard, shared.places)
            shared.places += 1
            self._begin(replica, work)
        return work

    def assign_next(self, replica: int) -> Work | None:
        """A waiting shard for a replica that has none, or has read its only one to the end and still makes its last."""
        works = self._at[replica]
        if len(works) >= MOST_SHARDS or any(work.shard.name not in self._read for work in works):
            return None
        if (shard := self.queue.take()) is None:
            return None
        self._making[shard.name] = _Shared(shard)
        work = Work(shard, 0)
        self._begin(replica, work)
        return work

    def _begin(self, replica: int, work: Work) -> None:
        self._at[replica].append(work)
        self._making[work.shard.name].replicas.add(replica)

    def _to_help(self) -> _Shared | None:
        """The shard with fewest replicas at it; of several the one begun first, which may be a straggler's."""
        shared = min(self._making.values(), key=lambda shared: len(shared.replicas), default=None)
        return shared if shared and len(shared.replicas) < WORKERS_PER_SHARD else None

    def read(self, shard: str) -> None:
        """Every sample of a shard has begun."""
        self._read.add(shard)

    def committed(self, replica: int, shard: str, slice_index: int, reused: bool) -> bool:
        """A replica found or made a slice of a shard. Returns whether that is news: another may have said it."""
        if not reused:
            self._barren.discard(replica)
            self._deaths_in_a_row = 0
            self.queue.progressed(shard)
        shared = self._making.get(shard)
        if shared is None or slice_index in shared.slices:
            return False
        shared.slices.add(slice_index)
        return True

    def done(self, shard: str) -> bool:
        """A shard's manifest is there. Returns whether that is news: helpers may say it again."""
        return self._making.pop(shard, None) is not None

    def idle(self, replica: int, work: Work) -> None:
        """A replica has ended this work well."""
        self._at[replica].remove(work)
        if shared := self._making.get(work.shard.name):
            shared.replicas.discard(replica)

    def failed(
        self, replica: int, work: Work, error: str, node_lost: bool, gpu_suspect: bool = False
    ) -> ShardFailed | None:
        """A replica's attempt failed. Returns the event, or None where others are at that shard or have done it.

        Args:
            gpu_suspect: the replica died on a GPU before it had committed anything: the GPU may be faulty.
        """
        self.idle(replica, work)
        self._read.discard(work.shard.name)
        if (shared := self._making.get(work.shard.name)) is None or shared.replicas:
            return None
        del self._making[work.shard.name]
        return ShardFailed(work.shard.name, error, final=self.queue.failed(work.shard, node_lost, gpu_suspect))


def within_limit(rejected: int, samples: int, max_fraction: float) -> bool:
    """Whether the rejected samples are few enough; a run without samples is."""
    return not samples or rejected / samples <= max_fraction
