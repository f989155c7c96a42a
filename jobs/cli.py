"""The command line: the commands put together, and how errors and signals become exit codes."""

import argparse
import sys
from collections.abc import Sequence

from jobs.arguments import parse
from jobs.commands import bench_decode, bench_encoder, bench_pipeline, demo, inspect, pack, plan, run, verify
from jobs.doctor import doctor
from jobs.signals import Stopped, stoppable
from jobs.submit import submit
from pipeline.errors import LatentmillError, UserError
from pipeline.storage.urls import without_secrets

EXIT_CODES = """exit codes:
  0  every sample is accounted for and rejects are within limits.max_reject_fraction
  1  work is left, something does not verify, or rejects are over the limit
  2  the input is wrong (configuration, paths, weights)
  130, 143  stopped by SIGINT, SIGTERM; the same command continues where it stopped"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    chosen = parse(build_parser(), arguments)
    try:
        with stoppable():
            code: int = chosen.command(chosen)
            return code
    except UserError as error:
        return _ended(str(error), 2)
    except LatentmillError as error:
        return _ended(f"{error}; run the same command again to continue", 1)
    except Stopped as stop:
        return _ended(f"stopped by {stop.name}; run the same command again to continue", stop.exit_code)


def _ended(message: str, exit_code: int) -> int:
    print(f"latentmill: {without_secrets(message)}", file=sys.stderr)
    return exit_code


def build_parser() -> argparse.ArgumentParser:
    """Every command with its arguments and help."""
    parser = argparse.ArgumentParser(
        prog="latentmill",
        description="Precompute video latents: WebDataset shards in, Parquet latents out, every sample accounted for.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for file in (demo, doctor, pack, plan, run, submit, verify, inspect):
        file.add(subparsers)
    text = "the speed of an encoder, or of the whole pipeline, on this machine"
    measured = subparsers.add_parser("bench", help=text, description=text).add_subparsers(
        title="what to measure", required=True, metavar="WHAT"
    )
    for file in (bench_encoder, bench_decode, bench_pipeline):
        file.add(measured)
    return parser
