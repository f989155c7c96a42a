"""Tables give the samples that tars give: the same latents, every row accounted for, or an error that says why."""

import csv
import io
import json
from collections.abc import Callable
from datetime import datetime, timezone
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given
from hypothesis import strategies as st
from support.runs import MakeConfig, output_files, run_all, run_json, samples_of, write_tar

from encoder.video_encoder import VideoEncoder
from pipeline.audit.reencode import reencode
from pipeline.audit.show import find_row
from pipeline.audit.status import read_status
from pipeline.audit.verify import Verified, verify
from pipeline.config.load import Config
from pipeline.errors import ShardError, TransientError, UserError
from pipeline.input.listing import shards_of
from pipeline.input.samples import samples_of as samples_in
from pipeline.input.samples import slice_begins
from pipeline.input.table import beside
from pipeline.input.table_rows import cut_rows
from pipeline.input.text_rows import TextFormat, read_text_rows, survey_text
from pipeline.latents.task import ShardTask
from pipeline.metadata.fields import read_cell
from pipeline.monitor.events import ShardDone
from pipeline.output.parts import read_rows as read_part_rows
from pipeline.output.paths import done_shards
from pipeline.records import Sample
from pipeline.storage import files as storage_files
from pipeline.storage.files import read_at_most
from pipeline.storage.store import Store
from pipeline.video.decoder import LocalDecoder

Rows = list[dict[str, Any]]
Made = Callable[..., Config]


def write_table(path: Path, rows: Rows, row_group_size: int = 2) -> Path:
    """Writes rows as the path's extension says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=row_group_size)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.fixture
def named(tmp_path: Path, videos: tuple[bytes, ...]) -> Rows:
    """Five rows that name videos beside their table."""
    (tmp_path / "v").mkdir()
    for number, video in enumerate(videos[:5]):
        (tmp_path / "v" / f"{number}.mp4").write_bytes(video)
    return [{"id": f"clip-{n:03d}", "url": f"v/{n}.mp4", "caption": f"caption {n}", "score": n} for n in range(5)]


@pytest.fixture
def table_config(make_config: MakeConfig, tmp_path: Path) -> Made:
    def make(table: dict[str, Any], out: str = "out", **sections: Any) -> Config:
        values = {"video": "url", "key": "id", "rows_per_shard": 3} | table
        output = {"path": str(tmp_path / out), "part_samples": 2} | sections.pop("output", {})
        return make_config(
            input={"shards": None, "table": values} | sections.pop("input", {}), output=output, **sections
        )

    return make


def rows_of(config: Config) -> dict[str, dict[str, Any]]:
    """Every row of an output by its key."""
    found = {}
    for path in sorted((Path(config.output.path) / "latents").rglob("*.parquet")):
        with open(path, "rb") as file:
            found |= {row["key"]: row for row in read_part_rows(file)}
    return found


def all_samples(config: Config) -> list[Sample]:
    return [sample for shard in shards_of(config.input) for sample in samples_in(shard, config)]


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.tsv", "t.jsonl"])
def test_a_table_and_a_tar_of_the_same_videos_give_the_same_latents(
    name: str,
    tmp_path: Path,
    named: Rows,
    table_config: Made,
    make_config: MakeConfig,
    tiny: VideoEncoder,
    videos: tuple[bytes, ...],
) -> None:
    config = table_config(
        {"files": str(write_table(tmp_path / name, named))}, input={"columns": {"n": "json:score:int"}}
    )
    done = [event for event in run_all(config, tiny) if isinstance(event, ShardDone)]
    assert [event.samples for event in done] == ([2, 3] if name == "t.parquet" else [3, 2])
    write_tar(tmp_path / "a.tar", samples_of(videos[:5]))
    by_tar = make_config(output={"path": str(tmp_path / "tar")})
    run_all(by_tar, tiny)
    ours, theirs = rows_of(config), rows_of(by_tar)
    assert sorted(ours) == sorted(theirs) == [row["id"] for row in named]
    for number, (key, row) in enumerate(sorted(ours.items())):
        same = ("vae_latent_bytes", "vae_logvar_bytes", "caption", "frame_indices", "bucket")
        assert [row[column] for column in same] == [theirs[key][column] for column in same]
        assert (row["file_name"], row["n"]) == (f"v/{number}.mp4", number)
        assert row["id"] == f"{row['shard']}/{key}"
        assert json.loads(row["metadata"]) == {"id": key, "caption": f"caption {number}", "score": number}


def test_bytes_in_parquet_give_the_same_samples_as_paths(
    tmp_path: Path, named: Rows, table_config: Made, videos: tuple[bytes, ...]
) -> None:
    by_path = table_config({"files": str(write_table(tmp_path / "a.parquet", named))})
    held = [row | {"url": video} for row, video in zip(named, videos, strict=False)]
    pairs = [row | {"url": {"bytes": row["url"], "path": None}} for row in held]
    for name, rows in (("b.parquet", held), ("c.parquet", pairs)):
        by_bytes = table_config({"files": str(write_table(tmp_path / name, rows))})
        for ours, theirs in zip(all_samples(by_bytes), all_samples(by_path), strict=True):
            assert (ours.video, ours.key, ours.captions) == (theirs.video, theirs.key, theirs.captions)
            assert ours.metadata == theirs.metadata
            assert ours.video_name == ours.key


@pytest.mark.slow
def test_a_run_that_was_stopped_resumes_and_verifies(
    tmp_path: Path, named: Rows, table_config: Made, tiny: VideoEncoder
) -> None:
    named += [{"id": "bad", "url": "v/nothing.mp4", "caption": None, "score": 1}]
    table = {"files": str(write_table(tmp_path / "t.jsonl", named)), "rows_per_shard": 6}
    calm, config = (table_config(table, out, output={"part_samples": 2}) for out in ("calm", "out"))
    run_all(calm, tiny)
    task = ShardTask(config, tiny, LocalDecoder(config, tiny.spec), Store(config.output.path))
    (shard,) = shards_of(config.input)
    events = task.run(shard)
    while not output_files(Path(config.output.path)):
        next(events)
    events.close()
    run_all(config, tiny)
    assert output_files(Path(config.output.path)) == output_files(Path(calm.output.path))
    store, seen = Store(config.output.path), Verified()
    values = json.loads(run_json(config, tiny)) | {"config": config.model_dump(mode="json")}
    store.create("run.json", json.dumps(values).encode())
    assert list(verify(store, seen)) == []
    assert (seen.samples, seen.rows, seen.rejects) == (6, 5, 1)
    assert [(shard.name, shard.state) for shard in read_status(store)] == [(shard.name, "done")]
    found = list(reencode(store, 3))
    assert found
    assert all(problem is None for _, _, problem in found)
    assert find_row(store, "clip-003")[0]["sample_index"] == 3


def test_a_helper_makes_the_slices_of_a_table_without_fetching_all_of_it_first(
    tmp_path: Path, named: Rows, table_config: Made, tiny: VideoEncoder
) -> None:
    config = table_config({"files": str(write_table(tmp_path / "t.csv", named)), "rows_per_shard": 5})
    (shard,) = shards_of(config.input)
    (tmp_path / "v").rename(tmp_path / "gone")
    assert slice_begins(shard, config) == [0, 2, 4]
    (tmp_path / "gone").rename(tmp_path / "v")
    task = ShardTask(config, tiny, LocalDecoder(config, tiny.spec), Store(config.output.path))
    assert [event.samples for event in task.help(shard, 1) if isinstance(event, ShardDone)] == [5]
    assert done_shards(Store(config.output.path)) == {shard.name}


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.jsonl"])
@pytest.mark.parametrize("begin", range(4))
def test_from_every_row_on_the_rest_is_the_same(
    name: str, begin: int, tmp_path: Path, named: Rows, table_config: Made
) -> None:
    config = table_config({"files": str(write_table(tmp_path / name, named, 5)), "rows_per_shard": 4})
    for shard in shards_of(config.input):
        samples = list(samples_in(shard, config))
        assert [sample.last for sample in samples] == [False] * (len(samples) - 1) + [True]
        assert [sample.next_position for sample in samples] == list(range(1, len(samples) + 1))
        assert list(samples_in(shard, config, begin, begin)) == samples[begin:]


def test_rows_that_give_no_video_say_why(tmp_path: Path, named: Rows, table_config: Made) -> None:
    (tmp_path / "v" / "large.mp4").write_bytes(bytes(60_000))
    bad = [(None, "v/1.mp4"), ("a", None), ("b", ""), ("c", "v/large.mp4"), ("d", "v"), ("e", "nope://x/y")]
    bad += [("f", "v/1.mp4\0"), ("clip-000", "v/1.mp4"), ("g", f"file://{tmp_path}/v/1.mp4")]
    rows = named[:1] + [{"id": key, "url": url, "caption": "x", "score": 1} for key, url in bad]
    files = str(write_table(tmp_path / "t.parquet", rows))
    config = table_config({"files": files, "rows_per_shard": 20}, limits={"max_video_bytes": 50_000})
    samples = all_samples(config)
    assert [sample.problem[0] if sample.problem else "" for sample in samples] == [
        *("", "no_key", "no_video", "no_video", "unreadable_video", "video_not_found", "bad_url", "bad_url"),
        *("duplicate_key", ""),
    ]
    assert samples[1].key == "t-00000001"
    assert all(bool(sample.video) == (sample.problem is None) for sample in samples)


def test_bad_rows_of_text_are_rejects_of_their_own(tmp_path: Path, named: Rows, table_config: Made) -> None:
    path = write_table(tmp_path / "t.jsonl", named[:2])
    path.write_text("\ufeffno json\n" + path.read_text() + '\n[1]\n{"url": "v/1.mp4"}')
    config = table_config({"files": str(path), "rows_per_shard": 9})
    problems = [sample.problem[0] if sample.problem else "" for sample in all_samples(config)]
    assert problems == ["bad_row", "", "", "bad_row", "no_key"]
    (tmp_path / "t.csv").write_text('id,url,caption\n1,v/1.mp4,"two\nlines, ""quoted"""\n\n2,v/2.mp4\n')
    first, second = all_samples(table_config({"files": str(tmp_path / "t.csv")}))
    assert (first.key, first.caption, first.problem) == ("1", 'two\nlines, "quoted"', None)
    assert second.problem == ("bad_row", "the row has 2 cells, the header 3")


def test_a_filtered_row_is_not_fetched(tmp_path: Path, named: Rows, table_config: Made, tiny: VideoEncoder) -> None:
    (tmp_path / "v" / "1.mp4").unlink()
    files = str(write_table(tmp_path / "t.csv", named))
    config = table_config({"files": files}, filter={"where": "score != 1"})
    assert all_samples(config)[1].problem is None
    assert len(run_all(config, tiny)) > 0
    assert set(rows_of(config)) == {"clip-000", "clip-002", "clip-003", "clip-004"}


def test_rows_without_a_key_column_are_numbered_through_the_table(
    tmp_path: Path, named: Rows, table_config: Made
) -> None:
    config = table_config({"files": str(write_table(tmp_path / "t.csv", named)), "key": None})
    assert [sample.key for sample in all_samples(config)] == [f"t-{number:08d}" for number in range(5)]


def test_values_without_a_json_type_become_text_or_null(tmp_path: Path, table_config: Made) -> None:
    moment = datetime(2024, 2, 3, 4, 5, 6, 789, tzinfo=timezone.utc)
    row = {"url": b"x", "thumb": b"y", "at": moment, "price": Decimal("1.50"), "nan": float("nan"), "spans": [[0, 1.5]]}
    table = pa.Table.from_pylist([row])
    table = table.append_column("ns", pa.array([1234567891234567891], pa.timestamp("ns")))
    pq.write_table(table, tmp_path / "t.parquet")
    table_values = {"files": str(tmp_path / "t.parquet"), "key": None}
    (sample,) = all_samples(table_config(table_values, input={"spans": "json:spans"}))
    values = json.loads(sample.metadata, parse_constant=pytest.fail)
    assert values == {
        "at": "2024-02-03T04:05:06.000789Z",
        "price": "1.50",
        "nan": None,
        "spans": [[0.0, 1.5]],
        "ns": "2009-02-13T23:31:31.234567891",
    }
    assert sample.spans is not None
    assert [(span.begin, span.end) for span in sample.spans] == [(0, 1.5)]


def test_a_shard_has_a_readable_name_of_its_own(tmp_path: Path, named: Rows, table_config: Made) -> None:
    files = [str(write_table(tmp_path / f"{name}.jsonl", named)) for name in "ab"]
    shards = shards_of(table_config({"files": files}).input)
    assert [shard.name[:1] + shard.name[-18:] for shard in shards] == [
        f"{name}-0000000{begin}-0000000{end}" for name in "ab" for begin, end in ((0, 3), (3, 5))
    ]
    assert len({shard.name for shard in shards}) == 4


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"video": "link"},
            r"input.table.video: .*/t.csv has no column 'link'; its columns are id, url, caption, score",
        ),
        ({"key": "name"}, r"input.table.key: .*/t.csv has no column 'name'"),
        ({"files": "{0}/nothing.csv"}, "input.table.files: .*/nothing.csv does not exist"),
        ({"files": "{0}/*.arrow"}, "input.table.files: nothing matches .*"),
        ({"files": "{0}/v/0.mp4"}, "0.mp4: unknown kind of table .mp4: use .parquet, .csv"),
        ({"files": "{0}/bad.parquet"}, "bad.parquet: not a complete Parquet file"),
        ({"files": "{0}/bad.csv"}, "bad.csv: not CSV from line 2 on: unexpected end of data"),
        ({"files": "{0}/bad.jsonl"}, "bad.jsonl has no column 'url'; its columns are none"),
        ({"files": "{0}/empty.csv"}, "input.table.files: the tables have no rows"),
        ({"files": "{0}/number.parquet"}, "column url has type int64: it must hold paths, URLs or bytes"),
        ({"files": ["{0}/t.csv", "{0}/t.csv"]}, "input.table.files lists .*/t.csv twice"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(
    table: dict[str, Any], message: str, tmp_path: Path, named: Rows, table_config: Made
) -> None:
    write_table(tmp_path / "t.csv", named)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    (tmp_path / "bad.csv").write_text('a,b\n"x,y')
    (tmp_path / "bad.jsonl").write_text("{\n")
    (tmp_path / "empty.csv").touch()
    pq.write_table(pa.table({"id": ["a"], "url": [1]}), tmp_path / "number.parquet")
    text = json.dumps({"files": "{0}/t.csv"} | table).replace("{0}", str(tmp_path))
    with pytest.raises(UserError, match=message):
        shards_of(table_config(json.loads(text)).input)


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_a_table_that_changed_since_it_was_listed_is_an_error(
    name: str, tmp_path: Path, named: Rows, table_config: Made
) -> None:
    config = table_config({"files": str(write_table(tmp_path / name, named, 9))})
    first, second = shards_of(config.input)
    write_table(tmp_path / name, named[:4] if name == "t.parquet" else [named[0] | {"caption": "other"}, *named[1:]], 9)
    with pytest.raises(ShardError, match=rf"{name}: .*(changed|when it was listed)"):
        list(samples_in(second, config))
    (tmp_path / name).unlink()
    with pytest.raises(ShardError, match="does not exist"):
        list(samples_in(first, config))


def test_a_video_that_cannot_be_fetched_now_is_not_a_reject(
    tmp_path: Path, named: Rows, table_config: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_files, "ATTEMPTS", 1)
    named[0]["url"] = "http://127.0.0.1:1/a.mp4"
    config = table_config({"files": str(write_table(tmp_path / "t.csv", named))})
    with pytest.raises(TransientError):
        all_samples(config)


class StatusError(Exception):
    """Stands for what an HTTP library raises."""

    status = 403


def test_a_request_that_a_server_refuses_is_not_repeated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def refuse(*_: object, **__: object) -> io.BytesIO:
        asked.append(1)
        raise StatusError

    monkeypatch.setattr(LocalFileSystem, "open", refuse)
    with pytest.raises(PermissionError, match="403"):
        read_at_most(str(tmp_path / "x"), 1)
    assert len(asked) == 1


def test_no_secret_of_a_signed_url_is_kept(tmp_path: Path, table_config: Made) -> None:
    urls = ["memory://user:secret@host/x.mp4?sig=secret", "nope://user:secret@host/x.mp4?sig=secret"]
    files = str(write_table(tmp_path / "t.csv", [{"id": url[0], "url": url} for url in urls]))
    for sample, reason in zip(all_samples(table_config({"files": files})), ("video_not_found", "bad_url"), strict=True):
        assert sample.video_name in ("memory://host/x.mp4", "nope://host/x.mp4")
        assert sample.problem is not None
        assert sample.problem[0] == reason
        assert "secret" not in str(sample)


class _Server(BaseHTTPRequestHandler):
    """Serves one video, refuses another, has no third, and is too busy for a fourth."""

    def do_GET(self) -> None:
        status = {"/ok.mp4": 200, "/no.mp4": 403, "/busy.mp4": 503}.get(self.path, 404)
        self.send_response(status)
        self.send_header("Content-Length", "5" if status == 200 else "0")
        self.end_headers()
        self.wfile.write(b"video" if status == 200 else b"")

    def log_message(self, *_: object) -> None:
        pass


def test_videos_behind_http_are_fetched_refused_or_tried_again(
    tmp_path: Path, table_config: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_files, "ATTEMPTS", 1)
    with HTTPServer(("127.0.0.1", 0), _Server) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        rows = [{"id": name, "url": f"{url}/{name}.mp4"} for name in ("ok", "no", "none")]
        ok, no, none = all_samples(table_config({"files": str(write_table(tmp_path / "t.csv", rows))}))
        assert (ok.video, ok.problem) == (b"video", None)
        assert no.problem == ("video_refused", f"{url}/no.mp4: HTTP status 403")
        assert none.problem == ("video_not_found", f"nothing is at {url}/none.mp4")
        busy = write_table(tmp_path / "busy.csv", [{"id": "busy", "url": f"{url}/busy.mp4"}])
        with pytest.raises(TransientError, match="503"):
            all_samples(table_config({"files": str(busy)}))
        server.shutdown()


@pytest.mark.parametrize(
    ("table", "path", "url"),
    [
        ("/data/t.csv", "v/a.mp4", "/data/v/a.mp4"),
        ("t.csv", "a.mp4", "./a.mp4"),
        ("s3://b/x/t.csv", "a#1.mp4", "s3://b/x/a#1.mp4"),
        ("https://h/x/t.csv?sig=a/b", "a.mp4", "https://h/x/a.mp4"),
        ("s3://b/t.csv", "/data/a.mp4", "/data/a.mp4"),
        ("/data/t.csv", "s3://b/a.mp4", "s3://b/a.mp4"),
    ],
)
def test_a_relative_path_begins_beside_its_table(table: str, path: str, url: str) -> None:
    assert beside(table, path) == url


@given(st.lists(st.integers(0, 9), max_size=9), st.integers(1, 9))
def test_ranges_hold_every_row_once_and_break_only_groups_that_are_too_large(groups: list[int], most: int) -> None:
    ranges = cut_rows(groups, most)
    assert [row for rows in ranges for row in rows] == list(range(sum(groups)))
    assert all(0 < len(rows) <= most for rows in ranges)
    bounds = {sum(groups[:number]) for number in range(len(groups) + 1)}
    if max(groups, default=0) <= most:
        assert {rows.start for rows in ranges} <= bounds


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("", ""), ("5", 5), ("-1.5", -1.5), ("true", True), ("False", False), ("null", None)),
        *(("[[0, 1]]", [[0, 1]]), ("001", "001"), ("NaN", "NaN"), ('"a"', '"a"'), ("a, b", "a, b"), ("[", "[")),
        *(("['a', \"b's\"]", ["a", "b's"]), ("[('x', 1)]", [["x", 1]]), ("{'a': None}", {"a": None}), ("[a]", "[a]")),
    ],
)
def test_a_cell_that_is_read_is_a_number_a_list_or_the_text_that_it_is(text: str, value: object) -> None:
    assert read_cell(text) == value


cells = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)
lines = st.sampled_from([b"{}", b'{"a": 1}', b"", b"  ", b"[", b'"x"', b"\xff", b"{" * 9])


@pytest.mark.slow
@given(st.lists(st.tuples(cells, cells), max_size=9), st.integers(1, 4))
def test_every_row_of_a_csv_is_in_one_range_whatever_its_cells_hold(rows: list[tuple[str, str]], most: int) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("a", "b"), *rows])
    file = io.BytesIO(text.getvalue().encode())
    columns, ranges, _ = survey_text(file, TextFormat("csv"), most)
    assert columns == ("a", "b")
    assert [row for numbers, _ in ranges for row in numbers] == list(range(len(rows)))
    read = [row for numbers, size in ranges for row in read_text_rows(file, TextFormat("csv"), numbers, size)]
    assert read == [{"a": a or None, "b": b or None} for a, b in rows]


@given(st.lists(lines, max_size=9), st.integers(1, 4), st.booleans())
def test_every_line_of_json_that_is_not_blank_is_a_row_or_a_bad_one(content: list[bytes], most: int, end: bool) -> None:
    file = io.BytesIO(b"\n".join(content) + b"\n" * end)
    _, ranges, _ = survey_text(file, TextFormat("jsonl"), most)
    read = [row for numbers, size in ranges for row in read_text_rows(file, TextFormat("jsonl"), numbers, size)]
    kept = [line for line in content if line.strip()]
    assert [isinstance(row, dict) for row in read] == [line in (b"{}", b'{"a": 1}') for line in kept]
