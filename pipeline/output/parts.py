"""Parquet parts: rows into one self-describing file, and back for resuming and verifying."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.output.accounts import RejectsFile
from pipeline.output.latent_bytes import decode_latent, latent_of
from pipeline.output.schema import DESCRIBING_FIELDS, DICTIONARY_COLUMNS, LONG_COLUMNS, schema
from pipeline.output.statistics import LatentStatistics, StatisticsJson, merged, of_channels_and_row

FOOTER_KEY = b"latentmill"
ROW_GROUP_BYTES = 1 << 20  # a latent of usual size is a row group: reading one row reads no other


class _PartFooter(RejectsFile):
    bucket: str
    statistics: StatisticsJson
    row_statistics: list[list[float]]


class Footer(_PartFooter, total=False):
    """The description in a part's footer: what made it, the account of its slice, its bucket and statistics."""

    continuous: bool  # only where it is true


class RowGroupWriter:
    """Writes rows to a Parquet file, a row group as soon as it is large enough, so that memory stays flat.

    Args:
        dictionaries: columns with few distinct values; those that are not there are passed over.
        statistics: columns whose least and largest values are kept.
    """

    def __init__(
        self, scratch: IO[bytes], schema: pa.Schema, dictionaries: Sequence[str], statistics: Sequence[str]
    ) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(
            scratch,
            schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=[name for name in dictionaries if name in schema.names],
            write_batch_size=1,  # one page for each latent
            write_page_checksum=True,
            write_statistics=list(statistics),
        )
        self._pending: list[dict[str, Any]] = []
        self._pending_bytes = 0

    def add(self, values: Mapping[str, Any]) -> None:
        self._pending.append(dict(values))
        self._pending_bytes += sum(len(value) for value in values.values() if isinstance(value, bytes))
        if self._pending_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def close(self, footer: Mapping[str, Any]) -> None:
        """Finishes the file with its description in the footer."""
        self._flush()
        text = json.dumps(footer, sort_keys=True, separators=(",", ":"))
        self._writer.add_key_value_metadata({FOOTER_KEY.decode(): text})
        self._writer.close()

    def abandon(self) -> None:
        """Stops writing without finishing the file; harmless after `close`."""
        self._writer.close()

    def _flush(self) -> None:
        if self._pending:
            self._writer.write_table(pa.Table.from_pylist(self._pending, self._schema))
            self._pending, self._pending_bytes = [], 0


class PartWriter:
    """Writes the rows of one part to a scratch file, with what its footer says of them."""

    def __init__(
        self,
        scratch: IO[bytes],
        posterior: str,
        image_latent: bool = False,
        columns: Mapping[str, str] | None = None,
        continuous: bool = False,
    ) -> None:
        statistics = [name for name, _ in DESCRIBING_FIELDS if name not in LONG_COLUMNS]
        columns_of = schema(posterior, image_latent, columns, continuous)
        self._rows = RowGroupWriter(scratch, columns_of, DICTIONARY_COLUMNS, statistics)
        self.statistics = LatentStatistics()
        self.clips: list[tuple[int, int]] = []
        self.row_statistics: list[list[float]] = []

    def add(self, values: Mapping[str, Any]) -> None:
        """Adds one row of `row_values`, and its latent to the statistics, as it is stored."""
        self._rows.add(values)
        mean, logvar = latent_of(values), None
        if "vae_logvar_bytes" in values:
            logvar = decode_latent(*(values[f"vae_logvar_{what}"] for what in ("bytes", "shape", "dtype")))
        of_channels, of_row = of_channels_and_row(mean, logvar)
        self.statistics = merged(self.statistics, of_channels)
        self.row_statistics.append(of_row)
        self.clips.append((values["sample_index"], values["window_index"]))

    def close(self, footer: Mapping[str, Any]) -> None:
        """Finishes the file with its description in the footer."""
        self._rows.close({**footer, "row_statistics": self.row_statistics})

    def abandon(self) -> None:
        """Stops writing without finishing the file; harmless after `close`."""
        self._rows.abandon()


def read_footer(file: IO[bytes]) -> Footer:
    """The description in a part's footer. Raises ValueError where the file is not a complete part of ours."""
    metadata = _parquet(file).metadata.metadata or {}
    if FOOTER_KEY not in metadata:
        raise ValueError("a Parquet file without a latentmill footer")
    footer: Footer = json.loads(metadata[FOOTER_KEY])
    return footer


def read_rows(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    """Every row of a part, one row group in memory at a time. Raises ValueError where a page is damaged."""
    parquet = _parquet(file)
    try:
        for group in range(parquet.num_row_groups):
            yield from parquet.read_row_group(group).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"damaged page: {error}") from error


def read_columns(file: IO[bytes], names: Sequence[str]) -> list[dict[str, Any]]:
    """Some columns of every row of a part. Raises as `read_rows`."""
    try:
        return list(_parquet(file).read(columns=list(names)).to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"damaged page: {error}") from error


def first_row(file: IO[bytes], wanted: Callable[[Mapping[str, Any]], bool]) -> tuple[dict[str, Any], Footer] | None:
    """The first row of a part that is wanted, and the footer; None where there is none. Raises as `read_rows`."""
    row = next(filter(wanted, read_rows(file)), None)
    if row is None:
        return None
    file.seek(0)
    return row, read_footer(file)


def read_schema(file: IO[bytes]) -> pa.Schema:
    return _parquet(file).schema_arrow.remove_metadata()


def _parquet(file: IO[bytes]) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"not a complete Parquet file: {error}") from error


def sha256_of(file: IO[bytes]) -> tuple[str, int]:
    """(hex digest, size in bytes) of a file, from its current position on."""
    digest, size_bytes = hashlib.sha256(), 0
    while block := file.read(4 << 20):
        digest.update(block)
        size_bytes += len(block)
    return digest.hexdigest(), size_bytes
