"""The command line: what each command takes, and how errors and signals become exit codes.

It does not do the work: jobs/commands/commands.py does.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TypeAlias

from jobs.commands import bench_encoder as bench
from jobs.commands import bench_pipeline, commands
from jobs.commands import plan as planning
from jobs.signals import Stopped, stoppable
from jobs.submit import submit
from pipeline.config.input import InputConfig
from pipeline.errors import LatentmillError, UserError
from pipeline.storage.store import without_secrets

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

EXIT_CODES = """exit codes:
  0  every sample is accounted for and rejects are within limits.max_reject_fraction
  1  work is left, something does not verify, or rejects are over the limit
  2  the input is wrong (configuration, paths, weights)
  130, 143  stopped by SIGINT, SIGTERM; the same command goes on where it stopped"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    chosen = build_parser().parse_args(arguments)
    try:
        with stoppable():
            code: int = chosen.command(chosen)
            return code
    except UserError as error:
        print(f"latentmill: {without_secrets(str(error))}", file=sys.stderr)
        return 2
    except LatentmillError as error:
        print(f"latentmill: {without_secrets(str(error))}; run the same command again to go on", file=sys.stderr)
        return 1
    except Stopped as stop:
        print(f"latentmill: stopped by {stop.name}; run the same command again to go on", file=sys.stderr)
        return stop.exit_code


def build_parser() -> argparse.ArgumentParser:
    """Every command with its arguments and help."""
    parser = argparse.ArgumentParser(
        prog="latentmill",
        description="Precompute video latents: WebDataset shards in, Parquet latents out, every sample accounted for.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_demo(subparsers)
    _add_pack(subparsers)
    for name, command, text in (
        ("plan", planning.plan, "what a run would do, before any GPU is taken"),
        ("run", commands.run, "make the latents; run it again and it goes on where it stopped"),
    ):
        with_config = _add(subparsers, name, command, text)
        with_config.add_argument("config", help="a YAML file, such as configs/cogvideox-2b.yaml")
        with_config.add_argument("overrides", nargs="*", metavar="section.key=value", help="such as clip.fps=16")
        with_config.epilog = commands.encoder_names()
        if name == "plan":
            text = "look at N samples, time the encoder here, and estimate clips, bytes and device-hours"
            with_config.add_argument("--probe", type=_positive, default=0, metavar="N", help=text)
    _add_submit(subparsers)
    _add_on_output(subparsers)
    _add_bench(subparsers)
    return parser


def _add(subparsers: Subparsers, name: str, command: commands.Command, text: str) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(name, help=text, description=text)
    parser.set_defaults(command=command)
    return parser


def _add_submit(subparsers: Subparsers) -> None:
    submission = _add(
        subparsers, "submit", submit.submit, "the same run as a job of a Ray cluster, Slurm or Kubernetes"
    )
    submission.add_argument("config", nargs="?", help="a YAML file, as run takes it")
    submission.add_argument("overrides", nargs="*", metavar="section.key=value", help="such as clip.fps=16")
    submit.add_options(submission)


def _add_on_output(subparsers: Subparsers) -> None:
    status = _add(subparsers, "status", commands.status, "where a run stands, by shard; also while it goes on")
    text = "reopen everything a run wrote: accounts, checksums, columns, shapes, values"
    verify = _add(subparsers, "verify", commands.verify, text)
    verify.add_argument("--repair", action="store_true", help="set bad files aside, so that the next run makes them")
    verify.add_argument("--reencode", type=_positive, default=0, metavar="N", help="encode N clips again and compare")
    text = "decode N latents and compare with the frames of their source"
    verify.add_argument("--decode", type=_positive, default=0, metavar="N", help=text)
    text = "with --decode: a diffusers VAE folder (default: the run's encoder.weights)"
    verify.add_argument("--vae", metavar="PATH", help=text)
    text = "with --decode: write frames above what was decoded, as PNGs"
    verify.add_argument("--pictures", metavar="FOLDER", help=text)
    text = "set aside the slices that hold rejects, so that the next run tries them again"
    retry = _add(subparsers, "retry-rejects", commands.retry_rejects, text)
    retry.add_argument("--stage", help="only those of this stage, such as decode")
    retry.add_argument("--reason", help="only those of this reason, such as timeout")
    report = _add(subparsers, "report", commands.report, "write summary.json and report.html anew")
    show = _add(subparsers, "show", commands.show, "one clip: its row, statistics, and a picture of its latent")
    for parser in (status, verify, retry, report, show):
        parser.add_argument("out", help="the output.path of a run")
    show.add_argument("key", help="the clip's id: the sample's key, and :WINDOW where it has several")
    show.add_argument("--picture", metavar="FILE", help="write the latent, below the frames it is of, as a PNG")


def _add_bench(subparsers: Subparsers) -> None:
    text = "the speed of an encoder, or of the whole pipeline, on this machine"
    whats = subparsers.add_parser("bench", help=text, description=text).add_subparsers(
        title="what to measure", required=True, metavar="WHAT"
    )
    text = "encoders alone: our ways of encoding beside diffusers' own code, with error and memory"
    bench.add_options(_add(whats, "encoder", bench.bench, text))
    text = (
        "runs of one replica beside their limit, the encoder alone on the same clips in memory; with seconds by stage"
    )
    bench_pipeline.add_options(_add(whats, "pipeline", bench_pipeline.bench, text))


def _add_demo(subparsers: Subparsers) -> None:
    demo = _add(subparsers, "demo", commands.demo, "make small videos and run the whole pipeline on them, on the CPU")
    demo.add_argument("out", nargs="?", default="out/demo", help="an empty folder (default: out/demo)")


def _add_pack(subparsers: Subparsers) -> None:
    pack = _add(subparsers, "pack", commands.pack, "folders of videos, .txt and .json beside them, into shards")
    pack.add_argument("videos", nargs="+", help="folders or video files")
    pack.add_argument("out", help="folder or fsspec URL for the shards")
    pack.add_argument("--shard-samples", type=_positive, default=1000, help="samples in a shard (default: 1000)")
    extensions = InputConfig.model_fields["video"].default
    pack.set_defaults(extensions=extensions)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number
