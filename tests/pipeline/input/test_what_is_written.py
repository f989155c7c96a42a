"""What is written beside a video, in whatever kind of file, is what its sample has, or the sample says why not."""

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.runs import write_tar

from pipeline.config.load import Config, parse_config
from pipeline.input.listing import shards_of
from pipeline.input.samples import samples_of
from pipeline.records import Sample

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252"]
UNMARKED = ("utf-16-le", "latin-1", "cp1252")  # these may not be recognised
VIDEO = b"video"
key_characters = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\")
keys = st.text(key_characters | st.sampled_from(". -'\""), min_size=1, max_size=8).filter(
    lambda key: not key.startswith(".")
)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
rows = st.lists(
    st.fixed_dictionaries({"key": keys, "caption": texts, "more": values}), max_size=5, unique_by=lambda row: row["key"]
)
quiet = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)


def config_of(path: Path) -> Config:
    source: dict[str, Any] = {"shards": str(path)}
    if path.suffix != ".tar":
        source = {"table": {"files": str(path), "video": "video", "key": "key"}, "caption": "json:caption"}
    return parse_config(
        {"input": source, "output": {"path": "unused"}, "encoder": {"name": "tiny", "weights": "random:0"}}
    )


def read(path: Path) -> dict[str, Sample]:
    config = config_of(path)
    samples = [sample for shard in shards_of(config.input) for sample in samples_of(shard, config)]
    assert len({sample.key for sample in samples if not sample.problem}) == sum(not one.problem for one in samples)
    return {sample.key: sample for sample in samples if not sample.problem}


@given(rows, st.data())
@quiet
def test_in_a_tar(tmp_path: Path, rows: list[dict[str, Any]], data: st.DataObject) -> None:
    files: list[tuple[str, bytes]] = []
    unreadable = set()
    for row in rows:
        encoding = data.draw(st.sampled_from(ENCODINGS))
        caption = row["caption"].encode(encoding, "ignore")
        row["caption"] = caption.decode(encoding).rstrip("\r\n")
        if encoding == "utf-16-le" or (encoding in UNMARKED and not caption.isascii()):
            unreadable.add(row["key"])
        beside = [(".mp4", VIDEO), (".txt", caption), (".json", json.dumps(row["more"]).encode("utf-8-sig"))]
        files += [(f"{row['key']}{ending}", content) for ending, content in data.draw(st.permutations(beside))]
    samples = read(write_tar(tmp_path / "a.tar", files, tarfile.PAX_FORMAT))
    assert samples.keys() | unreadable >= {row["key"] for row in rows}
    for row in rows:
        if sample := samples.get(row["key"]):
            assert sample.metadata == json.dumps(row["more"])
            if row["key"] not in unreadable:  # latin-1 may happen to be UTF-8
                assert sample.caption == row["caption"] or not row["caption"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@given(rows)
@quiet
def test_in_a_table_that_is_text(tmp_path: Path, name: str, encoding: str, rows: list[dict[str, Any]]) -> None:
    (tmp_path / "v.mp4").write_bytes(VIDEO)
    wanted = [(row["key"], "v.mp4", row["caption"], json.dumps(row["more"])) for row in rows]
    if name == "a.tsv":  # quotes are text, and what would end a cell is not written
        wanted = [row for row in wanted if not any(set(cell) & set("\t\r\n") for cell in row)]
        content = "".join("\t".join(row) + "\n" for row in [("key", "video", "caption", "more"), *wanted])
    else:
        text = io.StringIO(newline="")
        csv.writer(text).writerows([("key", "video", "caption", "more"), *wanted])
        content = text.getvalue()
    (tmp_path / name).write_bytes(content.encode(encoding))
    if wanted:
        samples = read(tmp_path / name)
        assert [(key, samples[key].caption) for key, *_ in wanted] == [(key, caption) for key, _, caption, _ in wanted]
        assert [json.loads(samples[key].metadata)["more"] for key, *_ in wanted] == [more for *_, more in wanted]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
@given(rows)
@quiet
def test_in_a_table_with_types(tmp_path: Path, name: str, rows: list[dict[str, Any]]) -> None:
    (tmp_path / "v.mp4").write_bytes(VIDEO)
    if not rows:
        return
    if name == "a.jsonl":
        lines = [json.dumps(row | {"video": "v.mp4"}, ensure_ascii=False) for row in rows]
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    else:
        as_text = [row | {"video": "v.mp4", "more": json.dumps(row["more"])} for row in rows]
        pq.write_table(pa.Table.from_pylist(as_text), tmp_path / name)
    samples = read(tmp_path / name)
    for row in rows:
        sample = samples[row["key"]]
        more = json.loads(sample.metadata)["more"]
        assert sample.caption == row["caption"]
        assert (more if name == "a.jsonl" else json.loads(more)) == row["more"]
