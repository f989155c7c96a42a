"""A part of text embeddings: its columns and footer, and writing and reading it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, TypedDict

import numpy as np
import pyarrow as pa

from encoder import Dtype
from pipeline.output.accounts import RejectJson, reject_from_json
from pipeline.output.latent_bytes import encode_latent
from pipeline.output.parts import RowGroupWriter, read_footer, read_rows, read_schema
from pipeline.output.schema import LATENT_TYPES
from pipeline.records import Reject
from pipeline.text.captions import StoredText, sha256_of_caption

FIELDS = [
    ("shard", pa.string()),
    ("sample_index", pa.int64()),
    ("window_index", pa.int32()),
    ("caption_index", pa.int32()),
    ("caption", pa.string()),
    ("caption_sha256", pa.string()),
    ("tokens", pa.int32()),
    ("truncated", pa.bool_()),
]
PLACES = ("sample_index", "window_index", "caption_index")
EMBEDDING, MASK_DTYPE = "text_embedding", "bool"


class TextDescription(TypedDict):
    """What every footer of one root of text embeddings says."""

    format_version: int
    fingerprint: str
    text: dict[str, Any]
    dtype: str
    computed_by: dict[str, str]


class TextFooter(TextDescription):
    """`rows` has [sample_index, window_index, caption_index, caption_sha256] of each, in order, so that a reader finds
    a row, and whoever resumes what was embedded, without reading a row.
    """

    shard: str
    slice_index: int
    rows: list[list[Any]]
    rejects: list[RejectJson]
    tokens: int
    truncated: int


@dataclass(frozen=True, slots=True)
class TextRow:
    """One embedded caption, and its arrays as they are stored. `place` is None of prompts that belong to no row."""

    place: tuple[str, int, int | None, int] | None
    caption: str
    tokens: int | None
    truncated: bool | None
    arrays: Mapping[str, dict[str, Any]]

    @property
    def embedded_tokens(self) -> int:
        """The rows of its embedding; a pipeline may call it something else, and returns it first."""
        return int(self.arrays.get(EMBEDDING, next(iter(self.arrays.values())))["shape"][0])

    def values(self) -> dict[str, Any]:
        """Its columns by name."""
        place = self.place or (None, None, None, None)
        caption = (self.caption, sha256_of_caption(self.caption), self.tokens, self.truncated)
        values = dict(zip((name for name, _ in FIELDS), (*place, *caption), strict=True))
        return values | {f"{name}_{what}": value for name, of in self.arrays.items() for what, value in of.items()}


def stored_array(array: Any, dtype: Dtype) -> dict[str, Any]:
    """Shape, dtype and bytes of an array as it is stored: masks as one byte a value.

    Raises:
        SampleError: as `encode_latent`.
    """
    if array.dtype == np.bool_:
        return {"shape": list(array.shape), "dtype": MASK_DTYPE, "bytes": array.tobytes()}
    data = encode_latent(array, dtype, key="text.dtype")
    return {"shape": list(array.shape), "dtype": dtype, "bytes": data}


def text_schema(arrays: Sequence[str]) -> pa.Schema:
    """The columns of a part whose rows have these arrays."""
    fields = [*FIELDS, *((f"{name}_{what}", type_) for name in arrays for what, type_ in LATENT_TYPES.items())]
    return pa.schema(fields)


def arrays_in(columns: Sequence[str]) -> list[str]:
    """The arrays that have these columns."""
    return [name.removesuffix("_bytes") for name in columns if name.endswith("_bytes")]


class TextPartWriter:
    """Writes rows of one part; which arrays they have follows from the first one."""

    def __init__(self, scratch: IO[bytes]) -> None:
        self._scratch = scratch
        self._rows: RowGroupWriter | None = None
        self.rows: list[list[Any]] = []
        self.tokens = self.truncated = 0

    def add(self, row: TextRow) -> None:
        if self._rows is None:
            dictionaries = ["shard", *(f"{name}_dtype" for name in row.arrays)]
            self._rows = RowGroupWriter(self._scratch, text_schema(list(row.arrays)), dictionaries, PLACES)
        values = row.values()
        self._rows.add(values)
        self.rows.append([*(values[name] for name in PLACES), values["caption_sha256"]])
        self.tokens += row.embedded_tokens
        self.truncated += bool(row.truncated)

    def close(self, footer: Mapping[str, Any]) -> None:
        """Finishes the file."""
        assert self._rows is not None, "a part has rows"
        counts = {"rows": self.rows, "tokens": self.tokens, "truncated": self.truncated}
        self._rows.close({**footer, **counts})
        self._scratch.flush()

    def abandon(self) -> None:
        if self._rows is not None:
            self._rows.abandon()


def read_text_footer(file: IO[bytes]) -> TextFooter:
    """The footer of a part. Raises ValueError where the file is not a complete part of text embeddings."""
    footer: Any = read_footer(file)
    if missing := TextFooter.__required_keys__ - footer.keys():
        raise ValueError(f"its footer lacks {', '.join(sorted(missing))}")
    found: TextFooter = footer
    return found


def texts_in(footer: TextFooter) -> list[StoredText]:
    return [StoredText(*row) for row in footer["rows"]]


def rejects_in(footer: TextFooter) -> list[Reject]:
    return [reject_from_json(reject) for reject in footer["rejects"]]


def part_problems(file: IO[bytes], footer: TextFooter) -> Iterator[str]:
    """What is wrong with the rows of a part whose bytes are those of its manifest."""
    schema = read_schema(file)
    arrays = arrays_in(schema.names)
    if schema != text_schema(arrays):
        yield "its columns are not those of this format version"
        return
    found = []
    for row in read_rows(file):
        found.append([*(row[name] for name in PLACES), row["caption_sha256"]])
        if sha256_of_caption(row["caption"]) != row["caption_sha256"]:
            yield f"sample {row['sample_index']}: caption_sha256 is not that of its caption"
        yield from (f"sample {row['sample_index']}: {what}" for what in _array_problems(row, arrays))
    if found != footer["rows"]:
        yield f"holds {len(found):,} rows that are not those of its footer"


def _array_problems(row: Mapping[str, Any], arrays: Sequence[str]) -> Iterator[str]:
    sizes = {MASK_DTYPE: 1, "float16": 2, "bfloat16": 2, "float32": 4}
    for name in arrays:
        data, shape, dtype = (row[f"{name}_{what}"] for what in ("bytes", "shape", "dtype"))
        if len(data) != math.prod(shape) * sizes.get(dtype, 0):
            yield f"{name} has {len(data):,} bytes for {math.prod(shape):,} values of {dtype}"
        elif dtype != MASK_DTYPE and not _is_finite(data, dtype):
            yield f"{name} has values that are not finite"


def _is_finite(data: bytes, dtype: str) -> bool:
    if dtype == "bfloat16":
        return bool(((np.frombuffer(data, "<u2") & 0x7F80) != 0x7F80).all())
    return bool(np.isfinite(np.frombuffer(data, np.dtype(dtype).newbyteorder("<"))).all())
