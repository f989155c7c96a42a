"""Tables that are text: CSV, TSV and JSON Lines; where their rows begin, and the rows in a range of bytes.

Columns have no types: each value has its own.
"""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, cast

DELIMITERS = {"csv": ",", "tsv": "\t"}
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
LONGEST_LINE_BYTES = 64 << 20  # a file without line ends is not read into memory
PANDAS_WORDS = {"True": True, "False": False}


class BadRowError(ValueError):
    """A row that cannot be read, in a table whose other rows can."""


@dataclass(slots=True)
class _Bytes:
    """How many bytes of a text have been read."""

    used: int = 0


def survey_text(file: IO[bytes], kind: str, most: int) -> tuple[tuple[str, ...], tuple[tuple[range, range], ...]]:
    """Reads the whole text once.

    Returns:
        Its columns (of JSON Lines those of the first good row), and ranges of `most` rows with their ranges of bytes.

    Raises:
        ValueError: the text is not what `kind` says.
    """
    at = _Bytes()
    records = _records(file, kind, at)
    header = _header(records, kind)
    columns, starts, rows, before = tuple(header), [], 0, at.used
    for record in records:
        if not columns:
            row = _row(record, header)
            columns = tuple(row) if isinstance(row, dict) else ()
        if rows % most == 0:
            starts.append(before)
        rows, before = rows + 1, at.used
    ends = [*starts[1:], before][: len(starts)]
    numbers = range(0, rows, most)
    return columns, tuple(
        (range(number, min(rows, number + most)), range(begin_bytes, end_bytes))
        for number, begin_bytes, end_bytes in zip(numbers, starts, ends, strict=True)
    )


def read_text_rows(
    file: IO[bytes], kind: str, rows: range, rows_bytes: range
) -> Iterator[dict[str, Any] | BadRowError]:
    """The rows of a range that `survey_text` gave.

    Raises:
        ValueError: the text has changed since then.
    """
    file.seek(0)
    header = _header(_records(file, kind, _Bytes()), kind)
    file.seek(rows_bytes.start)
    at = _Bytes(rows_bytes.start)
    records = _records(file, kind, at)
    for number in rows:
        record = next(records, None)
        is_last = number == rows[-1]
        if record is None or is_last != (at.used >= rows_bytes.stop):
            raise ValueError(f"row {number:,} is not where it was when the table was listed: the table has changed")
        yield _row(record, header)


def _header(records: Iterator[list[str] | bytes], kind: str) -> list[str]:
    return cast(list[str], next(records, [])) if kind in DELIMITERS else []


def _records(file: IO[bytes], kind: str, at: _Bytes) -> Iterator[list[str] | bytes]:
    """Lines of JSON, or cells of CSV, without blank lines; `at` counts the bytes up to the end of the last one."""
    lines = _lines(file, at)
    if kind not in DELIMITERS:
        yield from (line for line in lines if line.strip())
        return
    texts = (line.decode("utf-8", "replace") for line in lines)
    try:
        yield from (cells for cells in csv.reader(texts, delimiter=DELIMITERS[kind], strict=True) if cells)
    except csv.Error as error:
        raise ValueError(f"not {kind.upper()} before byte {at.used:,}: {error}") from None


def _lines(file: IO[bytes], at: _Bytes) -> Iterator[bytes]:
    while line := file.readline(LONGEST_LINE_BYTES):
        if len(line) == LONGEST_LINE_BYTES:
            raise ValueError(f"a line is longer than {LONGEST_LINE_BYTES:,} bytes: write one row per line")
        is_first, at.used = at.used == 0, at.used + len(line)
        yield line.removeprefix(BYTE_ORDER_MARK) if is_first else line


def _row(record: list[str] | bytes, header: list[str]) -> dict[str, Any] | BadRowError:
    try:
        if isinstance(record, bytes):
            return _object(record)
        if len(record) != len(header):
            raise BadRowError(f"the row has {len(record)} cells, the header {len(header)}")
        return {name: cell_value(cell) for name, cell in zip(header, record, strict=True)}
    except BadRowError as error:
        return error


def _object(line: bytes) -> dict[str, Any]:
    try:
        values = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        raise BadRowError(f"the row is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise BadRowError(f"the row is not a JSON object: {str(values)[:100]}")
    return values


def cell_value(text: str) -> Any:
    """A cell's value: a number, boolean, list or object where it is JSON; None where it is empty; text otherwise."""
    if not text:
        return None
    if text in PANDAS_WORDS:
        return PANDAS_WORDS[text]
    try:
        value = json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, str) else value
