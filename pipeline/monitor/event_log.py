"""What a run logs for machines: each event as one JSON object on one line, with run, shard, slice and sample.

Filtered samples, of which there may be millions, are counted in their slice's line and have none of their own.
"""

import json
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from types import TracebackType
from typing import Any, TextIO

from pipeline.monitor.events import (
    ConvolutionsHalved,
    Event,
    GpuExcluded,
    LogsNotKept,
    ReplicaJoined,
    ReplicaLost,
    ReplicaReleased,
    ShardBegun,
    ShardDone,
    ShardFailed,
    SliceDone,
    WaitingForGpus,
)
from pipeline.monitor.run_counts import RunCounts
from pipeline.records import Reject
from pipeline.storage.urls import without_secrets

HEARTBEAT_SECONDS = 60.0

Values = dict[str, Any]


def values_of(event: Event) -> Iterator[Values]:
    """The lines for an event: none for Progress, and for a new slice also one for each of its rejects."""
    match event:
        case ShardBegun():
            helps = "helps with" if event.helps else "began"
            message = f"replica {event.replica} {helps} shard {event.shard}"
            yield _line("shard_begun", message, shard=event.shard, replica=event.replica, helps=event.helps)
        case SliceDone():
            yield from _slice(event)
        case ShardDone():
            seconds = {stage: round(spent, 3) for stage, spent in event.seconds.items()}
            message = f"shard {event.shard} is done"
            yield _line("shard_done", message, shard=event.shard, samples=event.samples, seconds=seconds)
        case ShardFailed():
            level, message = "error" if event.final else "warning", event.error
            yield _line("shard_failed", message, level, shard=event.shard, final=event.final)
        case ReplicaJoined():
            message = f"replica {event.replica} loaded its encoder"
            yield _line("replica_joined", message, **_whose(event))
        case ReplicaLost():
            yield _line("replica_lost", event.error, "warning", **_whose(event))
        case ReplicaReleased():
            yield _line("replica_released", f"replica {event.replica} finds no work any more", **_whose(event))
        case WaitingForGpus():
            yield _line("waiting_for_gpus", str(event), "warning", replicas=event.replicas, gpus=event.gpus)
        case GpuExcluded():
            where: Values = {"node": event.node, "address": event.address, "gpu": event.number}
            yield _line("gpu_excluded", str(event), "warning", **where, error=event.error)
        case ConvolutionsHalved():
            yield _line("convolutions_halved", str(event), "warning", shard=event.shard, times=event.times)
        case LogsNotKept():
            yield _line("logs_not_kept", event.error, "warning")


def _whose(event: ReplicaJoined | ReplicaLost | ReplicaReleased) -> Values:
    return {"replica": event.replica, "node": event.node, "address": event.address}


def _slice(event: SliceDone) -> Iterator[Values]:
    rejects = [reject for reject in event.rejects if not reject.is_filtered]
    name = "slice_found" if event.reused else "slice_committed"
    counts: Values = {"samples": event.samples, "clips": event.rows, "bytes": event.size_bytes}
    counts |= {"captions": event.captions} if event.captions else {}
    counts |= {"rejects": len(rejects), "filtered": len(event.rejects) - len(rejects)}
    message = f"slice {event.slice_index} {'was committed before' if event.reused else 'is committed'}"
    yield _line(name, message, shard=event.shard, slice=event.slice_index, **counts)
    if not event.reused:
        yield from (_reject(event, reject) for reject in rejects)


def _reject(event: SliceDone, reject: Reject) -> Values:
    return _line(
        "reject",
        reject.why.detail,
        "warning",
        shard=event.shard,
        slice=event.slice_index,
        sample=reject.key,
        sample_index=reject.sample_index,
        window_index=reject.window_index,
        stage=reject.why.stage,
        reason=reject.why.reason,
    )


def _line(event: str, message: str, level: str = "info", **values: Any) -> Values:
    return {"level": level, "event": event, **values, "message": without_secrets(message)}


class EventLog:
    """Writes a run's lines as they happen, in place of RunProgress."""

    def __init__(self, shards: int, shards_done: int, stream: TextIO, of_texts: bool = False) -> None:
        self._shards, self._left, self._stream = shards, shards - shards_done, stream
        self._of_texts = of_texts
        self._run, self._counts = "", RunCounts(shards_done)
        self._heartbeat_at = time.monotonic() + HEARTBEAT_SECONDS

    def __enter__(self) -> "EventLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None:
            self._write(_line("run_stopped", f"{kind.__name__ if kind else ''}: {error}", "error"))

    def started(self, replicas: int, wanted: int, run: str) -> None:
        self._run = run
        message = f"{self._left:,} of {self._shards:,} shards to do"
        counts: Values = {
            "shards": self._shards,
            "shards_left": self._left,
            "replicas": replicas,
            "replicas_wanted": wanted,
        }
        self._write(_line("run_started", message, **counts))

    def event(self, event: Event) -> None:
        self._counts.add(event, time.monotonic())
        for values in values_of(event):
            self._write(values)

    def tick(self) -> None:
        """Writes how far the run is, once a minute; call it often."""
        if (now := time.monotonic()) >= self._heartbeat_at:
            self._heartbeat_at = now + HEARTBEAT_SECONDS
            counts = self._counts
            values: Values = {
                "shards": self._shards,
                "shards_done": counts.shards_done,
                "replicas": len(counts.replicas),
            }
            made, encoded = ("captions", "tokens") if self._of_texts else ("clips", "frames")
            values |= {made: getattr(counts, made), "rejects": counts.rejects, encoded: getattr(counts, encoded)}
            rates = (counts.rate(now), counts.recent_rate(now))
            values |= dict(zip((f"{encoded}_per_second", f"recent_{encoded}_per_second"), rates, strict=True))
            if (busy := counts.recent_busy(now)) is not None:
                values |= {"recent_busy_fraction": busy, "decoding": counts.decoding, "ready": counts.ready}
            self._write(_line("heartbeat", f"{counts.shards_done:,} shards are done", **values))

    def ended(self, run: str, exit_code: int, summary: Mapping[str, Any]) -> None:
        """The last line, with the totals of summary.json but not its statistics of latents."""
        self._run = run
        totals = {key: value for key, value in summary.items() if key != "latent_statistics"}
        level, message = ("error", "work is left or too much was rejected") if exit_code else ("info", "all is done")
        self._write(_line("run_ended", message, level, exit_code=exit_code, **totals))

    def _write(self, values: Values) -> None:
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        print(json.dumps({"time": now, "run": self._run, **values}), file=self._stream, flush=True)
