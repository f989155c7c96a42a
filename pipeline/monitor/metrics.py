"""What a run reports to a monitoring system: the table of metrics, and what each event and each stopwatch adds to them.

cluster/metrics.py sends them. No metric is tagged with a shard, sample or bucket: their number has no bound. Metrics
are for watching; the accounts of a run are its manifests.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from pipeline.errors import LatentmillError
from pipeline.monitor.events import Event, Progress, ReplicaLost, ShardDone, ShardFailed, SliceDone

PROGRESS_SECONDS = 1.0  # between two Progress events of a replica, or more
MOST_PROGRESS_PER_SECOND = 8.0  # of all replicas together: each takes the driver two milliseconds
SUMMED = ("frames", "tokens", "encode_seconds", "idle_seconds")  # of Progress events


@dataclass(frozen=True, slots=True)
class Metric:
    """A counter, which only grows, or a gauge. `tags` are those besides `run`."""

    name: str
    kind: Literal["counter", "gauge"]
    unit: str
    description: str
    tags: tuple[str, ...] = ()


# Counted by each replica: Ray adds the node and the process to every metric.
FRAMES = Metric("latentmill_frames_total", "counter", "frames", "Frames that went through the encoder")
TOKENS = Metric("latentmill_tokens_total", "counter", "tokens", "Tokens of captions that went through a text encoder")
STAGE_SECONDS = Metric(
    "latentmill_stage_seconds_total",
    "counter",
    "seconds",
    "Time of replicas by stage; `encode` keeps the device busy, `write` and `commit` run alongside",
    ("stage",),
)
# Counted once, by the driver, whichever replica reports it.
SAMPLES = Metric("latentmill_samples_total", "counter", "samples", "Samples of slices committed by this run")
CLIPS = Metric("latentmill_clips_total", "counter", "clips", "Clips committed by this run")
CAPTIONS = Metric("latentmill_captions_total", "counter", "captions", "Captions whose embedding this run committed")
BYTES = Metric("latentmill_written_bytes_total", "counter", "bytes", "Bytes of the parts committed by this run")
REJECTS = Metric(
    "latentmill_rejects_total", "counter", "rejects", "Samples or clips that gave no latent", ("stage", "reason")
)
FILTERED = Metric("latentmill_filtered_samples_total", "counter", "samples", "Samples left out as asked", ("reason",))
SHARDS_DONE = Metric("latentmill_shards_done_total", "counter", "shards", "Shards whose manifest this run saw written")
ATTEMPTS_FAILED = Metric(
    "latentmill_shard_attempts_failed_total",
    "counter",
    "attempts",
    "Attempts at a shard that failed; `fate` is retried or given_up",
    ("fate",),
)
REPLICAS_LOST = Metric("latentmill_replicas_lost_total", "counter", "replicas", "Replicas that died or were given up")
SHARDS = Metric("latentmill_shards", "gauge", "shards", "Shards left: waiting (the queue) or at_work", ("state",))
REPLICAS = Metric("latentmill_replicas", "gauge", "replicas", "Replicas: loading, idle or at_work", ("state",))

METRICS: tuple[Metric, ...] = (FRAMES, TOKENS, STAGE_SECONDS, SAMPLES, CLIPS, CAPTIONS, BYTES, REJECTS, FILTERED)
METRICS += (SHARDS_DONE, ATTEMPTS_FAILED, REPLICAS_LOST, SHARDS, REPLICAS)


@dataclass(frozen=True, slots=True)
class Point:
    """What a counter grows by, or the value that a gauge takes."""

    metric: Metric
    value: float
    tags: Mapping[str, str] = field(default_factory=dict)


def of_event(event: Event) -> Iterator[Point]:
    """What the driver counts of an event. A slice that was committed before this run counts for nothing."""
    match event:
        case SliceDone(reused=False):
            yield Point(SAMPLES, event.samples)
            yield Point(CLIPS, event.rows)
            if event.captions:
                yield Point(CAPTIONS, event.captions)
            yield Point(BYTES, event.size_bytes)
            for reject in event.rejects:
                if reject.is_filtered:
                    yield Point(FILTERED, 1, {"reason": reject.why.reason})
                else:
                    yield Point(REJECTS, 1, {"stage": reject.why.stage, "reason": reject.why.reason})
        case ShardDone():
            yield Point(SHARDS_DONE, 1)
        case ShardFailed():
            yield Point(ATTEMPTS_FAILED, 1, {"fate": "given_up" if event.final else "retried"})
        case ReplicaLost():
            yield Point(REPLICAS_LOST, 1)


def of_work(event: Event, before: Mapping[str, float], seconds: Mapping[str, float]) -> Iterator[Point]:
    """What a replica did up to one of its events; `before` has the seconds of its stopwatch at the previous one."""
    if isinstance(event, Progress) and event.frames:
        yield Point(FRAMES, event.frames)
    if isinstance(event, Progress) and event.tokens:
        yield Point(TOKENS, event.tokens)
    for stage, spent in seconds.items():
        if (more := spent - before.get(stage, 0.0)) > 0:
            yield Point(STAGE_SECONDS, more, {"stage": stage})


def _together(one: Progress, later: Progress) -> Progress:
    """What both say, and how many samples were on their way at the later one."""
    sums = {name: getattr(one, name) + getattr(later, name) for name in SUMMED}
    return replace(later, **sums)


def thinned(
    events: Iterable[Event], replicas: int = 1, now_seconds: Callable[[], float] = time.monotonic
) -> Iterator[Event]:
    """The same events with fewer Progress: one a second, or before another event, with the frames of all since.

    Otherwise the driver of a thousand replicas would be flooded with single samples; of many `replicas`, each says it
    less often.
    """
    pause_seconds = max(PROGRESS_SECONDS, replicas / MOST_PROGRESS_PER_SECOND)
    held: Progress | None = None
    due_at = now_seconds()
    try:
        for event in events:
            if isinstance(event, Progress):
                held = _together(held, event) if held else event
                if (now := now_seconds()) < due_at:
                    continue
                event, held, due_at = held, None, now + pause_seconds
            elif held:
                yield held
                held = None
            yield event
    except LatentmillError:
        if held:
            yield held  # its frames were encoded, whatever failed afterwards
        raise
    if held:
        yield held
