"""A selection has the rows that meet a condition, and splits that hold all clips of a sample."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.makers import commit_run, commit_shard

from jobs.cli import main
from pipeline.dataset.loader import Latents
from pipeline.dataset.select import chosen, joined, read_index, split_of
from pipeline.errors import UserError
from pipeline.storage.store import Store

SPLITS = ("train", "val")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = commit_run(tmp_path / "out", ["/data/a.tar", "/data/b.tar"])
    for name in ("a", "b"):
        commit_shard(store, name, f"/data/{name}.tar")
    return store


def test_a_condition_is_over_columns_metadata_and_joined_tables(store: Store) -> None:
    rows = read_index(store)
    assert chosen(rows, "shard == 'a' and metadata.seed == 1").num_rows == 4
    scores = pa.table({"sample_index": [0, 1], "score": [5.0, 4.0]})
    assert chosen(joined(rows, scores, "sample_index"), "score >= 5")["id"].to_pylist() == ["a/clip-000", "b/clip-000"]
    assert chosen(rows, "metadata.score > 1").num_rows == 0


@pytest.mark.parametrize(
    ("where", "message"),
    [("nothing > 1", "unknown nothing: there are id"), ("caption > 1", "not supported"), ("f(1)", "not allowed")],
)
def test_a_condition_that_cannot_be_meant_is_refused(store: Store, where: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        chosen(read_index(store), where)


def test_splits_hold_whole_samples_and_stay_when_data_grow() -> None:
    hashes = [1 << 62, -(1 << 62), 5, -5, 1 << 61]
    rows = pa.table({"sample_hash": pa.array(hashes + hashes, pa.int64())})
    splits = split_of(rows, {"val": 0.2, "test": 0.2}).to_pylist()
    assert splits[:5] == splits[5:] == ["test", "train", "val", "train", "val"]
    assert split_of(rows.slice(2, 3), {"val": 0.2, "test": 0.2}).to_pylist() == splits[2:5]
    with pytest.raises(UserError, match="below 1 together"):
        split_of(rows, {"val": 1.0})


def test_the_loader_takes_the_table_that_the_command_writes(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scores.csv").write_text("sample_index,score\n0,9\n1,2\n6,8\n7,1\n")
    table = str(tmp_path / "s.parquet")
    command = ["select", store.root, "--where", "score > 5", "--join", str(tmp_path / "scores.csv")]
    assert main([*command, "--on", "sample_index", "--split", "val=0.5", "--out", table]) == 0
    assert "4 of 8 rows selected" in capsys.readouterr().out
    selected = pq.read_table(table).to_pylist()
    for split in SPLITS:
        found = {row for batch in Latents(store.root, 1, 1, selection=table, split=split) for row in batch["id"]}
        assert found == {row["id"] for row in selected if row["split"] == split}
    assert len(list(Latents(store.root, 1, 1, selection=table))) == 4
    assert pq.read_table(table).column_names[-2:] == ["row_hash", "split"]
    with pytest.raises(ValueError, match="has no split 'test'"):
        Latents(store.root, selection=table, split="test")


def test_index_and_card_are_made_again_by_their_commands(store: Store) -> None:
    before = store.read("index/a.parquet")
    store.replace("index/a.parquet", b"damaged")
    assert main(["index", store.root]) == main(["card", store.root]) == 0
    assert store.read("index/a.parquet") == before
    assert json.loads(store.read("statistics.json"))["all"]["count"] > 0
