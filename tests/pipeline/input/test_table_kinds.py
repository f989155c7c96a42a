"""What tables of many makers hold: quotes, lists of captions, clock times, columns of any type."""

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.runs import MakeConfig

from pipeline.errors import UserError
from pipeline.input.listing import shards_of
from pipeline.input.samples import samples_of
from pipeline.records import Sample


@pytest.fixture
def read(tmp_path: Path, make_config: MakeConfig) -> Any:
    """Reads a table in the test's folder, with a video `v.mp4` beside it."""
    (tmp_path / "v.mp4").write_bytes(b"video")

    def read_table(name: str, table: dict[str, Any] | None = None, **rules: Any) -> list[Sample]:
        values = {"files": str(tmp_path / name), "video": "video", "key": "key"} | (table or {})
        config = make_config(input={"shards": None, "table": values, **rules})
        return [sample for shard in shards_of(config.input) for sample in samples_of(shard, config)]

    return read_table


def test_a_quote_that_swallows_rows_is_an_error_with_its_line(tmp_path: Path, read: Any) -> None:
    text = 'key,video,caption\na,v.mp4,"two\nlines, and more"\nb,v.mp4,"open\nc,v.mp4,plain\nd,v.mp4,end"\n'
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=r"t\.csv: a quote in line 4 .* swallows .*'c,v\.mp4,plain'"):
        read("t.csv")
    assert [sample.key for sample in read("t.csv", {"quotes": False}) if not sample.problem] == ["a", "b", "c", "d"]
    (tmp_path / "t.csv").write_text('key,video,caption\na,v.mp4,"open\nb,v.mp4,plain\n')
    with pytest.raises(UserError, match=r"not CSV from line 2 on: .*input\.table\.quotes: false"):
        read("t.csv")


def test_quotes_of_a_tsv_enclose_cells_where_that_is_asked_for(tmp_path: Path, read: Any) -> None:
    (tmp_path / "t.tsv").write_text('key\tvideo\tcaption\na\tv.mp4\t"two ""words"""\n')
    assert read("t.tsv")[0].caption == '"two ""words"""'
    assert read("t.tsv", {"quotes": True})[0].caption == 'two "words"'


@pytest.mark.parametrize("cell", ["12345e67", "1e400", "1.10", "true", "null", "-0", "007", "[1]", "1_000", "NaN"])
def test_a_cell_stays_the_text_that_it_is(cell: str, tmp_path: Path, read: Any) -> None:
    (tmp_path / cell).write_bytes(b"video")
    (tmp_path / "t.csv").write_text(f"key,video,caption,other\n{cell},{cell},{cell},{cell}\n")
    (sample,) = read("t.csv")
    assert (sample.key, sample.video_name, sample.caption, sample.problem) == (cell, cell, cell, None)
    assert f'"other": "{cell}"' in sample.metadata


def test_bytes_that_are_not_text_reject_their_row_alone(tmp_path: Path, read: Any) -> None:
    (tmp_path / "t.csv").write_bytes(b"key,video,caption\na,v.mp4,caf\xe9\nb,v.mp4,caf\xc3\xa9\n")
    bad, good = read("t.csv")
    assert bad.problem == ("bad_row", "the row is not text: byte 29 (0xe9) is not UTF-8 text: save it as UTF-8")
    assert (good.caption, good.problem) == ("café", None)


def test_lists_and_clock_times_are_read_where_they_are_asked_for(tmp_path: Path, read: Any) -> None:
    spans, captions = "[['0:00:00.000', '0:00:05.005'], ['0:01:00', '1:00:00.5']]", '[\'a "b"\', "it\'s"]'
    quoted = [cell.replace('"', '""') for cell in (captions, spans)]
    (tmp_path / "t.csv").write_text(f'key,video,caption,timestamp\na,v.mp4,"{quoted[0]}","{quoted[1]}"\n')
    (sample,) = read("t.csv", caption="json:caption[]", spans="json:timestamp")
    assert sample.captions == ('a "b"', "it's")
    assert [(span.begin, span.end) for span in sample.spans] == [(0, 5.005), (60, 3600.5)]
    assert read("t.csv", caption="json:caption")[0].captions == (captions,)
    (tmp_path / "t.jsonl").write_text('{"key": 1.10, "video": "v.mp4", "caption": [{"text": "x"}, {"text": "y"}, {}]}')
    (sample,) = read("t.jsonl", caption="json:caption[].text")
    assert (sample.key, sample.captions) == ("1.10", ("x", "y"))


def test_a_column_of_any_type_is_text_or_left_out_and_fails_nothing(tmp_path: Path, read: Any) -> None:
    moment = datetime(2020, 1, 2, tzinfo=timezone.utc)
    columns = {
        "key": pa.array([b"k"], pa.binary()),
        "video": pa.array(["v.mp4"]).dictionary_encode(),
        "caption": pa.array(["a caption"], pa.large_string()),
        "far": pa.array([10**12], pa.timestamp("s")),
        "deep": pa.array(
            [[{"at": moment, "blob": b"x"}]], pa.list_(pa.struct([("at", pa.timestamp("ns")), ("blob", pa.binary())]))
        ),
        "map": pa.array([[("k", 1_500)]], pa.map_(pa.string(), pa.duration("ms"))),
        "time": pa.array([1], pa.time64("ns")),
        "zoned": pa.array([moment], pa.timestamp("s", "Europe/Berlin")),
        "blobs": pa.array([[b"x"]], pa.list_(pa.binary())),
        "fixed": pa.array([b"12"], pa.binary(2)),
        "not_utf8": pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers()),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    (sample,) = read("t.parquet")
    assert (sample.key, sample.caption, sample.video, sample.problem) == ("k", "a caption", b"video", None)
    assert '"deep": [{"at": "2020-01-02T00:00:00.000000000"}]' in sample.metadata
    assert '"map": [["k", "PT1.5S"]]' in sample.metadata
    assert '"time": "00:00:00.000000001"' in sample.metadata
    assert '"zoned": "2020-01-02T00:00:00.000Z"' in sample.metadata
    assert sample.losses == {"replaced_text": 2}, "a time that Arrow cannot print, and bytes that are not text"


def test_a_key_of_json_lines_is_the_text_that_stands_there(tmp_path: Path, read: Any) -> None:
    keys = ("true", "12345678901234567890", '"007"')
    lines = (f'{{"key": {key}, "video": "v.mp4"}}\n' for key in keys)
    (tmp_path / "t.jsonl").write_text("".join(lines))
    assert [sample.key for sample in read("t.jsonl")] == ["true", "12345678901234567890", "007"]


@pytest.mark.parametrize(
    "type_", [pa.list_(pa.binary()), pa.list_(pa.string()), pa.int64(), pa.struct([("x", pa.string())])]
)
def test_a_column_that_cannot_hold_one_video_is_refused_in_a_line(
    type_: pa.DataType, tmp_path: Path, read: Any
) -> None:
    pq.write_table(pa.table({"key": ["a"], "video": pa.array([None], type_)}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"column video has type .*: it must hold paths, URLs or bytes"):
        read("t.parquet")
    (tmp_path / "t.jsonl").write_text('{"key": "a", "video": ["v.mp4"]}\n')
    with pytest.raises(UserError, match=r"column video holds .*: it must hold paths, URLs or bytes"):
        read("t.jsonl")
