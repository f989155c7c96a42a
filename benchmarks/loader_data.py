"""Runs that were never made: parts and indices of made-up rows, and the same rows in MosaicML's format."""

import json
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.output.ledger import ShardLedger
from pipeline.output.paths import INDEX, LATENTS, index_path
from pipeline.output.slice_writer import SliceWriter
from pipeline.records import ClipSpec, FileInfo, Geometry, Row, Sample, TarShard, VideoHeader
from pipeline.storage.store import Store

Shape = tuple[int, int, int, int]  # c t h w
PART_SAMPLES = 64
SHARD_ROWS = 1000  # of a made-up index
SCALING = {"formula": "(z - shift) * scale", "shape": [1, 1, 1, 1], "shift": [0], "scale": [1], "image_scale": [1]}
DESCRIPTION = {
    "format_version": 2,
    "fingerprint": "made up",
    "encoder": {"name": "made up", "scaling": SCALING},
    "posterior": "mean",
    "image_latent": "none",
    "columns": {},
    "dtype": "float16",
    "part_samples": PART_SAMPLES,
}


def write_rows(root: Path, rows: int, shapes: Sequence[Shape]) -> str:
    """A shard whose rows have these shapes in turn, with the same noise in all rows of a shape."""
    ledger = ShardLedger(Store(str(root)), TarShard("shard", "/shard.tar"), FileInfo(4096, ""), DESCRIPTION).looked()
    noise = [np.random.default_rng(0).standard_normal(shape, dtype=np.float32) for shape in shapes]
    slices = []
    for first in range(0, rows, PART_SAMPLES):
        writer = SliceWriter(ledger, first // PART_SAMPLES, first, "mean", "float16")
        for index in range(first, min(first + PART_SAMPLES, rows)):
            row = _row(index, noise[index % len(shapes)])
            writer.counts.add(row.sample)
            writer.add(row)
            writer.end_sample(index)
        slices.append(writer.commit())
    ledger.commit_manifest(slices, {})
    return str(root)


def _row(index: int, latent: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]") -> Row:
    key = f"clip-{index:06d}"
    caption = f"Caption {index}, as long as those are that a model writes of a few seconds of film: {'words ' * 30}"
    sample = Sample(
        key=key,
        index=index,
        position=0,
        next_position=0,
        last=False,
        ignored_files=0,
        video=b"",
        video_name=f"{key}.mp4",
        captions=(caption,),
        metadata="{}",
        spans=None,
        problem=None,
    )
    clip = ClipSpec(0, range(49), 8.0, Geometry(720, 480, 0, 0, 720, 480), (49,))
    times = array("d", (number / 8 for number in range(49)))
    header = VideoHeader("mp4", "h264", 720, 480, 1.0, 0, times, 6.125)
    return Row(sample, clip, header, f"shard/{key}", latent, None)


def write_mds(root: str) -> None:
    """The rows of a root again, in MosaicML's format, a stream for each bucket; nothing where it is not installed."""
    try:
        from streaming import MDSWriter
    except ImportError:
        return
    for folder in sorted(Path(root, LATENTS).iterdir()):
        with MDSWriter(
            out=f"{root}/mds/{folder.name}", columns={"id": "str", "latent": "bytes", "shape": "json"}
        ) as out:
            for part in sorted(folder.iterdir()):
                names = ["id", "vae_latent_bytes", "vae_latent_shape"]
                for row in pq.read_table(part, columns=names, partitioning=None).to_pylist():
                    out.write({"id": row["id"], "latent": row["vae_latent_bytes"], "shape": row["vae_latent_shape"]})


def write_index(root: Path, rows: int) -> str:
    """Indices of so many rows without any part, 1,000 rows a shard: one real index, with other names and numbers."""
    write_rows(root / "real", PART_SAMPLES, [(2, 2, 3, 5), (2, 2, 5, 3)])
    real = pq.read_table(root / "real" / index_path("shard"), partitioning=None)
    about = json.loads(real.schema.metadata[b"latentmill"])
    copies = pa.concat_tables([real] * (SHARD_ROWS // len(real) + 1)).slice(0, SHARD_ROWS)
    (root / INDEX).mkdir()
    chance = np.random.default_rng(0)
    for number in range(rows // SHARD_ROWS):
        name = f"shard-{number:06d}"
        ids = [f"{name}/clip-{index:09d}" for index in range(SHARD_ROWS)]
        columns = {"id": pa.array(ids), "row_hash": pa.array(chance.integers(-(2**63), 2**63 - 1, SHARD_ROWS))}
        table = copies
        for column, values in columns.items():
            table = table.set_column(table.schema.get_field_index(column), column, values)
        text = json.dumps(about | {"parts": _parts(name, about["parts"]["bucket"])})
        table = table.replace_schema_metadata({"latentmill": text})
        pq.write_table(table, root / index_path(name), compression="zstd", compression_level=1)
    return str(root)


def _parts(shard: str, buckets: list[str]) -> dict[str, list[object]]:
    """Parts of 25 rows, of two buckets in turn."""
    numbers = range(SHARD_ROWS // 25)
    return {
        "path": [f"{LATENTS}/bucket={buckets[number % 2]}/{shard}-{number // 2:05d}.parquet" for number in numbers],
        "bucket": [buckets[number % 2] for number in numbers],
        "rows": [25 for _ in numbers],
        "size_bytes": [60_000_000 + number for number in numbers],
        "footer_bytes": [60_000 for _ in numbers],
    }
