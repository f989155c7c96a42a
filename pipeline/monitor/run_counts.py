"""What a run has come to so far, counted from its events."""

import time
from collections import deque
from dataclasses import dataclass, field

from pipeline.monitor.events import Event, Progress, ReplicaJoined, ReplicaLost, ReplicaReleased, ShardDone, SliceDone

RECENT_SECONDS = 60.0


@dataclass(slots=True)
class RunCounts:
    """What a run has made since it began, clips of frames or captions of tokens, and the replicas with an encoder."""

    shards_done: int
    clips: int = 0
    rejects: int = 0
    frames: int = 0
    captions: int = 0
    tokens: int = 0
    replicas: set[int] = field(default_factory=set)
    began_at: float = field(default_factory=time.monotonic)
    _recent: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, event: Event, now_seconds: float) -> None:
        match event:
            case Progress():
                self.frames += event.frames
                self.tokens += event.tokens
                self._recent.append((now_seconds, event.frames + event.tokens))
            case SliceDone():
                self.clips += event.rows
                self.captions += event.captions
                self.rejects += sum(not reject.is_filtered for reject in event.rejects)
            case ShardDone():
                self.shards_done += 1
            case ReplicaJoined():
                self.replicas.add(event.replica)
            case ReplicaLost() | ReplicaReleased():
                self.replicas.discard(event.replica)

    def rate(self, now_seconds: float) -> float:
        """Frames or tokens a second since the run began."""
        return round((self.frames + self.tokens) / max(now_seconds - self.began_at, 1e-9), 1)

    def recent_rate(self, now_seconds: float) -> float:
        """Frames or tokens a second in the last minute, or since the run began where that is shorter."""
        while self._recent and self._recent[0][0] < now_seconds - RECENT_SECONDS:
            self._recent.popleft()
        seconds = max(min(now_seconds - self.began_at, RECENT_SECONDS), 1e-9)
        return round(sum(encoded for _, encoded in self._recent) / seconds, 1)
