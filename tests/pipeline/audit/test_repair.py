"""Setting aside: only what is bad or asked for moves, and the next run makes the same bytes again."""

import json
from pathlib import Path

import pytest
from support.runs import MakeConfig, output_files, run_all, run_json, samples_of, write_tar

from encoder.video_encoder import VideoEncoder
from pipeline.audit.repair import repair, retry_rejects
from pipeline.audit.verify import Problem, Verified, verify
from pipeline.config.load import Config
from pipeline.output.paths import done_shards
from pipeline.storage.store import Store


@pytest.fixture
def made(tmp_path: Path, make_config: MakeConfig, tiny: VideoEncoder, videos: tuple[bytes, ...]) -> Config:
    """A finished run of two shards; the second holds a page that is no video, in its second slice."""
    write_tar(tmp_path / "a.tar", samples_of(videos[:2]))
    write_tar(tmp_path / "b.tar", samples_of([*videos[:4], b"<html>"]))
    config = make_config()
    run_all(config, tiny)
    store = Store(config.output.path)
    store.create("run.json", run_json(config, tiny))
    store.create("_SUCCESS.json", b'{"shards": 2}')
    return config


def problems_of(store: Store) -> list[Problem]:
    return list(verify(store, Verified()))


def test_a_damaged_part_is_set_aside_and_made_again_to_the_same_bytes(made: Config, tiny: VideoEncoder) -> None:
    root, store = Path(made.output.path), Store(made.output.path)
    before = output_files(root)
    victim = root / sorted(before)[0]
    victim.write_bytes(victim.read_bytes()[:-100])
    moved = repair(store, problems_of(store))
    assert str(victim.relative_to(root)) in moved
    assert len(moved) == 4, "the part, its shard's manifest, and _SUCCESS.json"
    assert not (root / "_SUCCESS.json").exists()
    run_all(made, tiny)
    assert output_files(root) == before
    assert problems_of(store) == []


def test_a_clean_root_is_left_alone(made: Config) -> None:
    store = Store(made.output.path)
    assert repair(store, problems_of(store)) == []
    assert store.exists("_SUCCESS.json")


def test_rejects_of_a_reason_are_tried_again_with_nothing_else_lost(made: Config, tiny: VideoEncoder) -> None:
    root, store = Path(made.output.path), Store(made.output.path)
    before = output_files(root)
    assert retry_rejects(store, "probe", "no_such_reason") == (0, [])
    rejects, moved = retry_rejects(store, "probe", "not_a_video")
    assert rejects == 1
    assert {Path(path).name.split("-")[0] for path in moved} == {"b", "_SUCCESS.json"}
    assert len(done_shards(store)) == 1
    run_all(made, tiny)
    assert output_files(root) == before


def test_what_was_set_aside_can_still_be_read(made: Config) -> None:
    store = Store(made.output.path)
    _, moved = retry_rejects(store, None, None)
    (folder,) = store.names("set-aside")
    manifest = next(path for path in moved if path.startswith("manifests/"))
    assert json.loads(store.read(f"set-aside/{folder}/{manifest}"))["rejects"]


def test_filtered_samples_are_tried_again_only_where_they_are_named(
    tmp_path: Path, make_config: MakeConfig, tiny: VideoEncoder, videos: tuple[bytes, ...]
) -> None:
    write_tar(tmp_path / "f.tar", samples_of(videos[:2]))
    config = make_config(filter={"min_seconds": 2.6}, output={"part_samples": 1})
    run_all(config, tiny)
    store = Store(config.output.path)
    store.create("run.json", run_json(config, tiny))
    assert retry_rejects(store, None, None) == (0, [])
    assert retry_rejects(store, "filter", None)[0] == 1
