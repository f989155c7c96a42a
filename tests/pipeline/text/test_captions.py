"""Captions in force: those of rows, or of a table, and what differs from them once they change."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from support.runs import MakeConfig
from support.text_runs import commit_rows, embed_all, task_of, text_files, with_text

from jobs.cli import main
from pipeline.audit.repair import repair, retry_rejects
from pipeline.audit.verify import Verified, verify
from pipeline.config.load import Config
from pipeline.errors import ShardError, UserError
from pipeline.storage.store import Store
from pipeline.text.captions import captions_in_force
from pipeline.text.manifests import read_text_manifest

PLACES = ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (3, 0), (5, 0))
IDS = [f"videos/clip-{sample:03d}:{window}" for sample, window in PLACES]
NEW = [f"new caption {number}" for number in range(len(IDS))]


@pytest.fixture
def config(make_config: MakeConfig) -> Config:
    config = make_config()
    commit_rows(config)
    return with_text(config)


def table_of(path: Path, column: list[Any], keys: list[str] = IDS, key: str = "id") -> str:
    table = pa.table({"extra": [0] * len(keys), key: keys, "caption": column})
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        pa.csv.write_csv(table, path)
    return str(path)


def captions_of(config: Config, name: str = "wan") -> list[str]:
    folder = Path(config.output.path) / "text" / name / "parts"
    return [text for path in sorted(folder.iterdir()) for text in pq.read_table(path)["caption"].to_pylist()]


def problems_of(config: Config) -> list[str]:
    return [f"{problem.path}: {problem.what}" for problem in verify(Store(config.output.path), Verified())]


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_new_captions_stand_beside_the_old_ones_under_another_name(config: Config, tmp_path: Path, suffix: str) -> None:
    embed_all(config)
    before = text_files(config)
    table = table_of(tmp_path / f"new{suffix}", NEW)
    embed_all(config.replaced({"text.captions": table}), "new")
    assert captions_of(config, "new") == NEW, "windows no longer share a caption"
    assert text_files(config) == before
    assert problems_of(config) == []


def test_a_table_may_name_samples_by_their_key_and_give_several_captions(config: Config, tmp_path: Path) -> None:
    keys = [f"clip-{sample:03d}" for sample in (0, 1, 2, 3, 5)]
    column = [["a", "b"], ["c"], ["d", None], [], None]
    table = table_of(tmp_path / "new.parquet", column, keys, "key")
    config = config.replaced({"text.captions": table, "text.key": "key"})
    embed_all(config)
    assert captions_of(config) == ["a", "b", "c", "d"]
    rejects = read_text_manifest(task_of(config).store, "videos")["rejects"]
    assert [(one["sample_index"], one["reason"]) for one in rejects] == [(3, "no_caption"), (5, "no_caption")]
    assert problems_of(config) == []


def test_captions_of_json_lines_are_texts_or_lists(config: Config, tmp_path: Path) -> None:
    for name, cell, expected in (("a", '"2020-01-01"', ("2020-01-01",)), ("b", '["x", "y"]', ("x", "y"))):
        path = tmp_path / f"{name}.jsonl"
        path.write_text(f'{{"id": "videos/1", "caption": {cell}, "more": {{"a": 1}}}}\n')
        captions = captions_in_force(config.texts.model_copy(update={"captions": str(path)}))
        assert captions.of(pa.table({"id": ["videos/1", "videos/2"]})) == [expected, None]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("id,text\na,b\n", "has no column 'caption': its columns are id, text"),
        ("id,caption\na,b\na,c\n", "several with the same"),
        ("", "text.captions: "),
        (None, "nothing is at"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_before_anything_starts(
    config: Config, tmp_path: Path, content: str | None, said: str
) -> None:
    path = tmp_path / "new.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=said):
        captions_in_force(config.texts.model_copy(update={"captions": str(path)}))


def test_a_changed_caption_is_found_and_its_part_alone_is_made_again(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = table_of(tmp_path / "new.csv", NEW)
    config = config.replaced({"text.captions": table})
    embed_all(config)
    before = text_files(config)
    table_of(tmp_path / "new.csv", [*NEW[:-1], "changed"])
    stale = f"text/wan/parts/videos-00001.parquet: row {IDS[-1]} is stale: its caption is now 'changed'"
    assert problems_of(config) == [stale]
    assert main(["verify", config.output.path]) == 1
    assert stale in capsys.readouterr().out
    moved = repair(Store(config.output.path), verify(Store(config.output.path), Verified()))
    assert moved == ["text/wan/manifests/videos.json", "text/wan/parts/videos-00001.parquet"]
    embed_all(config)
    after = text_files(config)
    assert problems_of(config) == []
    assert {path for path in before if before[path] != after[path]} == {"parts/videos-00001.parquet"}
    assert captions_of(config)[-1] == "changed"


def test_a_row_whose_caption_came_or_went_is_named(config: Config, tmp_path: Path) -> None:
    table = table_of(tmp_path / "new.csv", NEW[:-1], IDS[:-1])
    config = config.replaced({"text.captions": table})
    embed_all(config)
    assert problems_of(config) == []
    table_of(tmp_path / "new.csv", NEW[1:], IDS[1:])
    assert sorted(line.partition(": ")[2] for line in problems_of(config)) == [
        f"row {IDS[0]} is stale: its caption is now none",
        f"row {IDS[-1]} had no caption and has one now",
    ]


def test_a_part_of_other_captions_is_not_taken_for_those_in_force(config: Config, tmp_path: Path) -> None:
    table = table_of(tmp_path / "new.csv", NEW)
    config = config.replaced({"text.captions": table})
    embed_all(config)
    (Path(config.output.path) / "text" / "wan" / "manifests" / "videos.json").unlink()
    table_of(tmp_path / "new.csv", [*NEW[:-1], "changed"])
    with pytest.raises(ShardError, match=r"is stale: its caption is now 'changed' \(1 in all\).*verify --repair"):
        embed_all(config)


@pytest.mark.parametrize("file", ["parts/videos-00000.parquet", "uncond.parquet"])
def test_a_damaged_or_lost_file_is_found_and_made_again(config: Config, file: str) -> None:
    embed_all(config)
    before = text_files(config)
    path = Path(config.output.path) / "text" / "wan" / file
    data = bytearray(path.read_bytes())
    for change in ("altered", "cut", "lost"):
        if change == "altered":
            data[len(data) // 3] ^= 1
            path.write_bytes(data)
        elif change == "cut":
            path.write_bytes(data[:100])
        else:
            path.unlink()
        problems = problems_of(config)
        assert problems, change
        assert all(line.startswith(f"text/wan/{file}: ") for line in problems), change
        repair(Store(config.output.path), verify(Store(config.output.path), Verified()))
        embed_all(config)
        assert text_files(config) == before
        assert problems_of(config) == []


def test_slices_that_are_tried_again_lose_their_texts_too(config: Config) -> None:
    embed_all(config)
    store = Store(config.output.path)
    assert retry_rejects(store, None, "too_short")[0] == 3
    assert store.names("text/wan/parts") == ["videos-00000.parquet"]
    assert store.names("text/wan/manifests") == []
