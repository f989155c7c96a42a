"""The matrix of docs/throughput.md: `bench pipeline --simulate` at several speeds of device and decoder.

Each case is one command in a process of its own. `python -m benchmarks.throughput` writes results/throughput.json after
each case, and at the end the table into docs/throughput.md; `--table` makes the table anew from what was measured.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import processor_and_cores
from benchmarks.peers import decoded
from encoder.spec import spec_of
from jobs.commands.bench_rehearsal import Rehearsal, config_of, make_shards, make_videos
from pipeline.input.listing import shards_of
from pipeline.input.samples import samples_of

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "throughput.json", ROOT / "docs" / "throughput.md"
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"  # between them stands the table of the page

DEVICE_MS = (16.4, 9.3, 4.9, 2.0)  # a frame of 49x480x720
DECODE_MS = (18.0, 42.0, None)  # a frame; None: real 720p videos
REPLICAS = (1, 4)
SHAPE, CPUS = (49, 480, 720), 16
CLIPS, QUICK_CLIPS = 40, 8
CLEARLY_BELOW = 0.9
HEADERS = ("device", "decoder", "replicas", "limit", "ceiling", "ours", "of it", "busy", "Ray Data", "busy", "serial")


@dataclass(frozen=True, slots=True)
class Case:
    """One command: milliseconds a frame of device and decoder (None: real videos), and simulated devices."""

    device_ms: float
    decode_ms: float | None
    replicas: int

    def command(self, clips: int, rounds: int, file: Path) -> list[str]:
        decoder = [] if self.decode_ms is None else ["--simulate-decode", f"{self.decode_ms:g}"]
        peers = ["ray-data", "serial"] if self.replicas == 1 else []  # whose starts take most of the time
        return [
            *(sys.executable, "-m", "jobs", "bench", "pipeline", "--simulate", f"{self.device_ms:g}", *decoder),
            *("--replicas", str(self.replicas), "--cpus", str(CPUS), "--shape", "x".join(map(str, SHAPE))),
            *("--clips", str(clips), "--rounds", str(rounds), "--peers", *peers, "--json", str(file)),
        ]


def cases() -> list[Case]:
    """For each number of replicas first the case in which device and decoder are free: the ceiling of what feeds."""
    return [
        Case(device_ms, decode_ms, replicas)
        for replicas in REPLICAS
        for device_ms, decode_ms in ((0.0, 0.0), *((device, decoder) for device in DEVICE_MS for decoder in DECODE_MS))
    ]


def main() -> None:
    options = parse()
    if not options.table:
        chosen = [case for case in cases() if case.replicas in options.replicas]
        measure(chosen, QUICK_CLIPS if options.quick else CLIPS, options.rounds)
    figures = "\n".join(table(json.loads(RESULTS.read_text())))
    print(figures)
    if not options.quick:
        PAGE.write_text(filled(PAGE.read_text(), figures))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="how often ours and the peers take turns (default: 1)")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_CLIPS} clips; the page stays as it is")
    text = "measure these alone, and keep what the file has of others"
    parser.add_argument("--replicas", type=int, nargs="+", choices=REPLICAS, default=REPLICAS, help=text)
    parser.add_argument("--table", action="store_true", help="measure nothing")
    return parser.parse_args()


def measure(chosen: Sequence[Case], clips: int, rounds: int) -> None:
    """Runs these cases, and writes what there is after each of them."""
    machine = processor_and_cores()
    measured = {"simulated": True, **machine, "clips": clips, "real_decode_cpu_seconds": real_decode_cpu_seconds()}
    before = json.loads(RESULTS.read_text())["results"] if RESULTS.exists() else []
    results = [one for one in before if one["replicas"] not in {case.replicas for case in chosen}]
    with tempfile.TemporaryDirectory(prefix="latentmill-throughput-") as folder:
        for number, case in enumerate(chosen):
            file = Path(folder) / f"{number}.json"
            subprocess.run(case.command(clips, rounds, file), cwd=ROOT, check=True)
            results.append(json.loads(file.read_text()))
            RESULTS.write_text(json.dumps({**measured, "results": results}, indent=1) + "\n")


def real_decode_cpu_seconds() -> float:
    """What decoding the clip of a real 720p video takes of one core, all threads together."""
    rehearsal = Rehearsal(0.0, None, cpus=1, clips=1, replicas=1, shape=SHAPE)
    with tempfile.TemporaryDirectory(prefix="latentmill-throughput-") as folder:
        shards = make_shards(Path(folder) / "shards", rehearsal, make_videos(rehearsal))
        config = config_of(rehearsal, [f"output.path={folder}"], shards)
        videos = [sample.video for shard in shards_of(config.input) for sample in samples_of(shard, config)]
        began = time.process_time()
        for video in videos:
            decoded(video, config, spec_of(config.encoder.name))
        return round((time.process_time() - began) / len(videos), 3)


def ceilings(one: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, float]:
    """Clips a second that each stage could do at most, in a case: as if the other stages took nothing."""
    frames, replicas, decode_ms = one["shape"][0], one["replicas"], one["decode_ms_per_frame"]
    if decode_ms is None:
        decoding = min(one["cpus"], measured["cores"]) / measured["real_decode_cpu_seconds"]
    else:
        decoding = _rate(one["cpus"], decode_ms * frames)
    beside = [other for other in measured["results"] if other["replicas"] == replicas]
    device = _rate(replicas, one["ms_per_frame"] * frames)
    feeding = max(other["ours"]["clips_per_second"] for other in beside)
    if feeding > CLEARLY_BELOW * min(device, decoding):
        feeding = math.inf  # nothing tells how much more it could do
    return {"device": device, "decoding": decoding, "feeding": feeding}


def _rate(servers: int, milliseconds: float) -> float:
    return 1000 * servers / milliseconds if milliseconds else math.inf


def table(measured: Mapping[str, Any]) -> Iterable[str]:
    """The lines of a Markdown table, one for each case, in clips a second."""
    yield _line(HEADERS)
    yield _line(["---"] * len(HEADERS))
    for one in measured["results"]:
        yield _line(_cells(one, measured))
    machine = f"{measured['cores']} cores ({measured['processor']})"
    decoding = f"decoding a real one takes {measured['real_decode_cpu_seconds']:g} s of a core"
    yield ""
    yield f"{measured['clips']} clips on {machine}; {decoding}."


def _cells(one: Mapping[str, Any], measured: Mapping[str, Any]) -> list[str]:
    ours, decode_ms = one["ours"], one["decode_ms_per_frame"]
    limit, most = min(ceilings(one, measured).items(), key=lambda ceiling: ceiling[1])
    return [
        f"{one['ms_per_frame']:g} ms",
        "real 720p" if decode_ms is None else f"{decode_ms:g} ms",
        str(one["replicas"]),
        limit,
        f"{most:.2f}",
        f"{ours['clips_per_second']:.2f}",
        f"{ours['clips_per_second'] / most:.0%}",
        f"{ours['device_busy']:.0%}",
        *_peer(one.get("ray_data")),
        _peer(one.get("serial"))[0],
    ]


def _peer(one: Mapping[str, Any] | None) -> tuple[str, str]:
    return ("", "") if one is None else (f"{one['clips_per_second']:.2f}", f"{one['device_busy']:.0%}")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |" if cells[0] != "---" else f"|{'|'.join(cells)}|"


def filled(page: str, figures: str) -> str:
    """The page with these figures between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    assert after, f"the page needs {BEGIN}, and {END} behind it"
    return f"{before}{BEGIN}\n{figures}\n{END}{after}"


if __name__ == "__main__":
    main()
