"""What a run has come to so far, counted from its events."""

import time
from collections import deque
from dataclasses import dataclass, field

from pipeline.monitor.events import Event, Progress, ReplicaJoined, ReplicaLost, ReplicaReleased, ShardDone, SliceDone

RECENT_SECONDS = 60.0


@dataclass(slots=True)
class RunCounts:
    """Shards done, clips, rejects and frames since the run began, and the replicas that have an encoder now."""

    shards_done: int
    clips: int = 0
    rejects: int = 0
    frames: int = 0
    replicas: set[int] = field(default_factory=set)
    began_at: float = field(default_factory=time.monotonic)
    _recent: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, event: Event, now_seconds: float) -> None:
        match event:
            case Progress():
                self.frames += event.frames
                self._recent.append((now_seconds, event.frames))
            case SliceDone():
                self.clips += event.rows
                self.rejects += sum(not reject.is_filtered for reject in event.rejects)
            case ShardDone():
                self.shards_done += 1
            case ReplicaJoined():
                self.replicas.add(event.replica)
            case ReplicaLost() | ReplicaReleased():
                self.replicas.discard(event.replica)

    def rate(self, now_seconds: float) -> float:
        """Frames a second since the run began."""
        return round(self.frames / max(now_seconds - self.began_at, 1e-9), 1)

    def recent_rate(self, now_seconds: float) -> float:
        """Frames a second in the last minute, or since the run began where that is shorter."""
        while self._recent and self._recent[0][0] < now_seconds - RECENT_SECONDS:
            self._recent.popleft()
        seconds = max(min(now_seconds - self.began_at, RECENT_SECONDS), 1e-9)
        return round(sum(frames for _, frames in self._recent) / seconds, 1)
