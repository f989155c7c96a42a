"""How busy a device is kept: `bench pipeline --simulate` in the cases that docs/throughput.md names.

Each case is a command in a process of its own, and may be run alone. `python -m benchmarks.feed [CASE ...]` writes them
to benchmarks/results/feed.json, beside those that stand there.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.machine import processor_and_cores
from benchmarks.s3_server import s3_server

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "feed.json"
SMALL = ["--shape", "49x128x192"]  # pictures that leave the cores idle at 25 clips a second
CASES = {
    "4 ms, decoder 18 ms": ["--simulate", "4", "--simulate-decode", "18", "--peers", "ray-data"],
    "12 ms, decoder 42 ms": ["--simulate", "12", "--simulate-decode", "42", "--peers", "ray-data"],
    "device and decoder free": ["--simulate", "0", "--simulate-decode", "0", "--clips", "200", "--peers", "ray-data"],
    "device and decoder free, four replicas": [
        *("--simulate", "0", "--simulate-decode", "0", "--clips", "400", "--replicas", "4", "--peers"),
    ],
    "4 ms, decoder 18 ms, a video of 8 s at the head": [
        *("--simulate", "4", "--simulate-decode", "18", "--slow-video", "8", "--peers"),
    ],
    "40 ms a clip, a store of 2 s a file": [
        *("--simulate", "0.8163", "--simulate-decode", "0", "--clips", "1500", *SMALL),
        *("output.part_samples=64", "--peers"),
    ],
}
SLOW_STORE = "40 ms a clip, a store of 2 s a file"
PUT_SECONDS = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of: {'; '.join(CASES)} (default: all)")
    parser.add_argument("--rounds", type=int, default=1, help="how often ours and the peer take turns (default: 1)")
    chosen = parser.parse_args()
    for name in chosen.cases or CASES:
        measured = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        RESULTS.write_text(
            json.dumps(measured | {name: {**processor_and_cores(), **measure(name, chosen.rounds)}}, indent=1) + "\n"
        )


def measure(name: str, rounds: int) -> dict[str, object]:
    """The JSON of a case."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="latentmill-feed-"))
        out = ["--out", stack.enter_context(s3_server(PUT_SECONDS))] if name == SLOW_STORE else []
        file = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "jobs", "bench", "pipeline", "--rounds", str(rounds), "--json", str(file)]
        subprocess.run([*command, *out, *CASES[name]], cwd=ROOT, check=True)
        figures: dict[str, object] = json.loads(file.read_text())
    return figures


if __name__ == "__main__":
    main()
