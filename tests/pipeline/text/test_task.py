"""The texts of a shard: which captions are embedded, once, and what a kill, a helper or a bad caption leaves."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.runs import MakeConfig
from support.stores import KilledError, MortalStore
from support.text_runs import (
    MOST_TOKENS,
    NOT_FINITE,
    commit_rows,
    embed_all,
    embedding_of,
    shards_of_run,
    task_of,
    text_files,
    with_text,
)

from pipeline.audit.verify import Verified, verify
from pipeline.config.load import Config
from pipeline.errors import ShardError, TransientError
from pipeline.latents.helping import SharedClaims
from pipeline.monitor.events import Progress, ShardDone, SliceDone
from pipeline.storage.store import Store
from pipeline.text.manifests import read_text_manifest, totals_of

PLACES = [(0, None, 0), (0, None, 1), (1, 0, 0), (1, 1, 0), (2, None, 0), (3, None, 0), (5, None, 0)]


@pytest.fixture
def config(make_config: MakeConfig) -> Config:
    config = make_config()
    commit_rows(config)
    return with_text(config)


def rows_of(config: Config, name: str = "wan") -> list[dict[str, Any]]:
    folder = Path(config.output.path) / "text" / name / "parts"
    return [row for path in sorted(folder.iterdir()) for row in pq.read_table(path, partitioning=None).to_pylist()]


def problems_of(config: Config) -> list[str]:
    return [f"{problem.path}: {problem.what}" for problem in verify(Store(config.output.path), Verified())]


def files_of_latents(config: Config) -> dict[str, bytes]:
    root = Path(config.output.path)
    found = (path for path in root.rglob("*") if path.is_file() and "text" not in path.relative_to(root).parts)
    return {str(path): path.read_bytes() for path in found}


def test_every_caption_is_embedded_once_for_all_windows_that_share_it(config: Config) -> None:
    before = files_of_latents(config)
    events = embed_all(config)
    rows = rows_of(config)
    assert [(row["sample_index"], row["window_index"], row["caption_index"]) for row in rows] == PLACES
    assert [row["caption"] for row in rows[:4]] == ["a cat", "two dogs run", "the sun", "the moon"]
    assert rows[5]["caption"] == ""
    for row in rows:
        caption = row["caption"]
        expected = embedding_of(caption)
        assert row["caption_sha256"] == hashlib.sha256(caption.encode()).hexdigest()
        assert (row["tokens"], row["truncated"]) == (len(caption.split()) + 1, len(caption.split()) >= MOST_TOKENS)
        stored = np.frombuffer(row["text_embedding_bytes"], np.float32).reshape(row["text_embedding_shape"])
        np.testing.assert_array_equal(stored, expected)
    assert files_of_latents(config) == before
    assert problems_of(config) == []
    tokens = sum(len(embedding_of(row["caption"])) for row in rows)
    assert sum(event.tokens for event in events if isinstance(event, Progress)) == tokens
    assert sum(event.captions for event in events if isinstance(event, SliceDone)) == len(PLACES)
    assert isinstance(events[-1], ShardDone)


def test_the_manifest_counts_captions_tokens_and_what_was_cut_off(config: Config) -> None:
    embed_all(config)
    (shard,) = shards_of_run(config)
    manifest = read_text_manifest(task_of(config).store, shard.name)
    assert (manifest["captions"], manifest["truncated"], manifest["rejects"]) == (7, 1, [])
    totals = totals_of([manifest])
    assert totals["parts"] == 2
    assert totals["size_bytes"] == sum(
        len(data) for path, data in text_files(config).items() if path.startswith("parts/")
    )


def test_prompts_that_belong_to_no_row_are_embedded_beside(config: Config) -> None:
    config = config.replaced({"text.negative": ["blurry"]})
    embed_all(config)
    rows = pq.read_table(Path(config.output.path) / "text" / "wan" / "uncond.parquet").to_pylist()
    assert [(row["shard"], row["sample_index"], row["caption"]) for row in rows] == [
        (None, None, ""),
        (None, None, "blurry"),
    ]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("creations", range(4))
def test_texts_killed_at_any_write_go_on_to_the_same_bytes(config: Config, creations: int, after: bool) -> None:
    embed_all(config, "calm")
    task = task_of(config)
    with pytest.raises(KilledError):
        embed_all(config, task=replace(task, store=MortalStore(task.store.root, creations, after)))
    embed_all(config)
    assert text_files(config) == text_files(config, "calm")
    assert len(text_files(config)) == 3, "with the manifest, four creations: the kills reach each"
    assert problems_of(config) == []


def test_what_was_committed_is_not_embedded_again(config: Config) -> None:
    embed_all(config)
    (shard,) = shards_of_run(config)
    task = task_of(config)
    events = list(task.run(shard))
    assert task.encoder.encode.asked == []  # type: ignore[attr-defined]
    assert [event.reused for event in events if isinstance(event, SliceDone) and event.captions] == [True, True]


def test_of_two_who_make_the_same_slice_the_first_is_kept(config: Config) -> None:
    (shard,) = shards_of_run(config)
    slow, fast = task_of(config), task_of(config)
    running = slow.run(shard)
    next(running)  # it has embedded something and committed nothing
    fast.write_uncond(config.texts)
    list(fast.run(shard))
    before = text_files(config)
    list(running)
    assert text_files(config) == before
    assert problems_of(config) == []


def test_the_parts_of_a_shard_whose_name_begins_alike_are_not_its_own(config: Config) -> None:
    task = task_of(config)
    task.store.create("parts/videos-more-00000.parquet", b"of the shard videos-more")
    (shard,) = shards_of_run(config)
    assert [event.reused for event in task.run(shard) if isinstance(event, SliceDone)] == [False, False]


def test_helpers_divide_the_slices_and_nobody_embeds_one_twice(config: Config) -> None:
    (shard,) = shards_of_run(config)
    claims = SharedClaims()
    first, helper = replace(task_of(config), claims=claims), replace(task_of(config), claims=claims)
    running = first.run(shard)
    next(running)  # it has claimed the first slice
    helping = helper.help(shard, 1)
    made = next(event for event in helping if isinstance(event, SliceDone))
    assert made.slice_index == 1
    assert isinstance([*running, *helping][-1], ShardDone)
    asked = [first.encoder.encode.asked, helper.encoder.encode.asked]  # type: ignore[attr-defined]
    assert asked == [
        ["a cat", "two dogs run", "the sun", "the moon", "one two three four five six seven eight"],
        ["", "schön 🐈"],
    ]


def test_a_replica_whose_node_is_drained_begins_no_slice(config: Config) -> None:
    (shard,) = shards_of_run(config)
    task = task_of(config)
    task.draining.set()
    with pytest.raises(TransientError, match="drained"):
        list(task.run(shard))
    task.draining.clear()
    embed_all(config, task=task)
    assert problems_of(config) == []


def test_an_embedding_that_is_not_finite_rejects_its_sample_and_no_other(config: Config, tmp_path: Path) -> None:
    table = tmp_path / "captions.csv"
    table.write_text(f"id,caption\nvideos/clip-000:0,{NOT_FINITE}\nvideos/clip-000:1,{NOT_FINITE}\n")
    config = config.replaced({"text.captions": str(table)})
    embed_all(config)
    manifest = read_text_manifest(task_of(config).store, "videos")
    reasons = [(one["sample_index"], one["window_index"], one["reason"]) for one in manifest["rejects"]]
    assert reasons[0] == (0, -1, "non_finite")
    assert {reason for *_, reason in reasons[1:]} == {"no_caption"}
    assert list(text_files(config)) == ["uncond.parquet"]
    assert problems_of(config) == []


def test_parts_of_another_configuration_are_never_taken(config: Config) -> None:
    embed_all(config)
    task = task_of(config)
    other = replace(task, description={**task.description, "fingerprint": "other"})
    (shard,) = shards_of_run(config)
    with pytest.raises(ShardError, match="another configuration"):
        list(other.run(shard))
