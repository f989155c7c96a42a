"""What a run that goes on says of itself beside its output, so that `status` can tell it from any machine."""

from typing import TypedDict

from pipeline.monitor.run_counts import RunCounts
from pipeline.monitor.words import duration
from pipeline.storage.urls import without_secrets

FRESH_SECONDS = 60.0  # a run that has said nothing for longer is taken for one that ended


class LiveReject(TypedDict):
    """A sample, or a clip of it, that gave no latent a while ago."""

    shard: str
    key: str
    why: str


class LiveJson(TypedDict):
    """What a driver counted since it began, in its history/TIME.json.

    Rates are frames a second; `recent` is the last minute. `recent_busy_fraction` is None while no device said.
    """

    at_unix_seconds: float
    began_unix_seconds: int
    host: str
    replicas: int
    frames_per_second: float
    recent_frames_per_second: float
    recent_busy_fraction: float | None
    decoding: int
    ready: int
    recent_rejects: list[LiveReject]


def live_json(
    counts: RunCounts, host: str, began_unix_seconds: int, now_seconds: float, at_unix_seconds: float
) -> LiveJson:
    """What to say of a run at a time, which is given by both clocks."""
    return {
        "at_unix_seconds": at_unix_seconds,
        "began_unix_seconds": began_unix_seconds,
        "host": host,
        "replicas": len(counts.replicas),
        "frames_per_second": counts.rate(now_seconds),
        "recent_frames_per_second": counts.recent_rate(now_seconds),
        "recent_busy_fraction": counts.recent_busy(now_seconds),
        "decoding": counts.decoding,
        "ready": counts.ready,
        "recent_rejects": [
            {"shard": shard, "key": reject.key, "why": without_secrets(str(reject.why))}
            for shard, reject in counts.recent_rejects
        ],
    }


def feeding(busy: float, decoding: int, ready: int) -> str:
    """How well devices are fed, in words."""
    return f"device busy {busy:.0%}, samples decoding: {decoding:,}, ready: {ready:,}"


def reject_line(reject: LiveReject) -> str:
    return f"rejected lately: {reject['shard']}/{reject['key']}: {reject['why']}"


def is_fresh(live: LiveJson, at_unix_seconds: float) -> bool:
    return at_unix_seconds - live["at_unix_seconds"] <= FRESH_SECONDS


def live_line(live: LiveJson, at_unix_seconds: float) -> str:
    """A run that goes on, in a line; or, where it has said nothing for a while, that it may have ended."""
    if not is_fresh(live, at_unix_seconds):
        silent = duration(at_unix_seconds - live["at_unix_seconds"])
        return f"a run at {live['host']} has said nothing for {silent}: it was killed, or cannot write here"
    words = [
        f"a run at {live['host']} since {duration(at_unix_seconds - live['began_unix_seconds'])}",
        f"{live['replicas']:,} replicas",
        f"{live['recent_frames_per_second']:,.1f} frames/s ({live['frames_per_second']:,.1f} on average)",
    ]
    if (busy := live["recent_busy_fraction"]) is not None:
        words.append(feeding(busy, live["decoding"], live["ready"]))
    return ", ".join(words)
