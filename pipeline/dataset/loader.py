"""Latents of finished runs as batches for training: one file that can be copied into a training repository.

It needs torch, numpy, PyArrow and fsspec, and imports nothing of Latentmill. The order of batches is a pure function of
the index, the seed, the epoch and the batch sizes, so that resuming is exact with another world size or other workers.
"""

import hashlib
import io
import json
import os
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal
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
PLACES = ("bucket", "part", "part_bytes", "footer_bytes", "row_group", "row_in_group", "offset", "bytes", "row_hash")
THREADS, AHEAD_BATCHES, OPEN_FOOTERS, MOST_WORKERS = 4, 3, 256, 1024
TAIL_BYTES = 1 << 16  # of a part of texts, which hold its footer as a rule
Step = tuple[str, npt.NDArray[np.int64]]  # a bucket, and the rows of all batches of the step


class Latents(IterableDataset[dict[str, Any]]):
    """Batches `{"latent": b c t h w, "id": [...], "caption": [...], "bucket": "cxtxhxw", "state": {...}, ...}`.

    A step is `step_batches` batches of one bucket, for all ranks together: rank r takes `step[r::world]`. What fills no
    step is carried into the next epoch. One `iter()` gives what is left of this epoch, the next one the next epoch.
    `batch["state"]` is the state once that batch and all before it have been used, also with a DataLoader's workers.

    Args:
        roots: output folders or URLs of runs of one configuration.
        batch: samples a batch, or a number for each bucket.
        selection, split: a table that `latentmill select` wrote, and one of its splits.
        text: the name of text embeddings below `text/`; they come as `text_embedding: b n d`, padded as their model
            sees them, `text_mask: b n`, and all else that was stored. Rows without a text are left out.
        uncond: what stands for a dropped caption: the embedding of the empty caption, or zeros.
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
        posterior: Literal["mean", "sample"] = "mean",
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
        for name, value, allowed in (
            ("caption", caption, ("first", "random")),
            ("uncond", uncond, ("empty", "zeros")),
            ("posterior", posterior, ("mean", "sample")),
            ("scale", scale, ("footer", "statistics", None)),
        ):
            if value not in allowed:
                raise ValueError(f"unknown {name} {value!r}: use one of {allowed}")
        self._roots = [roots] if isinstance(roots, str) else sorted(roots)
        self._rank, self._world, self._seed, self._shuffle = rank, world, seed, shuffle
        self._step_batches, self._text, self._caption = step_batches, text, caption
        self._dropout, self._uncond, self._posterior = caption_dropout, uncond, posterior
        self._files = _Files(cache, cache_bytes)
        rules = [_text_rules(root, text) for root in self._roots] if text else [("", 0, False)]
        if len({fingerprint for fingerprint, *_ in rules}) > 1:
            raise ValueError(f"text {text!r} was made with several configurations: use roots of one")
        self._text_rows = rules[0][1]
        without = text if any(has_rejects for *_, has_rejects in rules) else None
        self._rows, self._about = _read_index(self._roots, selection, split, without)
        self._sizes = _batch_sizes(batch, self._buckets)
        _check_posterior(posterior, self._about["posterior"])
        self._factors = _factors(scale, posterior, self._about, self._roots)
        self._epoch, self._done, self._begun_at = 0, 0, 0
        self._ended = torch.zeros(MOST_WORKERS, dtype=torch.int64)  # epochs that each worker has ended
        self._ended.share_memory_()  # type: ignore[no-untyped-call]

    @property
    def _buckets(self) -> list[str]:
        return sorted(self._rows["bucket"].dictionary.to_pylist())

    @cached_property
    def _hashes(self) -> npt.NDArray[np.uint64]:
        return np.asarray(self._rows["row_hash"]).view(np.uint64)

    @cached_property
    def _rows_by_bucket(self) -> dict[str, npt.NDArray[np.int64]]:
        codes = np.asarray(self._rows["bucket"].indices)
        return {
            bucket: np.flatnonzero(codes == code)
            for code, bucket in sorted(enumerate(self._rows["bucket"].dictionary.to_pylist()), key=lambda one: one[1])
        }

    @cached_property
    def plan(self) -> dict[str, Any]:
        """What the order of batches follows from, as plain JSON."""
        digest = hashlib.sha256(self._hashes.tobytes())
        digest.update(np.asarray(self._rows["bucket"].indices, np.int32).tobytes())
        return {
            "index": digest.hexdigest(),
            "rows": len(self._hashes),
            "seed": self._seed,
            "shuffle": self._shuffle,
            "batch": self._sizes,
            "step_batches": self._step_batches,
        }

    def steps(self, epoch: int) -> list[Step]:
        """The steps of an epoch in order, the same for every rank."""
        steps = [step for bucket in self._rows_by_bucket for step in self._steps_of(bucket, epoch)]
        if not self._shuffle:
            return steps
        keys = _mixed(np.arange(len(steps), dtype=np.uint64) ^ _number(self._seed, epoch, "steps"))
        return [steps[position] for position in np.argsort(keys, kind="stable")]

    def _steps_of(self, bucket: str, epoch: int) -> Iterator[Step]:
        """Steps cut the passes over a bucket's rows, one after the other, into equal pieces, across their seams."""
        rows = self._rows_by_bucket[bucket]
        size, count = self._step_batches * self._sizes[bucket], len(rows)
        begin, end = count * epoch // size * size, count * (epoch + 1) // size * size
        passes = range(begin // count, -(-end // count)) if end > begin else range(0)
        if not passes:
            return
        stream = np.concatenate([self._pass(rows, bucket, number) for number in passes])
        for first in range(begin - passes[0] * count, end - passes[0] * count, size):
            yield bucket, stream[first : first + size]

    def _pass(self, rows: npt.NDArray[np.int64], bucket: str, number: int) -> npt.NDArray[np.int64]:
        if not self._shuffle:
            return rows
        keys = _mixed(self._hashes[rows] ^ _number(self._seed, number, bucket))
        return rows[np.argsort(keys, kind="stable")]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        ended = int(self._ended[number]) if worker else int(self._ended.max())
        if ended > self._epoch:
            self._epoch, self._done, self._begun_at = ended, 0, 0
        epoch, steps = self._epoch, self.steps(self._epoch)
        first = self._done // self._world
        phase = self._begun_at // self._world
        first += (phase + number - first) % workers
        places = range(first, len(steps) * self._step_batches // self._world, workers)
        with ThreadPoolExecutor(THREADS) as pool:
            waiting: deque[tuple[int, str, list[Future[dict[str, Any]]]]] = deque()
            ahead = iter(places)
            while True:
                for place in ahead:
                    waiting.append((place, *self._submit(pool, steps, epoch, place)))
                    if len(waiting) == AHEAD_BATCHES:
                        break
                if not waiting:
                    break
                place, bucket, futures = waiting.popleft()
                batch = _batch([future.result() for future in futures], bucket)
                self._epoch, self._done = epoch, (place + 1) * self._world
                yield batch | {"state": self._state(self._done, self._done)}
        self._epoch, self._done, self._begun_at = epoch + 1, 0, 0
        self._ended[number::workers] = epoch + 1

    def _submit(
        self, pool: ThreadPoolExecutor, steps: Sequence[Step], epoch: int, place: int
    ) -> tuple[str, list[Future[dict[str, Any]]]]:
        step, batch = divmod(place * self._world + self._rank, self._step_batches)
        bucket, rows = steps[step]
        size = self._sizes[bucket]
        return bucket, [pool.submit(self._row, int(row), epoch) for row in rows[batch * size : (batch + 1) * size]]

    def _state(self, done: int, begun_at: int) -> dict[str, Any]:
        step, batch = divmod(done, self._step_batches)
        return {"plan": self.plan, "epoch": self._epoch, "step": step, "batch": batch, "begun_at": begun_at}

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, as plain JSON."""
        if get_worker_info() is None and (ended := int(self._ended.max())) > self._epoch:
            self._epoch, self._done, self._begun_at = ended, 0, 0
        return self._state(self._done, self._begun_at)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state of any rank, of any world size and number of workers.

        Raises:
            ValueError: the state is of another plan, or lies inside a step at a place that this world cannot share.
        """
        theirs = state["plan"]
        if differing := [
            f"{key}: {theirs.get(key)} there, {now} here" for key, now in self.plan.items() if theirs.get(key) != now
        ]:
            raise ValueError(f"the state is of another plan ({'; '.join(differing)})")
        if state["batch"] % self._world:
            raise ValueError(
                f"the state lies {state['batch']} batches into a step, which world {self._world} cannot share evenly: "
                f"use a world that divides {state['batch']}, or a state from the end of a step"
            )
        self._epoch, self._done = state["epoch"], state["step"] * self._step_batches + state["batch"]
        self._begun_at = state["begun_at"] if get_worker_info() else self._done
        if get_worker_info() is None:
            self._ended[:] = self._epoch

    def _row(self, row: int, epoch: int) -> dict[str, Any]:
        place = {name: self._rows[name][row].as_py() for name in PLACES}
        values = self._files.row(place)
        draw = partial(_number, self._seed, epoch, values["id"])
        latent = _tensor(values, "vae_latent")
        if self._posterior == "sample" and "vae_logvar_bytes" in values:
            noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(int(draw("noise")) >> 1))
            latent = latent + torch.exp(0.5 * _tensor(values, "vae_logvar").clamp(-30, 20)) * noise
        if self._factors is not None:
            latent = (latent - self._factors[0]) * self._factors[1]
        captions = values["captions"] or [values["caption"]]
        which = int(draw("caption")) % len(captions) if self._caption == "random" else 0
        dropped = float(draw("dropout")) / 2**64 < self._dropout
        found = {"latent": latent, "caption": "" if dropped else captions[which]}
        found |= {name: values[name] for name in ("id", "num_frames", "fps", "width", "height")}
        if "image_latent_bytes" in values:
            image = _tensor(values, "image_latent")
            found["image_latent"] = image if self._factors is None else (image - self._factors[0]) * self._factors[1]
        if self._text:
            found |= self._text_of(place["part"], values, int(draw("caption")), dropped)
        return found

    def _text_of(self, part: str, values: Mapping[str, Any], draw: int, dropped: bool) -> dict[str, Any]:
        """A caption of a row, and all that was stored of its embedding; what stands for a dropped one instead."""
        root, _, path = part.partition("/latents/")
        folder = f"{root}/text/{self._text}"
        places = [(values["sample_index"], window) for window in (values["window_index"], None)]
        file = f"{folder}/parts/{path.partition('/')[2]}"
        rows = next(filter(None, map(self._files.texts(file).rows.get, places)), None)
        if rows is None:
            raise ValueError(f"{file} has no text of {values['id']}: run latentmill text again")
        number = rows[draw % len(rows)] if self._caption == "random" else rows[0]
        if dropped and self._uncond == "empty":
            file, number = f"{folder}/uncond.parquet", 0
        text = self._files.text(file, number)
        names = [name.removesuffix("_bytes") for name in text if name.endswith("_bytes")]
        found = _padded({name: _tensor(text, name) for name in names}, self._text_rows)
        if dropped and self._uncond == "zeros":
            found = {name: torch.zeros_like(tensor) for name, tensor in found.items()}
        return found | {"caption": "" if dropped else text["caption"]}


class _Files:
    """Rows of Parquet files anywhere, each by one request for the bytes of its row group."""

    def __init__(self, cache: str | None, cache_bytes: int) -> None:
        self._cache, self._cache_bytes = Path(cache).expanduser() if cache else None, cache_bytes
        self._footers: OrderedDict[str, pq.FileMetaData] = OrderedDict()
        self._texts: OrderedDict[str, _Texts] = OrderedDict()
        self._written_bytes = 0

    def __getstate__(self) -> dict[str, Any]:  # a worker that is spawned opens its own
        return self.__dict__ | {"_footers": OrderedDict(), "_texts": OrderedDict()}

    def row(self, place: Mapping[str, Any]) -> dict[str, Any]:
        """A row of a part, by its place in the index."""
        path, begin, end = place["part"], place["offset"], place["offset"] + place["bytes"]
        footer = self._footer(path, place["part_bytes"], place["footer_bytes"])
        data = _Span(begin, place["part_bytes"], self._bytes(path, begin, end))
        with pa.PythonFile(data, mode="r") as file:
            group = pq.ParquetFile(file, metadata=footer).read_row_group(place["row_group"], use_threads=False)
        (row,) = group.slice(place["row_in_group"], 1).to_pylist()
        return dict(row)

    def _footer(self, path: str, size: int, footer_bytes: int) -> pq.FileMetaData:
        if (footer := self._footers.get(path)) is None:
            data = self._bytes(path, size - footer_bytes - 8, size)
            footer = pq.read_metadata(pa.BufferReader(b"PAR1" + data))
            self._footers[path] = footer
            while len(self._footers) > OPEN_FOOTERS:
                self._footers.popitem(last=False)
        return footer

    def texts(self, path: str) -> "_Texts":
        """What is known of a part of texts without reading a row, from its footer."""
        if (found := self._texts.get(path)) is None:
            filesystem, name = fsspec.core.url_to_fs(path)
            size = int(filesystem.size(name))
            tail = self._bytes(path, max(0, size - TAIL_BYTES), size)
            found = self._texts[path] = _Texts(self._footer(path, size, int.from_bytes(tail[-8:-4], "little")), size)
            while len(self._texts) > OPEN_FOOTERS:
                self._texts.popitem(last=False)
        return found

    def text(self, path: str, number: int) -> dict[str, Any]:
        """A row of a part of texts, or of the prompts that belong to no row."""
        return self.row({"part": path} | self.texts(path).place(number))

    def _bytes(self, path: str, begin: int, end: int) -> bytes:
        """A range of a file, from the local cache where it is there."""
        if self._cache is None:
            return _read(path, begin, end)
        name = hashlib.sha256(f"{path} {begin} {end}".encode()).hexdigest()
        file = self._cache / name[:2] / name
        try:
            return file.read_bytes()
        except FileNotFoundError:
            data = _read(path, begin, end)
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_name(f".tmp-{uuid4().hex}")
        scratch.write_bytes(data)
        self._make_room(len(data))
        scratch.replace(file)
        return data

    def _make_room(self, needed_bytes: int) -> None:
        """Deletes the oldest files of a cache that is full, a tenth of it at once; others may delete beside us."""
        self._written_bytes += needed_bytes
        if self._cache is None or self._written_bytes < 0.1 * self._cache_bytes:
            return
        found = sorted((file.stat().st_mtime, file.stat().st_size, file) for file in self._cache.glob("*/*"))
        used = sum(size for _, size, _ in found)
        for _, size, file in found:
            if used > 0.8 * self._cache_bytes:
                file.unlink(missing_ok=True)
                used -= size
        self._written_bytes = 0


class _Texts:
    """Where the rows of a part of texts lie. `rows` has them by (sample, window or None for all), by caption."""

    def __init__(self, footer: pq.FileMetaData, size: int) -> None:
        self._footer, self._size = footer, size
        groups = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
        self._begins = [0, *accumulate(groups)][:-1]
        self.rows: dict[tuple[int | None, int | None], list[int]] = {}
        described = json.loads(footer.metadata[b"latentmill"])["rows"]
        for number in sorted(range(len(described)), key=lambda number: described[number][2] or 0):
            self.rows.setdefault((described[number][0], described[number][1]), []).append(number)

    def place(self, number: int) -> dict[str, int]:
        """Where a row lies, as the index says it of latents."""
        group = bisect_right(self._begins, number) - 1
        columns = [self._footer.row_group(group).column(index) for index in range(self._footer.num_columns)]
        return {
            "part_bytes": self._size,
            "footer_bytes": self._footer.serialized_size,
            "offset": min(column.dictionary_page_offset or column.data_page_offset for column in columns),
            "bytes": sum(column.total_compressed_size for column in columns),
            "row_group": group,
            "row_in_group": number - self._begins[group],
        }


class _Span(io.RawIOBase):
    """A file of which only the bytes of one span are there."""

    def __init__(self, begin: int, size: int, data: bytes) -> None:
        self._begin, self._size, self._data, self._at = begin, size, data, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        begin = self._at - self._begin
        data = self._data[begin : begin + size] if size >= 0 else self._data[begin:]
        self._at += len(data)
        return data


def _read(path: str, begin: int, end: int) -> bytes:
    filesystem, name = fsspec.core.url_to_fs(path)
    data = bytes(filesystem.cat_file(name, start=begin, end=end))
    if len(data) != end - begin:
        raise ValueError(f"{path} is shorter than its index says: run latentmill index")
    return data


def _read_index(
    roots: Sequence[str], selection: str | None, split: str | None, text: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The places of all rows as arrays, by shard over all roots, and what the footers of the indices say."""
    files = sorted((path.rpartition("/")[2], root, path) for root in roots for path in _index_files(root))
    twice = [name for (name, *_), (following, *_) in pairwise(files) if name == following]
    if twice:
        raise ValueError(f"{twice[0]} is in several roots: name each shard once")
    if not files:
        raise ValueError(f"no index below {', '.join(roots)}: run latentmill index")
    with ThreadPoolExecutor(THREADS) as pool:
        tables = list(pool.map(lambda file: _read_places(file[2], file[1], text), files))
    abouts = [json.loads(table.schema.metadata[b"latentmill"]) for table in tables]
    for (name, root, _), about in zip(files, abouts, strict=True):
        if about["format_version"] != FORMAT_VERSION:
            raise ValueError(f"{root} is of format {about['format_version']}, this loader reads {FORMAT_VERSION}")
        if about["fingerprint"] != abouts[0]["fingerprint"]:
            raise ValueError(f"{name} was made with another configuration than {files[0][0]}: use roots of one")
    table = pa.concat_tables([table.replace_schema_metadata() for table in tables])
    if selection:
        table = table.filter(pc.is_in(table["row_hash"], _selected(selection, split)))
        if not len(table):
            raise ValueError(f"{selection} selects no row{f' of split {split!r}' if split else ''} of these roots")
    table = table.unify_dictionaries().combine_chunks()
    return {name: _flat(table[name]) for name in PLACES}, abouts[0]


def _flat(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return array.chunk(0) if isinstance(array, pa.ChunkedArray) else array


def _index_files(root: str) -> list[str]:
    filesystem, path = fsspec.core.url_to_fs(root)
    filesystem.invalidate_cache()
    found = filesystem.glob(f"{path.rstrip('/')}/index/*.parquet")
    return [filesystem.unstrip_protocol(name) if "://" in root else name for name in found]


def _read_places(path: str, root: str, text: str | None) -> pa.Table:
    """The places of the rows of a shard, without those that have no text where texts are asked for."""
    with fsspec.open(path, "rb") as file:
        columns = [*PLACES, *(["sample_index", "window_index"] if text else [])]
        table = pq.read_table(file, columns=columns, read_dictionary=["part"], partitioning=None)
    if text:
        without = _without_text(root, text, path.rpartition("/")[2].removesuffix(".parquet"))
        pairs = zip(table["sample_index"].to_pylist(), table["window_index"].to_pylist(), strict=True)
        has_text = [not without & {(sample, window), (sample, -1)} for sample, window in pairs]
        table = table.filter(pa.array(has_text, pa.bool_())).select(list(PLACES))
    part = table["part"].combine_chunks()
    part = part.chunk(0) if isinstance(part, pa.ChunkedArray) else part
    base = path.rpartition("/index/")[0]
    urls = pa.array([f"{base}/{name}" for name in part.dictionary.to_pylist()])
    return table.set_column(
        table.schema.get_field_index("part"), "part", pa.DictionaryArray.from_arrays(part.indices, urls)
    )


def _selected(selection: str, split: str | None) -> pa.Array:
    with fsspec.open(selection, "rb") as file:
        table = pq.read_table(file, partitioning=None)
    if split:
        splits = pc.unique(table["split"]).to_pylist() if "split" in table.column_names else []
        if split not in splits:
            raise ValueError(f"{selection} has no split {split!r}: it has {', '.join(splits) or 'none'}")
        table = table.filter(pc.equal(table["split"], split))
    return table["row_hash"].combine_chunks()


def _batch_sizes(batch: int | Mapping[str, int], buckets: Sequence[str]) -> dict[str, int]:
    sizes = {bucket: batch if isinstance(batch, int) else batch.get(bucket, 0) for bucket in buckets}
    if wrong := sorted(bucket for bucket, size in sizes.items() if size < 1):
        raise ValueError(f"batch gives no samples for {', '.join(wrong)}: use a number, or one for each bucket")
    return sizes


def _check_posterior(wanted: str, stored: str) -> None:
    if wanted != stored and stored != "moments":
        raise ValueError(f"posterior={wanted!r} asks for what is not stored: the rows hold {stored}")


def _factors(scale: str | None, posterior: str, about: Mapping[str, Any], roots: Sequence[str]) -> Any:
    """What to subtract, then to multiply by, as `c 1 1 1` or numbers; None for neither."""
    encoder = about["encoder"]
    if scale is None:
        return None
    if scale == "statistics":
        return _per_channel(*_statistics(roots, "samples" if posterior == "sample" else "means"))
    if encoder.get("latents_mean") is not None:
        return _per_channel(encoder["latents_mean"], encoder["latents_std"])
    return encoder.get("shift_factor") or 0.0, encoder.get("scaling_factor") or 1.0


def _per_channel(mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    return torch.tensor(mean).view(-1, 1, 1, 1), 1 / torch.tensor(std).view(-1, 1, 1, 1)


def _statistics(roots: Sequence[str], of: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation by channel over all roots, each with its share of the values."""
    found = []
    for root in roots:
        with fsspec.open(f"{root.rstrip('/')}/statistics.json", "rb") as file:
            found.append(json.load(file)["all"])
    weights = np.array([one["count"] for one in found], np.float64)
    means = np.array([one[of]["mean"] for one in found])
    squares = np.array([np.square(one[of]["std"]) + np.square(one[of]["mean"]) for one in found])
    mean = np.average(means, axis=0, weights=weights)
    return mean.tolist(), np.sqrt(np.average(squares, axis=0, weights=weights) - mean**2).tolist()


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


def _text_rules(root: str, name: str) -> tuple[str, int, bool]:
    """The fingerprint of text embeddings, to how many rows they are padded, and whether some were rejected.

    Raises:
        ValueError: they are missing or incomplete.
    """
    folder = f"{root.rstrip('/')}/text/{name}"
    try:
        run, totals = (json.loads(_whole(f"{folder}/{file}")) for file in ("run.json", "_SUCCESS.json"))
    except FileNotFoundError as error:
        raise ValueError(f"{folder} is not complete ({error}): run latentmill text") from None
    preset = run["identity"]["text"].get("preset") or {}
    return run["fingerprint"], preset["max_tokens"] if preset.get("trim") else 0, totals["rejects"] > 0


def _without_text(root: str, name: str, shard: str) -> set[tuple[int, int]]:
    """The (sample, window) of a shard that have no text; the window -1 stands for all of them."""
    manifest = json.loads(_whole(f"{root.rstrip('/')}/text/{name}/manifests/{shard}.json"))
    return {(reject["sample_index"], reject["window_index"]) for reject in manifest["rejects"]}


def _whole(path: str) -> bytes:
    with fsspec.open(path, "rb") as file:
        return bytes(file.read())


def _batch(rows: Sequence[Mapping[str, Any]], bucket: str) -> dict[str, Any]:
    batch: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
    for name, values in batch.items():
        if isinstance(values[0], Tensor):  # texts of some pipelines differ in length
            same = len({value.shape for value in values}) == 1
            batch[name] = torch.stack(values) if same else torch.nn.utils.rnn.pad_sequence(values, batch_first=True)
    return batch | {"bucket": bucket}


def _number(*words: object) -> np.uint64:
    """64 bits that follow from some words alone."""
    return np.uint64(int.from_bytes(hashlib.sha256("/".join(map(str, words)).encode()).digest()[:8], "little"))


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Each value's bits mixed well (splitmix64), the same on every machine and with every version of numpy."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
