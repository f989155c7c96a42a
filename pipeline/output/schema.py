"""The columns of a part, and the values of a row in them."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from encoder import Dtype
from pipeline.errors import ConfigError
from pipeline.output.latent_bytes import encode_latent
from pipeline.records import Row

LONG_COLUMNS = ("caption", "captions", "metadata")  # their least and largest values are of no use
# Short columns with few distinct values; a dictionary of blobs would only cost memory.
DICTIONARY_COLUMNS = ["media_type", "shard", "posterior", "bucket"]
DICTIONARY_COLUMNS += ["codec", "pixel_format", "color_transfer", "color_primaries"]
DICTIONARY_COLUMNS += ["vae_latent_dtype", "vae_logvar_dtype", "image_latent_dtype"]

CROP = pa.struct([(name, pa.int32()) for name in ("resized_width", "resized_height", "left", "top")])
DESCRIBING_FIELDS = [
    ("id", pa.string()),
    ("key", pa.string()),
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
    ("bucket", pa.dictionary(pa.int32(), pa.string())),  # a string collides with the folder `bucket=`
    ("frame_indices", pa.list_(pa.int32())),
    ("pts_seconds", pa.list_(pa.float64())),
    ("start_seconds", pa.float64()),
    ("source_width", pa.int32()),
    ("source_height", pa.int32()),
    ("source_fps", pa.float64()),
    ("codec", pa.string()),
    ("pixel_format", pa.string()),
    ("color_transfer", pa.string()),
    ("color_primaries", pa.string()),
    ("interlaced", pa.bool_()),
    ("has_alpha", pa.bool_()),
    ("video_stream", pa.int32()),
    ("crop", CROP),
    ("metadata", pa.string()),
]
CONTINUES = ("continues", pa.bool_())  # in continuous rows only: whether a row continues the one before it
LATENTS = ("vae_latent", "vae_logvar", "image_latent")
LATENT_TYPES = {"shape": pa.list_(pa.int32()), "dtype": pa.string(), "bytes": pa.large_binary()}
COLUMN_TYPES = {"string": pa.string(), "float": pa.float64(), "int": pa.int64(), "bool": pa.bool_()}


def check_columns(names: Iterable[str]) -> None:
    """Raises ConfigError where one of the user's columns has the name of one of ours."""
    ours = {name for name, _ in (*DESCRIBING_FIELDS, CONTINUES)}
    ours |= {f"{name}_{what}" for name in LATENTS for what in LATENT_TYPES}
    if taken := sorted(ours.intersection(names)):
        raise ConfigError(f"input.columns: every row already has a column {', '.join(taken)}: use another name")


def schema(
    posterior: str, image_latent: bool = False, columns: Mapping[str, str] | None = None, continuous: bool = False
) -> pa.Schema:
    """The columns of a part: those that describe a clip, then the user's (name to type) by name, the latents last."""
    written = (True, posterior == "moments", image_latent)
    fields = [*DESCRIBING_FIELDS, *[CONTINUES][: int(continuous)]]
    fields += [(name, COLUMN_TYPES[type_]) for name, type_ in sorted((columns or {}).items())]
    for name in (name for name, is_written in zip(LATENTS, written, strict=True) if is_written):
        fields += [(f"{name}_{what}", type_) for what, type_ in LATENT_TYPES.items()]
    return pa.schema(fields)


def row_values(row: Row, shard: str, bucket: str, posterior: str, dtype: Dtype) -> dict[str, Any]:
    """One row's columns by name. Raises SampleError as `encode_latent`."""
    clip, geometry, header = row.clip, row.clip.geometry, row.header
    values: dict[str, Any] = {
        "id": row.id,
        "key": row.sample.key,
        "caption": next(iter(row.captions), ""),
        "captions": list(row.captions),
        "file_name": row.sample.video_name,
        "media_type": header.media_type,
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
        "start_seconds": header.start_seconds,
        "source_width": header.width_px,
        "source_height": header.height_px,
        "source_fps": header.mean_fps,
        "codec": header.codec,
        "pixel_format": header.pixel_format,
        "color_transfer": header.color_transfer,
        "color_primaries": header.color_primaries,
        "interlaced": header.interlaced,
        "has_alpha": header.has_alpha,
        "video_stream": header.video_stream,
        "crop": {
            "resized_width": geometry.resized_width_px,
            "resized_height": geometry.resized_height_px,
            "left": geometry.left_px,
            "top": geometry.top_px,
        },
        "metadata": row.sample.metadata,
        "continues": clip.continues,
    }
    latents = {"vae_latent": row.latent, "vae_logvar": row.logvar, "image_latent": row.image_latent}
    for name, latent in latents.items():
        if latent is not None:
            values[f"{name}_shape"] = list(latent.shape)
            values[f"{name}_dtype"] = dtype
            values[f"{name}_bytes"] = encode_latent(latent, dtype)
    return values
