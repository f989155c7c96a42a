"""Tables that are text: CSV, TSV and JSON Lines; where their rows begin, and the rows in a range of bytes.

The cells of CSV and TSV are the texts that they are, None where they are empty. JSON Lines have JSON's values.
"""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from pipeline.metadata.fields import Number
from pipeline.metadata.text import HEAD_BYTES, UndecodableError, decoded, encoding_of

LONGEST_LINE_BYTES = 64 << 20  # a file without line ends is not read into memory
UNIT_BYTES = {"utf-8": 1, "utf-16-le": 2, "utf-16-be": 2, "utf-32-le": 4, "utf-32-be": 4}
DELIMITERS = {"csv": ",", "tsv": "\t"}
NAMES_A_VIDEO = re.compile(r"\S.*\.\w{2,4}|\w+://\S+")


class BadRowError(ValueError):
    """A row that cannot be read, in a table whose other rows can."""


@dataclass(frozen=True, slots=True)
class TextFormat:
    """csv | tsv | jsonl, and whether quotes enclose cells or are text; None: they enclose cells of CSV only."""

    kind: str
    quotes: bool | None = None

    @property
    def has_quotes(self) -> bool:
        return self.kind == "csv" if self.quotes is None else self.quotes


@dataclass(frozen=True, slots=True)
class _Record:
    """The cells of a row, or its line of JSON; `why` tells what of it is not text."""

    cells: list[str] | str
    why: str


@dataclass(slots=True)
class _Place:
    """How many bytes and lines of a text have been read, and the last line that is not text, if any."""

    used_bytes: int = 0
    lines: int = 0
    undecodable: UndecodableError | None = None


def survey_text(
    file: IO[bytes], format_: TextFormat, most: int, video: str = ""
) -> tuple[tuple[str, ...], tuple[tuple[range, range], ...], Any]:
    """Reads the whole text once.

    Returns:
        Its columns (of JSON Lines those of the first good row), ranges of `most` rows with their ranges of bytes, and
        what the first good row holds in its column `video`.

    Raises:
        ValueError: the text is not what `format_` says.
    """
    encoding, mark_bytes = _encoding_at_start(file)
    at = _Place(mark_bytes)
    records = _records(file, encoding, format_, at, video)
    header = _header(records, format_)
    columns, first, starts, rows, before = tuple(header), None, [], 0, at.used_bytes
    for record in records:
        if first is None:
            row = _row(record, header)
            first = row if isinstance(row, dict) else None
        if rows % most == 0:
            starts.append(before)
        rows, before = rows + 1, at.used_bytes
    ends = [*starts[1:], before][: len(starts)]
    numbers = range(0, rows, most)
    ranges = tuple(
        (range(number, min(rows, number + most)), range(begin_bytes, end_bytes))
        for number, begin_bytes, end_bytes in zip(numbers, starts, ends, strict=True)
    )
    return columns or tuple(first or ()), ranges, (first or {}).get(video)


def read_text_rows(
    file: IO[bytes], format_: TextFormat, rows: range, rows_bytes: range
) -> Iterator[dict[str, Any] | BadRowError]:
    """The rows of a range that `survey_text` gave.

    Raises:
        ValueError: the text has changed since then.
    """
    encoding, mark_bytes = _encoding_at_start(file)
    header = _header(_records(file, encoding, format_, _Place(mark_bytes)), format_)
    file.seek(rows_bytes.start)
    at = _Place(rows_bytes.start)
    records = _records(file, encoding, format_, at)
    for number in rows:
        record = next(records, None)
        is_last = number == rows[-1]
        if record is None or is_last != (at.used_bytes >= rows_bytes.stop):
            raise ValueError(f"row {number:,} is not where it was when the table was listed: the table has changed")
        yield _row(record, header)


def _header(records: Iterator[_Record], format_: TextFormat) -> list[str]:
    if format_.kind not in DELIMITERS:
        return []
    first = next(records, _Record([], ""))
    if first.why:
        raise ValueError(f"its header is not text: {first.why}")
    return list(first.cells)


def _records(file: IO[bytes], encoding: str, format_: TextFormat, at: _Place, video: str = "") -> Iterator[_Record]:
    """Rows without blank ones; `at` counts the bytes up to the end of the last one."""
    lines = _lines_of(file, encoding, at)
    rows = _quoted(lines, format_, at, video) if format_.has_quotes else _plain(lines, format_)
    for cells in rows:
        why, at.undecodable = str(at.undecodable or ""), None
        yield _Record(cells, why)


def _plain(lines: Iterator[str], format_: TextFormat) -> Iterator[list[str] | str]:
    """Every line is a row, whatever quotes it has."""
    for line in lines:
        text = line.removesuffix("\n").removesuffix("\r")
        if text.strip() if format_.kind == "jsonl" else text:
            yield text if format_.kind == "jsonl" else text.split(DELIMITERS[format_.kind])


def _quoted(lines: Iterator[str], format_: TextFormat, at: _Place, video: str) -> Iterator[list[str]]:
    """Rows whose cells may stand in quotes and then have delimiters and line ends in them."""
    csv.field_size_limit(LONGEST_LINE_BYTES)
    delimiter, first_line, header = DELIMITERS[format_.kind], at.lines + 1, None
    try:
        for cells in csv.reader(lines, delimiter=delimiter, strict=True):
            if at.lines > first_line and header and video in header:
                _refuse_swallowed(cells, header, delimiter, header.index(video), first_line)
            first_line = at.lines + 1
            if cells:
                header = header or cells
                yield cells
    except csv.Error as error:
        raise ValueError(
            f"not {format_.kind.upper()} from line {first_line:,} on: {error}: close or double the quote, or set "
            "input.table.quotes: false, which takes quotes as text"
        ) from None


def _refuse_swallowed(cells: Sequence[str], header: Sequence[str], delimiter: str, video: int, line: int) -> None:
    """Raises ValueError where a line inside a cell looks like a row: as many cells, and a video in its column."""
    for inner in (inner for cell in cells for inner in cell.splitlines()[1:]):
        row = inner.split(delimiter)
        if len(row) == len(header) > 1 and NAMES_A_VIDEO.fullmatch(row[video].strip('"')):
            raise ValueError(
                f"a quote in line {line:,} is not closed there and swallows the rows after it, such as "
                f"{inner[:80]!r}: close or double it, or set input.table.quotes: false, which takes quotes as text"
            )


def _encoding_at_start(file: IO[bytes]) -> tuple[str, int]:
    """The encoding of a text, and the bytes of its byte order mark; the file stands behind that."""
    file.seek(0)
    encoding, mark_bytes = encoding_of(file.read(HEAD_BYTES))
    file.seek(mark_bytes)
    return encoding, mark_bytes


def _lines_of(file: IO[bytes], encoding: str, at: _Place) -> Iterator[str]:
    """Lines with their ends, from where the file stands. Of a line that is not text, `at` tells why.

    Raises:
        ValueError: a line is too long.
    """
    while line := _line(file, encoding):
        first_byte = at.used_bytes
        at.used_bytes, at.lines = first_byte + len(line), at.lines + 1
        try:
            yield decoded(line, encoding, first_byte)
        except UndecodableError as error:
            at.undecodable = error
            yield line.decode(encoding, "replace")  # whoever takes the line makes a bad row of it


def _line(file: IO[bytes], encoding: str) -> bytes:
    """The bytes up to the next line end: where a character has several bytes, its byte alone ends no line."""
    line_end, unit_bytes = "\n".encode(encoding), UNIT_BYTES[encoding]
    line = bytearray()
    while part := file.readline(LONGEST_LINE_BYTES - len(line)):
        line += part
        line += file.read(-len(line) % unit_bytes)
        if len(line) >= LONGEST_LINE_BYTES:
            raise ValueError(f"a line is longer than {LONGEST_LINE_BYTES:,} bytes: write one row per line")
        if line.endswith(line_end):
            break
    return bytes(line)


def _row(record: _Record, header: list[str]) -> dict[str, Any] | BadRowError:
    try:
        if record.why:
            raise BadRowError(f"the row is not text: {record.why}")
        if isinstance(record.cells, str):
            return _object(record.cells)
        if len(record.cells) != len(header):
            raise BadRowError(f"the row has {len(record.cells)} cells, the header {len(header)}")
        return {name: cell or None for name, cell in zip(header, record.cells, strict=True)}
    except BadRowError as error:
        return error


def _object(line: str) -> dict[str, Any]:
    try:
        values = json.loads(line, parse_float=Number)
    except (ValueError, RecursionError) as error:
        raise BadRowError(f"the row is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise BadRowError(f"the row is not a JSON object: {str(values)[:100]}")
    return values
