"""The command `bench pipeline`: how close a run comes to what its encoder does alone, as a table and JSON.

It does not encode: runs are those of pipeline/run.py, their limit is pipeline/estimate/ceiling.py's.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.arguments import Subparsers, add_command, add_overrides, path_text
from jobs.commands.bench_run import CONFIG, finish
from jobs.commands.bench_simulated import add_options as add_simulated_options
from jobs.commands.bench_simulated import bench_simulated
from jobs.console import say, say_columns
from pipeline.audit.summary import summarise
from pipeline.config.latents import ClipConfig
from pipeline.config.load import Config, load_config
from pipeline.errors import UserError
from pipeline.input.listing import shards_of
from pipeline.input.pack import pack
from pipeline.monitor.events import Event, Progress, ShardBegun, ShardDone
from pipeline.output.manifests import read_manifests
from pipeline.storage.store import Store
from pipeline.video.synthetic.videos import make_video

if TYPE_CHECKING:
    from pipeline.estimate.ceiling import Limit

CLIPS = 8
SOURCE_FPS = 24
FRAMES_OF_WHOLE = 49  # of a synthetic video, where clips are whole videos
HERE = ("runtime.replicas=1", "runtime.address=null")


def add(subparsers: Subparsers) -> None:
    """Adds `bench pipeline`."""
    text = "runs of one replica beside their limit: the encoder alone on the same clips in memory"
    parser = add_command(subparsers, "pipeline", bench, text)
    add_overrides(parser, "such as encoder.name=tiny")
    text = "a configuration as run takes it (default: small clips, cogvideox with random weights)"
    parser.add_argument("--config", metavar="FILE", help=text)
    text = "what is encoded, named as input.shards (default: the shards of --config, else synthetic videos)"
    parser.add_argument("--shards", metavar="PATTERN", help=text)
    text = "synthetic videos that are measured (default: 8; with --simulate 60)"
    parser.add_argument("--clips", type=int, metavar="N", help=text)
    parser.add_argument("--rounds", type=int, default=3, help="how often each is timed (default: 3)")
    parser.add_argument("--json", type=path_text, metavar="FILE", help="write what was measured")
    add_simulated_options(parser.add_argument_group("a simulated accelerator"))


@dataclass(frozen=True, slots=True)
class Ran:
    """One run without its first sample: what it made, in which time, where that went, and the time before."""

    clips: int
    frames: int
    seconds: float
    seconds_by_stage: dict[str, float]
    start_seconds: float
    first_sample_seconds: float


def bench(chosen: argparse.Namespace) -> int:
    """Measures the limit and a run in turns, prints the table and writes the JSON."""
    if chosen.simulate is not None:
        return bench_simulated(chosen)
    with tempfile.TemporaryDirectory(prefix="latentmill-bench-") as folder:
        config = _config(chosen, Path(folder))
        limits, runs = _in_turns(config, Path(folder), max(1, chosen.rounds))
    what = {"encoder": config.encoder.name, "dtype": config.encoder.dtype, "buckets": list(config.clip.buckets)}
    measured = {**what, **limits[0].machine, "rounds": len(runs), **compared(limits, runs)}
    _print(measured)
    if chosen.json:
        Path(chosen.json).write_text(json.dumps(measured, indent=1) + "\n")
    return 0


def _config(chosen: argparse.Namespace, folder: Path) -> Config:
    """The configuration of one replica on this machine, with its shards there."""
    own = chosen.config is None and not chosen.shards and not any(o.startswith("input.") for o in chosen.overrides)
    given = [f"input.shards={chosen.shards}", "input.table=null"] if chosen.shards else []
    config = load_config(chosen.config or str(CONFIG), [*chosen.overrides, *given, *HERE])
    if own:
        shards = _synthetic_shards(folder, config.clip, max(1, chosen.clips or CLIPS))
        config = config.replaced({"input.shards": shards})
    return config


def _synthetic_shards(folder: Path, clip: ClipConfig, clips: int) -> tuple[str, ...]:
    """A shard of one video, and one of `clips`: twice as large as their buckets, and no longer than a clip."""
    frames = max(frames or FRAMES_OF_WHOLE for frames in clip.bucket_frames)
    source_frames = math.ceil(frames * SOURCE_FPS / (clip.fps or SOURCE_FPS)) + 1
    urls: list[str] = []
    for name, count in (("first", 1), ("measured", clips)):
        videos = folder / name
        videos.mkdir()
        for number in range(count):
            height_px, width_px = clip.bucket_sizes_px[number % len(clip.buckets)]
            video = make_video(source_frames, SOURCE_FPS, 2 * width_px, 2 * height_px, seed=number)
            (videos / f"clip-{number:03d}.mp4").write_bytes(video)
        urls += pack([str(videos)], f"{videos}-shards", ("mp4",), count).urls
    return tuple(urls)


def _in_turns(config: Config, folder: Path, rounds: int) -> tuple[list["Limit"], list[Ran]]:
    from pipeline.estimate.ceiling import encoder_alone  # torch and Ray take seconds to import: only who runs pays
    from pipeline.run import with_convolutions

    shards, limits, runs = shards_of(config.input), list["Limit"](), list[Ran]()
    if len(shards) < 2:
        raise UserError(f"bench pipeline needs two shards or more, as the first is not counted: it got {len(shards)}")
    for number in range(rounds):
        limits.append(encoder_alone(config, shards))
        config = with_convolutions(config, limits[0].convolutions)
        runs.append(_run(config, folder / f"run-{number}"))
    return limits, runs


@dataclass(slots=True)
class _Clock:
    """When a run was given its shards and ended each, and the frames that it encoded: at first, and in all."""

    begun: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    warm: float = 0.0
    warm_frames: int = 0
    frames: int = 0

    def event(self, event: Event) -> None:
        now = time.perf_counter()
        if isinstance(event, ShardBegun):
            self.begun.setdefault(event.shard, now)
        elif isinstance(event, Progress):
            if event.frames and not self.frames:
                self.warm, self.warm_frames = now, event.frames
            self.frames += event.frames
        elif isinstance(event, ShardDone):
            self.ended[event.shard] = now


def _run(config: Config, out: Path) -> Ran:
    """A run from its first encoded sample on: what starts up and sets up lies before, and shards overlap after it."""
    began, clock = time.perf_counter(), _Clock()
    finish(config, str(out), clock.event, lambda: None)
    store, (first, *measured) = Store(str(out)), clock.begun
    rows, frames = summarise(read_manifests(store, clock.begun))["rows"], clock.frames - clock.warm_frames
    return Ran(
        clips=round(rows * frames / clock.frames) if clock.frames else 0,
        frames=frames,
        seconds=max(clock.ended.values()) - clock.warm,
        seconds_by_stage=summarise(read_manifests(store, measured))["seconds_by_stage"],
        start_seconds=round(clock.begun[first] - began, 2),
        first_sample_seconds=round(clock.warm - clock.begun[first], 2),
    )


def compared(limits: Sequence["Limit"], runs: Sequence[Ran]) -> dict[str, Any]:
    """Rates of both by their medians, what part of the limit the pipeline reaches, and where a median run's time went.

    Raises:
        UserError: no clip came of the shards.
    """
    limit, pipeline = _rates(limits), _rates(runs)
    if not (limit["clips"] and pipeline["clips"]):
        raise UserError("bench pipeline: no clip came of the shards after the first, see latentmill plan --probe")
    median = statistics.median_low(run.seconds for run in runs)
    (told, *_) = (run for run in runs if run.seconds == median)
    beside = {
        "seconds_by_stage": told.seconds_by_stage,
        "start_seconds": told.start_seconds,
        "first_sample_seconds": told.first_sample_seconds,
    }
    ratio = pipeline["frames_per_second"] / limit["frames_per_second"]
    return {"ratio": round(ratio, 3), "limit": limit, "pipeline": pipeline | beside}


def _rates(measured: "Sequence[Limit] | Sequence[Ran]") -> dict[str, Any]:
    seconds, one = [each.seconds for each in measured], measured[0]
    median = statistics.median(seconds)
    rates = (round(count / median, 4) if median else 0.0 for count in (one.clips, one.frames))
    return {
        "clips": one.clips,
        "frames": one.frames,
        "seconds": [round(each, 3) for each in seconds],
        **dict(zip(("clips_per_second", "frames_per_second"), rates, strict=True)),
    }


def _print(measured: dict[str, Any]) -> None:
    head = f"{measured['encoder']} in {measured['dtype']} at {', '.join(measured['buckets'])}"
    say(f"{head} on {measured['device']}, {measured['threads']} threads")
    rows = []
    for name in ("limit", "pipeline"):
        one = measured[name]
        rates = (f"{one[rate]:.3g}" for rate in ("clips_per_second", "frames_per_second"))
        rows.append((name, f"{one['clips']:,}", f"{one['frames']:,}", *rates))
    say_columns(("", "clips", "frames", "clips/s", "frames/s"), rows)
    run = measured["pipeline"]
    say(f"the pipeline reaches {measured['ratio']:.1%} of the limit, its encoder alone")
    stages = ", ".join(f"{stage} {spent:.3g}" for stage, spent in run["seconds_by_stage"].items())
    say(f"seconds of its replica by stage: {stages}")
    say("wait_for_frames: reading or decoding is too slow for the encoder; an encode above the limit's time: decoding")
    say("takes its CPUs; wait_for_device, write and commit go on beside it")
    start = f"not counted: {run['start_seconds']:.3g} s for Ray and weights"
    say(f"{start}, {run['first_sample_seconds']:.3g} s for the first sample, which sets up")
