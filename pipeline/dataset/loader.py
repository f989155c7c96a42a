"""Latents of finished runs as batches for training: one file that can be copied into a training repository.

It needs torch, numpy, PyArrow and fsspec, and imports nothing of Latentmill. The order of batches is a pure function of
the index, the seed, the epoch and the batch sizes, so that resuming is exact with another world size or other workers.

The rows of a bucket seldom fill whole steps. Each epoch leaves out as many as do not, and the next leaves out others:
no row comes twice in an epoch or is missing from two in succession, and all epochs have the same number of steps.
"""

import hashlib
import io
import json
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property, partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import uuid4

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

FORMAT_VERSION = 2
COLUMNS = ("id", "caption", "captions", "num_frames", "fps", "width", "height", "sample_index", "window_index")
THREADS, REMOTE_THREADS, AHEAD_BATCHES, OPEN_FOOTERS, MOST_WORKERS = 4, 32, 3, 256, 1024
TAIL_BYTES = 1 << 16  # of a part of texts, which hold its footer as a rule
Step = tuple[str, npt.NDArray[np.int64]]  # a bucket, and the rows of all batches of the step
Footer = tuple[pq.FileMetaData, list[str], npt.NDArray[np.int64]]  # with the names of columns, and where groups end


class _Position(NamedTuple):
    """How far an epoch is: all ranks together used `done` batches, `begun_at` of them before this loader was begun."""

    epoch: int = 0
    done: int = 0
    begun_at: int = 0


class _Part(NamedTuple):
    path: str
    size_bytes: int
    footer_bytes: int


class _Index(NamedTuple):
    """All rows of the roots, shard by shard: their hashes, their parts and where those begin; the rows to be used."""

    hashes: npt.NDArray[np.uint64]
    paths: list[str]  # of parts
    sizes: npt.NDArray[np.int64]  # of each part: first row, bytes, the footer's bytes
    rows: dict[str, npt.NDArray[np.int64]]  # by bucket
    about: dict[str, Any]  # what the footer of an index says

    def place(self, row: int) -> tuple[_Part, int]:
        """The part of a row, and which of its rows it is."""
        number = int(np.searchsorted(self.sizes[:, 0], row, side="right")) - 1
        first, size, footer = self.sizes[number].tolist()
        return _Part(self.paths[number], size, footer), row - first


class Latents(IterableDataset[dict[str, Any]]):
    """Batches `{"latent": b c t h w, "id": [...], "caption": [...], "bucket": "cxtxhxw", "state": {...}, ...}`.

    A step is `step_batches` batches of one bucket, for all ranks together: rank r takes `step[r::world]`. What fills no
    step comes in the next epoch. One `iter()` gives what is left of this epoch, the next one the next epoch.
    `batch["state"]` is the state once that batch and all before it have been used, also with a DataLoader's workers.

    Args:
        roots: output folders or URLs of runs of one configuration.
        batch: samples a batch, or a number for each bucket.
        selection, split: a table that `latentmill select` wrote, and one of its splits.
        text: the name of text embeddings below `text/`; they come as `text_embedding: b n d`, padded as their model
            sees them, `text_mask: b n`, and all else that was stored. Rows without a text are left out.
        uncond: what stands for a dropped caption: the embedding of the empty caption, or zeros.
        posterior: the mean, a sample, or with scale=None the moments as they are stored: mean and log-variance, the
            channels of one after those of the other.
        scale: `footer` applies the encoder's factors, `statistics` those of statistics.json, None nothing.
        cache, cache_bytes: a local folder for what was read, and its bound.

    Raises:
        ValueError: the arguments do not fit each other or what the roots hold.
    """

    def __init__(
        self,
        roots: str | Sequence[str],
        batch: int | Mapping[str, int] = 4,
        step_batches: int = 64,
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        split: str | None = None,
        selection: str | None = None,
        text: str | None = None,
        caption: Literal["first", "random"] = "first",
        caption_dropout: float = 0.0,
        uncond: Literal["empty", "zeros"] = "empty",
        posterior: Literal["mean", "sample", "moments"] = "mean",
        scale: Literal["footer", "statistics"] | None = "footer",
        cache: str | None = None,
        cache_bytes: int = 64 << 30,
    ) -> None:
        if world < 1 or step_batches % world or not 0 <= rank < world:
            raise ValueError(
                f"rank {rank} of world {world} with step_batches {step_batches}: use a world that divides step_batches "
                "and ranks 0 to world - 1"
            )
        if split and not selection:
            raise ValueError(f"split {split!r} needs the selection that has it: latentmill select --split")
        _check_choices(caption, uncond, posterior, scale)
        roots = [roots] if isinstance(roots, str) else list(roots)
        self._rank, self._world, self._seed, self._shuffle = rank, world, seed, shuffle
        self._step_batches, self._text, self._caption = step_batches, text, caption
        self._dropout, self._uncond, self._posterior = caption_dropout, uncond, posterior
        self._files = _Files(cache, cache_bytes)
        rules = [_text_rules(root, text) for root in roots] if text else []
        if len({rule.fingerprint for rule in rules}) > 1:
            raise ValueError(f"text {text!r} was made with several configurations: use roots of one")
        self._text_rows = rules[0].rows if rules else 0
        without = text if any(rule.has_rejects for rule in rules) else None
        self._index = _read_index(roots, selection, split, without)
        self._sizes = _batch_sizes(batch, step_batches, self._index.rows)
        about = self._index.about
        if about["posterior"] not in (posterior, "moments"):
            raise ValueError(f"posterior={posterior!r} is not stored: the rows hold {about['posterior']}")
        latents = ("vae_latent", "image_latent", *["vae_logvar"][: posterior != "mean"])
        self._columns = {*COLUMNS, *(f"{name}_{what}" for name in latents for what in ("shape", "dtype", "bytes"))}
        self._factors = _factors(scale, "scale", posterior, about, roots)
        self._image_factors = _factors(scale, "image_scale", posterior, about, roots)
        self._start = self._at = _Position()
        self._ended = torch.zeros(MOST_WORKERS, dtype=torch.int64)  # epochs that each worker has ended
        self._ended.share_memory_()  # type: ignore[no-untyped-call]

    @cached_property
    def plan(self) -> dict[str, Any]:
        """What the order of batches follows from, as plain JSON."""
        digest = hashlib.sha256()
        for bucket, rows in self._index.rows.items():
            digest.update(bucket.encode() + self._index.hashes[rows].tobytes())
        return {
            "index": digest.hexdigest(),
            "rows": sum(map(len, self._index.rows.values())),
            "seed": self._seed,
            "shuffle": self._shuffle,
            "batch": self._sizes,
            "step_batches": self._step_batches,
        }

    def __len__(self) -> int:
        """Batches of an epoch for this rank."""
        steps = sum(len(rows) // self._step_rows(bucket) for bucket, rows in self._index.rows.items())
        return steps * self._step_batches // self._world

    def steps(self, epoch: int) -> list[Step]:
        """The steps of an epoch in order, the same for every rank."""
        steps: list[Step] = []
        for bucket in self._index.rows:
            rows, size = self._order(bucket, epoch), self._step_rows(bucket)
            steps += [(bucket, rows[first : first + size]) for first in range(0, len(rows), size)]
        if not self._shuffle:
            return steps
        keys = _mixed(np.arange(len(steps), dtype=np.uint64) ^ _number(self._seed, epoch, "steps"))
        return [steps[position] for position in np.argsort(keys, kind="stable")]

    def _step_rows(self, bucket: str) -> int:
        return self._step_batches * self._sizes[bucket]

    def _order(self, bucket: str, epoch: int) -> npt.NDArray[np.int64]:
        """The rows of a bucket that an epoch shows: all but those that fill no step, whose place moves on each time."""
        rows = self._index.rows[bucket]
        left_out = len(rows) % self._step_rows(bucket)
        shown = np.delete(rows, (np.arange(left_out) - (epoch + 1) * left_out) % len(rows))
        if not self._shuffle:
            return shown
        keys = _mixed(self._index.hashes[shown] ^ _number(self._seed, epoch, bucket))
        return shown[np.argsort(keys, kind="stable")]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        number, workers = _worker()
        start = self._start
        if (ended := int(self._ended.min())) > start.epoch:
            start = _Position(ended)
        steps = self.steps(start.epoch)
        first, phase = start.done // self._world, start.begun_at // self._world
        first += (phase + number - first) % workers
        places = range(first, len(steps) * self._step_batches // self._world, workers)
        with ThreadPoolExecutor(THREADS) as pool:
            begun = ((place, *self._begin(pool, steps, start.epoch, place)) for place in places)
            waiting = deque(islice(begun, AHEAD_BATCHES))
            while waiting:
                place, bucket, rows = waiting.popleft()
                batch = _batch([row.result() for row in rows], bucket)
                waiting.extend(islice(begun, 1))
                done = (place + 1) * self._world
                self._go_to(_Position(start.epoch, done, start.begun_at))
                yield batch | {"state": self._state(_Position(start.epoch, done, done))}
        self._go_to(_Position(start.epoch + 1))
        self._ended[number::workers] = start.epoch + 1

    def _go_to(self, at: _Position) -> None:
        """A worker is ahead of what was used of its batches: when it begins again, it begins where it was started."""
        self._at = at
        if not get_worker_info():
            self._start = at._replace(begun_at=at.done)

    def _begin(
        self, pool: ThreadPoolExecutor, steps: Sequence[Step], epoch: int, place: int
    ) -> tuple[str, list[Future[dict[str, Any]]]]:
        step, batch = divmod(place * self._world + self._rank, self._step_batches)
        bucket, rows = steps[step]
        size = self._sizes[bucket]
        return bucket, [pool.submit(self._row, int(row), epoch) for row in rows[batch * size : (batch + 1) * size]]

    def _state(self, at: _Position) -> dict[str, Any]:
        step, batch = divmod(at.done, self._step_batches)
        return {"plan": self.plan, "epoch": at.epoch, "step": step, "batch": batch, "begun_at": at.begun_at}

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, as plain JSON; beside a DataLoader with workers use the last batch's `state`."""
        ended = int(self._ended.min())
        return self._state(_Position(ended) if ended > self._at.epoch else self._at)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state of any rank, of any world size and number of workers.

        Raises:
            ValueError: the state is of another plan, or this world cannot share evenly what is left of its step. To go
                on there would leave some ranks a batch less, and they would wait for each other for ever.
        """
        theirs, batch = state["plan"], state["batch"]
        if differing := [
            f"{key}: {theirs.get(key)} there, {now} here" for key, now in self.plan.items() if theirs.get(key) != now
        ]:
            raise ValueError(f"the state is of another plan ({'; '.join(differing)})")
        if batch % self._world:
            worlds = [str(w) for w in range(1, batch + 1) if batch % w == 0 == self._step_batches % w]
            raise ValueError(
                f"the state lies {batch} batches into a step, whose rest world {self._world} cannot share evenly: use "
                f"world {', '.join(worlds)}, or a state whose `batch` is 0, which any world can take"
            )
        done = state["step"] * self._step_batches + batch
        self._start = self._at = _Position(state["epoch"], done, state["begun_at"] if get_worker_info() else done)
        number, workers = _worker()
        self._ended[number::workers] = state["epoch"]

    def _row(self, row: int, epoch: int) -> dict[str, Any]:
        part, number = self._index.place(row)
        values = self._files.row(part, number, self._columns)
        if _number(values["id"]) != self._index.hashes[row]:
            raise ValueError(f"{part.path} is not what its index says: it was changed since it was loaded")
        draw = partial(_number, self._seed, epoch, values["id"])
        latent = _tensor(values, "vae_latent")
        if "vae_logvar_bytes" in values and self._posterior == "moments":
            latent = torch.cat([latent, _tensor(values, "vae_logvar")])
        elif "vae_logvar_bytes" in values:
            noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(int(draw("noise")) >> 1))
            latent += torch.exp(0.5 * _tensor(values, "vae_logvar").clamp(-30, 20)) * noise
        captions = values["captions"] or [values["caption"]]
        which = int(draw("caption")) % len(captions) if self._caption == "random" else 0
        dropped = float(draw("dropout")) / 2**64 < self._dropout
        found = {"latent": _scaled(latent, self._factors), "caption": "" if dropped else captions[which]}
        found |= {name: values[name] for name in ("id", "num_frames", "fps", "width", "height")}
        if "image_latent_bytes" in values:
            found["image_latent"] = _scaled(_tensor(values, "image_latent"), self._image_factors)
        if self._text:
            found |= self._text_of(part.path, values, int(draw("caption")), dropped)
        return found

    def _text_of(self, part: str, values: Mapping[str, Any], draw: int, dropped: bool) -> dict[str, Any]:
        """A caption of a row, and all that was stored of its embedding; what stands for a dropped one instead."""
        root, _, path = part.rpartition("/latents/")
        folder = f"{root}/text/{self._text}"
        places = [(values["sample_index"], window) for window in (values["window_index"], None)]
        file = f"{folder}/parts/{path.partition('/')[2]}"
        rows = next(filter(None, map(self._files.texts(file).rows.get, places)), None)
        if rows is None:
            raise ValueError(f"{file} has no text of {values['id']}: run latentmill text again")
        number = rows[draw % len(rows)] if self._caption == "random" else rows[0]
        if dropped and self._uncond == "empty":
            file, number = f"{folder}/uncond.parquet", 0
        text = self._files.row(self._files.texts(file).part, number)
        names = [name.removesuffix("_bytes") for name in text if name.endswith("_bytes")]
        found = _padded({name: _tensor(text, name) for name in names}, self._text_rows)
        if dropped and self._uncond == "zeros":
            found = {name: torch.zeros_like(tensor) for name, tensor in found.items()}
        return found | {"caption": "" if dropped else text["caption"]}


class _Files:
    """Rows of Parquet files anywhere, each by one request for the bytes of its row group."""

    def __init__(self, cache: str | None, cache_bytes: int) -> None:
        self._cache, self._cache_bytes = Path(cache).expanduser() if cache else None, cache_bytes
        self._footers: dict[str, Footer] = {}
        self._texts: dict[str, _Texts] = {}
        self._written_bytes = 0

    def row(self, part: _Part, number: int, wanted: Set[str] | None = None) -> dict[str, Any]:
        """A row of a part: those of the columns that it has, all by default."""
        footer, columns, ends = self._footer(part)
        wanted = set(columns) if wanted is None else wanted
        group = int(np.searchsorted(ends, number, side="right"))
        spans = [_span(footer.row_group(group).column(at)) for at, name in enumerate(columns) if name in wanted]
        begin, end = min(spans)[0], max(spans)[1]
        with pa.PythonFile(_Span(begin, part.size_bytes, self._bytes(part, begin, end)), mode="r") as file:
            rows = pq.ParquetFile(file, metadata=footer).read_row_group(group, sorted(wanted), use_threads=False)
        row = len(rows) - int(ends[group]) + number
        return {
            name: rows[name][row].as_buffer() if name.endswith("_bytes") else rows[name][row].as_py()
            for name in rows.column_names
        }

    def _footer(self, part: _Part) -> Footer:
        if (found := self._footers.get(part.path)) is None:
            data = self._bytes(part, part.size_bytes - part.footer_bytes - 8, part.size_bytes)
            footer = pq.read_metadata(pa.BufferReader(b"PAR1" + data))
            columns = [footer.schema.column(at).path.partition(".")[0] for at in range(footer.num_columns)]
            ends = np.cumsum([footer.row_group(group).num_rows for group in range(footer.num_row_groups)])
            found = _keep(self._footers, part.path, (footer, columns, ends), OPEN_FOOTERS)
        return found

    def texts(self, path: str) -> "_Texts":
        """A part of texts, from its footer alone."""
        if (found := self._texts.get(path)) is None:
            filesystem, name = fsspec.core.url_to_fs(path)
            part = _Part(path, int(filesystem.size(name)), 0)
            tail = self._bytes(part, max(0, part.size_bytes - TAIL_BYTES), part.size_bytes)
            part = part._replace(footer_bytes=int.from_bytes(tail[-8:-4], "little"))
            described = json.loads(self._footer(part)[0].metadata[b"latentmill"])["rows"]
            found = _keep(self._texts, path, _Texts(part, _rows_of_texts(described)), OPEN_FOOTERS)
        return found

    def _bytes(self, part: _Part, begin: int, end: int) -> bytes:
        """A range of a part, from the local cache where it is there; what is removed from a part changes its size."""
        if self._cache is None:
            return _read(part.path, begin, end)
        name = hashlib.sha256(f"{part.path} {part.size_bytes} {begin} {end}".encode()).hexdigest()
        file = self._cache / name[:2] / name
        try:
            return file.read_bytes()
        except FileNotFoundError:
            data = _read(part.path, begin, end)
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_name(f".tmp-{uuid4().hex}")
        scratch.write_bytes(data)
        self._make_room(len(data))
        with suppress(FileNotFoundError):  # where another reader made room meanwhile
            scratch.replace(file)
        return data

    def _make_room(self, needed_bytes: int) -> None:
        """Deletes the oldest files of a cache that is full, a tenth of it at once; others may delete beside us."""
        self._written_bytes += needed_bytes
        if self._cache is None or self._written_bytes < 0.1 * self._cache_bytes:
            return
        found = []
        for file in self._cache.glob("*/*"):
            with suppress(FileNotFoundError):
                found.append((file.stat().st_mtime, file.stat().st_size, file))
        used = sum(size for _, size, _ in found)
        for _, size, file in sorted(found):
            if used > 0.8 * self._cache_bytes:
                file.unlink(missing_ok=True)
                used -= size
        self._written_bytes = 0


class _Texts(NamedTuple):
    """A part of texts, and its rows by (sample, window or None for all windows), in the order of captions."""

    part: _Part
    rows: dict[tuple[int | None, int | None], list[int]]


def _rows_of_texts(described: Sequence[Sequence[Any]]) -> dict[tuple[int | None, int | None], list[int]]:
    rows: dict[tuple[int | None, int | None], list[int]] = {}
    for number in sorted(range(len(described)), key=lambda number: described[number][2] or 0):
        rows.setdefault((described[number][0], described[number][1]), []).append(number)
    return rows


class _Span(io.BytesIO):
    """A file of some size of which only a span of bytes is there."""

    def __init__(self, begin: int, size: int, data: bytes) -> None:
        super().__init__(data)
        self._begin, self._size = begin, size

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self._size}[whence]
        return super().seek(start + offset - self._begin) + self._begin

    def tell(self) -> int:
        return super().tell() + self._begin


def _keep(kept: dict[str, Any], name: str, value: Any, most: int) -> Any:
    """Keeps a value among at most so many, and returns it."""
    kept[name] = value
    for oldest in list(kept)[:-most]:
        kept.pop(oldest, None)  # several threads may be here
    return value


def _span(column: pq.ColumnChunkMetaData) -> tuple[int, int]:
    begin = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
    return begin, begin + column.total_compressed_size


def _read(path: str, begin: int, end: int) -> bytes:
    filesystem, name = fsspec.core.url_to_fs(path)
    data = bytes(filesystem.cat_file(name, start=begin, end=end))
    if len(data) != end - begin:
        raise ValueError(f"{path} is shorter than its index says: run latentmill index")
    return data


def _read_index(roots: Sequence[str], selection: str | None, split: str | None, text: str | None) -> _Index:
    files = sorted((file for root in roots for file in _index_files(root)), key=lambda file: file[0])
    if not files:
        raise ValueError(f"no index below {', '.join(roots)}: run latentmill index")
    if twice := [name for (name, *_), (following, *_) in pairwise(files) if name == following]:
        raise ValueError(f"{twice[0]} is in several roots: name each shard once")
    with ThreadPoolExecutor(REMOTE_THREADS if any("://" in root for root in roots) else THREADS) as pool:
        hashes, has_text, abouts = zip(*pool.map(lambda file: _read_shard(file, text), files), strict=True)
    for (name, root, *_), about in zip(files, abouts, strict=True):
        if about["format_version"] != FORMAT_VERSION:
            raise ValueError(f"{root} is of format {about['format_version']}, this loader reads {FORMAT_VERSION}")
        if about["fingerprint"] != abouts[0]["fingerprint"]:
            raise ValueError(f"{name} was made with another configuration than {files[0][0]}: use roots of one")
    every, wanted, parts = np.concatenate(hashes), np.concatenate(has_text), [about["parts"] for about in abouts]
    if selection:
        wanted &= np.isin(every, _selected(selection, split))
    if not wanted.any():
        raise ValueError(f"{selection} selects no row{f' of split {split!r}' if split else ''} of these roots")
    paths = [f"{file[1]}/{path}" for file, each in zip(files, parts, strict=True) for path in each["path"]]
    counts, *sizes = (np.concatenate([each[name] for each in parts]) for name in ("rows", "size_bytes", "footer_bytes"))
    names, codes = np.unique(np.concatenate([each["bucket"] for each in parts]), return_inverse=True)
    codes = np.repeat(codes.astype(np.int32), counts)
    rows = {str(name): np.flatnonzero(wanted & (codes == code)) for code, name in enumerate(names)}
    rows = {bucket: numbers for bucket, numbers in rows.items() if len(numbers)}
    return _Index(every, paths, np.stack([np.cumsum(counts) - counts, *sizes], axis=1), rows, abouts[0])


def _index_files(root: str) -> Iterator[tuple[str, str, Any, str]]:
    """(name, root, file system, path) of each index."""
    filesystem, path = fsspec.core.url_to_fs(root)
    filesystem.invalidate_cache()
    for found in filesystem.glob(f"{path.rstrip('/')}/index/*.parquet"):
        yield found.rpartition("/")[2], root.rstrip("/"), filesystem, found


def _read_shard(
    file: tuple[str, str, Any, str], text: str | None
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_], dict[str, Any]]:
    """The hashes of the rows of an index, which of them have a text where those are asked for, and what it says."""
    name, root, filesystem, path = file
    # s3fs would ask for the size first, to read large files in pieces
    options = {"max_concurrency": 1} if hasattr(filesystem, "max_concurrency") else {}
    with pq.ParquetFile(pa.BufferReader(filesystem.cat_file(path, **options))) as parquet:
        table = parquet.read(["row_hash", *(["sample_index", "window_index"] if text else [])], use_threads=False)
    hashes, has_text = np.asarray(table["row_hash"], np.int64).view(np.uint64), np.ones(len(table), bool)
    if text:
        without = _without_text(root, text, name.removesuffix(".parquet"))
        pairs = zip(table["sample_index"].to_pylist(), table["window_index"].to_pylist(), strict=True)
        has_text = np.array([not without & {(sample, window), (sample, -1)} for sample, window in pairs], bool)
    return hashes, has_text, json.loads(table.schema.metadata[b"latentmill"])


class _TextRules(NamedTuple):
    """Of text embeddings: their fingerprint, to how many rows they are padded, and whether some were rejected."""

    fingerprint: str
    rows: int
    has_rejects: bool


def _text_rules(root: str, name: str) -> _TextRules:
    """Raises ValueError where the text embeddings are missing or incomplete."""
    folder = f"{root.rstrip('/')}/text/{name}"
    try:
        run, totals = (json.loads(_whole(f"{folder}/{file}")) for file in ("run.json", "_SUCCESS.json"))
    except FileNotFoundError as error:
        raise ValueError(f"{folder} is not complete ({error}): run latentmill text") from None
    preset = run["identity"]["text"].get("preset") or {}
    rows = preset["max_tokens"] if preset.get("trim") else 0
    return _TextRules(run["fingerprint"], rows, totals["rejects"] > 0)


def _without_text(root: str, name: str, shard: str) -> set[tuple[int, int]]:
    """The (sample, window) of a shard that have no text; the window -1 stands for all of them."""
    manifest = json.loads(_whole(f"{root}/text/{name}/manifests/{shard}.json"))
    return {(reject["sample_index"], reject["window_index"]) for reject in manifest["rejects"]}


def _whole(path: str) -> bytes:
    with fsspec.open(path, "rb") as file:
        return bytes(file.read())


def _selected(selection: str, split: str | None) -> npt.NDArray[np.uint64]:
    with fsspec.open(selection, "rb") as file:
        table = pq.read_table(file, partitioning=None)
    if split:
        splits = pc.unique(table["split"]).to_pylist() if "split" in table.column_names else []
        if split not in splits:
            raise ValueError(f"{selection} has no split {split!r}: it has {', '.join(splits) or 'none'}")
        table = table.filter(pc.equal(table["split"], split))
    return np.asarray(table["row_hash"], np.int64).view(np.uint64)


def _check_choices(caption: str, uncond: str, posterior: str, scale: str | None) -> None:
    for name, value, allowed in (
        ("caption", caption, ("first", "random")),
        ("uncond", uncond, ("empty", "zeros")),
        ("posterior", posterior, ("mean", "sample", "moments")),
        ("scale", scale, (None,) if posterior == "moments" else ("footer", "statistics", None)),
    ):
        if value not in allowed:
            raise ValueError(f"unknown {name} {value!r}: use one of {allowed}")


def _batch_sizes(batch: int | Mapping[str, int], step_batches: int, rows: Mapping[str, Any]) -> dict[str, int]:
    """Samples a batch by bucket."""
    sizes = {bucket: batch if isinstance(batch, int) else batch.get(bucket, 0) for bucket in rows}
    if wrong := [bucket for bucket, size in sizes.items() if size < 1]:
        raise ValueError(f"batch gives no samples for {', '.join(wrong)}: use a number, or one for each bucket")
    steps = {bucket: step_batches * size for bucket, size in sizes.items()}
    if small := [f"{each} has {len(rows[each])} of {steps[each]}" for each in rows if len(rows[each]) < steps[each]]:
        raise ValueError(
            f"too few rows for a step of step_batches * batch ({'; '.join(small)}): use smaller ones, or leave the "
            "bucket out by a selection (latentmill select)"
        )
    return sizes


def _factors(scale: str | None, key: str, posterior: str, about: Mapping[str, Any], roots: Sequence[str]) -> Any:
    """What to subtract, then to multiply by, each to be broadcast to `c t h w`; None for neither."""
    if scale is None:
        return None
    if scale == "statistics":
        mean, std = _statistics(roots, "samples" if posterior == "sample" else "means")
        return torch.tensor(mean).view(-1, 1, 1, 1), 1 / torch.tensor(std).view(-1, 1, 1, 1)
    rule = about["encoder"].get("scaling")
    if rule is None:
        raise ValueError("the footers state no scaling, as the weights did not: use scale='statistics' or scale=None")
    return tuple(torch.tensor(rule[name], dtype=torch.float64).view(rule["shape"]) for name in ("shift", key))


def _scaled(latent: Tensor, factors: Any) -> Tensor:
    """`c t h w`; factors by latent frame (Cosmos) are those of its first frames."""
    if factors is None:
        return latent
    frames = latent.shape[1]
    if 1 < factors[0].shape[1] < frames:
        raise ValueError(f"the footers scale {factors[0].shape[1]} latent frames, and a latent has {frames}")
    shift, scale = (factor[:, :frames] for factor in factors)
    scaled: Tensor = (latent - shift) * scale
    return scaled.float()


def _statistics(roots: Sequence[str], of: str) -> tuple[Any, Any]:
    """Mean and standard deviation by channel over all roots, each with its share of the values."""
    found = [json.loads(_whole(f"{root.rstrip('/')}/statistics.json"))["all"] for root in roots]
    weights = np.array([one["count"] for one in found], np.float64)
    means, stds = (np.array([one[of][what] for one in found]) for what in ("mean", "std"))
    mean = np.average(means, axis=0, weights=weights)
    return mean, np.sqrt(np.average(stds**2 + means**2, axis=0, weights=weights) - mean**2)


def _tensor(values: Mapping[str, Any], name: str) -> Tensor:
    """The array of three columns, as float32, or bool. Raises ValueError where its length is wrong."""
    data, shape, dtype = (values[f"{name}_{what}"] for what in ("bytes", "shape", "dtype"))
    found = torch.frombuffer(bytearray(data), dtype=getattr(torch, dtype)).reshape(shape)
    return found if dtype == "bool" else found.float()


def _padded(arrays: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
    """A text as its model sees it: with zeros up to `rows`, where they were not stored, and a mask of what was."""
    if (embedding := arrays.get("text_embedding")) is None:
        return arrays  # a pipeline calls it something else
    if "text_mask" not in arrays:
        arrays["text_mask"] = torch.arange(max(rows, len(embedding))) < len(embedding)
    missing = (0, 0, 0, max(0, rows - len(embedding)))
    return arrays | {"text_embedding": torch.nn.functional.pad(embedding, missing)}


def _batch(rows: Sequence[Mapping[str, Any]], bucket: str) -> dict[str, Any]:
    batch: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
    for name, values in batch.items():
        if isinstance(values[0], Tensor):  # texts of some pipelines differ in length
            same = len({value.shape for value in values}) == 1
            batch[name] = torch.stack(values) if same else torch.nn.utils.rnn.pad_sequence(values, batch_first=True)
    return batch | {"bucket": bucket}


def _worker() -> tuple[int, int]:
    """The number of this worker of a DataLoader, of how many; the first of one where there is none."""
    worker = get_worker_info()
    return (worker.id, worker.num_workers) if worker else (0, 1)


def _number(*words: object) -> np.uint64:
    """64 bits that follow from some words alone."""
    return np.uint64(int.from_bytes(hashlib.sha256("/".join(map(str, words)).encode()).digest()[:8], "little"))


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Each value's bits mixed well (splitmix64), the same on every machine and with every version of numpy."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
