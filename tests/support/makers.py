"""Values as they flow through the pipeline, made up: rows, records and whole output roots, without video or encoder.

It holds no tests.
"""

import json
from array import array
from collections.abc import Iterable
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np

from encoder import Dtype
from pipeline.errors import Reason
from pipeline.output.accounts import CommittedSlice, SliceRecord
from pipeline.output.ledger import ShardLedger
from pipeline.output.manifests import Manifest
from pipeline.output.slice_writer import SliceWriter, bucket_of
from pipeline.output.statistics import LatentStatistics
from pipeline.records import ClipSpec, FileInfo, FloatLatent, Geometry, Reject, Row, Sample, TarShard, VideoHeader
from pipeline.storage.store import Store

Shape = tuple[int, int, int, int]  # c t h w
WIDE: Shape = (2, 2, 3, 5)
TALL: Shape = (2, 2, 5, 3)
WIDE_BUCKET, TALL_BUCKET = bucket_of(WIDE), bucket_of(TALL)
PART_SAMPLES = 3
FINGERPRINT = "f" * 64
TOO_SHORT = Reason("clip", "too_short", "3 frames, 49 are asked for")
SLICES: tuple[tuple[Shape | None, ...], ...] = ((WIDE, TALL, None), (None, None, None), (WIDE, WIDE))


def made_sample(index: int, **changes: Any) -> Sample:
    sample = Sample(
        key=f"clip-{index:03d}",
        index=index,
        position=1024 * index,
        next_position=1024 * (index + 1),
        last=False,
        ignored_files=0,
        video=b"video",
        video_name=f"clip-{index:03d}.mp4",
        captions=(f"caption {index}",),
        metadata='{"seed": 1}',
        spans=None,
        problem=None,
    )
    return replace(sample, **changes)


def made_latent(seed: int, shape: Shape = WIDE) -> FloatLatent:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def made_row(index: int = 0, window_index: int = 0, shape: Shape = WIDE, **changes: Any) -> Row:
    """A row of nine frames whose values depend on nothing but its place and shape."""
    sample = made_sample(index)
    times = array("d", (number / 8 for number in range(9)))
    clip = ClipSpec(window_index, range(9), 8.0, Geometry(72, 48, 4, 0, 64, 48), (9,))
    header = VideoHeader("mp4", "h264", 1280, 720, 1.0, 0, times, 1.125, start_seconds=0.25, pixel_format="yuv420p")
    mean, logvar = (made_latent(1000 * index + 10 * window_index + which, shape) for which in (0, 1))
    return replace(Row(sample, clip, header, sample.key, mean, logvar), **changes)


def made_reject(sample_index: int, window_index: int = -1, reason: str = "too_short") -> Reject:
    return Reject(f"clip-{sample_index:03d}", sample_index, window_index, Reason("clip", reason, "in some detail"))


def made_record(clips: dict[str, tuple[tuple[int, int], ...]] | None = None, *rejects: Reject) -> SliceRecord:
    """The account of slice 0 by one writer."""
    return SliceRecord(0, PART_SAMPLES, 3072, False, 0, clips or {}, rejects)


COMPUTED_BY = {"device": "cpu", "model": "made up"}
DEVICE = "device cpu, model made up"
SCALING = {"formula": "(z - shift) * scale", "shape": [1, 1, 1, 1], "shift": [0], "scale": [1], "image_scale": [1]}


def made_ledger(store: Store, name: str = "videos", url: str = "/data/videos.tar", **changes: Any) -> ShardLedger:
    description = {
        "format_version": 2,
        "fingerprint": FINGERPRINT,
        "encoder": {"name": "made up", "temporal_ratio": 4, "scaling": SCALING},
        "posterior": "moments",
        "image_latent": "none",
        "columns": {},
        "dtype": "float32",
        "part_samples": PART_SAMPLES,
        "computed_by": COMPUTED_BY,
    }
    ledger = ShardLedger(store, TarShard(name, url), FileInfo(4096, "tag"), description).looked()
    return replace(ledger, **changes)


def fill_slice(
    ledger: ShardLedger,
    shapes: Iterable[Shape | None],
    slice_index: int = 0,
    begun: CommittedSlice | None = None,
    dtype: Dtype = "float32",
    image_latent: bool = False,
) -> SliceWriter:
    """A writer that took a sample for each shape, rejected where it is None, and waits for its commit."""
    writer = SliceWriter(ledger, slice_index, slice_index * PART_SAMPLES, "moments", dtype, begun, image_latent)
    for index, shape in enumerate(shapes, start=slice_index * PART_SAMPLES):
        row = made_row(index, shape=shape or WIDE)
        row = replace(row, id=f"{ledger.shard.name}/{row.sample.key}")
        writer.counts.add(row.sample)
        if not writer.wanted(index):
            continue
        if shape is None:
            writer.reject(row.sample, -1, TOO_SHORT)
        else:
            writer.add(row)
    return writer


def numbers(statistics: LatentStatistics) -> list[float]:
    """Statistics of latents as one list, for comparisons that leave the last bits of a sum open."""
    return [number for values in astuple(statistics) for number in np.ravel(values).tolist()]


def commit_shard(store: Store, name: str = "videos", url: str = "/data/videos.tar") -> Manifest:
    """Writes every slice of a shard of eight samples, and its manifest: three rejects in a slice of their own."""
    ledger = made_ledger(store, name, url)
    slices = [fill_slice(ledger, shapes, index).commit() for index, shapes in enumerate(SLICES)]
    return ledger.commit_manifest(slices, {"encode": 3.0, "device_idle": 1.0})


def commit_run(root: Path, shards: list[str]) -> Store:
    """An output root that was begun for some shards and holds nothing yet."""
    store = Store(str(root))
    config = {"input": {"shards": shards}, "output": {"part_samples": PART_SAMPLES}}
    store.create("run.json", json.dumps({"fingerprint": FINGERPRINT, "identity": config, "config": config}).encode())
    return store
