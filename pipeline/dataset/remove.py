"""Takes rows out of a finished run for good: out of parts, texts, index and manifest, with accounts that add up.

The deny list is written first and the manifest last, and each step may be done again, so whoever is killed in between
runs the command again.
"""

import io
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import pyarrow as pa

from pipeline.output.accounts import (
    SliceNumbers,
    SliceRecord,
    merge_records,
    record_from_json,
    record_to_json,
    reject_to_json,
    slice_numbers,
)
from pipeline.output.index import read_index, write_index
from pipeline.output.ledger import read_part
from pipeline.output.manifests import (
    Manifest,
    PartJson,
    Place,
    RemovedJson,
    denying_shards,
    is_finished,
    part_to_json,
    read_manifest,
    read_removed,
    write_removed,
)
from pipeline.output.parts import Footer, PartWriter, read_footer, read_rows
from pipeline.output.paths import done_shards, index_path, manifest_path, rejects_path, shard_files, slice_of_file
from pipeline.output.run_file import read_run
from pipeline.output.statistics import statistics_from_json, statistics_to_json, total
from pipeline.records import Reject
from pipeline.storage.store import Store
from pipeline.text.remove import remove_texts

OF_PARTS = ("bucket", "statistics", "row_statistics")  # keys of a part's footer that a reject file does not have


def rows_named(rows: pa.Table, names: Collection[str]) -> pa.Table:
    """The rows whose `id`, `SHARD/KEY` or `key` is among the names."""
    values = rows.select(["id", "shard", "key"]).to_pylist()
    wanted = [bool({row["id"], f"{row['shard']}/{row['key']}", row["key"]} & set(names)) for row in values]
    return rows.filter(pa.array(wanted, pa.bool_()))


def deny(store: Store, rows: pa.Table, reason: str) -> None:
    """Writes rows into the deny lists of their shards: from now on they are to be removed."""
    by_shard: dict[str, list[RemovedJson]] = {}
    for row in rows.select(["id", "key", "shard", "sample_index", "window_index"]).to_pylist():
        entry = RemovedJson(
            id=row["id"],
            key=row["key"],
            sample_index=row["sample_index"],
            window_index=row["window_index"],
            reason=reason,
        )
        by_shard.setdefault(row["shard"], []).append(entry)
    for shard, removed in sorted(by_shard.items()):
        write_removed(store, shard, removed)


def finish_removals(store: Store) -> list[str]:
    """Takes out what the deny lists name and is still there. Returns the shards that were changed."""
    done, changed, numbers = done_shards(store), [], slice_numbers(read_run(store)["identity"])
    for shard in denying_shards(store):
        if shard in done and not is_finished(store, shard, manifest := read_manifest(store, shard)):
            _finish(store, shard, manifest, numbers)
            changed.append(shard)
    return changed


def _finish(store: Store, shard: str, manifest: Manifest, numbers: SliceNumbers) -> None:
    denied = read_removed(store, shard)
    slices = sorted({index for sample, _ in denied for index in numbers.slices(sample)})
    left = {sample for sample, window in _clips(store, shard) if (sample, window) not in denied}
    parts = [path for path in shard_files(store, shard) if path.endswith(".parquet")]
    again: list[PartJson] = []
    for index in slices:
        paths = sorted(path for path in parts if slice_of_file(path) == (shard, index))
        again += [part_to_json(read_part(store, path)[0]) for path in _rewrite_slice(store, paths, denied)]
    remove_texts(store, shard, slices, denied, left)
    untouched = [part for part in manifest["parts"] if part["slice_index"] not in slices]
    known = sorted([*untouched, *again], key=lambda part: (part["slice_index"], part["bucket"]))
    new = _manifest(store, manifest, known, denied)
    store.replace(manifest_path(shard), json.dumps(new, indent=1).encode())


def without(record: SliceRecord, denied: Mapping[Place, Reject]) -> SliceRecord:
    """The account of a slice whose denied rows are rejects."""
    pairs = {bucket: tuple(pair for pair in clips if pair not in denied) for bucket, clips in record.clips.items()}
    taken_out = [denied[pair] for clips in record.clips.values() for pair in clips if pair in denied]
    rejects = {(reject.sample_index, reject.window_index): reject for reject in (*record.rejects, *taken_out)}
    return replace(
        record,
        clips={bucket: clips for bucket, clips in pairs.items() if clips},
        rejects=tuple(rejects[place] for place in sorted(rejects)),
    )


def _rewrite_slice(store: Store, paths: Iterable[str], denied: Mapping[Place, Reject]) -> list[str]:
    """Parts without their denied rows; those that have no other are deleted, last of all. Returns what is left."""
    footers: dict[str, Footer] = {}
    for path in paths:
        with store.open(path) as file:
            footers[path] = read_footer(file)
    if not footers:
        return []
    own = {footer["bucket"]: record_from_json(footer["slice"]) for footer in footers.values()}
    record = without(merge_records(own), denied)
    for path, footer in footers.items():
        if footer["bucket"] in record.clips:
            store.replace(path, _without_rows(store, path, footer, record, denied))
    if not record.clips:
        some = next(iter(footers.values()))
        account = {key: value for key, value in some.items() if key not in OF_PARTS} | {"slice": record_to_json(record)}
        text = json.dumps(account, sort_keys=True, indent=1)
        store.replace(rejects_path(some["shard"]["name"], record.index), text.encode())
    for path, footer in footers.items():
        if footer["bucket"] not in record.clips:
            store.delete(path)
    return [path for path, footer in footers.items() if footer["bucket"] in record.clips]


def _without_rows(
    store: Store, path: str, footer: Footer, record: SliceRecord, denied: Mapping[Place, Reject]
) -> bytes:
    scratch = io.BytesIO()
    image, continuous = footer["image_latent"] != "none", footer.get("continuous", False)
    writer = PartWriter(scratch, footer["posterior"], image, footer["columns"], continuous)
    with store.open(path) as file:
        for row in read_rows(file):
            if (row["sample_index"], row["window_index"]) not in denied:
                writer.add(row)
    account = {"slice": record_to_json(record), "statistics": statistics_to_json(writer.statistics)}
    writer.close({**footer, **account})
    return scratch.getvalue()


def _manifest(store: Store, before: Manifest, parts: list[PartJson], denied: Mapping[Place, Reject]) -> Manifest:
    """The manifest with these parts; the index is written on the way."""
    rejects = {(reject["sample_index"], reject["window_index"]): reject for reject in before["rejects"]}
    rejects |= {place: reject_to_json(reject) for place, reject in denied.items()}
    statistics = total(statistics_from_json(part["statistics"]) for part in parts)
    new: Manifest = {
        **before,
        "parts": parts,
        "rows": sum(part["rows"] for part in parts),
        "rejects": [rejects[place] for place in sorted(rejects)],
        "latent_statistics": statistics_to_json(statistics),
        "samples_with_clips": 0,
        "clips_without_caption": 0,
    }
    samples: set[int] = set()
    shard = before["shard"]["name"]
    if parts:
        write_index(store, new)
        index = read_index(store, shard, ["sample_index", "caption"])
        samples = set(index["sample_index"].to_pylist())
        new["clips_without_caption"] = sum(not text.strip() for text in index["caption"].to_pylist())
    else:
        store.delete(index_path(shard))
    new["samples_with_clips"] = len(samples)
    new["samples_removed"] = len({sample for sample, _ in denied} - samples)
    return new


def _clips(store: Store, shard: str) -> list[Place]:
    """The clips in the index of a shard."""
    if not store.exists(index_path(shard)):
        return []
    table = read_index(store, shard, ["sample_index", "window_index"])
    return list(zip(table["sample_index"].to_pylist(), table["window_index"].to_pylist(), strict=True))
