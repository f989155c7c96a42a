"""A night on preemptible GPUs: nodes of a Ray cluster come and go at random while one run makes its latents.

    python -m benchmarks.night --nodes 8 --minutes 20

GPUs and videos are simulated; the head, the raylets and the driver are real processes. Nodes are killed with SIGKILL,
as a machine that loses its power. Writes benchmarks/results/night.json, with where the time of the GPUs went.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml
from ray.cluster_utils import Cluster

from pipeline.audit.verify import Verified, verify
from pipeline.input.pack import add_member
from pipeline.storage.store import Store
from pipeline.video.simulated import SimulatedVideo, write_simulated

RESULTS = Path(__file__).parent / "results" / "night.json"
OBJECT_STORE_BYTES = 80_000_000
FRAMES, SIDE_PX, FPS = 17, 32, 8
MS_PER_FRAME = 100.0
SHARD_SAMPLES = 24
SECONDS_BETWEEN_CHANGES = (10.0, 40.0)
PATIENCE_SECONDS = 300.0  # for what is left when the last node has come


@dataclass(slots=True)
class Night:
    """The nodes that are there now, when each came, and when those went that were killed (on the monotonic clock)."""

    cluster: Any
    most: int
    chance: random.Random
    there: list[Any] = field(default_factory=list)
    came: dict[str, float] = field(default_factory=dict)
    went: dict[str, float] = field(default_factory=dict)

    def come(self) -> None:
        node = self.cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=OBJECT_STORE_BYTES)
        self.there.append(node)
        self.came[node.node_id] = time.monotonic()

    def go(self) -> None:
        node = self.there.pop(self.chance.randrange(len(self.there)))
        (raylet,) = node.all_processes["raylet"]
        for process in [raylet.process.pid, *children(raylet.process.pid)]:  # which would outlive it by seconds
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.went[node.node_id] = time.monotonic()

    def change(self) -> None:
        """One node more or one less, half of them there on average."""
        if self.chance.random() * self.most < len(self.there):
            self.go()
        else:
            self.come()


@dataclass(slots=True)
class Replicas:
    """What the driver says of its replicas, line by line: when the first one of each node had loaded its encoder."""

    joined: dict[str, float] = field(default_factory=dict)

    def read(self, lines: Iterable[str]) -> None:
        for line in lines:
            if not line.startswith("{"):
                print(line, end="", flush=True)
                continue
            said = json.loads(line)
            if said["event"] != "slice_committed":
                print(said["time"], said["event"], said["message"], flush=True)
            if said["event"] == "replica_joined":
                self.joined.setdefault(said["node"], time.monotonic())


def children(process: int) -> list[int]:
    """The processes that a process has started: of a raylet its workers and its agents."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(status.read_text().rpartition(")")[2].split()[1]) == process:
                found.append(int(status.parent.name))
    return found


def make_shards(folder: Path, samples: int) -> None:
    video = write_simulated(SimulatedVideo(FRAMES, SIDE_PX, SIDE_PX, FPS, 0.0))
    for shard in range(-(-samples // SHARD_SAMPLES)):
        with tarfile.open(folder / f"s{shard:04d}.tar", "w") as tar:
            for number in range(SHARD_SAMPLES):
                add_member(tar, f"clip-{number:03d}.simulated", BytesIO(video), len(video))


def write_config(folder: Path, address: str) -> Path:
    config = {
        "input": {"shards": f"{folder}/*.tar", "video": ["simulated"]},
        "output": {"path": f"{folder}/out", "part_samples": 2},
        "clip": {"frames": FRAMES, "fps": FPS, "buckets": [f"{SIDE_PX}x{SIDE_PX}"]},
        "encoder": {"name": "simulated", "weights": f"simulated:{MS_PER_FRAME:g}:{folder}/busy"},
        "runtime": {"address": address, "wait_for_gpus_minutes": 30, "log": "json"},
    }
    path = folder / "night.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def rehearse(nodes: int, minutes: float, samples: int, seed: int) -> dict[str, Any]:
    head = {"num_cpus": 0, "object_store_memory": OBJECT_STORE_BYTES, "dashboard_port": None}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_shards(folder, samples)
            command = [sys.executable, "-m", "jobs", "run", str(write_config(folder, cluster.address))]
            night = Night(cluster, nodes, random.Random(seed))
            for _ in range(max(1, nodes // 2)):
                night.come()
            (folder / "busy").mkdir()
            replicas = Replicas()
            with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as driver:
                assert driver.stderr
                reader = threading.Thread(target=replicas.read, args=(driver.stderr,))
                reader.start()
                code, seconds = disturb(night, driver, minutes * 60)
                reader.join()
            times = times_of(night, replicas, folder / "busy")
            return figures(night, Store(f"{folder}/out"), code, seconds, times)
    finally:
        cluster.shutdown()


def disturb(night: Night, driver: "subprocess.Popen[str]", limit_seconds: float) -> tuple[int, float]:
    """Changes nodes until the time is over or the run has ended; then one node at least is left for what remains."""
    began = time.monotonic()
    while driver.poll() is None and time.monotonic() - began < limit_seconds:
        with suppress(subprocess.TimeoutExpired):
            driver.wait(night.chance.uniform(*SECONDS_BETWEEN_CHANGES))
        if driver.poll() is None:
            night.change()
    if not night.there:
        night.come()
    try:
        code = driver.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        driver.kill()
        code = driver.wait()
    return code, time.monotonic() - began


def times_of(night: Night, replicas: Replicas, busy: Path) -> dict[str, float]:
    """Seconds of all GPUs that were there: in all, until each had an encoder, and from there to its first clip."""
    end = time.monotonic()
    gone = {node: night.went.get(node, end) for node in night.came}
    first = [float(file.read_text().split(maxsplit=1)[0]) for file in busy.iterdir()]
    return {
        "there": sum(gone[node] - came for node, came in night.came.items()),
        "until_an_encoder_was_loaded": sum(
            replicas.joined.get(node, gone[node]) - came for node, came in night.came.items()
        ),
        "from_there_to_the_first_clip": sum(first) - sum(sorted(replicas.joined.values())[: len(first)]),
    }


def figures(night: Night, store: Store, code: int, seconds: float, times: dict[str, float]) -> dict[str, Any]:
    """What came of it. The busy fraction counts only frames that were kept, and the time in which replicas start."""
    seen = Verified()
    problems = list(map(str, verify(store, seen)))
    kept_seconds = seen.rows * FRAMES * MS_PER_FRAME / 1000
    rest = 2 * times["there"] - sum(times.values()) - kept_seconds
    times |= {"of_kept_clips": kept_seconds, "lost_or_idle": rest}
    return {
        "exit_code": code,
        "minutes": round(seconds / 60, 2),
        "most_nodes": night.most,
        "nodes_came": len(night.came),
        "nodes_killed": len(night.went),
        "samples": seen.samples,
        "clips": seen.rows,
        "problems": problems,
        "gpu_seconds": {key: round(value, 1) for key, value in times.items()},
        "busy_fraction": round(kept_seconds / times["there"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--samples", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    found = rehearse(chosen.nodes, chosen.minutes, chosen.samples, chosen.seed)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps({"seed": chosen.seed} | found, indent=1) + "\n")
    print(chosen.out.read_text(), end="")
    sys.exit(found["exit_code"] != 0 or bool(found["problems"]) or found["samples"] < chosen.samples)


if __name__ == "__main__":
    main()
