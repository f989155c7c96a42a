"""Kills random processes of runs under way until enough were killed, and compares what stands with an undisturbed run.

    python -m benchmarks.faults --kills 200 --seconds 600

Driver, replicas and decoders are killed with SIGKILL. A driver that died is started again; a run that ended is
compared, and the next one begins in a new root. The videos are good, damaged, and no videos at all.
"""

import argparse
import contextlib
import io
import json
import math
import os
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.s3_server import s3_server
from pipeline.audit.verify import Verified, verify
from pipeline.config.load import load_config
from pipeline.input.listing import shards_of
from pipeline.input.pack import add_member
from pipeline.latents.load import load_encoder
from pipeline.latents.task import ShardTask
from pipeline.output.manifests import read_manifests
from pipeline.output.parts import read_rows
from pipeline.output.paths import done_shards, latent_files, reject_files
from pipeline.run import with_convolutions
from pipeline.storage.store import Store
from pipeline.video.decoder import LocalDecoder
from pipeline.video.synthetic.videos import make_video

ROOT = Path(__file__).parent.parent
TITLES = {"replica": "ray::Replica", "decoder": "ray::_decode"}
WEIGHTS = {"driver": 1, "replica": 2, "decoder": 7}  # a driver takes ten seconds to come back, a decoder none
EARLY = 0.2  # share of drivers that meet the first kill before their decoders are at work
SHARDS = 4
PATIENCE_SECONDS = 60.0
HANG_SECONDS = 900.0  # a run that nobody disturbs any more has ended long before

Process = tuple[int, str]  # its id, and when it began: ids are used again
Root = tuple[dict[str, bytes], Counter[tuple[str, int, int]], set[tuple[str, int]]]


def make_shards(folder: Path, samples: int, seed: int) -> None:
    """Shards in which every third sample is hostile."""
    chance = random.Random(seed)
    videos = [make_video(30 + number, 8, *((96, 64), (64, 96))[number % 2], seed=number) for number in range(8)]
    for shard in range(SHARDS):
        with tarfile.open(folder / f"s{shard}.tar", "w") as tar:
            for number in range(samples):
                video = chance.choice(videos)
                content = hostile(video, chance) if number % 3 == 2 else video
                add_member(tar, f"clip-{number:03d}.mp4", io.BytesIO(content), len(content))
                caption = b"caption %d" % number
                add_member(tar, f"clip-{number:03d}.txt", io.BytesIO(caption), len(caption))


def hostile(video: bytes, chance: random.Random) -> bytes:
    """A video that is cut, damaged, empty, or a page."""
    damaged = bytearray(video)
    for _ in range(20):
        damaged[chance.randrange(len(video))] ^= 1 << chance.randrange(8)
    return chance.choice([video[: chance.randrange(len(video))], bytes(damaged), b"", b"<html>404</html>"])


def write_config(path: Path, shards: Path, out: str, frames: int) -> str:
    config = {
        "input": {"shards": f"{shards}/*.tar"},
        "output": {"path": out, "part_samples": 4},
        "clip": {"frames": frames, "fps": None, "buckets": ["32x48", "48x32"]},
        "encoder": {"name": "tiny", "weights": "random:0", "dtype": "float32"},
        "limits": {"max_reject_fraction": 1.0, "max_attempts": 20},  # kills must not use up the attempts
    }
    path.write_text(json.dumps(config))
    return str(path)


def undisturbed(path: str) -> Root:
    """What the run of a configuration writes in this process, where nobody kills anything."""
    config = with_convolutions(load_config(path), {})  # as a run notes it: `tiny` has nothing to choose
    loaded, store = load_encoder(config.encoder, device="cpu"), Store(config.output.path)
    task = ShardTask(config, loaded, LocalDecoder(config, loaded.spec, loaded.receptive_field), store)
    for shard in shards_of(config.input):
        for _ in task.run(shard):
            pass
    return read_root(store)


def start(config: str, ray_folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "jobs", "run", config]
    environment = os.environ | {"RAY_TMPDIR": str(ray_folder)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def status_of(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from its third on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def family(pid: int) -> dict[Process, str]:
    """The command line of a process and of all that it started."""
    parents: dict[Process, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            status = status_of(int(folder.name))
            parents[int(folder.name), status[19]] = int(status[1])
    found, grown = {pid}, True
    while grown:
        more = {child for (child, _), parent in parents.items() if parent in found} - found
        found, grown = found | more, bool(more)
    return {process: title_of(process[0]) for process in parents if process[0] in found}


def title_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    return ""


@dataclass(slots=True)
class Soak:
    """Kills so far, and what was found in the roots of the runs that ended."""

    chance: random.Random
    deadline: float
    wanted: int
    kills: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    started: set[Process] = field(default_factory=set)

    @property
    def enough(self) -> bool:
        return self.kills.total() >= self.wanted or time.monotonic() > self.deadline

    def disturb(self, config: str, ray_folder: Path) -> None:
        """Starts a run, kills, starts again, until it has ended; without kills once there were enough."""
        while True:
            driver = start(config, ray_folder)
            self.found["starts"] += 1
            if self.chance.random() > EARLY:
                self._wait_for("decoder", driver)
            while driver.poll() is None and not self.enough:
                self._kill_one(driver)
            if driver.wait(HANG_SECONDS) == 0:
                return

    def _kill_one(self, driver: subprocess.Popen[bytes]) -> None:
        time.sleep(self.chance.uniform(0.1, 1.5))
        spared = {kind: weight for kind, weight in WEIGHTS.items() if not self.kills[kind]}
        weights = spared or WEIGHTS  # few kills meet each kind too
        kind = self.chance.choices(list(weights), list(weights.values()))[0]
        there = [driver.pid] if kind == "driver" else self._wait_for(kind, driver)
        if driver.poll() is None and there:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.chance.choice(there), signal.SIGKILL)
                self.kills[kind] += 1
        if kind == "driver":
            driver.wait()

    def _wait_for(self, kind: str, driver: subprocess.Popen[bytes]) -> list[int]:
        """Processes of a kind, as soon as there are any; none where the driver ends or patience does."""
        until = time.monotonic() + PATIENCE_SECONDS
        while driver.poll() is None and time.monotonic() < until:
            members = family(driver.pid)
            self.started |= members.keys()
            if there := [pid for (pid, _), title in members.items() if title.startswith(TITLES[kind])]:
                return there
            time.sleep(0.1)
        return []

    def clean(self) -> None:
        """Ends what runs that were killed left behind."""
        for pid, began in self.started:
            with contextlib.suppress(OSError):
                if status_of(pid)[19] == began:
                    os.kill(pid, signal.SIGKILL)

    def compare(self, calm: Root, store: Store) -> None:
        """Counts what differs from the undisturbed run."""
        files, clips, accounted = read_root(store)
        calm_files, calm_clips, calm_accounted = calm
        self.found.update(
            runs=1,
            samples=len(calm_accounted),
            clips=calm_clips.total(),
            samples_lost=len(calm_accounted - accounted),
            clips_lost=(calm_clips - clips).total(),
            clips_duplicated=sum(count - 1 for count in clips.values()),
            files=len(calm_files),
            files_different=sum(files.get(path) != calm_files.get(path) for path in files.keys() | calm_files.keys()),
            problems=sum(1 for _ in verify(store, Verified())),
        )


def read_root(store: Store) -> Root:
    """Parts and reject files by path; how often each clip has a row; samples with a row or a reject in manifests."""
    parts = list(latent_files(store))
    files = {path: store.read(path) for path in parts}
    files |= {path: store.read(path) for path in reject_files(store)}
    clips: Counter[tuple[str, int, int]] = Counter()
    for path in parts:
        rows = read_rows(io.BytesIO(files[path]))
        clips.update((row["shard"], row["sample_index"], row["window_index"]) for row in rows)
    accounted = {(shard, sample) for shard, sample, _ in clips}
    for manifest in read_manifests(store, done_shards(store)):
        accounted |= {(manifest["shard"]["name"], reject["sample_index"]) for reject in manifest["rejects"]}
    return files, clips, accounted


def soak(storage: str, kills: int, seconds: float, samples: int, frames: int, seed: int) -> dict[str, object]:
    """Disturbs runs that write to `storage` (local, s3) and says what was done and found."""
    began = time.monotonic()
    state = Soak(random.Random(seed), math.inf, kills)
    with tempfile.TemporaryDirectory(prefix="lm-", ignore_cleanup_errors=True) as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        base = stack.enter_context(s3_server()) if storage == "s3" else str(folder)
        stack.callback(state.clean)
        make_shards(folder, samples, seed)
        calm = undisturbed(write_config(folder / "calm.json", folder, str(folder / "calm"), frames))
        state.deadline = time.monotonic() + seconds
        while not state.enough:
            out = f"{base}/{storage}-{state.found['runs']}"
            state.disturb(write_config(folder / "run.json", folder, out, frames), folder)
            state.compare(calm, Store(out))
    return {
        "kills": dict(sorted(state.kills.items())) | {"total": state.kills.total()},
        "seconds": round(time.monotonic() - began),
        **state.found,
    }


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="processes to kill, in all")
    parser.add_argument("--seconds", type=float, default=600.0, help="kill none after this time, in all")
    parser.add_argument("--samples", type=int, default=24, help=f"in each of {SHARDS} shards")
    parser.add_argument("--frames", type=int, default=17, help="of each clip")
    parser.add_argument("--storage", nargs="+", choices=("local", "s3"), default=["local", "s3"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "faults.json")
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    share = len(chosen.storage)
    results = {
        storage: soak(
            storage, chosen.kills // share, chosen.seconds / share, chosen.samples, chosen.frames, chosen.seed
        )
        for storage in chosen.storage
    }
    text = json.dumps({"seed": chosen.seed, "cpus": os.cpu_count(), **results}, indent=1)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
