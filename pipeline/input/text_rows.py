"""Tables that are text: CSV, TSV and JSON Lines; where their rows begin, and the rows of a range of bytes.

It does not open files (store.py does) or know what the columns mean. Columns get no type: each value has its own.
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
    """One row that cannot be read, among others that can."""


@dataclass(slots=True)
class _Bytes:
    """Where in a text the reading stands."""

    used: int = 0


def survey_text(file: IO[bytes], kind: str, most: int) -> tuple[tuple[str, ...], tuple[tuple[range, range], ...]]:
    """Reads the whole text once: the columns (of JSON Lines those of the first good row), its rows in ranges.

    Ranges have `most` rows each but the last, and beside them the bytes that they are.

    Raises:
        ValueError: it is no such text.
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
        ValueError: the text is no longer what it was then.
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
            raise ValueError(f"row {number:,} is not where it was when the table was listed: it has changed")
        yield _row(record, header)


def _header(records: Iterator[list[str] | bytes], kind: str) -> list[str]:
    return cast(list[str], next(records, [])) if kind in DELIMITERS else []


def _records(file: IO[bytes], kind: str, at: _Bytes) -> Iterator[list[str] | bytes]:
    """Lines of JSON, or cells of CSV, without blank ones; `at` stands behind the one that was given."""
    lines = _lines(file, at)
    if kind not in DELIMITERS:
        yield from (line for line in lines if line.strip())
        return
    texts = (line.decode("utf-8", "replace") for line in lines)
    try:
        yield from (cells for cells in csv.reader(texts, delimiter=DELIMITERS[kind], strict=True) if cells)
    except csv.Error as error:
        raise ValueError(f"no {kind.upper()} before byte {at.used:,}: {error}") from None


def _lines(file: IO[bytes], at: _Bytes) -> Iterator[bytes]:
    while line := file.readline(LONGEST_LINE_BYTES):
        if len(line) == LONGEST_LINE_BYTES:
            raise ValueError(f"a line of more than {LONGEST_LINE_BYTES:,} bytes: is it one row a line?")
        is_first, at.used = at.used == 0, at.used + len(line)
        yield line.removeprefix(BYTE_ORDER_MARK) if is_first else line


def _row(record: list[str] | bytes, header: list[str]) -> dict[str, Any] | BadRowError:
    try:
        if isinstance(record, bytes):
            return _object(record)
        if len(record) != len(header):
            raise BadRowError(f"{len(record)} cells, the header has {len(header)}")
        return {name: cell_value(cell) for name, cell in zip(header, record, strict=True)}
    except BadRowError as error:
        return error


def _object(line: bytes) -> dict[str, Any]:
    try:
        values = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        raise BadRowError(f"no JSON: {error}") from None
    if not isinstance(values, dict):
        raise BadRowError(f"{str(values)[:100]} is no JSON object")
    return values


def cell_value(text: str) -> Any:
    """A cell's value: a number, true or false, a list or an object where it is JSON; null where empty; else text."""
    if not text:
        return None
    if text in PANDAS_WORDS:
        return PANDAS_WORDS[text]
    try:
        value = json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, str) else value
