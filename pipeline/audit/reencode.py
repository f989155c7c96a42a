"""Stored clips encoded again from their input: frames to look at, latents to compare with the stored ones."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from encoder import SIMULATED, LatentSpec
from encoder.video_encoder import VideoEncoder
from pipeline.audit.verify import Problem
from pipeline.clips.continuous import rows_of
from pipeline.config.load import Config, recorded_config
from pipeline.errors import ShardError, UserError
from pipeline.input.listing import shards_of
from pipeline.input.samples import samples_of
from pipeline.latents.encode import encode_sample
from pipeline.latents.load import load_encoder
from pipeline.latents.stopwatch import Stopwatch
from pipeline.output.accounts import SliceNumbers, read_json
from pipeline.output.latent_bytes import latent_of
from pipeline.output.parts import Footer, first_row, read_footer
from pipeline.output.paths import bucket_names, latent_files, part_path, rejects_path, slice_of_file
from pipeline.output.run_file import read_run
from pipeline.records import Chunk, DecodeItem, FloatLatent, Opened, Row, Sample, Uint8Frames
from pipeline.spread import evenly
from pipeline.storage.store import Store
from pipeline.video.decoder import LocalDecoder

# Of a latent's largest value: storage in float16 costs 5e-4, and devices add up in different orders.
TOLERANCE = {"float32": 2e-3, "bfloat16": 6e-2, "float16": 2e-2}


def _sample_again(store: Store, config: Config, row: Mapping[str, Any]) -> Sample:
    """The sample of a row, read again from its shard.

    Raises:
        UserError: the shard is no longer among the run's inputs.
        ShardError: it cannot be read, or holds no such sample.
    """
    shards = {shard.name: shard for shard in shards_of(config.input)}
    if row["shard"] not in shards:
        raise UserError(f"shard {row['shard']} is no longer among the inputs of the run")
    numbers = _numbers(config)
    slice_index = numbers.slices(row["sample_index"])[0]
    offset_bytes = _slice_offset_bytes(store, row["shard"], slice_index)
    first = numbers.samples(slice_index)[0] if offset_bytes else 0
    for sample in samples_of(shards[row["shard"]], config, offset_bytes, first):
        if sample.index == row["sample_index"]:
            return sample
    raise ShardError(f"shard {row['shard']} no longer holds sample {row['sample_index']}")


def _slice_offset_bytes(store: Store, shard: str, slice_index: int) -> int:
    """Where a slice begins, from the record of the one before; 0 where there is none."""
    if slice_index == 0:
        return 0
    for bucket in bucket_names(store):
        path = part_path(shard, slice_index - 1, bucket)
        if store.exists(path):
            with store.open(path) as file:
                return int(read_footer(file)["slice"]["next_offset_bytes"])
    path = rejects_path(shard, slice_index - 1)
    return int(read_json(store, path)["slice"]["next_offset_bytes"]) if store.exists(path) else 0


def _latent_again(
    sample: Sample, shard: str, segment: int, config: Config, encoder: VideoEncoder, window_index: int
) -> FloatLatent:
    """The latent `c t h w` of one window of a sample, encoded again; its stream is encoded only up to that window."""
    items = LocalDecoder(config, encoder.spec, encoder.receptive_field).start(sample, segment)
    for made in encode_sample(sample, items, encoder, config.output, Stopwatch(), shard):
        if isinstance(made, Row) and made.clip.window_index == window_index:
            return made.latent
    raise _changed(sample, window_index)


def relative_error(row: Mapping[str, Any], again: FloatLatent) -> float:
    """Largest difference between a stored latent and the one encoded again, over the largest stored value."""
    stored = latent_of(row)
    if stored.shape != again.shape:
        return float("inf")
    return float(np.abs(stored - again).max() / max(float(np.abs(stored).max()), 1e-12))


def reencode(store: Store, count: int) -> Iterator[tuple[str, float, Problem | None]]:
    """Encodes `count` clips again, evenly spread over the parts: (id, relative error, the problem or None).

    The error is zero on the same machine; another device has the error of its arithmetic.

    Raises:
        UserError: inputs or weights of the run can no longer be read.
    """
    config = recorded_config(read_run(store))
    if config.encoder.name == SIMULATED:
        raise UserError("the run's encoder was simulated, so its latents are noise: there is nothing to encode again")
    encoder = load_encoder(config.encoder, device="auto")
    for path, row, _ in rows_of_parts(store, count):
        sample, segment = _sample_again(store, config, row), _segment(path, config)
        again = _latent_again(sample, row["shard"], segment, config, encoder, row["window_index"])
        error = relative_error(row, again)
        allowed = TOLERANCE[config.encoder.dtype]
        what = f"clip {row['id']}, encoded again, differs by {error:.2g} of its largest value; {allowed:g} is allowed"
        yield row["id"], error, Problem(path, what) if error > allowed else None


def rows_of_parts(store: Store, count: int) -> Iterator[tuple[str, dict[str, Any], Footer]]:
    """The first rows of `count` parts, evenly spread: the part, its row, its footer."""
    for path in evenly(list(latent_files(store)), count):
        with store.open(path) as file:
            if found := first_row(file, lambda _: True):
                yield path, *found


def _segment(path: str, config: Config) -> int:
    owner = slice_of_file(path)
    return _numbers(config).segment(owner[1]) if owner else 0


def _numbers(config: Config) -> SliceNumbers:
    return SliceNumbers(config.output.part_samples, config.clip.segments)


def frames_of(store: Store, row: Mapping[str, Any], footer: Footer) -> Uint8Frames:
    """The frames `t h w c` that the encoder was given for a row. Raises as `reencode`, and ShardError.

    Args:
        footer: of the row's file; it describes the encoder, which is not loaded.
    """
    config = recorded_config(read_run(store))
    spec = LatentSpec(**{field.name: footer["encoder"][field.name] for field in fields(LatentSpec)})
    sample = _sample_again(store, config, row)
    items = LocalDecoder(config, spec).start(sample)
    frames = list(_frames_of_window(items, row["window_index"], row["num_frames"]))
    if not frames:
        raise _changed(sample, row["window_index"])
    return np.stack(frames)


def _frames_of_window(items: Iterator[DecodeItem], window_index: int, frames: int) -> Iterator[Uint8Frames]:
    """The frames of one row, `h w c`, from the clip that holds it; nothing beyond them is decoded."""
    places: dict[int, int] = {}  # by window of a clip, where in it the row begins
    for item in items:
        if isinstance(item, Opened):
            rows = ((spec, row, start) for spec in item.clips for row, start in rows_of(spec))
            places = {spec.window_index: start for spec, row, start in rows if row.window_index == window_index}
        elif isinstance(item, Chunk) and item.window_index in places:
            start = places[item.window_index]
            yield from item.frames[max(0, start) : max(0, start + frames)]
            places[item.window_index] = start - len(item.frames)
            if start + frames <= len(item.frames):
                return


def _changed(sample: Sample, window_index: int) -> ShardError:
    return ShardError(f"{sample.key} no longer has window {window_index}: its video has changed")
