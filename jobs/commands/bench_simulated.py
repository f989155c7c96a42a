"""`bench pipeline --simulate`: a run at the speed of a simulated accelerator beside its peers, as a table and JSON.

It does not encode: ours is pipeline/run.py's, the peers are benchmarks/peers.py.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encoder import ServiceRecord, read_service_records
from jobs.commands.bench_rehearsal import WARM_UP, Rehearsal, config_of, make_shards, make_videos
from jobs.commands.bench_run import finish
from jobs.console import say, say_columns
from pipeline.audit.summary import summarise
from pipeline.config.load import Config
from pipeline.errors import UserError
from pipeline.monitor.events import Event, ShardDone
from pipeline.monitor.stages import ENCODE
from pipeline.output.manifests import read_manifests
from pipeline.storage.store import Store

CLIPS, CPUS = 60, 16
RAY_RESOURCES = "RAY_OVERRIDE_RESOURCES"  # how many CPUs a local Ray is told that it has
SAMPLE_SECONDS = 0.2  # between looks at the object store
PEERS = ("ray-data", "serial")


def add_options(group: Any) -> None:
    """What of `bench pipeline` is for simulations."""
    text = "encode on a simulated device that takes so long for a frame, beside the peers (needs a checkout)"
    group.add_argument("--simulate", type=_milliseconds, metavar="MS_PER_FRAME", help=text)
    text = "decoding takes so long for a frame, and no CPU (default: real 720p videos are decoded)"
    group.add_argument("--simulate-decode", type=_milliseconds, metavar="MS_PER_FRAME", help=text)
    group.add_argument("--cpus", type=_count, default=CPUS, help=f"logical CPUs of Ray (default: {CPUS})")
    group.add_argument("--replicas", type=_count, default=1, help="simulated devices (default: 1)")
    text = "frames and pixels of a clip (default: 49x480x720)"
    group.add_argument("--shape", type=_shape, default=(49, 480, 720), metavar="TxHxW", help=text)
    text = "a folder or URL that ours writes to, instead of a temporary folder: shows what a slow storage costs"
    group.add_argument("--out", metavar="URL", help=text)
    text = "the first video takes so many seconds to decode, as a long film would (default: 0, as the others)"
    group.add_argument("--slow-video", type=float, default=0.0, metavar="SECONDS", help=text)
    text = "what runs beside ours on the same shards (default: both)"
    group.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), help=text)


@dataclass(frozen=True, slots=True)
class DriverSample:
    """The driver's process at a time by time.monotonic(): CPU seconds since it began, without those of looking at the
    object store, and its memory.
    """

    at: float
    cpu_seconds: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Ran:
    """How one run ended, by time.monotonic(), and what else it says of itself."""

    ended: float
    object_store_peak_bytes: int
    seconds_by_stage: Mapping[str, float] | None = None
    driver: Sequence[DriverSample] = ()


def bench_simulated(chosen: argparse.Namespace) -> int:
    """Runs ours and the peers in turns, prints the table and writes the JSON."""
    rehearsal = Rehearsal(
        ms_per_frame=chosen.simulate,
        decode_ms_per_frame=chosen.simulate_decode,
        cpus=chosen.cpus,
        clips=chosen.clips or CLIPS,
        replicas=chosen.replicas,
        shape=chosen.shape,
        slow_video_seconds=chosen.slow_video,
    )
    if chosen.config or chosen.shards:
        raise UserError("--simulate makes shards and a configuration of its own: leave out --config and --shards")
    runs = {"ours": run_ours} | _peers(chosen.peers)
    rounds: list[dict[str, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory(prefix="latentmill-bench-") as folder:
        settings = _settings(rehearsal, chosen.overrides, Path(folder), list(runs))
        for number in range(max(1, chosen.rounds)):
            places = {name: Path(folder) / f"{name}-{number}" for name in runs}
            out = chosen.out and f"{chosen.out}/{os.getpid()}-{number}"
            rounds.append({name: _measured(run, *settings[name], places[name], out) for name, run in runs.items()})
    measured = {**rehearsal.values(), "rounds": len(rounds), **{name: _median(rounds, name) for name in runs}}
    _print(measured, list(runs))
    if chosen.json:
        Path(chosen.json).write_text(json.dumps(measured, indent=1) + "\n")
    return 0


def _settings(
    rehearsal: Rehearsal, overrides: Sequence[str], folder: Path, names: Sequence[str]
) -> dict[str, tuple[Config, Rehearsal]]:
    """The configuration of each run, over shards that are made for it, and what it rehearses."""
    videos = make_videos(rehearsal)
    each = {name: rehearsal.serial if name == "serial" else rehearsal for name in names}
    return {
        name: (config_of(one, overrides, make_shards(folder / f"shards-{name}", one, videos)), one)
        for name, one in each.items()
    }


Run = Callable[[Config, Rehearsal], Ran]


def _peers(names: Sequence[str]) -> dict[str, Run]:
    """The peers that were asked for. Raises UserError where there is no checkout."""
    if not names:
        return {}
    try:
        from benchmarks import peers
    except ImportError as error:
        raise UserError(f"--peers are scripts below benchmarks/ of a checkout ({error}): run from one") from None
    found = {"ray_data": peers.run_ray_data, "serial": peers.run_serial}
    return {name: _as_run(run) for name, run in found.items() if name.replace("_", "-") in names}


def _as_run(peer: Callable[[Config, int, int], tuple[float, int]]) -> Run:
    return lambda config, rehearsal: Ran(*peer(config, rehearsal.cpus, rehearsal.replicas))


def run_ours(config: Config, rehearsal: Rehearsal) -> Ran:
    """A run of the pipeline on a local Ray that believes in so many CPUs."""
    from pipeline.cluster.decoder import load_all
    from pipeline.cluster.metrics import object_store_used_bytes

    ended: dict[str, float] = {}
    samples: list[DriverSample] = []
    peak_bytes, looking_seconds = 0, 0.0

    def on_event(event: Event) -> None:
        if isinstance(event, ShardDone):
            ended[event.shard] = time.monotonic()

    def look() -> None:
        nonlocal peak_bytes, looking_seconds
        if not samples:
            load_all(rehearsal.cpus, resizes=rehearsal.decode_ms_per_frame is None)
        if not samples or time.monotonic() - samples[-1].at >= SAMPLE_SECONDS:
            before = time.process_time()
            peak_bytes = max(peak_bytes, object_store_used_bytes())
            looking_seconds += time.process_time() - before
            samples.append(driver_sample(looking_seconds))

    with logical_cpus(rehearsal.cpus):
        finish(config, config.output.path, on_event, look)
    measured = [shard for shard in ended if not shard.startswith(WARM_UP)]
    made = summarise(read_manifests(Store(config.output.path), measured))
    return Ran(max(ended.values()), peak_bytes, made["seconds_by_stage"], samples)


def driver_sample(looking_seconds: float = 0.0) -> DriverSample:
    """Of this process, less the CPU seconds that it took to measure; its memory is what is resident."""
    memory_bytes = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return DriverSample(time.monotonic(), time.process_time() - looking_seconds, memory_bytes)


def of_driver(samples: Sequence[DriverSample], start: float, clips: int) -> dict[str, float]:
    """What the driver itself took from `start` on: CPU time for each clip, and how far its memory grew."""
    span = [sample for sample in samples if sample.at >= start] or samples[-1:]
    cpu_seconds = span[-1].cpu_seconds - span[0].cpu_seconds
    growth_bytes = span[-1].memory_bytes - span[0].memory_bytes
    return {"driver_cpu_ms_per_clip": round(1000 * cpu_seconds / clips, 3), "driver_growth_bytes": growth_bytes}


def reported_busy(seconds_by_stage: Mapping[str, float], seconds: float, replicas: int) -> float:
    """What the pipeline itself says of its devices: the share of the time in which they encoded."""
    return round(seconds_by_stage.get(ENCODE, 0.0) / (seconds * replicas), 4)


def _measured(run: Run, config: Config, rehearsal: Rehearsal, place: Path, out: str | None) -> dict[str, Any]:
    """Figures of one run, whose devices note what they do in `place`; `out` is the root that ours writes."""
    records = place / "records"
    records.mkdir(parents=True)
    own = {
        "encoder.weights": f"simulated:{rehearsal.ms_per_frame}:{records}",
        "output.path": out or str(place / "out"),
    }
    began = time.monotonic()
    ran = run(config.replaced(own), rehearsal)
    figures = counted(read_service_records(records), began, ran.ended, rehearsal)
    figures["object_store_peak_bytes"] = ran.object_store_peak_bytes
    if ran.seconds_by_stage is not None:
        figures["reported_busy"] = reported_busy(ran.seconds_by_stage, figures["seconds"], rehearsal.replicas)
        figures["seconds_by_stage"] = dict(ran.seconds_by_stage)
        figures |= of_driver(ran.driver, ran.ended - figures["seconds"], rehearsal.clips)
    return figures


def counted(services: Sequence[ServiceRecord], began: float, ended: float, rehearsal: Rehearsal) -> dict[str, Any]:
    """Rates of one run from what its devices noted.

    The span begins when as many frames as `warm_up_clips` have were served, and lasts until the last latent is
    written (ours) or there (peers). `device_busy` is the share of it in which the devices served.

    Raises:
        UserError: fewer clips were encoded than the shards hold. Replicas that help each other encode some twice.
    """
    warm_up_clips, clips = rehearsal.warm_up_clips, rehearsal.clips
    encoded = sum(service.frames for service in services) / rehearsal.shape[0]
    if encoded < warm_up_clips + clips:
        raise UserError(f"{encoded:g} clips were encoded of {warm_up_clips + clips}: are some rejected?")
    left = warm_up_clips * rehearsal.shape[0]
    start = began
    for service in services:
        start, left = service.end, left - service.frames
        if left <= 0:
            break
    seconds = ended - start
    busy_seconds = sum(max(0.0, min(service.end, ended) - max(service.begin, start)) for service in services)
    return {
        "clips_per_second": round(clips / seconds, 3),
        "device_busy": round(busy_seconds / (seconds * rehearsal.replicas), 4),
        "seconds": round(seconds, 3),
        "clips": clips,
        "start_seconds": round(min(service.begin for service in services) - began, 2),
        "warm_up_seconds": round(start - min(service.begin for service in services), 2),
    }


def _median(rounds: Sequence[Mapping[str, dict[str, Any]]], name: str) -> dict[str, Any]:
    """The run of median length, with the seconds of all."""
    runs = [each[name] for each in rounds]
    median = statistics.median_low(run["seconds"] for run in runs)
    return next(run for run in runs if run["seconds"] == median) | {"seconds_of_all": [run["seconds"] for run in runs]}


@contextmanager
def logical_cpus(cpus: int) -> Iterator[None]:
    """Within it a local Ray that starts has so many CPUs, whatever the machine has."""
    before = os.environ.get(RAY_RESOURCES)
    os.environ[RAY_RESOURCES] = json.dumps({"CPU": cpus})
    try:
        yield
    finally:
        del os.environ[RAY_RESOURCES]
        if before is not None:
            os.environ[RAY_RESOURCES] = before


def _print(measured: dict[str, Any], names: Sequence[str]) -> None:
    shape = "x".join(map(str, measured["shape"]))
    decode_ms = measured["decode_ms_per_frame"]
    decoder = "real 720p videos" if decode_ms is None else f"decoding {decode_ms:g} ms a frame"
    head = f"simulated device, {measured['ms_per_frame']:g} ms a frame of {shape}, {decoder}, {measured['cpus']} CPUs"
    say(head)
    headers = ("", "clips/s", "device busy", "seconds", "object store", "start")
    say_columns(headers, (_line(name, measured[name]) for name in names))
    ours = measured["ours"]
    stages = ", ".join(f"{stage} {spent:.3g}" for stage, spent in ours["seconds_by_stage"].items())
    say(f"ours says busy {ours['reported_busy']:.1%}; seconds by stage: {stages}")


def _line(name: str, one: Mapping[str, Any]) -> tuple[str, ...]:
    figures = (f"{one['clips_per_second']:.3g}", f"{one['device_busy']:.1%}", f"{one['seconds']:.3g}")
    return name, *figures, f"{one['object_store_peak_bytes'] / 1e6:,.0f} MB", f"{one['start_seconds']:.3g} s"


def _milliseconds(text: str) -> float:
    milliseconds = float(text)
    if not 0 <= milliseconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no time: give milliseconds, 0 or more")
    return milliseconds


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def _shape(text: str) -> tuple[int, int, int]:
    sides = text.split("x")
    if len(sides) != 3 or not all(side.isdecimal() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(f"{text} is no shape: write FRAMESxHEIGHTxWIDTH, such as 49x480x720")
    frames, height_px, width_px = map(int, sides)
    return frames, height_px, width_px
