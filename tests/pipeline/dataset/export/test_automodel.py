"""NeMo Automodel reads lists of files in folders by picture size, and concatenates what one size has."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.exports import (
    ONE,
    TURNED,
    all_rows,
    export_row,
    exported,
    made_run,
    prepared,
    scaled_by_hand,
    with_texts,
    write_shard,
)
from support.text_runs import MOST_TOKENS, WIDTH, embedding_of

from pipeline.config.load import Config
from pipeline.dataset.export import automodel
from pipeline.errors import UserError
from pipeline.storage.store import Store

SHAPES = (ONE, ONE, ONE, TURNED)


@pytest.mark.parametrize("listed", [10_000, 4])
def test_every_row_is_listed_with_a_file_that_it_loads(
    wan: Config, tmp_path: Path, listed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of NVIDIA-NeMo/Automodel: nemo_automodel/components/datasets/diffusion/base_dataset.py at ef8f44f3931c
    (`metadata.json` names lists in `shards`; buckets are by `bucket_resolution` and aspect ratio),
    text_to_video_dataset.py at 0a7ff70dac48 (`cache_file` resolves to a file below the cache, loaded with
    `weights_only`: `video_latents`, `text_embeddings`), collate_fns.py at 05c7a03028fe (both concatenated along 0)
    and tools/diffusion/processors/wan.py at 7a79d3d9c365 (float16, (mean - latents_mean) / latents_std; texts cut to
    their tokens, then zeros up to a fixed length).
    """
    monkeypatch.setattr(automodel, "LISTED_ROWS", listed)
    export = exported(wan, tmp_path, "automodel", text="wan")
    names = json.loads((tmp_path / "metadata.json").read_text())["shards"]
    items = [item for name in names for item in json.loads((tmp_path / name).read_text())]
    assert len(names) == (1 if listed > 10 else 3)
    for item, (_, row) in zip(items, all_rows(SHAPES), strict=True):
        path = Path(item["cache_file"]).resolve()
        height, width = 8 * row.latent.shape[2], 8 * row.latent.shape[3]
        assert str(path.relative_to(tmp_path.resolve()).parent) == f"{width}x{height}"
        assert item["bucket_resolution"] == [width, height]
        assert item["aspect_ratio"] == width / height
        data = torch.load(path, weights_only=True)
        assert data["video_latents"].dtype == torch.float16
        np.testing.assert_allclose(data["video_latents"][0].float(), scaled_by_hand(row), rtol=2**-11, atol=1e-7)
        assert data["text_embeddings"].shape == (1, MOST_TOKENS, WIDTH)
        tokens = embedding_of(row.captions[0])
        np.testing.assert_array_equal(data["text_embeddings"][0, : len(tokens)].float(), tokens)
        assert not data["text_embeddings"][0, len(tokens) :].any()
    assert export.target.arguments(export.shapes, 10)[0] == f"data.dataloader.cache_dir: {tmp_path}"


def test_clips_of_one_size_and_several_lengths_are_refused(tmp_path: Path) -> None:
    config = made_run(tmp_path / "run", "wan")
    write_shard(Store(config.output.path), "c", [export_row("c", 0, shape=(2, 2, 4, 6), frames=5)], "wan")
    with pytest.raises(UserError, match="clips of 48x32 pixels together, and these have 2 lengths"):
        prepared(with_texts(config), tmp_path / "into", "automodel", text="wan")
