"""The commands `verify` and `retry-rejects`: check what a run wrote, and set aside what is to be made again."""

import argparse
from pathlib import Path

from jobs.arguments import Subparsers, add_command, path_text, positive
from jobs.console import Counting, say
from pipeline.audit import repair
from pipeline.audit.summary import mixed_devices
from pipeline.audit.verify import Problem, Verified
from pipeline.audit.verify import verify as verify_output
from pipeline.storage.store import Store

LISTED_PROBLEMS = 100


def add(subparsers: Subparsers) -> None:
    """Adds `verify` and `retry-rejects`."""
    text = "reopen everything a run wrote: accounts, checksums, columns, shapes, values"
    parser = add_command(subparsers, "verify", verify, text)
    parser.add_argument("--repair", action="store_true", help="set bad files aside, so that the next run makes them")
    parser.add_argument("--reencode", type=positive, default=0, metavar="N", help="encode N clips again and compare")
    text = "decode N latents and compare with the frames of their source"
    parser.add_argument("--decode", type=positive, default=0, metavar="N", help=text)
    text = "with --decode: a diffusers VAE folder (default: the run's encoder.weights)"
    parser.add_argument("--vae", type=path_text, metavar="PATH", help=text)
    text = "with --decode: write source frames above decoded ones, as PNGs"
    parser.add_argument("--pictures", type=path_text, metavar="FOLDER", help=text)
    text = "set aside the slices that hold rejects, so that the next run tries them again"
    retry = add_command(subparsers, "retry-rejects", retry_rejects, text)
    retry.add_argument("--stage", help="only rejects of this stage, such as decode")
    retry.add_argument("--reason", help="only rejects with this reason, such as timeout")
    for each in (parser, retry):
        each.add_argument("out", help="the output.path of a run")


def verify(chosen: argparse.Namespace) -> int:
    store, seen, problems = Store(chosen.out), Verified(), []
    for problem in verify_output(store, seen, Counting("shards are checked")):
        problems.append(problem)
        if len(problems) <= LISTED_PROBLEMS:
            say(f"{problem.path}: {problem.what}")
    if len(problems) > LISTED_PROBLEMS:
        say(f"... and {len(problems) - LISTED_PROBLEMS:,} more")
    say(
        f"{seen.shards:,} shards, {seen.parts:,} parts, {seen.rows:,} rows, {seen.samples:,} samples, "
        f"{seen.rejects:,} rejects: {f'{len(problems):,} problems' if problems else 'no problems found'}"
    )
    for line in mixed_devices(seen.parts_by_device):
        say(line)
    if chosen.reencode:
        problems += _reencode(store, chosen.reencode)
    if chosen.decode:
        _redecode(store, chosen.decode, chosen.vae, chosen.pictures)
    if problems and chosen.repair:
        _say_set_aside(repair.repair(store, problems))
    return 1 if problems else 0


def retry_rejects(chosen: argparse.Namespace) -> int:
    rejects, moved = repair.retry_rejects(Store(chosen.out), chosen.stage, chosen.reason)
    say(f"{rejects:,} rejects will be tried again")
    _say_set_aside(moved)
    return 0


def _reencode(store: Store, count: int) -> list[Problem]:
    from pipeline.audit.reencode import reencode  # lazily: torch and decoders take seconds to import

    problems = []
    for clip_id, relative_error, problem in reencode(store, count):
        say(f"encoded again: {clip_id}, relative error {relative_error:.2g}")
        problems += [problem] if problem else []
    return problems


def _redecode(store: Store, count: int, vae: str | None, pictures: str | None) -> None:
    from pipeline.audit.pictures import side_by_side
    from pipeline.audit.redecode import redecode  # lazily, as in _reencode

    for number, clip in enumerate(redecode(store, count, vae)):
        file = Path(pictures) / f"{number:03d}.png" if pictures else None  # a key may not be a legal file name
        say(f"decoded: {clip.id}, PSNR {clip.psnr_db:.2f} dB{f', {file}' if file else ''}")
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(side_by_side(clip.frames, clip.decoded, clip.temporal_ratio))


def _say_set_aside(moved: list[str]) -> None:
    say(f"{len(moved):,} files set aside; the next run makes what is missing")
