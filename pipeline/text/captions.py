"""The captions that rows have now, their own or those of a table, and where embeddings differ from them."""

import hashlib
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from pipeline.config.text import TextConfig
from pipeline.errors import Reason, ShardError, UserError
from pipeline.input.table_rows import kind_of
from pipeline.output.accounts import WHOLE_SAMPLE
from pipeline.output.index import read_index
from pipeline.output.manifests import Manifest
from pipeline.output.paths import index_path, slice_of_file
from pipeline.records import FileInfo, Reject
from pipeline.storage.files import read_url, stat_url
from pipeline.storage.store import Store
from pipeline.storage.urls import public_url

CLIP_COLUMNS = ("id", "key", "sample_index", "window_index", "caption", "captions", "part")
NO_CAPTION = "no_caption"


@dataclass(frozen=True, slots=True)
class Clip:
    """A row of the run, with the captions that it has now; None where the table of captions has none for it."""

    id: str
    key: str
    sample_index: int
    window_index: int
    captions: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Unit:
    """Captions that are embedded together or not at all: those of a sample (`window_index` None), or of one window."""

    key: str
    sample_index: int
    window_index: int | None
    captions: tuple[str, ...]

    def rejected(self, why: Reason) -> Reject:
        return Reject(
            self.key, self.sample_index, WHOLE_SAMPLE if self.window_index is None else self.window_index, why
        )


@dataclass(frozen=True, slots=True)
class StoredText:
    """What a part says of one of its rows."""

    sample_index: int
    window_index: int | None
    caption_index: int
    caption_sha256: str


class Captions(Protocol):
    """Where captions come from; `source` is the version of their table, None where rows have their own."""

    @property
    def source(self) -> FileInfo | None: ...

    def of(self, clips: pa.Table) -> Sequence[tuple[str, ...] | None]:
        """The captions of each clip."""


class OwnCaptions:
    """Those that the rows were given with their videos."""

    source = None

    def of(self, clips: pa.Table) -> Sequence[tuple[str, ...] | None]:
        pairs = zip(clips["captions"].to_pylist(), clips["caption"].to_pylist(), strict=True)
        return [tuple(several or [first]) for several, first in pairs]


class TableCaptions:
    """Those of a table, by the id or the key of a row; it is held in memory."""

    def __init__(self, rules: TextConfig, source: FileInfo, keys: pa.Array, cells: pa.ChunkedArray) -> None:
        self.source, self._rules, self._keys, self._cells = source, rules, keys, cells

    def of(self, clips: pa.Table) -> Sequence[tuple[str, ...] | None]:
        places = pc.index_in(clips[self._rules.key].cast(pa.string()), value_set=self._keys)
        return [_texts(cell) for cell in self._cells.take(places).to_pylist()]


def _texts(cell: Any) -> tuple[str, ...] | None:
    texts = [cell] if isinstance(cell, str) else cell or []
    return tuple(text for text in texts if text is not None) or None


def captions_in_force(rules: TextConfig) -> Captions:
    """The captions that the configuration names. Raises UserError where their table cannot be used."""
    if rules.captions is None:
        return OwnCaptions()
    where = public_url(rules.captions)
    try:
        source = stat_url(rules.captions)
        table = _read_table(rules, rules.captions)
    except FileNotFoundError:
        raise UserError(f"text.captions: nothing is at {where}") from None
    except (ValueError, OSError, KeyError) as error:  # pyarrow's errors are among them
        raise UserError(f"text.captions: {where}: {' '.join(str(error).split())}") from None
    keys = table[rules.key].cast(pa.string()).combine_chunks()
    if keys.null_count or len(pc.unique(keys)) != len(keys):
        raise UserError(
            f"text.captions: {where} has rows without {rules.key}, or several with the same: give each one row, and "
            "several captions as a list"
        )
    return TableCaptions(rules, source, keys, table[rules.column])


def table_version(rules: TextConfig) -> FileInfo | None:
    """Which version of the table of captions there is now; None where rows have their own."""
    return stat_url(rules.captions) if rules.captions else None


def _read_table(rules: TextConfig, url: str) -> pa.Table:
    """The two columns of a table of captions, as text."""
    kind, data, names = kind_of(url), io.BytesIO(read_url(url)), [rules.key, rules.column]
    if kind == "parquet":
        _check_columns(pq.ParquetFile(data).schema_arrow.names, names)
        return pq.read_table(data, columns=names, partitioning=None)
    if kind == "jsonl":
        return _read_jsonl(data, names)
    parsing = pyarrow.csv.ParseOptions(delimiter="\t" if kind == "tsv" else ",", newlines_in_values=True)
    texts = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    table = pyarrow.csv.read_csv(data, parse_options=parsing, convert_options=texts)
    _check_columns(table.column_names, names)
    return table.select(names)


def _read_jsonl(data: io.BytesIO, names: Sequence[str]) -> pa.Table:
    """Captions are texts, or lists of texts."""
    for type_ in (pa.string(), pa.list_(pa.string())):
        schema = pa.schema([(names[0], pa.string()), (names[1], type_)])
        options = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
        try:
            return pyarrow.json.read_json(io.BytesIO(data.getvalue()), parse_options=options)
        except pa.ArrowInvalid as error:
            failure = error
    raise failure


def _check_columns(there: Sequence[str], names: Sequence[str]) -> None:
    if missing := [name for name in names if name not in there]:
        raise ValueError(f"it has no column {missing[0]!r}: its columns are {', '.join(there)}")


def read_clips(store: Store, manifest: Manifest, captions: Captions) -> dict[int, list[Clip]]:
    """The rows of a finished shard by slice, ordered by sample and window, from its index.

    Raises:
        ShardError: the shard has no index, or a damaged one.
    """
    if not manifest["parts"]:
        return {}
    shard = manifest["shard"]["name"]
    try:
        table = read_index(store, shard, CLIP_COLUMNS)
    except (FileNotFoundError, pa.ArrowException) as error:
        raise ShardError(f"{index_path(shard)} cannot be read ({error}): run latentmill index {store.root}") from None
    slices: dict[int, list[Clip]] = {}
    found = captions.of(table)
    for row, texts in zip(table.drop_columns(["caption", "captions"]).to_pylist(), found, strict=True):
        _, index = slice_of_file(row["part"]) or (shard, 0)
        clip = Clip(row["id"], row["key"], row["sample_index"], row["window_index"], texts)
        slices.setdefault(index, []).append(clip)
    return {index: sorted(slices[index], key=_place) for index in sorted(slices)}


def _place(clip: Clip) -> tuple[int, int]:
    return clip.sample_index, clip.window_index


def units_of(clips: Sequence[Clip]) -> tuple[list[Unit], list[Reject]]:
    """What is embedded of a slice, once for all windows of a sample that have the same captions, and what cannot be."""
    units, rejects = [], []
    for _, of_sample in itertools.groupby(clips, lambda clip: clip.sample_index):
        windows = list(of_sample)
        shared = all(clip.captions == windows[0].captions for clip in windows)
        for clip in windows[:1] if shared else windows:
            unit = Unit(clip.key, clip.sample_index, None if shared else clip.window_index, clip.captions or ())
            if clip.captions:
                units.append(unit)
            else:
                why = Reason("read", NO_CAPTION, f"the table of captions has none for {clip.id}")
                rejects.append(unit.rejected(why))
    return units, rejects


def sha256_of_caption(caption: str) -> str:
    return hashlib.sha256(caption.encode("utf-8", "surrogatepass")).hexdigest()


def differences(clips: Sequence[Clip], stored: Sequence[StoredText], rejects: Sequence[Reject]) -> Iterator[str]:
    """How the texts of a slice differ from the captions that its rows have now, a line for each row."""
    texts: dict[tuple[int, int | None], list[str]] = {}
    for text in sorted(stored, key=lambda one: one.caption_index):
        texts.setdefault((text.sample_index, text.window_index), []).append(text.caption_sha256)
    rejected = {(reject.sample_index, reject.window_index): reject.why.reason for reject in rejects}
    for clip in clips:
        yield from _difference(clip, texts, rejected)
    wanted = {place for clip in clips for place in ((clip.sample_index, clip.window_index), (clip.sample_index, None))}
    for sample, window in sorted(texts.keys() - wanted, key=str):
        yield f"holds a text of sample {sample}{'' if window is None else f', window {window}'}, which has no row"


def _difference(
    clip: Clip, texts: Mapping[tuple[int, int | None], list[str]], rejected: Mapping[tuple[int, int], str]
) -> Iterator[str]:
    place, whole = (clip.sample_index, clip.window_index), (clip.sample_index, None)
    found = texts.get(place) or texts.get(whole)
    if found is None:
        reason = rejected.get(place) or rejected.get((clip.sample_index, WHOLE_SAMPLE))
        if reason is None:
            yield f"row {clip.id} has no text"
        elif reason == NO_CAPTION and clip.captions:
            yield f"row {clip.id} had no caption and has one now"
    elif found != [sha256_of_caption(caption) for caption in clip.captions or ()]:
        now = f"{clip.captions[0][:40]!r}" if clip.captions else "none"
        yield f"row {clip.id} is stale: its caption is now {now}"
