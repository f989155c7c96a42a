"""The loader beside other readers of the same rows: speed, memory, what is read, what a resume loses, how it starts.

Each measurement is a process of its own, and readers take turns. A peer that cannot be imported is named and left out.
`python -m benchmarks.loader` writes benchmarks/results/loader.json.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.counting_store import Counted, counting_s3
from benchmarks.loader_data import Shape, write_index, write_mds, write_rows
from benchmarks.loader_readers import READERS, missing
from benchmarks.machine import processor_and_cores

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "loader.json"
LARGE: tuple[Shape, ...] = ((16, 13, 60, 90), (16, 13, 90, 60))  # 2.25 MB each in float16
SMALL: tuple[Shape, ...] = ((4, 2, 8, 12), (4, 2, 12, 8))
OURS = "ours"
START = """
import json, sys, time
from benchmarks.loader_readers import memory_mb
from pipeline.dataset.loader import Latents
before, began, cpu = memory_mb("VmRSS"), time.monotonic(), time.process_time()
Latents(sys.argv[1], batch=4, step_batches=64).steps(0)
figures = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu}
print(json.dumps(figures | {"memory_mb": memory_mb("VmHWM") - before}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=128, help="of 2.25 MB each (default: 128)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stops", type=int, default=10, help="stops and resumes of each reader (default: 10)")
    parser.add_argument("--index-rows", type=int, nargs="*", default=[1_000_000, 10_000_000])
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    figures = processor_and_cores()
    figures["missing"] = missing()
    names = [name for name in READERS if name not in figures["missing"]]
    with tempfile.TemporaryDirectory(prefix="latentmill-loader-") as text:
        folder = Path(text)
        figures["local"] = local(folder, names, chosen.rows, chosen.rounds)
        speeds = {name: measured["samples_per_second"] for name, measured in figures["local"].items()}
        figures["as_fast_as_a_peer"] = {name: round(speeds[OURS] / speeds[name], 2) for name in speeds if name != OURS}
        figures["resume"] = resumed(folder, names, chosen.stops)
        figures["s3"] = on_s3(folder, names)
        figures["start"] = {f"{rows:,} rows": start(folder, rows) for rows in chosen.index_rows}
    chosen.out.write_text(json.dumps(figures, indent=1) + "\n")
    print(chosen.out.read_text(), end="")


def local(folder: Path, names: list[str], rows: int, rounds: int) -> dict[str, dict[str, float]]:
    """Medians of one epoch of each reader on local disk, from a page cache that has the files."""
    root = write_rows(folder / "large", rows, LARGE)
    write_mds(root)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            found[name].append(_read(name, root, folder))
    return {name: _medians(measured) for name, measured in found.items()}


def _medians(measured: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(median(one[key] for one in measured), 2) for key in measured[0]}


def _read(name: str, root: str, folder: Path, *stop: str) -> Any:
    """What `benchmarks.loader_readers` prints, in a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "benchmarks.loader_readers", name, root, scratch, *stop]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=_environment(scratch), timeout=600)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _environment(scratch: str) -> dict[str, str]:
    return {**os.environ, "HF_HOME": scratch, "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}


def resumed(folder: Path, names: list[str], stops: int, rows: int = 320) -> dict[str, dict[str, float]]:
    """Rows lost and repeated in an epoch that is stopped once at random and gone on with, over some stops."""
    root = write_rows(folder / "small", rows, SMALL)
    write_mds(root)
    return {name: _resumed(name, root, folder, stops) for name in names}


def _resumed(name: str, root: str, folder: Path, stops: int) -> dict[str, float]:
    chance, lost, repeated, changed = random.Random(0), 0, 0, 0
    whole = _read(name, root, folder, "0")[1]
    for _ in range(stops):
        before, after = _read(name, root, folder, str(chance.randrange(1, len(whole) - 20)))
        lost += len(set(whole) - set(before + after))
        repeated += sum(count - 1 for count in Counter(before + after).values())
        changed += before + after != whole
    return {"stops": stops, "rows_lost": lost, "rows_repeated": repeated, "stops_with_another_order": changed}


def on_s3(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """Requests and bytes a sample of one epoch of 64 rows on a local S3 server, the start included."""
    root = write_rows(folder / "for-s3", 64, LARGE)
    found: dict[str, dict[str, Any]] = {}
    with counting_s3() as (url, counted):
        import fsspec

        fsspec.filesystem("s3", skip_instance_cache=True).put(root, f"{url}/run", recursive=True)
        for name in (name for name in names if READERS[name].reads_urls):
            counted.clear()
            samples = _read(name, f"{url}/run", folder)["samples"]
            found[name] = _a_sample(counted, samples)
    return found


def _a_sample(counted: Counted, samples: float) -> dict[str, Any]:
    return {
        "requests": round(counted.requests / samples, 2),
        "megabytes": round(counted.sent_bytes / samples / 1e6, 3),
        "requests_by_kind": dict(sorted(counted.kinds.items())),
    }


def start(folder: Path, rows: int) -> dict[str, float]:
    """From nothing to the order of the first epoch, with an index of 1,000 rows a shard, in the page cache."""
    root = write_index(folder / f"index-{rows}", rows)
    done = subprocess.run([sys.executable, "-c", START, root], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name: round(value, 2) for name, value in json.loads(done.stdout).items()}


if __name__ == "__main__":
    main()
