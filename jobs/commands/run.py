"""The command `run`: makes the latents of a configuration and prints how far it came."""

import argparse
import sys
from typing import TYPE_CHECKING

from jobs.arguments import Subparsers, add_command, add_config, read_config
from jobs.console import console, say
from jobs.signals import DeferredSignals
from pipeline.audit.report.sections import losses_of
from pipeline.config.load import Config
from pipeline.monitor.event_log import EventLog
from pipeline.monitor.progress import RunProgress

if TYPE_CHECKING:
    from pipeline.run import Outcome


def add(subparsers: Subparsers) -> None:
    """Adds `run`."""
    add_config(add_command(subparsers, "run", run, "make the latents; run it again to continue where it stopped"))


def run(chosen: argparse.Namespace) -> int:
    return run_config(read_config(chosen))


def run_config(config: Config) -> int:
    """Runs a configuration, shows its progress and prints its outcome; returns the exit code."""
    from pipeline.run import execute, prepare  # lazily: Ray takes a second to import

    prepared, signals = prepare(config), DeferredSignals()
    counts = (len(prepared.shards), len(prepared.shards) - len(prepared.left))
    log = EventLog(*counts, sys.stderr) if config.runtime.log == "json" else RunProgress(*counts, console)
    with log:

        def check() -> None:
            signals.check()
            log.tick()

        outcome = execute(prepared, log.started, log.event, check)
        if isinstance(log, EventLog):
            log.ended(outcome.run, outcome.exit_code, outcome.summary)
            return outcome.exit_code
    _say_outcome(outcome, config.limits.max_reject_fraction)
    return outcome.exit_code


def _say_outcome(outcome: "Outcome", max_reject_fraction: float) -> None:
    summary = outcome.summary
    say(
        f"{summary['shards']:,} shards done, {outcome.left:,} left: {summary['samples']:,} samples, "
        f"{summary['rows']:,} clips, {summary['samples_rejected']:,} samples rejected, "
        f"{summary['samples_filtered']:,} filtered"
    )
    for reason, count in (summary["rejects_by_reason"] | summary["filtered_by_reason"]).items():
        say(f"  {count:,} x {reason}")
    for name, count in losses_of(summary).items():
        say(f"  {count:,} {name}")
    for shard, error in outcome.failed.items():
        say(f"given up: {shard}: {error}")
    if not outcome.within_limit:
        say(f"more rejects than limits.max_reject_fraction ({max_reject_fraction:g}) allows")
