"""Parquet parts: rows in, one self-describing file out; and back, for resuming and verifying.

It does not decide where a part goes or whether it is committed: ledger.py does.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ConfigError, SampleError
from pipeline.records import FloatLatent, Reject, Row, SliceRecord

FOOTER_KEY = b"latentmill"
ROW_GROUP_BYTES = 16 << 20
# Short columns that repeat; a dictionary of blobs would only cost memory.
LONG_COLUMNS = ("caption", "captions", "metadata")  # the least and largest of them help nobody
DICTIONARY_COLUMNS = ["media_type", "shard", "posterior", "bucket"]
DICTIONARY_COLUMNS += ["vae_latent_dtype", "vae_logvar_dtype", "first_frame_latent_dtype"]

Dtype = Literal["float16", "bfloat16", "float32"]
LARGEST: dict[Dtype, float] = {
    "float16": float(np.finfo(np.float16).max),
    "bfloat16": (2 - 2**-7) * 2.0**127,
    "float32": float(np.finfo(np.float32).max),
}

CROP = pa.struct([(name, pa.int32()) for name in ("resized_width", "resized_height", "left", "top")])
DESCRIBING_FIELDS = [
    ("id", pa.string()),
    ("caption", pa.string()),
    ("captions", pa.list_(pa.string())),
    ("file_name", pa.string()),
    ("media_type", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("num_frames", pa.int32()),
    ("duration_sec", pa.float64()),
    ("fps", pa.float64()),
    ("shard", pa.string()),
    ("sample_index", pa.int64()),
    ("window_index", pa.int32()),
    ("posterior", pa.string()),
    ("bucket", pa.string()),
    ("frame_indices", pa.list_(pa.int32())),
    ("pts_seconds", pa.list_(pa.float64())),
    ("source_width", pa.int32()),
    ("source_height", pa.int32()),
    ("crop", CROP),
    ("metadata", pa.string()),
]
CONTINUES = ("continues", pa.bool_())  # of continuous rows alone: whether one goes on from the row before it
LATENTS = ("vae_latent", "vae_logvar", "first_frame_latent")
LATENT_TYPES = {"shape": pa.list_(pa.int32()), "dtype": pa.string(), "bytes": pa.large_binary()}
COLUMN_TYPES = {"string": pa.string(), "float": pa.float64(), "int": pa.int64(), "bool": pa.bool_()}


def check_columns(names: Iterable[str]) -> None:
    """Raises ConfigError where a column of the user's has the name of one of ours."""
    ours = {name for name, _ in (*DESCRIBING_FIELDS, CONTINUES)}
    ours |= {f"{name}_{what}" for name in LATENTS for what in LATENT_TYPES}
    if taken := sorted(ours.intersection(names)):
        raise ConfigError(f"input.columns: every row has a column {', '.join(taken)} already: take another name")


def schema(
    posterior: str, first_frame: bool = False, columns: Mapping[str, str] | None = None, continuous: bool = False
) -> pa.Schema:
    """The columns of a part: what describes a clip, then the user's (name to type, by name), its latents last."""
    written = (True, posterior == "moments", first_frame)
    fields = [*DESCRIBING_FIELDS, *[CONTINUES][: int(continuous)]]
    fields += [(name, COLUMN_TYPES[type_]) for name, type_ in sorted((columns or {}).items())]
    for name in (name for name, is_written in zip(LATENTS, written, strict=True) if is_written):
        fields += [(f"{name}_{what}", type_) for what, type_ in LATENT_TYPES.items()]
    return pa.schema(fields)


def encode_latent(latent: FloatLatent, dtype: Dtype) -> bytes:
    """Row-major little-endian bytes of a latent `c t h w`.

    Raises:
        SampleError: `non_finite`, or `out_of_range` where the storage dtype cannot hold a value; never clipped.
    """
    finite = np.isfinite(latent)
    if not finite.all():
        raise SampleError("encode", "non_finite", f"{latent.size - int(finite.sum()):,} of {latent.size:,} values")
    largest, limit = float(np.abs(latent).max(initial=0)), LARGEST[dtype]
    if largest > limit:
        raise SampleError("encode", "out_of_range", f"{largest:g} is beyond {dtype}'s {limit:g}; use output.dtype")
    if dtype == "float32":
        return np.ascontiguousarray(latent, "<f4").tobytes()
    if dtype == "bfloat16":
        return _bfloat16_bits(latent).tobytes()
    return np.ascontiguousarray(latent, "<f2").tobytes()


def decode_latent(data: bytes, shape: list[int], dtype: str) -> FloatLatent:
    """The inverse of `encode_latent`, as float32 `c t h w`. Raises ValueError where the length does not fit."""
    if dtype == "bfloat16":
        bits = np.frombuffer(data, "<u2").astype(np.uint32) << 16
        return bits.view(np.float32).reshape(shape)
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).astype(np.float32).reshape(shape)


def latent_of(row: Mapping[str, Any]) -> FloatLatent:
    """The latent of a row as it is read back, float32 `c t h w`."""
    return decode_latent(row["vae_latent_bytes"], row["vae_latent_shape"], row["vae_latent_dtype"])


def _bfloat16_bits(latent: FloatLatent) -> npt.NDArray[np.uint16]:
    """Rounds to nearest, ties to even, by adding just under half of the last place that stays."""
    bits = np.ascontiguousarray(latent, "<f4").view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype("<u2")


def row_values(row: Row, shard: str, bucket: str, posterior: str, dtype: Dtype) -> dict[str, Any]:
    """One row's columns by name. Raises SampleError as `encode_latent`."""
    clip, geometry, header = row.clip, row.clip.geometry, row.header
    values: dict[str, Any] = {
        "id": row.id,
        "caption": row.sample.caption,
        "captions": list(row.sample.captions),
        "file_name": row.sample.video_name,
        "media_type": "video",
        "width": geometry.width_px,
        "height": geometry.height_px,
        "num_frames": clip.frames,
        "duration_sec": clip.frames / clip.fps,
        "fps": clip.fps,
        "shard": shard,
        "sample_index": row.sample.index,
        "window_index": clip.window_index,
        "posterior": posterior,
        "bucket": bucket,
        "frame_indices": list(clip.frame_indices),
        "pts_seconds": [header.pts_seconds[index] for index in clip.frame_indices],
        "source_width": header.width_px,
        "source_height": header.height_px,
        "crop": {
            "resized_width": geometry.resized_width_px,
            "resized_height": geometry.resized_height_px,
            "left": geometry.left_px,
            "top": geometry.top_px,
        },
        "metadata": row.sample.metadata,
        "continues": clip.continues,
    }
    latents = {"vae_latent": row.latent, "vae_logvar": row.logvar, "first_frame_latent": row.first_frame}
    for name, latent in latents.items():
        if latent is not None:
            values[f"{name}_shape"] = list(latent.shape)
            values[f"{name}_dtype"] = dtype
            values[f"{name}_bytes"] = encode_latent(latent, dtype)
    return values


class ChannelStatistics:
    """Running count, sum, squares, least and largest of the means, per latent channel, in float64."""

    def __init__(self) -> None:
        self._totals: dict[str, Any] = {}

    def add(self, latent: FloatLatent) -> None:
        """Takes in one latent `c t h w`."""
        flat = latent.reshape(latent.shape[0], -1).astype(np.float64)
        new = {
            "count": flat.shape[1],
            "sum": flat.sum(1),
            "sum_squares": (flat**2).sum(1),
            "min": flat.min(1),
            "max": flat.max(1),
        }
        self._totals = merge_statistics(self._totals, new)

    def as_json(self) -> dict[str, Any]:
        return {key: value.tolist() if hasattr(value, "tolist") else value for key, value in self._totals.items()}


def merge_statistics(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    """Combines two accounts of channel statistics; either may be empty."""
    if not left or not right:
        return dict(left or right)
    sums = {key: np.add(left[key], right[key]).tolist() for key in ("count", "sum", "sum_squares")}
    least, largest = np.minimum(left["min"], right["min"]), np.maximum(left["max"], right["max"])
    return sums | {"min": least.tolist(), "max": largest.tolist()}


class PartWriter:
    """Writes the rows of one part to a scratch file, a row group at a time, so that memory stays flat."""

    def __init__(
        self,
        scratch: IO[bytes],
        posterior: str,
        first_frame: bool = False,
        columns: Mapping[str, str] | None = None,
        continuous: bool = False,
    ) -> None:
        self._schema = schema(posterior, first_frame, columns, continuous)
        self._writer = pq.ParquetWriter(
            scratch,
            self._schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=[name for name in DICTIONARY_COLUMNS if name in self._schema.names],
            write_batch_size=1,  # with it, a page ends after each latent
            write_page_checksum=True,
            write_statistics=[name for name, _ in DESCRIBING_FIELDS if name not in LONG_COLUMNS],
        )
        self._pending: list[dict[str, Any]] = []
        self._pending_bytes = 0
        self.statistics = ChannelStatistics()
        self.clips: list[tuple[int, int]] = []

    def add(self, values: Mapping[str, Any], mean: FloatLatent) -> None:
        """Adds one row of `row_values`, and its mean `c t h w` to the statistics."""
        self._pending.append(dict(values))
        self._pending_bytes += sum(len(value) for value in values.values() if isinstance(value, bytes))
        self.statistics.add(mean)
        self.clips.append((values["sample_index"], values["window_index"]))
        if self._pending_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def close(self, footer: Mapping[str, Any]) -> None:
        """Ends the file with its description in the footer."""
        self._flush()
        text = json.dumps(footer, sort_keys=True, separators=(",", ":"))
        self._writer.add_key_value_metadata({FOOTER_KEY.decode(): text})
        self._writer.close()

    def abandon(self) -> None:
        """Ends writing without making the file whole; harmless after `close`."""
        self._writer.close()

    def _flush(self) -> None:
        if self._pending:
            self._writer.write_table(pa.Table.from_pylist(self._pending, self._schema))
            self._pending, self._pending_bytes = [], 0


def read_footer(file: IO[bytes]) -> dict[str, Any]:
    """The description in a part's footer. Raises ValueError where the file is no whole part of ours."""
    metadata = _parquet(file).metadata.metadata or {}
    if FOOTER_KEY not in metadata:
        raise ValueError("a Parquet file without a latentmill footer")
    footer: dict[str, Any] = json.loads(metadata[FOOTER_KEY])
    return footer


def read_rows(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    """Every row of a part, one row group in memory at a time. Raises ValueError where a page is damaged."""
    parquet = _parquet(file)
    try:
        for group in range(parquet.num_row_groups):
            yield from parquet.read_row_group(group).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"damaged page: {error}") from error


def read_schema(file: IO[bytes]) -> pa.Schema:
    return _parquet(file).schema_arrow.remove_metadata()


def _parquet(file: IO[bytes]) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"no whole Parquet file: {error}") from error


def record_to_json(record: SliceRecord) -> dict[str, Any]:
    """The record's own keys, except that `next_position` is stored as `next_offset_bytes`, for tables too."""
    values = asdict(record) | {"rejects": tuple(reject.as_json() for reject in record.rejects)}
    return values | {"next_offset_bytes": values.pop("next_position")}


def record_from_json(values: Mapping[str, Any]) -> SliceRecord:
    clips = {bucket: tuple((sample, window) for sample, window in pairs) for bucket, pairs in values["clips"].items()}
    rejects = tuple(map(Reject.from_json, values["rejects"]))
    values = dict(values) | {"clips": clips, "rejects": rejects}
    return SliceRecord(next_position=values.pop("next_offset_bytes"), **values)


def sha256_of(file: IO[bytes]) -> tuple[str, int]:
    """(hex digest, size in bytes) of a file, read from where it stands."""
    digest, size_bytes = hashlib.sha256(), 0
    while block := file.read(4 << 20):
        digest.update(block)
        size_bytes += len(block)
    return digest.hexdigest(), size_bytes
