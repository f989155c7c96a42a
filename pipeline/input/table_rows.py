"""Tables of videos: the ranges of rows that become shards, and the rows of one shard, of whatever kind."""

import io
import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, cast

from pipeline.config.input import TableConfig
from pipeline.input.parquet_rows import BUFFER_BYTES, group_rows, open_parquet, read_parquet_rows, refuse_videos_of
from pipeline.input.text_rows import BadRowError, TextFormat, read_text_rows, survey_text
from pipeline.records import TableShard
from pipeline.storage.files import open_url
from pipeline.storage.urls import public_url

KINDS = {"parquet": "parquet", "csv": "csv", "tsv": "tsv", "jsonl": "jsonl", "ndjson": "jsonl"}


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


def survey(url: str, rules: TableConfig) -> Survey:
    """Finds the rows of a whole table: from the footer of Parquet, or by reading every line of a text.

    Raises:
        ValueError: the file is not such a table, or its column of videos cannot hold any.
        FileNotFoundError: the file does not exist.
    """
    kind = kind_of(url)
    with open_url(url) as file:
        if kind != "parquet":
            with _buffered(file) as text:
                format_ = TextFormat(kind, rules.quotes)
                columns, ranges, first = survey_text(text, format_, rules.rows_per_shard, rules.video)
            if not (first is None or isinstance(first, str | dict)):
                raise ValueError(f"column {rules.video} holds {str(first)[:60]}: it must hold paths, URLs or bytes")
            return Survey(columns, ranges)
        parquet = open_parquet(file)
        refuse_videos_of(parquet, rules.video)
        cut = cut_rows(group_rows(parquet), rules.rows_per_shard)
        return Survey(tuple(parquet.schema_arrow.names), tuple((rows, range(0)) for rows in cut))


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
    shard: TableShard,
    rules: TableConfig,
    begin: int = 0,
    only: Collection[str] | None = None,
    asked: Collection[str] = (),
) -> Iterator[dict[str, Any] | BadRowError]:
    """The rows of a shard as dictionaries, from its row number `begin` on; an unreadable row is a BadRowError.

    Args:
        only: the columns to read; None for all but columns of bytes, except those that are `asked` for.

    Raises:
        ValueError: the table is damaged, or has changed since it was listed.
    """
    kind = kind_of(shard.url)
    with open_url(shard.url) as file:
        if kind == "parquet":
            yield from read_parquet_rows(
                open_parquet(file), shard.rows, begin, only, {rules.video, *asked}, rules.video
            )
            return
        with _buffered(file) as text:
            rows = read_text_rows(text, TextFormat(kind, rules.quotes), shard.rows, shard.rows_bytes)
            yield from itertools.islice(rows, begin, None)


def _buffered(file: IO[bytes]) -> IO[bytes]:
    """Remote files read lines byte by byte; a buffer avoids that."""
    return io.BufferedReader(cast(io.RawIOBase, file), BUFFER_BYTES)
