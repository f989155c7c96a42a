"""What each command does: calls into the pipeline, and what is printed.

It does not parse arguments (cli.py) or decide anything about latents.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

import encoder
from jobs.commands.demo import make_demo
from jobs.signals import DeferredSignals
from pipeline.audit.repair import repair
from pipeline.audit.repair import retry_rejects as retry
from pipeline.audit.status import ShardStatus, read_run, read_status
from pipeline.audit.summary import mixed_devices, write_report
from pipeline.audit.verify import Problem, Verified
from pipeline.audit.verify import verify as verify_root
from pipeline.config.load import Config, load_config
from pipeline.errors import LatentmillError
from pipeline.input.pack import pack as pack_folders
from pipeline.monitor.event_log import EventLog
from pipeline.monitor.progress import RunProgress
from pipeline.output.parts import latent_of
from pipeline.storage.store import Store

if TYPE_CHECKING:
    from pipeline.run import Outcome

Command = Callable[[argparse.Namespace], int]
LISTED_SHARDS = 40

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


def run(chosen: argparse.Namespace) -> int:
    return _run(load_config(chosen.config, chosen.overrides))


def status(chosen: argparse.Namespace) -> int:
    shards = read_status(Store(chosen.out))
    states = [shard.state for shard in shards]
    counts = ", ".join(f"{state}: {states.count(state):,}" for state in ("done", "running", "left"))
    rows, rejects = sum(shard.rows for shard in shards), sum(shard.rejects for shard in shards)
    console.print(f"shards {counts}; rows in finished shards: {rows:,}, rejects: {rejects:,}", highlight=False)
    _print_mixed(sum((Counter(shard.parts_by_device) for shard in shards), Counter()))
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
    _print_mixed(seen.parts_by_device)
    if chosen.reencode:
        problems += _reencode(store, chosen.reencode)
    if chosen.decode:
        _redecode(store, chosen.decode, chosen.vae, chosen.pictures)
    if problems and chosen.repair:
        _print_set_aside(repair(store, problems))
    return 1 if problems else 0


def _reencode(store: Store, count: int) -> list[Problem]:
    from pipeline.audit.reencode import reencode  # torch and decoders take seconds to import

    problems = []
    for clip_id, relative_error, problem in reencode(store, count):
        console.print(f"encoded again: {clip_id}, relative error {relative_error:.2g}", markup=False, highlight=False)
        problems += [problem] if problem else []
    return problems


def _redecode(store: Store, count: int, vae: str | None, pictures: str | None) -> None:
    from pipeline.audit.redecode import redecode  # as in _reencode
    from pipeline.audit.show import side_by_side

    for number, clip in enumerate(redecode(store, count, vae)):
        file = Path(pictures) / f"{number:03d}.png" if pictures else None  # keys are no names of files
        said = f"decoded: {clip.id}, PSNR {clip.psnr_db:.2f} dB{f', {file}' if file else ''}"
        console.print(said, markup=False, highlight=False)
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(side_by_side(clip.frames, clip.decoded, clip.temporal_ratio))


def report(chosen: argparse.Namespace) -> int:
    store = Store(chosen.out)
    run = read_run(store)
    shards = {shard.name: shard.state == "done" for shard in read_status(store)}
    write_report(store, run, [name for name, done in shards.items() if done], list(shards.values()).count(False), {})
    console.print(store.url("report.html"), highlight=False)
    return 0


def show(chosen: argparse.Namespace) -> int:
    from pipeline.audit.show import channel_lines, describing, find_row

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
    from pipeline.audit.reencode import frames_of
    from pipeline.audit.show import picture

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
    from pipeline.run import execute, prepare  # Ray takes a second to import: only who runs pays

    prepared, signals = prepare(config), DeferredSignals()
    counts = (len(prepared.shards), len(prepared.shards) - len(prepared.left))
    log = EventLog(*counts, sys.stderr) if config.runtime.log == "json" else RunProgress(*counts, console)
    with log:

        def on_start(replicas: int, name: str) -> None:
            signals.take()  # after Ray, which puts a handler of its own there
            log.started(replicas, name)

        outcome = execute(prepared, on_start, log.event, signals.check)
        if isinstance(log, EventLog):
            log.ended(outcome.run, outcome.exit_code, outcome.summary)
            return outcome.exit_code
    _print_outcome(outcome, config.limits.max_reject_fraction)
    return outcome.exit_code


def _print_outcome(outcome: "Outcome", max_reject_fraction: float) -> None:
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
        console.print(f"more rejects than limits.max_reject_fraction ({max_reject_fraction:g}) allows")


def _print_mixed(parts_by_device: Mapping[str, int]) -> None:
    for line in mixed_devices(parts_by_device):
        console.print(line, markup=False, highlight=False)


def _print_shards(shards: list[ShardStatus]) -> None:
    table = Table("shard", "state", "slices", "samples", "rows", "rejects")
    for shard in shards[:LISTED_SHARDS]:
        table.add_row(
            shard.name, shard.state, str(shard.slices), str(shard.samples), str(shard.rows), str(shard.rejects)
        )
    console.print(table)
    if len(shards) > LISTED_SHARDS:
        console.print(f"... and {len(shards) - LISTED_SHARDS:,} more")
