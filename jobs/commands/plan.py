"""The `plan` command: what a run would do, and with --probe what it is likely to make and take.

It does not estimate (pipeline/estimate/extrapolate.py); it says what the figures come from.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from pipeline.config.load import Config, load_config
from pipeline.estimate.extrapolate import Estimate
from pipeline.storage.store import public_url, stat_url

if TYPE_CHECKING:
    from encoder.video_encoder import VideoEncoder
    from pipeline.estimate.preview import Preview
    from pipeline.run import Prepared

READERS = 16

console = Console(soft_wrap=True)


def plan(chosen: argparse.Namespace) -> int:
    from pipeline.run import examine  # Ray takes a second to import: only who runs pays

    prepared, loaded = examine(load_config(chosen.config, chosen.overrides), probing=bool(chosen.probe))
    all_there = _print_shards(prepared)
    _print_buckets(prepared.config, loaded)
    if chosen.probe:
        _print_preview(prepared, loaded, chosen.probe)
    return 0 if all_there else 1


def _print_shards(prepared: "Prepared") -> bool:
    """Says what is left; returns whether all of it is there."""
    urls = list(dict.fromkeys(shard.url for shard in prepared.left))  # many shards may be of one table
    with ThreadPoolExecutor(READERS) as pool:
        sizes = list(pool.map(_size_bytes, urls))
    there = [size for size in sizes if size is not None]
    what = "bytes to read" if prepared.config.input.table is None else "bytes of tables"
    _say(
        f"shards: {len(prepared.shards):,}, done: {len(prepared.done):,}, left: {len(prepared.left):,}"
        f" ({sum(there):,} {what}, {len(sizes) - len(there):,} not found)"
    )
    return len(there) == len(sizes)


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False)


def _size_bytes(url: str) -> int | None:
    try:
        return stat_url(url).size_bytes
    except FileNotFoundError:
        return None


def _print_buckets(config: Config, loaded: "VideoEncoder") -> None:
    from pipeline.estimate.preview import stored_bytes

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
        size_bytes = stored_bytes(config.output, spec, (frames or 1, height_px, width_px))
        table.add_row(bucket, "x".join(map(str, shape)), f"{size_bytes:,}", memory)
    console.print(table)
    if clip.segments > 1 and loaded.recall:
        most = f"up to {loaded.recall.warm_up_frames} frames"
        console.print(f"each of {clip.segments} segments of a video but the first encodes {most} before its own")


def _print_preview(prepared: "Prepared", loaded: "VideoEncoder", count: int) -> None:
    from pipeline.estimate.preview import free_bytes, preview

    seen = preview(prepared.config, prepared.left, loaded, count)
    expected = seen.estimate
    how = "counted" if expected.samples_are_counted else "by the size of the shards"
    _say(
        f"looked at {expected.looked:,} samples at the beginning of shards; "
        f"samples left: {expected.samples:,.0f} ({how}). ± is the standard error of {expected.looked:,} samples"
    )
    for problem in seen.unreadable:
        _say(f"  cannot be read: {problem}")
    for reason, times in expected.left_out.items():
        _say(f"  {times:,} x {reason}")
    _say(f"clips: {expected.clips}; frames: {expected.frames}; bytes before compression: {expected.size_bytes}")
    _print_clips(seen)
    _say(_hours(seen))
    _say(_room(expected, free_bytes(prepared.config.output.path), public_url(prepared.config.output.path)))


def _print_clips(seen: "Preview") -> None:
    table = Table("clip t x h x w", "clips", "seconds a clip", "timed with")
    for shape, clips in seen.estimate.buckets.items():
        took, timed_with = "no memory to time it", ""
        if timing := seen.timings.get(shape[1:]):
            seconds = [shape[0] * value for value in (timing.median, timing.least, timing.most)]
            took = f"{seconds[0]:.3g} ({seconds[1]:.3g} to {seconds[2]:.3g})"
            timed_with = _named(timing.size)
        table.add_row(_named(shape), str(clips), took, timed_with)
    console.print(table)


def _named(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _hours(seen: "Preview") -> str:
    hours = seen.estimate.device_hours
    if hours is None:
        return f"device-hours: not known, as {seen.device} has no memory to time the encoder"
    scaled = any(seen.timings[shape[1:]].size != shape for shape in seen.estimate.buckets)
    figure = f"device-hours of encoding: {hours.value:,.4g} ± {hours.error:,.2g}, timed on {seen.device}"
    figure += ", from smaller clips by their pixels" if scaled else ""
    return figure + "; another device has another speed: probe on the one that will run"


def _room(expected: Estimate, free: int | None, path: str) -> str:
    """What is said of the room at the output; half as much again as expected is asked for where little is known."""
    if free is None:
        return f"room at {path}: not known"
    needed = expected.size_bytes.value + expected.size_bytes.error
    if needed <= free:
        return f"room at {path}: {free:,} bytes are free, enough"
    return f"room at {path}: {free:,} bytes are free, {needed - free:,.0f} more may be needed"
