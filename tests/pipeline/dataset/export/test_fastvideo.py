"""FastVideo reads float32 whatever the dtype columns say, and takes as many rows of text as there are for its mask."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from support.exports import ONE, SHARDS, TURNED, all_rows, exported
from support.text_runs import embedding_of

from pipeline.config.load import Config

ARRAYS = ("vae_latent", "text_embedding")
TYPES = {"bytes": pa.binary(), "shape": pa.list_(pa.int64()), "dtype": pa.string()}
OTHERS = {
    **dict.fromkeys(("id", "file_name", "caption", "media_type"), pa.string()),
    **dict.fromkeys(("width", "height", "num_frames"), pa.int64()),
    **dict.fromkeys(("duration_sec", "fps"), pa.float64()),
}


def test_each_shape_has_a_folder_of_rows_that_its_loader_takes(wan: Config, tmp_path: Path) -> None:
    """As of hao-ai-lab/FastVideo: fastvideo/dataset/utils.py at 01f51b4f39c2 (`np.frombuffer(…, float32)` of each
    `*_bytes` of the schema, texts padded with zeros and a mask from their length, latents stacked),
    dataloader/schema.py at 07766abb724d (the columns and their types), dataloader/record_schema.py at 087f5b927fbc
    (`num_frames` is that of the latent) and parquet_dataset_map_style.py at 0bb547698727 (every .parquet below the
    path, a row by its row group). Its step scales latents, so these are as they were encoded.
    """
    export = exported(wan, tmp_path, "fastvideo", text="wan")
    folders = {folder.name: sorted(folder.rglob("*.parquet")) for folder in tmp_path.iterdir() if folder.is_dir()}
    assert {name: [path.name for path in paths] for name, paths in folders.items()} == {
        "2x3x4x6": [f"{shard}-00000.parquet" for shard in SHARDS],
        "2x3x6x4": [f"{shard}-00001.parquet" for shard in SHARDS],
    }
    rows = [row for paths in folders.values() for path in paths for row in pq.ParquetFile(path).read().to_pylist()]
    made = all_rows((ONE, ONE, ONE, TURNED))
    assert sorted(row["id"] for row in rows) == sorted(row.id for _, row in made)
    by_id = {row["id"]: row for row in rows}
    for _, row in made:
        read = by_id[row.id]
        arrays = {name: np.frombuffer(read[f"{name}_bytes"], np.float32) for name in ARRAYS}
        latent, text = (arrays[name].reshape(read[f"{name}_shape"]) for name in ARRAYS)
        np.testing.assert_array_equal(latent, row.latent)
        np.testing.assert_array_equal(text, embedding_of(row.captions[0]))
        assert (read["vae_latent_dtype"], read["text_embedding_dtype"]) == ("float32", "float32")
        assert (read["num_frames"], read["caption"], read["fps"]) == (3, row.captions[0], 8.0)
    assert export.target.arguments(export.shapes, len(rows)) == [
        f"--data-path {tmp_path}/2x3x4x6 --num-latent-t 3 --num-height 32 --num-width 48 --num-frames 9",
        f"--data-path {tmp_path}/2x3x6x4 --num-latent-t 3 --num-height 48 --num-width 32 --num-frames 9",
    ]


def test_its_columns_have_the_types_of_its_schema_and_no_dictionary(wan: Config, tmp_path: Path) -> None:
    exported(wan, tmp_path, "fastvideo", text="wan")
    schema = pq.read_schema(next(tmp_path.rglob("*.parquet")))
    expected = OTHERS | {f"{name}_{what}": type_ for name in ARRAYS for what, type_ in TYPES.items()}
    assert {field.name: field.type for field in schema} == expected
