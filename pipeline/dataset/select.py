"""A selection: a small table of the rows wanted, which the loader takes; nothing is copied."""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.metadata.conditions import MissingFieldError, evaluate, names_in, parse_condition
from pipeline.metadata.fields import read_json
from pipeline.output.index import read_index as read_shard_index
from pipeline.output.paths import INDEX
from pipeline.storage.files import filesystem_of, read_url
from pipeline.storage.store import Store

SELECTED = ["id", "shard", "key", "sample_index", "window_index", "bucket", "row_hash"]
REST = "train"  # the split of rows that no other takes


def read_index(store: Store, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of all indices of a root, with all columns or some. Raises UserError where there is none."""
    names = [name for name in store.names(INDEX) if name.endswith(".parquet")]
    if not names:
        raise UserError(f"{store.root} has no index: run latentmill index {store.root}")
    return pa.concat_tables(read_shard_index(store, name.removesuffix(".parquet"), columns) for name in names)


def joined(rows: pa.Table, table: pa.Table, on: str) -> pa.Table:
    """The rows with the columns of a table beside them, null where it does not have the row's `on`."""
    for name, columns in (("the table", table.column_names), ("the index", rows.column_names)):
        if on not in columns:
            raise UserError(f"--on {on}: {name} has the columns {', '.join(columns)}")
    if len(pc.unique(table[on])) != len(table):
        raise UserError(f"--on {on}: the table has several rows with the same value")
    if taken := sorted((set(table.column_names) & set(rows.column_names)) - {on}):
        raise UserError(f"--join: the index already has {', '.join(taken)}: rename these columns of the table")
    places = pc.index_in(rows[on], value_set=table[on].cast(rows[on].type).combine_chunks())
    for name in table.column_names:
        if name != on:
            rows = rows.append_column(name, table[name].combine_chunks().take(places))
    return rows


def read_table(url: str) -> pa.Table:
    """A table of Parquet, CSV, TSV or JSON Lines, by its extension."""
    try:
        data = io.BytesIO(read_url(url))
    except OSError as error:
        raise UserError(f"--join {url} cannot be read: {error}") from None
    if url.endswith(".parquet"):
        return pq.read_table(data, partitioning=None)
    if url.endswith((".csv", ".tsv")):
        options = pyarrow.csv.ParseOptions(delimiter="\t" if url.endswith(".tsv") else ",")
        return pyarrow.csv.read_csv(data, parse_options=options)
    if url.endswith((".jsonl", ".ndjson")):
        return pyarrow.json.read_json(data)
    raise UserError(f"--join {url}: use a table that ends in .parquet, .csv, .tsv, .jsonl or .ndjson")


def chosen(rows: pa.Table, where: str) -> pa.Table:
    """The rows that meet a condition over their columns and the fields of their `metadata`; null meets none.

    Raises:
        UserError: the condition cannot be read, uses an unknown column or compares what cannot be compared.
    """
    try:
        condition, names = parse_condition(where), names_in(where)
    except ValueError as error:
        raise UserError(f"--where: {error}") from None
    first = {name.partition(".")[0] for name in names}
    if unknown := sorted(first - set(rows.column_names)):
        raise UserError(f"--where: unknown {', '.join(unknown)}: there are {', '.join(rows.column_names)}")
    mask = [_meets(condition, values) for values in _values(rows, sorted(first))]
    return rows.filter(pa.array(mask, pa.bool_()))


def _values(rows: pa.Table, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    for batch in rows.select(names).to_batches(max_chunksize=10_000):
        for values in batch.to_pylist():
            if "metadata" in values:
                values["metadata"] = read_json(values["metadata"] or "{}")
            yield values


def _meets(condition: Any, values: Mapping[str, Any]) -> bool:
    if any(value is None for value in values.values()):
        return False
    try:
        return bool(evaluate(condition, values))
    except MissingFieldError:
        return False
    except TypeError as error:
        raise UserError(f"--where: {error}") from None


def split_of(rows: pa.Table, fractions: Mapping[str, float]) -> pa.Array:
    """The split of each row, by the hash of its sample: all clips of a video are in one, also when data grow."""
    if REST in fractions or sum(fractions.values()) >= 1 or min(fractions.values()) <= 0:
        raise UserError(f"--split: fractions are above 0, below 1 together, and {REST} is what they leave")
    hashes = rows["sample_hash"].to_numpy().view(np.uint64) / 2.0**64
    ends = np.cumsum(list(fractions.values()))
    names = np.array([*fractions, REST], dtype=object)
    return pa.array(names[np.searchsorted(ends, hashes, side="right")], pa.string())


def write_selection(rows: pa.Table, splits: pa.Array | None, url: str) -> None:
    """Writes the selected rows, with their split where there is one."""
    table = rows.select(SELECTED)
    if splits is not None:
        table = table.append_column("split", splits)
    data = io.BytesIO()
    pq.write_table(table, data, compression="zstd")
    filesystem, path = filesystem_of(url)
    filesystem.pipe_file(path, data.getvalue())
