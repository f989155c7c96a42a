"""The control plane at scale: the run's own Fleet and listing, with replicas that are only simulated.

It encodes nothing and starts no Ray. `python -m benchmarks.scale` writes benchmarks/results/scale.json.
"""

import argparse
import heapq
import json
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.cluster.fleet import Fleet, ReplicaCount, Work, WorkQueue, shards_left
from pipeline.input.listing import list_shards
from pipeline.latents.helping import WORKERS_PER_SHARD, helping_order
from pipeline.output.paths import done_shards
from pipeline.records import TarShard
from pipeline.storage.store import Store

RESULTS = Path(__file__).parent / "results" / "scale.json"
SLICES = 16  # of a shard
SLICE_SECONDS = 60.0  # of a replica of speed 1
PREEMPTED_EVERY_SECONDS = 4 * 3600.0  # each replica, on average
START_SECONDS = 90.0


@dataclass(slots=True)
class Simulation:
    """Replicas of different speed make slices, and vanish at random; time is a heap of what happens next."""

    shards: int
    replicas: int
    helping: bool
    seed: int = 0
    now_seconds: float = 0.0
    made: int = 0
    driver_seconds: float = 0.0
    busy_seconds: float = 0.0
    dry_at_seconds: float = 0.0
    ideal_tail_seconds: float = 0.0
    _left: dict[str, set[int]] = field(default_factory=dict)
    _heap: list[tuple[float, int, str]] = field(default_factory=list)
    _slices: dict[int, tuple[Work, Iterator[int], int]] = field(default_factory=dict)
    _speed: dict[int, float] = field(default_factory=dict)
    _idle: set[int] = field(default_factory=set)

    def run(self) -> dict[str, Any]:
        chance = random.Random(self.seed)
        queue = WorkQueue(max_attempts=3)
        queue.extend(TarShard(f"shard-{number:06d}", "") for number in range(self.shards))
        fleet = Fleet(queue, ReplicaCount(1, self.replicas, WORKERS_PER_SHARD))
        self._start(fleet, chance)
        while fleet.unfinished:
            self.now_seconds, replica, what = heapq.heappop(self._heap)
            if replica in self._speed:
                self._happens(fleet, chance, replica, what)
                if not self.dry_at_seconds and not len(queue):
                    self._note_dry()
        return self._figures()

    def _note_dry(self) -> None:
        slices = sum(map(len, self._left.values()))
        self.dry_at_seconds = self.now_seconds
        self.ideal_tail_seconds = slices * SLICE_SECONDS / sum(self._speed.values())

    def _start(self, fleet: Fleet, chance: random.Random) -> None:
        began = time.process_time()
        for _ in range(fleet.to_start(self.replicas)):
            replica = fleet.join()
            self._speed[replica] = chance.lognormvariate(0, 0.2)
            lives = chance.expovariate(1 / PREEMPTED_EVERY_SECONDS)
            heapq.heappush(self._heap, (self.now_seconds + START_SECONDS, replica, "free"))
            heapq.heappush(self._heap, (self.now_seconds + lives, replica, "lost"))
        self.driver_seconds += time.process_time() - began

    def _happens(self, fleet: Fleet, chance: random.Random, replica: int, what: str) -> None:
        began = time.process_time()
        if what == "lost":
            self._lose(fleet, replica)
        elif what == "made":
            self._made(fleet, replica)
        else:
            self._idle.add(replica)
        self._feed(fleet)
        self.driver_seconds += time.process_time() - began
        if what == "lost":
            self._start(fleet, chance)

    def _lose(self, fleet: Fleet, replica: int) -> None:
        made = self._slices.pop(replica, None)
        self._idle.discard(replica)
        del self._speed[replica]
        if made:
            fleet.failed(replica, made[0], "preempted", node_lost=True)
        fleet.leave(replica)

    def _made(self, fleet: Fleet, replica: int) -> None:
        work, _, index = self._slices[replica]
        self.made += 1
        self.busy_seconds += SLICE_SECONDS / self._speed[replica]
        self._left[work.shard.name].discard(index)
        fleet.committed(replica, work.shard.name, index, reused=False)
        self._next_slice(fleet, replica)

    def _feed(self, fleet: Fleet) -> None:
        while self._idle and (self.helping or len(fleet.queue)):
            replica = next(iter(self._idle))
            work = fleet.assign(replica)
            if work is None:
                return
            self._idle.discard(replica)
            self._left.setdefault(work.shard.name, set(range(SLICES)))
            order = helping_order(SLICES, work.place) if work.place else range(SLICES)
            self._slices[replica] = (work, iter(order), -1)
            self._next_slice(fleet, replica)

    def _next_slice(self, fleet: Fleet, replica: int) -> None:
        """The next slice that is not committed yet; where there is none, the shard is done."""
        work, order, _ = self._slices[replica]
        index = next((index for index in order if index in self._left[work.shard.name]), None)
        if index is None:
            fleet.done(work.shard.name)
            fleet.idle(replica, work)
            del self._slices[replica]
            self._idle.add(replica)
        else:
            self._slices[replica] = (work, order, index)
            heapq.heappush(self._heap, (self.now_seconds + SLICE_SECONDS / self._speed[replica], replica, "made"))

    def _figures(self) -> dict[str, Any]:
        return {
            "shards": self.shards,
            "replicas": self.replicas,
            "helping": self.helping,
            "hours": round(self.now_seconds / 3600, 2),
            "tail_seconds_after_the_queue_is_dry": round(self.now_seconds - self.dry_at_seconds, 1),
            "the_same_if_no_replica_were_ever_idle": round(self.ideal_tail_seconds, 1),
            "busy_fraction": round(self.busy_seconds / (self.now_seconds * self.replicas), 4),
            "slices_made_twice_fraction": round(self.made / (self.shards * SLICES) - 1, 5),
            "driver_cpu_ms_per_shard": round(1000 * self.driver_seconds / self.shards, 3),
        }


def resume(shards: int) -> dict[str, Any]:
    """Time until the first replica can be fed, with 99% of the manifests there: one listing, no look at any shard."""
    with tempfile.TemporaryDirectory() as folder:
        refs = list_shards((f"{folder}/s-{{000000..{shards - 1:06d}}}.tar",))
        manifests = Path(folder) / "manifests"
        manifests.mkdir()
        for ref in refs[: shards * 99 // 100]:
            (manifests / f"{ref.name}.json").touch()
        began = time.monotonic()
        refs = list_shards((f"{folder}/s-{{000000..{shards - 1:06d}}}.tar",))
        left = shards_left(refs, done_shards(Store(folder)))
        return {"shards": shards, "left": len(left), "seconds_to_plan": round(time.monotonic() - began, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--replicas", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    runs = [Simulation(chosen.shards, chosen.replicas, helping).run() for helping in (False, True)]
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = {"simulated": runs, "resume": resume(chosen.shards), "peak_memory_mb": round(peak_mb)}
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(figures, indent=1) + "\n")
    print(chosen.out.read_text(), end="")


if __name__ == "__main__":
    main()
