"""The command `text`: embeds the captions of a finished run and prints how far it came."""

import argparse
import sys
from typing import TYPE_CHECKING

from jobs.arguments import Subparsers, add_command, add_overrides
from jobs.console import console, say
from jobs.signals import DeferredSignals
from pipeline.config.load import Config
from pipeline.monitor.event_log import EventLog
from pipeline.monitor.progress import RunProgress

if TYPE_CHECKING:
    from pipeline.text_run import TextOutcome


def add(subparsers: Subparsers) -> None:
    """Adds `text`."""
    text = "text embeddings of the captions of a run, beside its latents; run it again to continue where it stopped"
    parser = add_command(subparsers, "text", text_of_run, text)
    parser.add_argument("out", help="the output.path of a run, or a YAML file that names it")
    add_overrides(parser, "such as text.encoder=PATH and text.preset=wan; they may stand anywhere")
    parser.add_argument(
        "--name", help="of the embeddings, below OUT/text/ (default: the preset, or the pipeline's class)"
    )


def text_of_run(chosen: argparse.Namespace) -> int:
    from pipeline.text_run import text_config  # lazily: Ray takes a second to import

    return run_texts(text_config(chosen.out, chosen.overrides), chosen.name)


def run_texts(config: Config, name: str | None) -> int:
    """Embeds what is left, shows progress and prints the outcome; returns the exit code."""
    from pipeline.text_run import execute_texts, prepare_texts

    prepared, signals = prepare_texts(config, name), DeferredSignals()
    counts = (len(prepared.shards), len(prepared.shards) - len(prepared.left))
    as_json = config.runtime.log == "json"
    log = EventLog(*counts, sys.stderr, of_texts=True) if as_json else RunProgress(*counts, console, of_texts=True)
    with log:

        def check() -> None:
            signals.check()
            log.tick()

        outcome = execute_texts(prepared, log.started, log.event, check)
        if isinstance(log, EventLog):
            log.ended(outcome.run, outcome.exit_code, {**outcome.totals, "shards_left": outcome.left})
            return outcome.exit_code
    _say_outcome(prepared.job.name, outcome, config.limits.max_reject_fraction)
    return outcome.exit_code


def _say_outcome(name: str, outcome: "TextOutcome", max_reject_fraction: float) -> None:
    totals = outcome.totals
    say(
        f"text {name}: {totals['shards']:,} shards done, {outcome.left:,} left: {totals['captions']:,} captions, "
        f"{totals['tokens']:,} tokens, {totals['truncated']:,} captions truncated, {totals['size_bytes']:,} bytes"
    )
    for reason, count in totals["rejects_by_reason"].items():
        say(f"  {count:,} x {reason}")
    for shard, error in outcome.failed.items():
        say(f"given up: {shard}: {error}")
    if outcome.of_earlier_tables:
        say(
            f"the table of captions has changed since {outcome.of_earlier_tables:,} shards were embedded: "
            "latentmill verify finds the rows whose caption is another now"
        )
    if outcome.latents_left:
        say("the run of the latents is not complete: run this again when it is")
    if not outcome.within_limit:
        say(f"more rejects than limits.max_reject_fraction ({max_reject_fraction:g}) allows")
