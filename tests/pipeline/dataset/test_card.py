"""The card and statistics.json say what a run holds; what the user wrote into the card is kept."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.makers import SCALING, SLICES, TALL_BUCKET, WIDE, WIDE_BUCKET, commit_run, commit_shard, made_row

from pipeline.dataset.card import YOURS, describe_dataset, scaling_text
from pipeline.output.manifests import read_manifests
from pipeline.output.run_file import read_run
from pipeline.storage.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = commit_run(tmp_path / "out", ["/data/videos.tar"])
    commit_shard(store)
    describe_dataset(store, read_run(store), list(read_manifests(store, ["videos"])))
    return store


def front_matter(store: Store) -> dict[str, object]:
    values: dict[str, object] = yaml.safe_load(store.read("README.md").decode().split("---\n")[1])
    return values


def test_a_card_names_the_files_of_rows_of_each_bucket_and_of_the_index(store: Store) -> None:
    configs = front_matter(store)["configs"]
    assert isinstance(configs, list)
    assert {one["config_name"]: one["data_files"][0]["path"] for one in configs} == {
        "default": "latents/*/*.parquet",
        WIDE_BUCKET: f"latents/bucket={WIDE_BUCKET}/*.parquet",
        TALL_BUCKET: f"latents/bucket={TALL_BUCKET}/*.parquet",
        "index": "index/*.parquet",
    }
    assert f"| {WIDE_BUCKET} | 3 |" in store.read("README.md").decode()


def test_a_card_says_how_latents_are_scaled_with_the_numbers(store: Store) -> None:
    text = "`(z - shift) * scale` with `shift` 0 and `scale` 1, reshaped to (1, 1, 1, 1)."
    assert text in store.read("README.md").decode()
    by_channel = SCALING | {"shape": [2, 1, 1, 1], "shift": [0.5, 1], "scale": [2, 0.7], "image_scale": [0.5, 1 / 0.7]}
    assert "`shift` [0.5, 1] and `scale` [2, 0.7], reshaped to (2, 1, 1, 1)" in scaling_text(by_channel)
    assert "For the latent of a first frame `scale` is [0.5, 1.42857]." in scaling_text(by_channel)
    assert scaling_text(None) == "The weights do not say how latents are scaled before training."


def test_the_licence_and_the_users_text_are_kept(store: Store) -> None:
    card = store.read("README.md").decode()
    store.replace("README.md", (card.replace("---\n", "---\nlicense: cc-by-4.0\n", 1) + "Mine.\n").encode())
    describe_dataset(store, read_run(store), list(read_manifests(store, ["videos"])))
    assert front_matter(store)["license"] == "cc-by-4.0"
    assert store.read("README.md").decode().endswith(f"{YOURS}\nMine.\n")


def test_statistics_are_those_of_all_means_and_of_samples_of_them(store: Store) -> None:
    rows = [made_row(index, shape=shape) for index, shape in enumerate(sum(SLICES, ())) if shape == WIDE]
    means = np.stack([row.latent for row in rows], axis=1).reshape(2, -1).astype(np.float64)
    variances = np.exp(np.stack([row.logvar for row in rows if row.logvar is not None], axis=1).reshape(2, -1))
    found = json.loads(store.read("statistics.json"))["buckets"][WIDE_BUCKET]
    assert found["count"] == means.shape[1]
    np.testing.assert_allclose(found["means"]["mean"], means.mean(1))
    np.testing.assert_allclose(found["means"]["std"], means.std(1))
    np.testing.assert_allclose(found["samples"]["std"], np.sqrt(means.var(1) + variances.mean(1)), rtol=1e-6)
