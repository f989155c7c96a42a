"""What the driver of a run takes for each clip, with as many replicas as a night has.

    python -m benchmarks.driver --replicas 64 --clips-per-second 5

Real actors on a local Ray report what replicas report, at the pace of GPUs; they decode and encode nothing, for which
a machine would need many more cores. The driver does all that it does in `latentmill run`: it hands out shards, and
counts, shows and keeps what happens. Writes benchmarks/results/driver.json.
"""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from rich.console import Console

from benchmarks.machine import processor_and_cores
from jobs.commands.bench_simulated import DriverSample, driver_sample, of_driver
from pipeline.audit.history_file import kept_history
from pipeline.cluster.joining import connected
from pipeline.cluster.replica import Task
from pipeline.config.load import Config, parse_config
from pipeline.latents.helping import Claims
from pipeline.latents.stopwatch import Stopwatch
from pipeline.monitor.events import Event, Progress, ReplicaJoined, ShardDone, ShardRead, SliceDone
from pipeline.monitor.progress import RunProgress
from pipeline.records import ShardRef, TarShard
from pipeline.run import made_by_replicas
from pipeline.storage.store import RetiringStore, Store

RESULTS = Path(__file__).parent / "results" / "driver.json"
FRAMES, SHARD_CLIPS, SLICE_CLIPS, AHEAD_CLIPS = 49, 256, 64, 2
SETTLING_SECONDS, SECONDS = 10.0, 60.0


class TimeIsOverError(Exception):
    """Enough was measured."""


@dataclass(frozen=True, slots=True)
class Reporting:
    """A task that says what encoding a shard would, clip by clip, and makes nothing."""

    store: RetiringStore
    clips_per_second: float
    draining: threading.Event = field(default_factory=threading.Event)

    def run(self, shard: ShardRef, watch: Stopwatch) -> Iterator[Event]:
        due_at = time.monotonic()
        for clip in range(SHARD_CLIPS):
            due_at += 1 / self.clips_per_second
            time.sleep(max(0.0, due_at - time.monotonic()))
            yield Progress(shard.name, FRAMES, encode_seconds=1 / self.clips_per_second, decoding=1, ready=1)
            if clip == SHARD_CLIPS - AHEAD_CLIPS:
                yield ShardRead(shard.name)
            if (clip + 1) % SLICE_CLIPS == 0:
                yield SliceDone(shard.name, clip // SLICE_CLIPS, SLICE_CLIPS, SLICE_CLIPS, (), 1 << 26, reused=False)
        yield ShardDone(shard.name, SHARD_CLIPS, {})

    def help(self, shard: ShardRef, place: int, watch: Stopwatch) -> Iterator[Event]:
        raise AssertionError("there are shards for all replicas until the time is over")


@dataclass(frozen=True, slots=True)
class ReportingJob:
    """Replicas that only report."""

    config: Config
    clips_per_second: float
    run: str = "driver-benchmark"
    decodes: bool = False

    def task(self, device: str, claims: Claims, replicas: int) -> Task:
        return Reporting(RetiringStore(self.config.output.path), self.clips_per_second)


@dataclass(slots=True)
class Meter:
    """The driver's own CPU time and memory, from when all replicas have joined and settled until the time is over."""

    replicas: int
    joined: int = 0
    clips: int = 0
    events: int = 0
    began: DriverSample | None = None
    settled_at: float = float("inf")

    def add(self, event: Event) -> None:
        self.events += 1
        if isinstance(event, ReplicaJoined):
            self.joined += 1
            self.settled_at = time.monotonic() + SETTLING_SECONDS
        elif isinstance(event, Progress):
            self.clips += event.frames // FRAMES

    def check(self) -> None:
        """Raises TimeIsOverError when the time is over."""
        now = time.monotonic()
        if self.began is None and self.joined == self.replicas and now >= self.settled_at:
            self.began, self.clips, self.events = driver_sample(), 0, 0
        if self.began is not None and now >= self.began.at + SECONDS:
            raise TimeIsOverError

    def figures(self) -> dict[str, float]:
        assert self.began
        ended = driver_sample()
        seconds = ended.at - self.began.at
        return {
            "seconds": round(seconds, 1),
            "clips_per_second": round(self.clips / seconds, 1),
            "events_per_second": round(self.events / seconds, 1),
            "driver_cpu_share_of_a_core": round((ended.cpu_seconds - self.began.cpu_seconds) / seconds, 4),
            **of_driver([self.began, ended], self.began.at, self.clips),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=64, help="actors that report (default: 64)")
    parser.add_argument("--clips-per-second", type=float, default=5.0, help="of each of them (default: 5)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="latentmill-driver-") as folder:
        figures = measure(folder, chosen.replicas, chosen.clips_per_second)
    rates = {"replicas": chosen.replicas, "clips_per_second_of_a_replica": chosen.clips_per_second}
    RESULTS.write_text(json.dumps({**processor_and_cores(), **rates, **figures}, indent=1) + "\n")
    print(RESULTS.read_text())


def measure(folder: str, replicas: int, clips_per_second: float) -> dict[str, float]:
    """Figures of a run that is ended when its time is over."""
    tree = {
        "input": {"shards": f"{folder}/*.tar"},
        "output": {"path": f"{folder}/out"},
        "encoder": {"name": "simulated", "weights": "simulated:4"},
        "runtime": {"replicas": replicas},
    }
    job, meter = ReportingJob(parse_config(tree), clips_per_second), Meter(replicas)
    shards = [TarShard(f"shard-{number:06d}", "") for number in range(replicas * 100)]
    display = RunProgress(len(shards), 0, Console(file=StringIO(), force_terminal=True, width=120))

    def check() -> None:
        display.tick()
        meter.check()

    with (
        display,
        connected(job.config.runtime),
        kept_history(Store(job.config.output.path), check) as (history, checked),
    ):
        try:
            for event in made_by_replicas(job, shards, display.started, checked):
                history.add(event)
                display.event(event)
                meter.add(event)
        except TimeIsOverError:
            return meter.figures()
    raise AssertionError("there are shards until the time is over")


if __name__ == "__main__":
    main()
