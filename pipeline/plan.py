"""What is left to do and who does it next: pure decisions over names and counts.

It does not read storage or start anything.
"""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.records import ShardRef


def shards_left(shards: Iterable[ShardRef], done: frozenset[str]) -> tuple[ShardRef, ...]:
    """The shards that have no manifest yet, in order."""
    return tuple(shard for shard in shards if shard.name not in done)


@dataclass(slots=True)
class WorkQueue:
    """Shards waiting for a replica. A failed one goes to the end, until it failed `max_attempts` times."""

    max_attempts: int
    _waiting: deque[ShardRef] = field(default_factory=deque)
    _attempts: Counter[str] = field(default_factory=Counter)

    def extend(self, shards: Iterable[ShardRef]) -> None:
        self._waiting.extend(shards)

    def take(self) -> ShardRef | None:
        """The next shard, or None where none waits."""
        return self._waiting.popleft() if self._waiting else None

    def failed(self, shard: ShardRef) -> bool:
        """Notes a failed attempt. Returns whether it was the last."""
        self._attempts[shard.name] += 1
        if self._attempts[shard.name] >= self.max_attempts:
            return True
        self._waiting.append(shard)
        return False

    def __len__(self) -> int:
        return len(self._waiting)


def replicas_wanted(configured: int | str, gpus: int, shards: int) -> int:
    """How many replicas to start: as configured, else one per GPU, or one on the CPU; never more than shards."""
    wanted = configured if isinstance(configured, int) else max(1, gpus)
    return min(wanted, max(1, shards))


def within_limit(rejected: int, samples: int, max_fraction: float) -> bool:
    """Whether the rejected samples are few enough; a run without samples is."""
    return not samples or rejected / samples <= max_fraction
