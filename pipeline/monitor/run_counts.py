"""What a run has come to so far, counted from its events."""

import time
from collections import deque
from dataclasses import dataclass, field

from pipeline.monitor.events import Event, Progress, ReplicaJoined, ReplicaLost, ReplicaReleased, ShardDone, SliceDone
from pipeline.monitor.stages import ENCODE, IDLE, busy_fraction
from pipeline.records import Reject

RECENT_SECONDS = 60.0
RECENT_REJECTS = 5


@dataclass(slots=True)
class RunCounts:
    """What a run has made since it began, clips of frames or captions of tokens, and the replicas with an encoder.

    `recent_rejects` are the last ones, each with its shard.
    """

    shards_done: int
    clips: int = 0
    rejects: int = 0
    frames: int = 0
    captions: int = 0
    tokens: int = 0
    replicas: set[int] = field(default_factory=set)
    began_at: float = field(default_factory=time.monotonic)
    recent_rejects: deque[tuple[str, Reject]] = field(default_factory=lambda: deque(maxlen=RECENT_REJECTS))
    _recent: deque[tuple[float, Progress]] = field(default_factory=deque)
    _on_the_way: dict[tuple[int, str], tuple[int, int]] = field(default_factory=dict)  # of a replica and shard
    _done_before: int = field(init=False)

    def __post_init__(self) -> None:
        self._done_before = self.shards_done

    def add(self, event: Event, now_seconds: float) -> None:
        match event:
            case Progress():
                self.frames += event.frames
                self.tokens += event.tokens
                self._recent.append((now_seconds, event))
                self._on_the_way[event.replica, event.shard] = (event.decoding, event.ready)
            case SliceDone():
                self.clips += event.rows
                self.captions += event.captions
                rejects = [reject for reject in event.rejects if not reject.is_filtered]
                self.rejects += len(rejects)
                self.recent_rejects.extend((event.shard, reject) for reject in rejects)
            case ShardDone():
                self.shards_done += 1
                self._forget(shard=event.shard)
            case ReplicaJoined():
                self.replicas.add(event.replica)
            case ReplicaLost() | ReplicaReleased():
                self.replicas.discard(event.replica)
                self._forget(replica=event.replica)

    def _forget(self, replica: int | None = None, shard: str | None = None) -> None:
        self._on_the_way = {
            (by, of): counts for (by, of), counts in self._on_the_way.items() if by != replica and of != shard
        }

    @property
    def decoding(self) -> int:
        """Samples that are decoded, with nothing for a device yet."""
        return sum(decoding for decoding, _ in self._on_the_way.values())

    @property
    def ready(self) -> int:
        """Samples whose next frames wait for a device."""
        return sum(ready for _, ready in self._on_the_way.values())

    def rate(self, now_seconds: float) -> float:
        """Frames or tokens a second since the run began."""
        return round((self.frames + self.tokens) / max(now_seconds - self.began_at, 1e-9), 1)

    def recent_rate(self, now_seconds: float) -> float:
        """Frames or tokens a second in the last minute, or since the run began where that is shorter."""
        seconds = max(min(now_seconds - self.began_at, RECENT_SECONDS), 1e-9)
        return round(sum(one.frames + one.tokens for one in self._in_last_minute(now_seconds)) / seconds, 1)

    def recent_busy(self, now_seconds: float) -> float | None:
        """The share of the last minute in which devices encoded; None where none said."""
        recent = self._in_last_minute(now_seconds)
        encoding, idle = sum(one.encode_seconds for one in recent), sum(one.idle_seconds for one in recent)
        return busy_fraction({ENCODE: encoding, IDLE: idle})

    def seconds_left(self, shards: int, now_seconds: float) -> float | None:
        """How long the rest of `shards` takes as fast as those of this run; None before its first is done."""
        made = self.shards_done - self._done_before
        return (shards - self.shards_done) * (now_seconds - self.began_at) / made if made else None

    def _in_last_minute(self, now_seconds: float) -> list[Progress]:
        while self._recent and self._recent[0][0] < now_seconds - RECENT_SECONDS:
            self._recent.popleft()
        return [event for _, event in self._recent]
