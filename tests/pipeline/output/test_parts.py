"""A part holds its rows bit by bit, says what it is, and shows every damage."""

import hashlib
import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.makers import made_latent, made_row

from encoder import Dtype
from pipeline.output.latent_bytes import decode_latent
from pipeline.output.parts import PartWriter, read_footer, read_rows, read_schema, sha256_of
from pipeline.output.schema import row_values, schema
from pipeline.records import FloatLatent, Row

FIRST_FRAME = (2, 1, 3, 5)
DTYPES: tuple[Dtype, ...] = ("float16", "bfloat16", "float32")


def written(*rows: Row, posterior: str = "moments", dtype: Dtype = "float32", footer: str = "something") -> bytes:
    file = io.BytesIO()
    writer = PartWriter(file, posterior, image_latent=rows[0].image_latent is not None)
    for row in rows:
        writer.add(row_values(row, "videos-0a1b2c3d", "2x2x3x5", posterior, dtype))
    writer.close({"says": footer})
    return file.getvalue()


def read(part: bytes) -> list[dict[str, Any]]:
    return list(read_rows(io.BytesIO(part)))


def rounded(latent: FloatLatent, dtype: Dtype) -> npt.NDArray[np.float32]:
    return torch.from_numpy(latent).to(getattr(torch, dtype)).float().numpy()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_come_back_as_they_were_written(dtype: Dtype) -> None:
    rows = [made_row(index, image_latent=made_latent(index, FIRST_FRAME)) for index in range(3)]
    found = read(written(*rows, dtype=dtype))
    assert [(row["id"], row["caption"], row["sample_index"]) for row in found] == [
        (row.id, row.sample.caption, row.sample.index) for row in rows
    ]
    for row, values in zip(rows, found, strict=True):
        latents = {"vae_latent": row.latent, "vae_logvar": row.logvar, "image_latent": row.image_latent}
        for name, latent in latents.items():
            assert latent is not None
            assert (values[f"{name}_shape"], values[f"{name}_dtype"]) == (list(latent.shape), dtype)
            back = decode_latent(values[f"{name}_bytes"], values[f"{name}_shape"], dtype)
            np.testing.assert_array_equal(back, rounded(latent, dtype))


def test_a_row_says_where_it_comes_from_and_how_it_was_made() -> None:
    (values,) = read(written(made_row(7, window_index=2)))
    assert {name: values[name] for name in values if not name.startswith("vae_")} == {
        "id": "clip-007",
        "key": "clip-007",
        "caption": "caption 7",
        "captions": ["caption 7"],
        "file_name": "clip-007.mp4",
        "media_type": "video",
        "width": 64,
        "height": 48,
        "num_frames": 9,
        "duration_sec": 1.125,
        "fps": 8.0,
        "shard": "videos-0a1b2c3d",
        "sample_index": 7,
        "window_index": 2,
        "posterior": "moments",
        "bucket": "2x2x3x5",
        "frame_indices": list(range(9)),
        "pts_seconds": [number / 8 for number in range(9)],
        "start_seconds": 0.25,
        "source_width": 1280,
        "source_height": 720,
        "source_fps": 8.0,
        "codec": "h264",
        "pixel_format": "yuv420p",
        "color_transfer": "unknown",
        "color_primaries": "unknown",
        "interlaced": False,
        "has_alpha": False,
        "video_stream": 0,
        "crop": {"resized_width": 72, "resized_height": 48, "left": 4, "top": 0},
        "metadata": '{"seed": 1}',
    }


def test_latent_columns_come_last_and_a_mean_alone_has_no_logvar() -> None:
    names = schema("moments").names
    assert names[-6:-3] == ["vae_latent_shape", "vae_latent_dtype", "vae_latent_bytes"]
    assert names[-3:] == ["vae_logvar_shape", "vae_logvar_dtype", "vae_logvar_bytes"]
    assert schema("mean").names == schema("sample").names == names[:-3]
    image = ["image_latent_shape", "image_latent_dtype", "image_latent_bytes"]
    assert schema("moments", image_latent=True).names == names + image
    assert read_schema(io.BytesIO(written(made_row(), posterior="moments"))) == schema("moments")
    assert read_schema(io.BytesIO(written(made_row(logvar=None), posterior="mean"))) == schema("mean")


def test_the_same_rows_give_the_same_bytes_and_others_do_not() -> None:
    assert written(made_row(1), made_row(2)) == written(made_row(1), made_row(2))
    assert written(made_row(1), made_row(2)) != written(made_row(2), made_row(1))


def test_the_footer_comes_back_and_a_foreign_file_has_none() -> None:
    assert read_footer(io.BytesIO(written(made_row(), footer="é <&>")))["says"] == "é <&>"  # type: ignore[typeddict-item]
    foreign = io.BytesIO()
    pq.write_table(pq.read_table(io.BytesIO(written(made_row()))).replace_schema_metadata(), foreign)
    with pytest.raises(ValueError, match="without a latentmill footer"):
        read_footer(foreign)


@pytest.mark.parametrize("keep", [0, 4, 1000, -1])
def test_a_file_cut_short_is_not_a_part(keep: int) -> None:
    with pytest.raises(ValueError, match="not a complete Parquet file"):
        read_footer(io.BytesIO(written(made_row())[:keep]))


@cache
def a_part() -> tuple[bytes, list[dict[str, Any]]]:
    """A part and its row."""
    part = written(made_row())
    return part, read(part)


@given(st.data())
def test_a_changed_byte_of_a_page_is_found_unless_it_changes_nothing(data: st.DataObject) -> None:
    whole, before = a_part()
    part = bytearray(whole)
    footer_bytes = int.from_bytes(part[-8:-4], "little")
    position = data.draw(st.integers(4, len(part) - footer_bytes - 9))
    part[position] ^= data.draw(st.integers(1, 255))
    try:
        after = read(bytes(part))
    except ValueError:
        return
    assert after == before  # it was a length or a statistic in the head of a page that nobody uses


def test_a_changed_byte_of_a_latent_is_found() -> None:
    part = bytearray(written(made_row()))
    metadata = pq.ParquetFile(io.BytesIO(part)).metadata
    column = metadata.row_group(0).column(metadata.num_columns - 1)
    assert column.path_in_schema == "vae_logvar_bytes"
    part[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    with pytest.raises(ValueError, match="damaged page"):
        read(bytes(part))


def test_a_row_group_ends_after_a_mebibyte() -> None:
    half = np.zeros((1, 1, 300, 512), np.float32)  # 0.6 MiB
    part = written(*(made_row(index, latent=half, logvar=None) for index in range(5)), posterior="mean")
    metadata = pq.ParquetFile(io.BytesIO(part)).metadata
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [2, 2, 1]


def test_zeros_at_the_end_of_a_latent_survive() -> None:
    mean = made_latent(1)
    mean[-1] = 0
    (values,) = read(written(made_row(latent=mean)))
    assert values["vae_latent_bytes"] == mean.tobytes()


def test_a_checksum_is_of_the_bytes_from_where_the_file_stands() -> None:
    file = io.BytesIO(b"skipped" + b"x" * (5 << 20))
    file.seek(7)
    assert sha256_of(file) == (hashlib.sha256(b"x" * (5 << 20)).hexdigest(), 5 << 20)


@pytest.mark.parametrize("name", ["pyarrow", "pandas"])
def test_a_folder_of_buckets_is_read_as_one_table(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "bucket=2x2x3x5"
    folder.mkdir()
    (folder / "a.parquet").write_bytes(written(made_row(1), made_row(2)))
    if name == "pandas":
        found = pd.read_parquet(tmp_path)["bucket"].tolist()
    else:
        found = pq.read_table(tmp_path)["bucket"].to_pylist()
    assert found == ["2x2x3x5"] * 2
