"""Captions and values of the JSON beside a video become columns of one type in every part, or null."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runs import MakeConfig, run_all, run_json, write_tar

from encoder.video_encoder import VideoEncoder
from pipeline.audit.verify import Verified, verify
from pipeline.errors import ConfigError
from pipeline.metadata.fields import Column, column_values, field_at, parse_column, texts_of, typed
from pipeline.output.parts import read_rows
from pipeline.output.schema import check_columns, schema
from pipeline.storage.store import Store

COLUMNS = {
    "score": "json:aesthetic.score:float",
    "views": "json:views:int",
    "nsfw": "json:nsfw:bool",
    "tag": "json:tag",
}


@pytest.mark.parametrize(
    ("value", "type_", "expected"),
    [
        (5, "float", 5.0),
        (5.5, "float", 5.5),
        ("5.5", "float", None),
        (True, "float", None),
        (10**400, "float", None),
        (float("inf"), "float", None),
        (7, "int", 7),
        (7.0, "int", 7),
        (7.5, "int", None),
        (2**63, "int", None),
        (float("nan"), "int", None),
        (1e300, "int", None),
        (True, "int", None),
        (True, "bool", True),
        (1, "bool", None),
        ("words", "string", "words"),
        (1.5, "string", "1.5"),
        ({"a": [1]}, "string", '{"a": [1]}'),
        ("\ud800", "string", "\\ud800"),
        (None, "string", None),
    ],
)
def test_a_value_is_taken_as_it_is_or_not_at_all(value: object, type_: str, expected: object) -> None:
    result = typed(value, type_)
    assert (result, type(result)) == (expected, type(expected))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=2)
)


@given(json_values, st.sampled_from(["string", "float", "int", "bool"]))
def test_any_json_value_fits_the_column_of_any_type(value: object, type_: str) -> None:
    table = pa.Table.from_pylist(
        [{"x": typed(value, type_)}], pa.schema([schema("mean", columns={"x": type_}).field("x")])
    )
    assert table.num_rows == 1


@pytest.mark.parametrize("source", ["txt", "json:", "json:a:double", "json:a:int:int", "score", "json:a b"])
def test_a_column_of_an_unknown_kind_is_refused(source: str, make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"input\.columns: .*json:PATH:TYPE"):
        make_config(input={"columns": {"score": source}})


def test_column_names_are_plain_and_differ_from_ours(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="column name 'a-b' is not allowed"):
        make_config(input={"columns": {"a-b": "json:a"}})
    for name in ("caption", "vae_latent_bytes", "image_latent_shape"):
        with pytest.raises(ConfigError, match=f"already has a column {name}"):
            check_columns(["score", name])
    check_columns(["score"])


def test_a_column_is_text_unless_said_otherwise_and_missing_values_are_null() -> None:
    assert parse_column("json:a.b") == Column("a.b", "string")
    columns = {"x": parse_column("json:a.b:int")}
    assert column_values('{"a": {"b": 3}}', columns) == {"x": 3}
    assert column_values('{"a": 3}', columns) == column_values("no json", columns) == {"x": None}


@pytest.mark.parametrize(
    ("value", "expected"),
    [(["a", None, "b", 2], ("a", "b", "2")), ([], ()), ("a", ("a",)), (None, ()), (1.5, ("1.5",))],
)
def test_one_caption_or_several(value: object, expected: tuple[str, ...]) -> None:
    assert texts_of(value) == expected
    assert texts_of(field_at({"x": {}}, "x.y")) == ()


def rows_of(root: str) -> list[dict[str, Any]]:
    parts = sorted((Path(root) / "latents").rglob("*.parquet"))
    return sorted(
        (row for part in parts for row in read_rows(io.BytesIO(part.read_bytes()))), key=lambda row: row["sample_index"]
    )


def test_every_part_has_the_same_typed_columns(
    tmp_path: Path, make_config: MakeConfig, tiny: VideoEncoder, videos: tuple[bytes, ...]
) -> None:
    metadata = [
        {"aesthetic": {"score": 5}, "views": 10, "nsfw": False, "tag": ["x"], "captions": ["long words", "short"]},
        {"aesthetic": {"score": "high"}, "views": 1.5, "captions": "one"},
    ]
    write_tar(
        tmp_path / "a.tar",
        [
            (f"clip-{number}.{name}", content)
            for number, tree in enumerate(metadata)
            for name, content in (("mp4", videos[number]), ("json", json.dumps(tree).encode()))
        ],
    )
    config = make_config(input={"columns": COLUMNS, "caption": ["txt", "json:captions"]})
    run_all(config, tiny)
    first, second = rows_of(config.output.path)
    assert {name: first[name] for name in COLUMNS} == {"score": 5.0, "views": 10, "nsfw": False, "tag": '["x"]'}
    assert {name: second[name] for name in COLUMNS} == dict.fromkeys(COLUMNS)
    assert (first["caption"], first["captions"]) == ("long words", ["long words", "short"])
    assert (second["caption"], second["captions"]) == ("one", ["one"])
    parts = sorted((Path(config.output.path) / "latents").rglob("*.parquet"))
    schemas = [pq.read_schema(path).remove_metadata() for path in parts]
    assert len(schemas) == 2, "the two videos lie in two buckets"
    assert schemas[0] == schemas[1]
    assert [str(schemas[0].field(name).type) for name in COLUMNS] == ["double", "int64", "bool", "string"]
    assert schemas[0].names.index("tag") < schemas[0].names.index("vae_latent_shape")
    store = Store(config.output.path)
    store.create("run.json", run_json(config, tiny))
    assert list(verify(store, Verified())) == []
