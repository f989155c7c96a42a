"""The command line: the commands put together, and how errors and signals become exit codes."""

import argparse
import os
import sys
from collections.abc import Sequence

from jobs.arguments import parse
from jobs.commands import (
    bench_decode,
    bench_encoder,
    bench_pipeline,
    dataset,
    demo,
    export,
    inspect,
    pack,
    plan,
    run,
    text,
    verify,
)
from jobs.doctor import doctor
from jobs.signals import Stopped, stoppable
from jobs.submit import submit
from pipeline.errors import HeadLostError, LatentmillError, UserError
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
    except HeadLostError as error:
        code = _ended(_to_continue(error), 1)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # an ordinary end would tear down Ray, which crashes without its head
    except LatentmillError as error:
        return _ended(_to_continue(error), 1)
    except Stopped as stop:
        return _ended(_to_continue(f"stopped by {stop.name}"), stop.exit_code)


def _to_continue(why: object) -> str:
    return f"{why}; run the same command again to continue"


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
    for file in (demo, doctor, pack, plan, run, text, submit, verify, inspect, dataset, export):
        file.add(subparsers)
    about = "the speed of an encoder, or of the whole pipeline, on this machine"
    measured = subparsers.add_parser("bench", help=about, description=about).add_subparsers(
        title="what to measure", required=True, metavar="WHAT"
    )
    for file in (bench_encoder, bench_decode, bench_pipeline):
        file.add(measured)
    return parser
