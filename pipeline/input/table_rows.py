"""Tables of videos: the ranges of rows that become shards, and the rows of one shard. Reads Parquet with pyarrow."""

import datetime
import io
import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.input.text_rows import BadRowError, read_text_rows, survey_text
from pipeline.records import TableShard
from pipeline.storage.files import open_url
from pipeline.storage.urls import public_url

KINDS = {"parquet": "parquet", "csv": "csv", "tsv": "tsv", "jsonl": "jsonl", "ndjson": "jsonl"}
VIDEO_TYPES = ("string", "binary", "struct", "null")
BUFFER_BYTES = 1 << 20
BATCH_ROWS = 256


@dataclass(frozen=True, slots=True)
class Survey:
    """A table's columns (of JSON Lines those of its first good row), and ranges of its rows with their bytes."""

    columns: tuple[str, ...]
    ranges: tuple[tuple[range, range], ...]


def kind_of(url: str) -> str:
    """parquet | csv | tsv | jsonl, by the file's extension. Raises ValueError for any other."""
    suffix = public_url(url).rpartition(".")[2].lower()
    if suffix not in KINDS:
        raise ValueError(f"unknown kind of table .{suffix}: use .{', .'.join(KINDS)}")
    return KINDS[suffix]


def survey(url: str, video: str, rows_per_shard: int) -> Survey:
    """Finds the rows of a whole table: from the footer of Parquet, or by reading every line of a text.

    Raises:
        ValueError: the file is not such a table, or the type of its column `video` cannot hold videos.
        FileNotFoundError: the file does not exist.
    """
    kind = kind_of(url)
    with open_url(url) as file:
        if kind != "parquet":
            with _buffered(file) as text:
                return Survey(*survey_text(text, kind, rows_per_shard))
        parquet = _parquet(file)
        groups = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        schema = parquet.schema_arrow
        if video in schema.names and not any(word in str(schema.field(video).type) for word in VIDEO_TYPES):
            raise ValueError(f"column {video} has type {schema.field(video).type}: it must hold paths, URLs or bytes")
        return Survey(tuple(schema.names), tuple((rows, range(0)) for rows in cut_rows(groups, rows_per_shard)))


def cut_rows(groups: Sequence[int], most: int) -> list[range]:
    """Ranges of at most `most` rows: whole row groups together while they fit, larger groups in pieces.

    A reader that starts inside a row group must read everything before its start, so groups are kept whole.
    """
    ranges: list[range] = []
    begin = end = 0
    for rows in groups:
        if end - begin + rows > most:
            ranges += _pieces(begin, end, most)
            begin = end
        end += rows
    return ranges + _pieces(begin, end, most)


def _pieces(begin: int, end: int, most: int) -> list[range]:
    return [range(start, min(start + most, end)) for start in range(begin, end, most)]


def read_rows(
    shard: TableShard, begin: int = 0, only: Collection[str] | None = None, video: str = ""
) -> Iterator[dict[str, Any] | BadRowError]:
    """The rows of a shard as dictionaries, from its row number `begin` on; an unreadable row is a BadRowError.

    Args:
        only: the columns to read; None for all but columns of bytes, except `video`.

    Raises:
        ValueError: the table is damaged, or has changed since it was listed.
    """
    kind = kind_of(shard.url)
    with open_url(shard.url) as file:
        if kind == "parquet":
            yield from _parquet_rows(_parquet(file), shard.rows, begin, only, video)
            return
        with _buffered(file) as text:
            yield from itertools.islice(read_text_rows(text, kind, shard.rows, shard.rows_bytes), begin, None)


def _buffered(file: IO[bytes]) -> IO[bytes]:
    """Remote files read lines byte by byte; a buffer avoids that."""
    return io.BufferedReader(cast(io.RawIOBase, file), BUFFER_BYTES)


def _parquet_rows(
    parquet: pq.ParquetFile, rows: range, begin: int, only: Collection[str] | None, video: str
) -> Iterator[dict[str, Any]]:
    if parquet.metadata.num_rows < rows.stop:
        raise ValueError(f"it has {parquet.metadata.num_rows:,} rows, but had {rows.stop:,} when it was listed")
    types = {field.name: str(field.type) for field in parquet.schema_arrow}
    wanted = [name for name in types if (name in only if only else name == video or "binary" not in types[name])]
    batch_rows = 1 if "binary" in types.get(video, "") else BATCH_ROWS
    groups, skipped = _groups_from(parquet, rows.start + begin)
    left = len(rows) - begin
    try:
        for batch in parquet.iter_batches(batch_rows, row_groups=groups, columns=wanted):
            kept = batch.slice(min(skipped, len(batch)), left)
            skipped, left = max(0, skipped - len(batch)), left - len(kept)
            yield from _plain_rows(kept)
            if not left:
                return
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"damaged page: {error}") from error


def _groups_from(parquet: pq.ParquetFile, row: int) -> tuple[list[int], int]:
    """The row groups starting with the one that contains a row, and how many of its rows come before that row."""
    for group in range(parquet.num_row_groups):
        rows = parquet.metadata.row_group(group).num_rows
        if row < rows:
            return list(range(group, parquet.num_row_groups)), row
        row -= rows
    return [], 0


def _plain_rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    # Python's datetime has microseconds at most; times with a zone become UTC
    columns = [
        column.cast(pa.timestamp("us"), safe=False) if pa.types.is_timestamp(column.type) else column
        for column in batch.columns
    ]
    yield from pa.RecordBatch.from_arrays(columns, names=batch.schema.names).to_pylist()


def _parquet(file: IO[bytes]) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER_BYTES)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"not a complete Parquet file: {error}") from error


def json_value(value: Any) -> Any:
    """A table's value as JSON: times and decimals as text; null for bytes, infinities and NaN."""
    match value:
        case dict():
            return {str(key): json_value(one) for key, one in value.items()}
        case list() | tuple():
            return [json_value(one) for one in value]
        case float() if not math.isfinite(value):
            return None
        case bytes():
            return None
        case datetime.date() | datetime.time():
            return value.isoformat()
        case Decimal() | datetime.timedelta():
            return str(value)
    return value
