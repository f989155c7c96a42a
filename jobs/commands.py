"""What each command does: calls into the pipeline, and what is printed.

It does not parse arguments (cli.py) or decide anything about latents.
"""

import argparse
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

import encoder
from jobs.demo import make_demo
from jobs.signals import DeferredSignals
from pipeline.config import Config, load_config
from pipeline.errors import LatentmillError
from pipeline.pack import pack as pack_folders
from pipeline.parts import latent_of
from pipeline.progress import RunProgress
from pipeline.repair import repair
from pipeline.repair import retry_rejects as retry
from pipeline.status import ShardStatus, read_run, read_status
from pipeline.store import Store, stat_url
from pipeline.summary import write_report
from pipeline.verify import Problem, Verified
from pipeline.verify import verify as verify_root

if TYPE_CHECKING:
    from encoder.replica import VideoEncoder

Command = Callable[[argparse.Namespace], int]
LISTED_SHARDS = 40
READERS = 16

console = Console(soft_wrap=True)


def encoder_names() -> str:
    return f"encoder.name is one of: {', '.join(encoder.names())}"


def demo(chosen: argparse.Namespace) -> int:
    config = make_demo(Path(chosen.out))
    code = _run(config)
    console.print(f"latents: {config.output.path}/latents\nreport:  {config.output.path}/report.html", highlight=False)
    return code


def pack(chosen: argparse.Namespace) -> int:
    packed = pack_folders(chosen.videos, chosen.out, chosen.extensions, chosen.shard_samples)
    console.print(f"{packed.samples:,} samples in {len(packed.urls):,} shards: {packed.urls[0]} ...", highlight=False)
    return 0


def plan(chosen: argparse.Namespace) -> int:
    from pipeline.loading import load_encoder
    from pipeline.run import prepare  # Ray takes a second to import: only who runs pays

    prepared = prepare(load_config(chosen.config, chosen.overrides))
    with ThreadPoolExecutor(READERS) as pool:
        sizes = list(pool.map(_size_bytes, (shard.url for shard in prepared.left)))
    there = [size for size in sizes if size is not None]
    console.print(
        f"shards: {len(prepared.shards):,}, done: {len(prepared.done):,}, left: {len(prepared.left):,}"
        f" ({sum(there):,} bytes to read, {len(sizes) - len(there):,} not found)",
        highlight=False,
    )
    _print_buckets(prepared.config, load_encoder(prepared.config.encoder, device="cpu"))
    return 0 if len(there) == len(sizes) else 1


def run(chosen: argparse.Namespace) -> int:
    return _run(load_config(chosen.config, chosen.overrides))


def status(chosen: argparse.Namespace) -> int:
    shards = read_status(Store(chosen.out))
    states = [shard.state for shard in shards]
    counts = ", ".join(f"{state}: {states.count(state):,}" for state in ("done", "running", "left"))
    rows, rejects = sum(shard.rows for shard in shards), sum(shard.rejects for shard in shards)
    console.print(f"shards {counts}; rows in finished shards: {rows:,}, rejects: {rejects:,}", highlight=False)
    _print_shards(sorted(shards, key=lambda shard: ("running", "left", "done").index(shard.state)))
    return 0 if states.count("done") == len(states) else 1


def verify(chosen: argparse.Namespace) -> int:
    store, seen, problems = Store(chosen.out), Verified(), []
    for problem in verify_root(store, seen):
        problems.append(problem)
        console.print(f"{problem.path}: {problem.what}", markup=False, highlight=False)
    console.print(
        f"{seen.shards:,} shards, {seen.parts:,} parts, {seen.rows:,} rows, {seen.samples:,} samples, "
        f"{seen.rejects:,} rejects: {f'{len(problems):,} problems' if problems else 'all as it should be'}",
        highlight=False,
    )
    if chosen.reencode:
        problems += _reencode(store, chosen.reencode)
    if problems and chosen.repair:
        _print_set_aside(repair(store, problems))
    return 1 if problems else 0


def _reencode(store: Store, count: int) -> list[Problem]:
    from pipeline.reencode import reencode  # torch and decoders take seconds to import

    problems = []
    for clip_id, relative_error, problem in reencode(store, count):
        console.print(f"encoded again: {clip_id}, relative error {relative_error:.2g}", markup=False, highlight=False)
        problems += [problem] if problem else []
    return problems


def report(chosen: argparse.Namespace) -> int:
    store = Store(chosen.out)
    run = read_run(store)
    shards = {shard.name: shard.state == "done" for shard in read_status(store)}
    write_report(store, run, [name for name, done in shards.items() if done], list(shards.values()).count(False), {})
    console.print(store.url("report.html"), highlight=False)
    return 0


def show(chosen: argparse.Namespace) -> int:
    from pipeline.show import channel_lines, describing, find_row

    store = Store(chosen.out)
    row, footer = find_row(store, chosen.key)
    for name, text in describing(row).items():
        console.print(f"{name}: {text}", markup=False, highlight=False)
    table = Table("channel", "mean", "std", "least", "largest")
    for channel, values in enumerate(channel_lines(latent_of(row))):
        table.add_row(str(channel), *(f"{value:.4f}" for value in values))
    console.print(table)
    if chosen.picture:
        _write_picture(store, row, footer, Path(chosen.picture))
    return 0


def _write_picture(store: Store, row: dict[str, Any], footer: dict[str, Any], file: Path) -> None:
    from pipeline.reencode import frames_of
    from pipeline.show import picture

    try:
        frames = frames_of(store, row, footer)
    except LatentmillError as error:
        console.print(f"without frames: {error}", markup=False, highlight=False)
        frames = None
    file.write_bytes(picture(latent_of(row), frames, footer["encoder"]["temporal_ratio"]))


def retry_rejects(chosen: argparse.Namespace) -> int:
    rejects, moved = retry(Store(chosen.out), chosen.stage, chosen.reason)
    console.print(f"{rejects:,} rejects will be tried again", highlight=False)
    _print_set_aside(moved)
    return 0


def _print_set_aside(moved: list[str]) -> None:
    console.print(f"{len(moved):,} files set aside; the next run makes what is missing", highlight=False)


def _run(config: Config) -> int:
    from pipeline.run import execute, prepare  # as in plan

    prepared, signals = prepare(config), DeferredSignals()
    with RunProgress(len(prepared.shards), len(prepared.shards) - len(prepared.left), console) as progress:

        def on_start(replicas: int) -> None:
            signals.take()  # after Ray, which puts a handler of its own there
            progress.started(replicas)

        outcome = execute(prepared, on_start, progress.event, signals.check)
    summary = outcome.summary
    console.print(
        f"{summary['shards']:,} shards done, {outcome.left:,} left: {summary['samples']:,} samples, "
        f"{summary['rows']:,} clips, {summary['samples_rejected']:,} samples rejected, "
        f"{summary['samples_filtered']:,} filtered",
        highlight=False,
    )
    for reason, count in (summary["rejects_by_reason"] | summary["filtered_by_reason"]).items():
        console.print(f"  {count:,} x {reason}", highlight=False)
    for shard, error in outcome.failed.items():
        console.print(f"given up: {shard}: {error}", markup=False, highlight=False)
    if not outcome.within_limit:
        console.print(f"more rejects than limits.max_reject_fraction ({config.limits.max_reject_fraction:g}) allows")
    return outcome.exit_code


def _size_bytes(url: str) -> int | None:
    try:
        return stat_url(url).size_bytes
    except FileNotFoundError:
        return None


def _print_buckets(config: Config, loaded: "VideoEncoder") -> None:
    clip, spec = config.clip, loaded.spec
    stored = "bytes a latent frame" if clip.whole_video else "bytes a clip"
    table = Table("bucket (pixels)", "latent c x t x h x w", stored, "memory to encode one, bytes")
    for bucket, frames, (height_px, width_px) in zip(
        clip.buckets, clip.bucket_frames, clip.bucket_sizes_px, strict=True
    ):
        shape = spec.latent_shape(frames or 1, height_px, width_px)
        memory = f"{loaded.encode_bytes(frames, height_px, width_px):,}" if frames else "grows with the video"
        if not frames and loaded.streams:
            memory = "flat"
        table.add_row(bucket, "x".join(map(str, shape)), f"{_latent_bytes(config, shape):,}", memory)
    console.print(table)
    if clip.segments > 1 and loaded.recall:
        most = f"up to {loaded.recall.warm_up_frames} frames"
        console.print(f"each of {clip.segments} segments of a video but the first encodes {most} before its own")


def _latent_bytes(config: Config, shape: tuple[int, ...]) -> int:
    size_bytes = {"float16": 2, "bfloat16": 2, "float32": 4}[config.output.dtype]
    return math.prod(shape) * size_bytes * (2 if config.output.posterior == "moments" else 1)


def _print_shards(shards: list[ShardStatus]) -> None:
    table = Table("shard", "state", "slices", "samples", "rows", "rejects")
    for shard in shards[:LISTED_SHARDS]:
        table.add_row(
            shard.name, shard.state, str(shard.slices), str(shard.samples), str(shard.rows), str(shard.rejects)
        )
    console.print(table)
    if len(shards) > LISTED_SHARDS:
        console.print(f"... and {len(shards) - LISTED_SHARDS:,} more")
