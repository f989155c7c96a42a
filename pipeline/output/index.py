"""The index of a shard: a row for each clip, with all that describes it and where its latent lies.

It is made from the shard's parts alone, so that anyone makes the same one again.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.output.manifests import Manifest, PartJson
from pipeline.output.parts import FOOTER_KEY
from pipeline.output.paths import index_path
from pipeline.output.schema import LATENT_TYPES, LATENTS
from pipeline.storage.store import Store

# What the loader needs of a footer
DESCRIPTION = ("format_version", "fingerprint", "encoder", "posterior", "image_latent", "dtype")
OF_PARTS: tuple[Literal["path", "bucket", "rows", "size_bytes"], ...] = ("path", "bucket", "rows", "size_bytes")
LATENT_COLUMNS = {f"{name}_{what}" for name in LATENTS for what in LATENT_TYPES}


def write_index(store: Store, manifest: Manifest) -> None:
    """Creates the index of a shard from the parts that its manifest names, or replaces one that differs."""
    if not manifest["parts"]:
        return  # readers of many files stumble over tables without rows
    path, data = index_path(manifest["shard"]["name"]), index_of(store, manifest["parts"])
    if not store.create(path, data) and store.read(path) != data:
        store.replace(path, data)


def index_of(store: Store, parts: Sequence[PartJson]) -> bytes:
    """The Parquet file of the index of these parts."""
    tables, footers, footer_bytes = zip(*(_index_of_part(store, part) for part in parts), strict=True)
    description = {key: footers[0][key] for key in DESCRIPTION}
    columns = {name: [part[name] for part in parts] for name in OF_PARTS}
    description["parts"] = columns | {"footer_bytes": footer_bytes}
    table = pa.concat_tables(tables).unify_dictionaries()
    text = json.dumps(description, sort_keys=True, separators=(",", ":"))
    file = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({FOOTER_KEY: text}), file, compression="zstd", compression_level=1)
    return file.getvalue()


def read_index(store: Store, shard: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A row for each clip of a shard, with all columns or some.

    Raises:
        FileNotFoundError: there is none.
        pa.ArrowInvalid: it is damaged, or lacks a column.
    """
    with store.open(index_path(shard)) as file:  # pq.read_table imports pandas, where it is installed
        table = pq.ParquetFile(file).read(columns and list(columns)).replace_schema_metadata()
    if missing := set(columns or ()) - set(table.column_names):
        raise pa.ArrowInvalid(f"{index_path(shard)} has no column {min(missing)}")
    return table.select(columns) if columns else table


def _index_of_part(store: Store, part: PartJson) -> tuple[pa.Table, dict[str, Any], int]:
    """The rows of a part, what its footer says, and the footer's size in bytes."""
    with store.open(part["path"]) as file:
        parquet = pq.ParquetFile(file)
        metadata = parquet.metadata
        table = parquet.read([name for name in parquet.schema_arrow.names if name not in LATENT_COLUMNS])
    footer = json.loads(metadata.metadata[FOOTER_KEY])
    places = list(_places(metadata))
    count = len(table)
    columns: dict[str, pa.Array] = {
        "part": pa.array([part["path"]] * count, pa.string()).dictionary_encode(),
        "row": pa.array(range(count), pa.int32()),
        "row_group": pa.array([place[0] for place in places], pa.int32()),
        "row_in_group": pa.array([place[1] for place in places], pa.int32()),
        "offset": pa.array([place[2] for place in places], pa.int64()),
        "bytes": pa.array([place[3] for place in places], pa.int64()),
    }
    for position, name in enumerate(("latent_mean", "latent_std", "latent_absmax")):
        columns[name] = pa.array([row[position] for row in footer["row_statistics"]], pa.float64())
    columns["row_hash"] = pa.array(map(hash_of, table["id"].to_pylist()), pa.int64())
    names = zip(table["shard"].to_pylist(), table["key"].to_pylist(), strict=True)
    columns["sample_hash"] = pa.array((hash_of(f"{shard}/{key}") for shard, key in names), pa.int64())
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table.replace_schema_metadata(), footer, metadata.serialized_size


def hash_of(name: str) -> int:
    """The first eight bytes of a name's sha256, as a signed number."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little", signed=True)


def _places(metadata: pq.FileMetaData) -> Iterator[tuple[int, int, int, int]]:
    """(row group, row in it, the group's offset and bytes) of each row of a part."""
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = [group.column(index) for index in range(group.num_columns)]
        offset = min(_begin(column) for column in columns)
        end = max(_begin(column) + column.total_compressed_size for column in columns)
        yield from ((number, row, offset, end - offset) for row in range(group.num_rows))


def _begin(column: pq.ColumnChunkMetaData) -> int:
    has_dictionary = column.has_dictionary_page and column.dictionary_page_offset
    return int(column.dictionary_page_offset if has_dictionary else column.data_page_offset)
