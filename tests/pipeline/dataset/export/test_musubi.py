"""musubi-tuner reads picture size, frames and key from a file's name, and stacks what begins with `latents_`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from support.exports import ONE, TURNED, all_rows, exported, name_of, scaled_by_hand
from support.text_runs import embedding_of

from pipeline.config.load import Config

tomllib = pytest.importorskip("tomllib", reason="Python 3.11")
SHAPES = (ONE, ONE, ONE, TURNED)


def test_names_and_keys_say_what_its_loader_takes_from_them(wan: Config, tmp_path: Path) -> None:
    """As of kohya-ss/musubi-tuner, below src/musubi_tuner/: dataset/image_video_dataset.py at 0061e6ef4add
    (`*_wan.safetensors` in the cache folder, split at `_`: WxH last but one, START-FRAMES before it, the rest is the
    key of `KEY_wan_te.safetensors`), dataset/bucket.py at 6247ca966c4a (without buckets all items have the configured
    resolution; `_dtype` and FxHxW are taken off keys, `varlen_` ones are not stacked), dataset/cache_io.py at
    07f78ab1dacb (keys and metadata), dataset/datasources.py at 00bd97a7b316 (a list of videos may be empty) and
    wan_cache_latents.py at 1852ad34d569 (bfloat16).
    """
    export = exported(wan, tmp_path, "musubi", text="wan")
    assert export.target.arguments(export.shapes, 10) == [f"--dataset_config {tmp_path}/dataset.toml"]
    datasets = tomllib.loads((tmp_path / "dataset.toml").read_text())["datasets"]
    made = {name_of(shard, row): row for shard, row in all_rows(SHAPES)}
    found = set()
    for dataset in datasets:
        assert Path(dataset["video_jsonl_file"]).read_text() == ""
        assert dataset["enable_bucket"] is False
        for path in Path(dataset["cache_directory"]).glob("*_wan.safetensors"):
            *key, frames, size, _ = path.name.split("_")
            assert [int(side) for side in size.split("x")] == dataset["resolution"]
            row = made["_".join(key)]
            found.add("_".join(key))
            assert frames == "00000-009"
            check_latent(path, row.latent.shape[1:], scaled_by_hand(row))
            text = load_file(path.with_name(f"{'_'.join(key)}_wan_te.safetensors"))
            assert text["varlen_t5_bfloat16"].dtype == torch.bfloat16
            np.testing.assert_array_equal(text["varlen_t5_bfloat16"].float(), embedding_of(row.captions[0]))
    assert found == set(made)


def check_latent(path: Path, sizes: tuple[int, ...], expected: object) -> None:
    latents = load_file(path)
    assert list(latents) == [f"latents_{'x'.join(map(str, sizes))}_bfloat16"]
    (latent,) = latents.values()
    np.testing.assert_allclose(latent.float(), expected, rtol=2**-8)
    with safe_open(path, "pt") as file:
        about = file.metadata()
    assert (about["architecture"], about["format_version"], about["frame_count"]) == ("wan", "1.0.1", "9")
