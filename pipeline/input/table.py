"""Samples from the rows of a table, like those of a tar: a video, its captions, and all other columns as its JSON."""

import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from pipeline.config.input import TableConfig
from pipeline.config.load import Config
from pipeline.errors import SampleError, UserError
from pipeline.input.annotations import captions_of, spans_of
from pipeline.input.shard_errors import shard_errors
from pipeline.input.table_rows import json_value, read_rows
from pipeline.input.text_rows import BadRowError
from pipeline.metadata.fields import printable
from pipeline.metadata.filters import check_metadata
from pipeline.records import Sample, TableShard
from pipeline.storage.files import read_at_most
from pipeline.storage.urls import public_url, without_secrets

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
        for index, row in enumerate(read_rows(shard, begin, video=table.video), start=begin):
            yield _sample(shard, index, row, config, index in duplicates)


def _duplicates(shard: TableShard, table: TableConfig) -> frozenset[int]:
    """Rows with the key of an earlier row of the shard."""
    if table.key is None:
        return frozenset()
    seen: set[str] = set()
    duplicates = set()
    for index, row in enumerate(read_rows(shard, only=[table.key])):
        key = _key(shard, index, row, table)
        if key in seen:
            duplicates.add(index)
        seen.add(key)
    return frozenset(duplicates)


def _sample(shard: TableShard, index: int, row: Row, config: Config, is_duplicate: bool) -> Sample:
    table = config.input.table
    assert table is not None
    key, metadata = _key(shard, index, row, table), _metadata(row, table)
    spans, bad_spans = spans_of(metadata, config.input)
    name, video, problem = "", b"", _problem(row, table, is_duplicate, key) or bad_spans
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
        captions=captions_of({"json": metadata}, config.input),
        metadata=metadata,
        spans=spans,
        problem=problem,
    )


def _key(shard: TableShard, index: int, row: Row, table: TableConfig) -> str:
    """The row's key, or the table's name and the row's number where there is none."""
    key = row.get(table.key) if isinstance(row, dict) and table.key else None
    if key is None:
        return printable(f"{PurePosixPath(public_url(shard.url)).stem}-{shard.rows.start + index:08d}")
    return printable(str(key))


def _metadata(row: Row, table: TableConfig) -> str:
    """All columns but the video's as JSON: a URL may contain a signature."""
    if isinstance(row, BadRowError):
        return ""
    values = {
        name: json_value(value) for name, value in row.items() if name != table.video and not isinstance(value, bytes)
    }
    return printable(json.dumps(values, ensure_ascii=False))


def _problem(row: Row, table: TableConfig, is_duplicate: bool, key: str) -> Problem | None:
    if isinstance(row, BadRowError):
        return "bad_row", str(row)
    if is_duplicate:
        return "duplicate_key", f"another row of the shard has the {table.key} {key}"
    if table.key and row.get(table.key) is None:
        return "no_key", f"the column {table.key} is null"
    if not _video_cell(row, table):
        return "no_video", f"the column {table.video} is null or empty"
    return None


def _video_cell(row: dict[str, Any], table: TableConfig) -> bytes | str | None:
    """The bytes, path or URL of a row. Some tables have pairs of `bytes` and `path`, one of them null."""
    cell = row.get(table.video)
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    return cell if cell is None or isinstance(cell, bytes) else str(cell)


def _is_wanted(metadata: str, config: Config) -> bool:
    try:
        check_metadata(config.filter.where, metadata)
    except SampleError:
        return False
    return True


def _video(cell: bytes | str | None, table_url: str, max_bytes: int) -> tuple[bytes, Problem | None]:
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
    """The path or URL in a table's cell; relative paths start in the table's folder."""
    if "://" in path or path.startswith("/"):
        return path
    folder = table_url.partition("?")[0] if "://" in table_url else table_url
    return f"{folder.rpartition('/')[0] or '.'}/{path}"


def _public_name(cell: str | None) -> str:
    """The name of a row's video, without the credentials of a URL."""
    return printable(public_url(cell) if cell and "://" in cell else cell or "")
