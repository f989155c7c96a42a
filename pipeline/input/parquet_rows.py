"""Rows of Parquet as plain values, whatever the types of its columns. Columns of bytes are read where asked for."""

import math
from collections.abc import Collection, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.metadata.fields import Number

BUFFER_BYTES = 1 << 20
BATCH_ROWS = 256
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}  # in a second
IN_NESTED = (".list.", ".key_value.", ".map.")  # in the path of a leaf, as Parquet names it
UNREADABLE = (pa.ArrowException, ValueError, OverflowError, ArithmeticError)


class BadCellError(ValueError):
    """A cell that cannot be read, in a column whose other cells can."""


def open_parquet(file: IO[bytes]) -> pq.ParquetFile:
    """Raises ValueError where the file is not complete."""
    try:
        return pq.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER_BYTES)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"not a complete Parquet file: {error}") from error


def group_rows(parquet: pq.ParquetFile) -> list[int]:
    """The rows of each row group."""
    return [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]


def refuse_videos_of(parquet: pq.ParquetFile, video: str) -> None:
    """Raises ValueError where the column of videos has a type that cannot be one path, one URL or the bytes of one."""
    schema = parquet.schema_arrow
    if video not in schema.names:
        return
    type_ = schema.field(video).type
    members = {field.name: field.type for field in type_} if pa.types.is_struct(type_) else {"bytes": type_}
    if not any(_is_text_or_bytes(members.get(name)) for name in ("bytes", "path")):
        raise ValueError(f"column {video} has type {str(type_)[:100]}: it must hold paths, URLs or bytes")


def _is_text_or_bytes(type_: pa.DataType | None) -> bool:
    if type_ is None:
        return False
    if pa.types.is_dictionary(type_):
        return _is_text_or_bytes(type_.value_type)
    is_plain = not pa.types.is_nested(type_)
    return is_plain and any(word in str(type_) for word in ("string", "binary", "null"))


def read_parquet_rows(
    parquet: pq.ParquetFile, rows: range, begin: int, only: Collection[str] | None, asked: Collection[str], video: str
) -> Iterator[dict[str, Any]]:
    """Rows from row `begin` of a range on. A cell that cannot be read is a BadCellError.

    Args:
        only: the columns to read; None for all, without their bytes except in columns that are `asked` for.
        video: a column whose values may be large.

    Raises:
        ValueError: a page is damaged, or the table has become shorter.
    """
    if parquet.metadata.num_rows < rows.stop:
        raise ValueError(f"it has {parquet.metadata.num_rows:,} rows, but had {rows.stop:,} when it was listed")
    large = video in parquet.schema_arrow.names and "binary" in str(parquet.schema_arrow.field(video).type)
    groups, skipped = _groups_from(parquet, rows.start + begin)
    left = len(rows) - begin
    wanted = _leaves(parquet, asked) if only is None else list(only)
    try:
        for batch in parquet.iter_batches(1 if large else BATCH_ROWS, row_groups=groups, columns=wanted):
            kept = batch.slice(min(skipped, len(batch)), left)
            skipped, left = max(0, skipped - len(batch)), left - len(kept)
            yield from _plain_rows(kept)
            if not left:
                return
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"damaged page: {error}") from error


def _leaves(parquet: pq.ParquetFile, asked: Collection[str]) -> list[str]:
    """The columns to read, those inside structs one by one: all but bytes that nobody asks for."""
    leaves = [parquet.schema.column(number) for number in range(len(parquet.schema))]
    return [leaf.path for leaf in leaves if not _is_bytes(leaf) or _root(leaf.path, parquet) in asked]


def _is_bytes(leaf: Any) -> bool:
    """Whether a leaf holds bytes and can be left out: Arrow reads lists and maps as a whole."""
    is_bytes = leaf.physical_type in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY") and leaf.logical_type.type == "NONE"
    return bool(is_bytes) and not any(mark in leaf.path for mark in IN_NESTED)


def _root(path: str, parquet: pq.ParquetFile) -> str:
    """The column that a leaf belongs to; a column's own name may contain dots."""
    return path if path in parquet.schema_arrow.names else path.partition(".")[0]


def _groups_from(parquet: pq.ParquetFile, row: int) -> tuple[list[int], int]:
    """The row groups starting with the one that contains a row, and how many of its rows come before that row."""
    for group, rows in enumerate(group_rows(parquet)):
        if row < rows:
            return list(range(group, parquet.num_row_groups)), row
        row -= rows
    return [], 0


def _plain_rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    names, columns = batch.schema.names, [_plain_column(column) for column in batch.columns]
    return (dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True))


def _plain_column(column: pa.Array) -> list[Any]:
    """The cells of a column as Python's values, times of any unit as ISO text."""
    if not _has_times(column.type):
        try:
            return list(column.to_pylist())
        except UNREADABLE:
            pass  # one of its cells
    return [_plain_cell(cell) for cell in column]


def _has_times(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        return _has_times(type_.value_type)
    if pa.types.is_nested(type_):
        return any(_has_times(type_.field(number).type) for number in range(type_.num_fields))
    return bool(pa.types.is_temporal(type_))


def _plain_cell(cell: pa.Scalar) -> Any:
    try:
        return _plain(cell)
    except UNREADABLE as error:
        return BadCellError(" ".join(str(error).split()))


def _plain(cell: pa.Scalar) -> Any:
    """A value of Arrow as JSON's types, bytes, or text; times are in UTC where they have a zone."""
    if not cell.is_valid:
        return None
    match cell:
        case pa.StructScalar():
            return {name: _plain(value) for name, value in cell.items()}
        case pa.MapScalar():
            return [[_plain(one) for one in pair.values()] for pair in cell.values]
        case pa.ListScalar():
            return [_plain(one) for one in cell.values]
        case pa.DictionaryScalar():
            return _plain(cell.value)
        case pa.DurationScalar():
            return f"PT{_decimal_seconds(cell.value, cell.type.unit)}S"
        case pa.TimestampScalar():
            return _iso_time(cell.cast(pa.timestamp(cell.type.unit))) + ("Z" if cell.type.tz else "")
        case pa.Date32Scalar() | pa.Date64Scalar() | pa.Time32Scalar() | pa.Time64Scalar():
            return _iso_time(cell)
    return cell.as_py()


def _iso_time(cell: pa.Scalar) -> str:
    text = str(cell.cast(pa.string()).as_py())
    if text.startswith("<"):
        raise ValueError(f"the time {cell.value} is {text.strip('<>')}")
    return text.replace(" ", "T", 1)


def _decimal_seconds(value: int, unit: str) -> str:
    """A count of units as seconds, exactly: 1234567891 ns as 1.234567891."""
    whole, rest = divmod(abs(value), UNITS[unit])
    digits = f".{rest:0{len(str(UNITS[unit])) - 1}d}".rstrip("0") if rest else ""
    return f"{'-' if value < 0 else ''}{whole}{digits}"


def json_value(value: Any) -> Any:
    """A table's value as JSON: decimals as text, bytes left out of lists and structs; null for infinities and NaN."""
    match value:
        case dict():
            return {str(key): json_value(one) for key, one in value.items() if not isinstance(one, bytes)}
        case list() | tuple():
            return [json_value(one) for one in value if not isinstance(one, bytes)]
        case Number() if not math.isfinite(value):
            return str(value)
        case float() if not math.isfinite(value):
            return None
        case bytes() | BadCellError():
            return None
        case Decimal() | timedelta():
            return str(value)
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
