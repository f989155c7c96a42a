"""Samples from the rows of a table, like those of a tar: a video, its captions, and all other columns as its JSON."""

import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from pipeline.config.input import TableConfig
from pipeline.config.load import Config
from pipeline.errors import SampleError, UserError
from pipeline.input.annotations import REPLACED_TEXT, captions_of, loss, mismatch, spans_of
from pipeline.input.parquet_rows import BadCellError, json_value
from pipeline.input.shard_errors import shard_errors
from pipeline.input.table_rows import kind_of, read_rows
from pipeline.input.text_rows import DELIMITERS, BadRowError
from pipeline.metadata.conditions import names_in
from pipeline.metadata.fields import read_cell, root_of
from pipeline.metadata.filters import check_metadata
from pipeline.metadata.text import UndecodableError, decode_text, is_printable, printable
from pipeline.records import Sample, TableShard
from pipeline.storage.files import read_at_most
from pipeline.storage.urls import expanded, public_url, without_secrets

WEB = ("http://", "https://", "ftp://")
Problem = tuple[str, str]
Row = dict[str, Any] | BadRowError


def read_row_samples(shard: TableShard, config: Config, begin: int = 0) -> Iterator[Sample]:
    """The samples of a range of rows, from its row number `begin` on; videos are fetched one by one.

    Raises:
        ShardError: the table is missing, damaged, or has changed since it was listed.
        TransientError: a video cannot be fetched now.
    """
    table = config.input.table
    assert table is not None, "shards of rows come from tables"
    with shard_errors(shard.url, ValueError):
        duplicates = _duplicates(shard, table)
        asked = asked_columns(config)
        for index, row in enumerate(read_rows(shard, table, begin, asked=asked), start=begin):
            yield _sample(shard, index, row, config, index in duplicates)


def asked_columns(config: Config) -> frozenset[str]:
    """The columns that the configuration names, besides the video's."""
    rules, paths = config.input, []
    paths += [source.removeprefix("json:") for source in (*rules.caption, rules.spans or "")]
    paths += [column.path for column in rules.parsed_columns.values()]
    paths += names_in(config.filter.where) if config.filter.where else []
    key = rules.table.key if rules.table else None
    return frozenset({*paths, *map(root_of, paths), key or ""} - {""})


def _duplicates(shard: TableShard, table: TableConfig) -> frozenset[int]:
    """Rows with the key of an earlier row of the shard."""
    if table.key is None:
        return frozenset()
    seen: set[str] = set()
    duplicates = set()
    for index, row in enumerate(read_rows(shard, table, only=[table.key])):
        key = _key(shard, index, row, table)
        if key in seen:
            duplicates.add(index)
        seen.add(key)
    return frozenset(duplicates)


def _sample(shard: TableShard, index: int, row: Row, config: Config, is_duplicate: bool) -> Sample:
    table = config.input.table
    assert table is not None
    key, metadata = _key(shard, index, row, table), _metadata(shard, row, config)
    is_image = _is_image(row, config)
    spans, bad_spans = (None, None) if is_image else spans_of(metadata, config.input)
    captions, bad_caption = _captions(row, metadata, config)
    bad_text = bad_caption or bad_spans or mismatch(captions, spans, config.input)
    name, video, problem = "", b"", _problem(row, table, is_duplicate, key) or bad_text
    if isinstance(row, dict):
        cell = _video_cell(row, table)
        name = key if isinstance(cell, bytes) else _public_name(cell)
        if not problem and _is_wanted(metadata, config):  # a filtered video need not be fetched
            video, problem = _video(cell, shard.url, config.limits.max_video_bytes)
    return Sample(
        key=key,
        index=index,
        position=index,
        next_position=index + 1,
        last=index + 1 == len(shard.rows),
        ignored_files=0,
        video=video,
        video_name=name,
        captions=tuple(map(printable, captions)),
        metadata=metadata,
        spans=spans,
        caption_by_span=config.input.captions_of == "span" and not is_image,
        problem=problem,
        losses=loss(REPLACED_TEXT, _replaced(row, captions, table)),
    )


def _key(shard: TableShard, index: int, row: Row, table: TableConfig) -> str:
    """The row's key, or the table's name and the row's number where there is none."""
    key = _text(row.get(table.key)) if isinstance(row, dict) and table.key else None
    if key is None:
        return printable(f"{PurePosixPath(public_url(shard.url)).stem}-{shard.rows.start + index:08d}")
    return printable(key)


def _text(cell: Any) -> str | None:
    """A cell as the text that it is; None where it is empty or not text."""
    if _is_empty(cell):
        return None
    if isinstance(cell, bool):
        return json.dumps(cell)
    try:
        return decode_text(cell) if isinstance(cell, bytes) else str(cell)
    except UndecodableError:
        return None


def _is_empty(cell: Any) -> bool:
    return cell is None or cell == "" or isinstance(cell, BadCellError)


def _metadata(shard: TableShard, row: Row, config: Config) -> str:
    """All columns but the video's as JSON: a URL may contain a signature.

    Cells of CSV and TSV stay texts, except where a number, a boolean or a condition is asked for.
    """
    if isinstance(row, BadRowError):
        return ""
    table, values = config.input.table, row
    if kind_of(shard.url) in DELIMITERS:
        read = _read_as_values(config)
        values = {name: read_cell(cell) if name in read and cell else cell for name, cell in row.items()}
    assert table is not None
    kept = {name: value for name, value in values.items() if name != table.video and not isinstance(value, bytes)}
    return printable(json.dumps(json_value(kept), ensure_ascii=False))


def _read_as_values(config: Config) -> frozenset[str]:
    """Columns whose cells are read as values: those of typed columns, and those that `filter.where` uses."""
    typed = (column.path for column in config.input.parsed_columns.values() if column.type != "string")
    return frozenset([*typed, *(names_in(config.filter.where) if config.filter.where else ())])


def _captions(row: Row, metadata: str, config: Config) -> tuple[tuple[str, ...], Problem | None]:
    if isinstance(row, BadRowError):
        return (), None
    try:
        tree = {name: decode_text(cell) if isinstance(cell, bytes) else cell for name, cell in _named(row, config)}
        if bad := next((cell for cell in tree.values() if isinstance(cell, BadCellError)), None):
            return (), ("bad_text", f"the caption cannot be read: {bad}")
        return captions_of({"json": metadata}, json_value(tree), config.input), None
    except UndecodableError as error:
        return (), ("bad_text", f"the caption is not text: {error}")


def _named(row: dict[str, Any], config: Config) -> Iterator[tuple[str, Any]]:
    """The cells that captions are taken from."""
    paths = [source.partition(":")[2] for source in config.input.caption]
    roots = {*paths, *map(root_of, paths)}
    return ((name, cell) for name, cell in row.items() if name in roots)


def _replaced(row: Row, captions: tuple[str, ...], table: TableConfig) -> int:
    """How many texts of a row are not as they were written: halves of surrogate pairs, cells that cannot be read."""
    cells = [cell for name, cell in row.items() if name != table.video] if isinstance(row, dict) else []
    return sum(not is_printable(text) for text in captions) + sum(isinstance(cell, BadCellError) for cell in cells)


def _problem(row: Row, table: TableConfig, is_duplicate: bool, key: str) -> Problem | None:
    if isinstance(row, BadRowError):
        return "bad_row", str(row)
    if is_duplicate:
        return "duplicate_key", f"another row of the shard has the {table.key} {key}"
    if table.key and _text(row.get(table.key)) is None:
        return "no_key", f"the column {table.key} is null, empty, or not text"
    cell = _video_cell(row, table)
    if not cell:
        return "no_video", f"the column {table.video} is null or empty"
    if not isinstance(cell, bytes | str):
        return "no_video", f"the column {table.video} holds a {type(cell).__name__}: it must be one path, URL or video"
    return None


def _video_cell(row: dict[str, Any], table: TableConfig) -> Any:
    """The bytes, path or URL of a row. Some tables have pairs of `bytes` and `path`, one of them null."""
    cell = row.get(table.video)
    return cell.get("bytes") or cell.get("path") if isinstance(cell, dict) else cell


def _is_image(row: Row, config: Config) -> bool:
    """Whether a row names an image. Bytes without a name are not looked into, and have spans as those of videos do."""
    table = config.input.table
    cell = row.get(table.video) if table and isinstance(row, dict) else None
    path = cell.get("path") if isinstance(cell, dict) else cell
    return isinstance(path, str) and public_url(path).rpartition(".")[2].lower() in config.input.image


def _is_wanted(metadata: str, config: Config) -> bool:
    try:
        check_metadata(config.filter.where, metadata)
    except SampleError:
        return False
    return True


def _video(cell: Any, table_url: str, max_bytes: int) -> tuple[bytes, Problem | None]:
    """The video and None, or no bytes and why."""
    video, problem = (cell, None) if isinstance(cell, bytes) else _fetched(beside(table_url, cell or ""), max_bytes + 1)
    if len(video) > max_bytes:
        return b"", ("unreadable_video", f"larger than limits.max_video_bytes: {max_bytes:,}")
    return video, problem


def _fetched(url: str, limit_bytes: int) -> tuple[bytes, Problem | None]:
    try:
        return read_at_most(url, limit_bytes), None
    except UserError as error:
        if isinstance(error.__context__, ImportError):  # a missing package is not the row's fault
            raise
        return b"", ("bad_url", str(error))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return b"", ("video_not_found", f"nothing is at {_public_name(url)}")
    except PermissionError as error:
        return b"", ("video_refused", f"{_public_name(url)}: {without_secrets(str(error))}")
    except ValueError as error:
        return b"", ("bad_url", f"{_public_name(url)}: {without_secrets(str(error))}")


def beside(table_url: str, path: str) -> str:
    """The path or URL in a table's cell; relative paths start in the table's folder.

    Variables are replaced as in every path, but for the web's: a table of a stranger would learn their values.

    Raises:
        UserError: a variable is not set.
    """
    path = path if path.startswith(WEB) else expanded(path)
    if "://" in path or path.startswith("/"):
        return path
    folder = table_url.partition("?")[0] if "://" in table_url else table_url
    return f"{folder.rpartition('/')[0] or '.'}/{path}"


def _public_name(cell: Any) -> str:
    """The name of a row's video, without the credentials of a URL."""
    return printable(public_url(cell) if "://" in cell else cell) if isinstance(cell, str) else ""
