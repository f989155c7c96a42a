"""The command `bench decode`: its arguments, and the table and JSON of what pipeline/video/bench measures."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jobs.arguments import Subparsers, add_command
from jobs.console import say, say_columns
from pipeline.errors import UserError

SIZES = ("720p", "1080p")
STEPS = ("read", "decode", "convert", "resize")
HEADERS = ("video", *STEPS, "ours", "plain decord", "plain pyav")
LEAST_WIDTH = 90  # of the table, also without a terminal
NOTES = """\
CPU seconds for one clip of 49 frames at 8 a second out of a made video of 30 a second, medians. Ours reads the packets
twice (once to probe them) and resizes; the plain libraries read the same frames forward and do not resize"""


def add(subparsers: Subparsers) -> None:
    """Adds `bench decode`."""
    text = "what decoding a clip costs by step, beside plain Decord and plain PyAV reading the same frames"
    parser = add_command(subparsers, "decode", bench, text)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), metavar="SIZE", help="default: 720p 1080p")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed (default: 5)")
    parser.add_argument("--json", metavar="FILE", help="write what was measured")


def bench(chosen: argparse.Namespace) -> int:
    """Measures, prints the table and writes the JSON."""
    if unknown := [size for size in chosen.sizes if size not in SIZES]:
        raise UserError(f"--sizes: unknown size {unknown[0]!r}: use {' or '.join(SIZES)}")
    if chosen.rounds < 1:
        raise UserError(f"--rounds: {chosen.rounds} is too few: give 1 or more")
    from pipeline.video.bench.clip_cost import measure  # lazily: torch and the decoders take seconds to import

    costs = [asdict(measure(size, chosen.rounds)) for size in chosen.sizes]
    say_columns(HEADERS, (_row(cost) for cost in costs), LEAST_WIDTH)
    say(NOTES)
    if chosen.json:
        Path(chosen.json).write_text(json.dumps({"rounds": chosen.rounds, "results": costs}, indent=1) + "\n")
    return 0


def _row(cost: dict[str, Any]) -> tuple[str, ...]:
    ours = [cost["ours"][step] for step in STEPS]
    return cost["size"], *(f"{seconds:.3f}" for seconds in (*ours, sum(ours), cost["decord"], cost["pyav"]))
