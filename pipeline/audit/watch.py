"""How a run moves, from looks at its output root one after the other: rates, and the time that is left."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.audit.status import ShardStatus
from pipeline.monitor.stages import busy_fraction
from pipeline.monitor.words import duration, number

WINDOW_LOOKS = 60  # over which rates are taken


@dataclass(frozen=True, slots=True)
class Look:
    """What stood in the output root at a time. `slices_expected` is None while no shard is done, which tells it."""

    at_seconds: float
    shards: int
    done: int
    slices: int
    slices_expected: float | None
    rows: int
    rejects: int
    busy: float | None


def look_of(shards: Sequence[ShardStatus], at_seconds: float) -> Look:
    """What to say of these shards; rows and rejects are those of finished ones."""
    done = [shard for shard in shards if shard.state == "done"]
    seconds = Counter[str]()
    for shard in done:
        seconds.update(shard.seconds)
    return Look(
        at_seconds=at_seconds,
        shards=len(shards),
        done=len(done),
        slices=sum(shard.slices for shard in shards),
        slices_expected=sum(shard.slices for shard in done) / len(done) * len(shards) if done else None,
        rows=sum(shard.rows for shard in done),
        rejects=sum(shard.rejects for shard in done),
        busy=busy_fraction(seconds),
    )


def line_of(looks: Sequence[Look]) -> str:
    """The last look in a line, with the rate since the first and the time left at that rate."""
    first, last = looks[0], looks[-1]
    words = [f"{last.done:,}/{last.shards:,} shards", f"{last.rows:,} clips", f"{last.rejects:,} rejects"]
    if last.busy is not None:
        words.append(f"device busy {last.busy:.0%}")
    made, took = last.slices - first.slices, last.at_seconds - first.at_seconds
    if not made or not took:
        words.append(f"nothing committed in {duration(took)}" if took else "waiting for the next look")
    else:
        words.append(f"{number(made / took * 60)} parts a minute")
        if last.slices_expected is not None:
            left = max(0.0, last.slices_expected - last.slices)
            words.append(f"about {duration(left * took / made)} left")
    return ", ".join(words)
