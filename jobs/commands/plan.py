"""The command `plan`: what a run would do, and with --probe what it is likely to write and to take."""

import argparse
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from jobs.arguments import Subparsers, add_command, add_config, positive, read_config
from jobs.console import say, say_table
from pipeline.config.load import Config
from pipeline.errors import UserError
from pipeline.estimate.extrapolate import Estimate, Quantity
from pipeline.monitor.words import size
from pipeline.storage.files import stat_url
from pipeline.storage.urls import public_url

if TYPE_CHECKING:
    from encoder.video_encoder import VideoEncoder
    from pipeline.estimate.preview import Preview
    from pipeline.run import Prepared

READERS = 16
FLOAT32_FAMILIES = ("wan", "wan2.2")  # encoders whose own code computes in float32


def add(subparsers: Subparsers) -> None:
    """Adds `plan`."""
    parser = add_command(subparsers, "plan", plan, "what a run would do, before it takes any GPU")
    add_config(parser)
    text = "read N samples, time the encoder here, and estimate clips, bytes and device-hours"
    parser.add_argument("--probe", type=positive, default=0, metavar="N", help=text)
    text = "with --probe: what a device costs for an hour, to estimate what the run does"
    parser.add_argument("--gpu-hour-price", type=float, metavar="PRICE", help=text)


def plan(chosen: argparse.Namespace) -> int:
    from pipeline.run import examine  # lazily: Ray takes a second to import

    if chosen.gpu_hour_price is not None and not (chosen.probe and chosen.gpu_hour_price >= 0):
        raise UserError("--gpu-hour-price needs a price of 0 or more, and --probe N, which estimates the hours")
    prepared, loaded = examine(read_config(chosen), probing=bool(chosen.probe))
    all_there = _say_shards(prepared)
    _say_buckets(prepared.config, loaded)
    if note := precision_note(prepared.config.encoder.name, prepared.config.encoder.dtype):
        say(note)
    _say_gpu(prepared.config)
    if chosen.probe:
        _say_preview(prepared, loaded, chosen.probe, chosen.gpu_hour_price)
    return 0 if all_there else 1


def _say_shards(prepared: "Prepared") -> bool:
    """Prints what is left; returns whether all of it exists."""
    urls = list(dict.fromkeys(shard.url for shard in prepared.left))  # many shards may be rows of one table
    with ThreadPoolExecutor(READERS) as pool:
        sizes = list(pool.map(_size_bytes, urls))
    there = [size for size in sizes if size is not None]
    what = "to read" if prepared.config.input.table is None else "of tables"
    say(
        f"shards: {len(prepared.shards):,}, done: {len(prepared.done):,}, left: {len(prepared.left):,}"
        f" ({size(sum(there))} {what}, {len(sizes) - len(there):,} not found)"
    )
    return len(there) == len(sizes)


def precision_note(name: str, dtype: str) -> str | None:
    """What another precision costs where the family's own code encodes in float32; None elsewhere."""
    if name not in FLOAT32_FAMILIES or dtype == "float32":
        return None
    return (
        f"encoder.dtype: {dtype}, where Wan's own code encodes in float32: bfloat16 changes latents by 1% of their "
        "root mean square (docs/fidelity.md)"
    )


def _say_gpu(config: Config) -> None:
    from pipeline.estimate.gpu_check import check_gpu

    for problem in check_gpu(config).problems:
        say(f"GPU here: {problem}")


def _size_bytes(url: str) -> int | None:
    try:
        return stat_url(url).size_bytes
    except FileNotFoundError:
        return None


def _say_buckets(config: Config, loaded: "VideoEncoder") -> None:
    from pipeline.estimate.preview import stored_bytes

    clip, spec = config.clip, loaded.spec
    stored = "size per latent frame" if clip.whole_video else "size per clip"
    rows = []
    for bucket, frames, (height_px, width_px) in zip(
        clip.buckets, clip.bucket_frames, clip.bucket_sizes_px, strict=True
    ):
        shape = spec.latent_shape(frames or 1, height_px, width_px)
        memory = size(loaded.encode_bytes(frames, height_px, width_px)) if frames else "grows with the video"
        if not frames and loaded.streams:
            memory = "flat"
        size_bytes = stored_bytes(config.output, spec, (frames or 1, height_px, width_px))
        rows.append((bucket, _named(shape), size(size_bytes), memory))
    say_table(("bucket (pixels)", "latent c x t x h x w", stored, "memory to encode one"), rows)
    if clip.segments > 1 and loaded.receptive_field:
        most = f"up to {loaded.receptive_field.warm_up_frames} frames"
        say(f"each of the {clip.segments} segments of a video except the first also encodes {most} before its own")


def _say_preview(prepared: "Prepared", loaded: "VideoEncoder", count: int, price: float | None) -> None:
    from pipeline.estimate.preview import free_bytes, preview

    seen = preview(prepared.config, prepared.left, loaded, count)
    expected = seen.estimate
    how = "counted" if expected.samples_are_counted else "estimated from the size of the shards"
    say(
        f"looked at {expected.previewed:,} samples from the beginning of shards; "
        f"samples left: {expected.samples:,.0f} ({how}). ± is the standard error of {expected.previewed:,} samples"
    )
    for problem in seen.unreadable:
        say(f"  cannot be read: {problem}")
    for reason, times in expected.left_out.items():
        say(f"  {times:,} x {reason}")
    say(f"clips: {expected.clips}; frames: {expected.frames}; before compression: {_sizes(expected.size_bytes)}")
    _say_clips(seen)
    say(_hours(seen))
    if price is not None and expected.device_hours is not None:
        say(_cost(expected.device_hours, price))
    if prepared.config.text is not None:
        _say_texts(prepared.config, seen, count)
    say(_space(expected, free_bytes(prepared.config.output.path), public_url(prepared.config.output.path)))


def _say_texts(config: Config, seen: "Preview", count: int) -> None:
    from pipeline.estimate.texts import preview_texts

    texts = preview_texts(config, seen.previewed, seen.estimate.samples, count)
    say(
        f"texts of all rows, from {texts.previewed:,} captions ({texts.truncated:,} of them cut off): "
        f"{texts.captions} captions; before compression: {_sizes(texts.size_bytes)}"
    )
    say(
        f"device-hours of texts: {texts.device_hours.value:,.4g} ± {texts.device_hours.error:,.2g}, from "
        f"{texts.timed:,} captions timed on this machine's {texts.device}"
    )


def _say_clips(seen: "Preview") -> None:
    rows = []
    for shape, clips in seen.estimate.buckets.items():
        took, timed_with = "too little memory to time it", ""
        if timing := seen.timings.get(shape[1:]):
            seconds = [shape[0] * value for value in (timing.median, timing.least, timing.most)]
            took = f"{seconds[0]:.3g} ({seconds[1]:.3g} to {seconds[2]:.3g})"
            timed_with = _named(timing.size)
        rows.append((_named(shape), str(clips), took, timed_with))
    say_table(("clip t x h x w", "clips", "seconds per clip", "timed with"), rows)


def _named(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _hours(seen: "Preview") -> str:
    hours = seen.estimate.device_hours
    if hours is None:
        return f"device-hours: unknown, as {seen.device} has too little memory to time the encoder"
    scaled = any(seen.timings[shape[1:]].size != shape for shape in seen.estimate.buckets)
    source = ", scaled by pixels from smaller clips" if scaled else ""
    return (
        f"device-hours of encoding: {hours.value:,.4g} ± {hours.error:,.2g}, timed on {seen.device}{source}; "
        "probe on the device that will do the run, as speeds differ"
    )


def _cost(hours: Quantity, price: float) -> str:
    return f"cost of encoding at {price:g} an hour: {hours.value * price:,.2f} ± {hours.error * price:,.2f}"


def _sizes(quantity: Quantity) -> str:
    return f"{size(quantity.value)} ± {size(quantity.error)}"


def _space(expected: Estimate, free: int | None, path: str) -> str:
    """Whether the output has space for what is expected and its standard error."""
    if free is None:
        return f"space at {path}: unknown"
    needed = expected.size_bytes.value + expected.size_bytes.error
    if needed <= free:
        return f"space at {path}: {size(free)} are free, which is enough"
    return f"space at {path}: {size(free)} are free, {size(needed - free)} more may be needed"
