"""Where a run stands is read from what it wrote, while it goes on and when strangers left files in its folders."""

import json
from pathlib import Path

import pytest
from support.makers import DEVICE, SLICES, WIDE, WIDE_BUCKET, commit_run, commit_shard, fill_slice, made_ledger

from pipeline.audit.status import ShardStatus, committed_slices, read_status
from pipeline.errors import UserError
from pipeline.input.listing import shard_name
from pipeline.output.paths import bucket_path
from pipeline.output.run_file import read_run
from pipeline.storage.store import Store

URLS = ["s3://bucket/left.tar", "s3://bucket/running.tar", "s3://bucket/rejected.tar", "s3://bucket/done.tar"]
LEFT, RUNNING, REJECTED, DONE = (shard_name(url) for url in URLS)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = commit_run(tmp_path / "out", URLS)
    commit_shard(store, DONE)
    fill_slice(made_ledger(store, RUNNING), (WIDE, WIDE, WIDE)).commit()
    fill_slice(made_ledger(store, REJECTED), (None, None, None)).commit()
    return store


def test_every_shard_is_done_running_or_left_in_the_order_of_the_inputs(store: Store) -> None:
    assert read_status(store) == [
        ShardStatus(LEFT, "left"),
        ShardStatus(RUNNING, "running", slices=1),
        ShardStatus(REJECTED, "running", slices=1),
        ShardStatus(DONE, "done", 8, 4, 4, len(SLICES), {DEVICE: 3}, {"encode": 3.0, "device_idle": 1.0}),
    ]


def test_shards_that_the_configuration_no_longer_names_are_shown_too(store: Store) -> None:
    commit_shard(store, "older-done")
    fill_slice(made_ledger(store, "older-running"), (WIDE,)).commit()
    assert [(shard.name, shard.state) for shard in read_status(store)[len(URLS) :]] == [
        ("older-done", "done"),
        ("older-running", "running"),
    ]


def test_slices_with_a_part_or_a_reject_file_are_committed(store: Store) -> None:
    assert committed_slices(store) == {DONE: {0, 1, 2}, RUNNING: {0}, REJECTED: {0}}


def test_foreign_files_are_ignored(store: Store) -> None:
    before = read_status(store)
    bucket = bucket_path(WIDE_BUCKET)
    for path in (f"{bucket}/README", f"{bucket}/.DS_Store", "latents/notes.txt", "rejects/a-b.json"):
        store.create(path, b"")
    assert read_status(store) == before


def test_a_run_that_has_just_begun_is_all_left(tmp_path: Path) -> None:
    assert {shard.state for shard in read_status(commit_run(tmp_path / "out", URLS))} == {"left"}


def test_a_folder_that_no_run_wrote_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not the output of a run"):
        read_run(Store(str(tmp_path)))


@pytest.mark.parametrize("known", [{"shards": ["/nowhere/*.tar"]}, {"shards": ["a.tar"], "key_of_another_version": 1}])
def test_shards_are_those_of_the_output_where_the_inputs_cannot_be_listed(tmp_path: Path, known: object) -> None:
    store = Store(str(tmp_path / "out"))
    store.create("run.json", json.dumps({"config": {"input": known}}).encode())
    commit_shard(store, "done")
    assert [(shard.name, shard.state) for shard in read_status(store)] == [("done", "done")]
