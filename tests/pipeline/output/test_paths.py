"""Names of files tell what they hold, and listings give each file once."""

from pathlib import Path

import pytest
from support.makers import TALL_BUCKET, WIDE_BUCKET, commit_shard

from pipeline.output.paths import (
    bucket_names,
    done_shards,
    latent_files,
    part_path,
    reject_files,
    rejects_path,
    slice_of_file,
)
from pipeline.storage.store import Store

A, B = WIDE_BUCKET, TALL_BUCKET


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out"))


def test_names_of_parts_and_reject_files_tell_shard_and_slice() -> None:
    shard = "a-12345-0a1b2c3d"
    for index in (0, 7, 99999, 123456):
        for path in (part_path(shard, index, A), rejects_path(shard, index)):
            assert slice_of_file(path) == slice_of_file(Path(path).name) == (shard, index)
    for foreign in ("README", "notes.txt", "x-1.parquet", "x-00001.parquet.bak", "-00001.parquet", "x-00001.json"):
        assert slice_of_file(foreign) is None


def test_only_buckets_and_manifests_count(store: Store) -> None:
    commit_shard(store)
    for foreign in ("latents/README", "latents/other/x", "manifests/.hidden", "manifests/notes.txt"):
        store.create(foreign, b"")
    assert bucket_names(store) == sorted([A, B])
    assert done_shards(store) == {"videos"}


def test_every_file_of_a_bucket_is_listed(store: Store) -> None:
    assert list(latent_files(store)) == list(reject_files(store)) == []
    commit_shard(store)
    store.create(f"latents/bucket={A}/notes.txt", b"")
    parts = [part_path("videos", 0, A), part_path("videos", 2, A)]
    assert list(latent_files(store)) == [f"latents/bucket={A}/notes.txt", *parts, part_path("videos", 0, B)]
    assert list(reject_files(store)) == [rejects_path("videos", 1)]
