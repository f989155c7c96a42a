"""The commands `status`, `report` and `show`: what a run has written, without changing any latent."""

import argparse
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

from jobs.arguments import Subparsers, add_command, path_text, positive
from jobs.console import draws_colours, say, say_above, say_over, say_picture, say_table
from pipeline.audit.report.data import Pictures
from pipeline.audit.status import ShardStatus, read_live, read_status, read_text_status, refresh_report
from pipeline.audit.summary import mixed_devices
from pipeline.audit.watch import WINDOW_LOOKS, Look, line_of, look_of
from pipeline.errors import LatentmillError, UserError
from pipeline.monitor.live import live_line, reject_line
from pipeline.output.latent_bytes import latent_of
from pipeline.output.parts import Footer
from pipeline.storage.store import Store

LISTED_SHARDS = 40
TERMINAL, PICTURES = "-", (".png", ".gif")
WATCH_SECONDS = 10


def add(subparsers: Subparsers) -> None:
    """Adds `status`, `report` and `show`."""
    of_status = add_command(subparsers, "status", status, "how far each shard of a run is; also while it is running")
    of_report = add_command(subparsers, "report", report, "write summary.json and report.html again")
    of_show = add_command(subparsers, "show", show, "one clip: its row, statistics, and a picture of its latent")
    for parser in (of_status, of_report, of_show):
        parser.add_argument("out", help="the output.path of a run")
    text = "look again every so many seconds (10) until the run is done: rates, rejects, time left"
    of_status.add_argument("--watch", nargs="?", type=positive, const=WATCH_SECONDS, metavar="SECONDS", help=text)
    of_report.add_argument(
        "--pictures", type=positive, default=3, metavar="N", help="clips that are shown with their source frames (3)"
    )
    of_report.add_argument(
        "--decode", action="store_true", help="decode their latents too, and state the PSNR against the source"
    )
    of_report.add_argument(
        "--vae", type=path_text, help="a diffusers VAE folder, where the run's weights have no decoder"
    )
    of_show.add_argument("key", help="a clip's id, or a sample's key: lists all clips that match")
    text = "draw the latent and its source frames: to a .png or, moving, a .gif; on the terminal where no file is named"
    of_show.add_argument("--picture", nargs="?", type=path_text, const=TERMINAL, metavar="FILE", help=text)


def status(chosen: argparse.Namespace) -> int:
    store = Store(chosen.out)
    if chosen.watch:
        _watch(store, chosen.watch)
    shards = read_status(store)
    states = [shard.state for shard in shards]
    counts = ", ".join(f"{state}: {states.count(state):,}" for state in ("done", "running", "left"))
    rows, rejects = sum(shard.rows for shard in shards), sum(shard.rejects for shard in shards)
    say(f"shards {counts}; rows in finished shards: {rows:,}, rejects: {rejects:,}")
    for line in mixed_devices(sum((Counter(shard.parts_by_device) for shard in shards), Counter())):
        say(line)
    for live in read_live(store, now := time.time()):
        say(live_line(live, now))
        for reject in live["recent_rejects"]:
            say(f"  {reject_line(reject)}")
    _say_shards(sorted(shards, key=lambda shard: ("running", "left", "done").index(shard.state)))
    texts = read_text_status(store)
    for text in texts:
        totals = text.totals
        say(
            f"text {text.name}: shards done: {totals['shards']:,}, left: {text.left:,}; captions: "
            f"{totals['captions']:,}, truncated: {totals['truncated']:,}, rejects: {totals['rejects']:,}"
        )
    return 0 if states.count("done") == len(states) and not any(text.left for text in texts) else 1


def _watch(store: Store, seconds: int) -> None:
    """Says how the run moves until nothing is left of it."""
    looks: deque[Look] = deque(maxlen=WINDOW_LOOKS)
    shards: list[ShardStatus] = []
    told: set[str] = set()
    while not looks or looks[-1].done < looks[-1].shards:
        if looks:
            time.sleep(seconds)
        shards = read_status(store, shards)
        looks.append(look_of(shards, time.monotonic()))
        now = time.time()
        lives = read_live(store, now)
        for line in [reject_line(reject) for live in lives for reject in live["recent_rejects"]]:
            if line not in told:
                told.add(line)
                say_above(line)
        say_over("; ".join([line_of(looks), *(live_line(live, now) for live in lives)]))
    say("")


def _say_shards(shards: list[ShardStatus]) -> None:
    headers = ("shard", "state", "slices", "samples", "rows", "rejects")
    listed = shards[:LISTED_SHARDS]
    say_table(
        headers,
        ((one.name, one.state, *map(str, (one.slices, one.samples, one.rows, one.rejects))) for one in listed),
    )
    if len(shards) > LISTED_SHARDS:
        say(f"... and {len(shards) - LISTED_SHARDS:,} more")


def report(chosen: argparse.Namespace) -> int:
    store = Store(chosen.out)
    refresh_report(store, Pictures(chosen.pictures, chosen.decode or bool(chosen.vae), chosen.vae))
    say(store.url("report.html"))
    return 0


def show(chosen: argparse.Namespace) -> int:
    from pipeline.audit.show import LISTED, channel_lines, describing, find_clips, find_row

    _check_picture(chosen.picture)
    store = Store(chosen.out)
    clips = find_clips(store, chosen.key)
    if len(clips) > 1 and not chosen.picture:
        for clip in clips:
            say("  ".join(f"{name}: {text}" for name, text in describing(clip).items() if name in LISTED))
        say(f"{len(clips):,} clips match; name one by its id to see its statistics")
        return 0
    row, footer = find_row(store, chosen.key)
    for name, text in describing(row).items():
        say(f"{name}: {text}")
    lines = channel_lines(latent_of(row))
    say_table(
        ("channel", "mean", "std", "min", "max"),
        ((str(channel), *(f"{value:.4f}" for value in values)) for channel, values in enumerate(lines)),
    )
    if chosen.picture:
        _draw(store, row, footer, chosen.picture)
    return 0


def _check_picture(file: str | None) -> None:
    """Raises UserError where a picture cannot be drawn there."""
    if file == TERMINAL and not draws_colours():
        raise UserError("--picture without a file draws on a terminal with colours, which this is not: name a file")
    if file and file != TERMINAL and Path(file).suffix.lower() not in PICTURES:
        raise UserError(f"--picture {file}: name a .png, or a .gif that moves")


def _draw(store: Store, row: dict[str, Any], footer: Footer, file: str) -> None:
    from pipeline.audit.pictures import moving_picture, picture, picture_for_terminal
    from pipeline.audit.reencode import frames_of

    try:
        frames = frames_of(store, row, footer)
    except LatentmillError as error:
        say(f"the picture has no source frames: {error}")
        frames = None
    latent, temporal_ratio = latent_of(row), footer["encoder"]["temporal_ratio"]
    if file == TERMINAL:
        say_picture(lambda *size_px: picture_for_terminal(latent, frames, temporal_ratio, *size_px))
    elif Path(file).suffix.lower() == ".gif":
        Path(file).write_bytes(moving_picture(latent, frames, temporal_ratio, row["fps"]))
    else:
        Path(file).write_bytes(picture(latent, frames, temporal_ratio, f"{row['id']}  {row['caption']}"))
