"""Reopens everything that a run wrote and compares it with what it says of itself.

It does not encode or change anything.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.audit.status import read_run
from pipeline.audit.summary import parts_by_device
from pipeline.output.ledger import (
    MANIFESTS,
    REJECTS,
    SUCCESS_FILE,
    bucket_names,
    bucket_path,
    done_shards,
    manifest_path,
    segments_of,
    slice_of_file,
)
from pipeline.output.parts import decode_latent, read_footer, read_rows, read_schema, schema, sha256_of
from pipeline.storage.store import Store

MANIFEST_KEYS = {"fingerprint", "parts", "rejects", "rows", "samples", "shard"}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be, and in which file."""

    path: str
    what: str


@dataclass(slots=True)
class Verified:
    """What was looked at."""

    shards: int = 0
    parts: int = 0
    rows: int = 0
    samples: int = 0
    rejects: int = 0
    parts_by_device: Counter[str] = field(default_factory=Counter)


def verify(store: Store, seen: Verified) -> Iterator[Problem]:
    """Checks every manifest and every part that it names; counts into `seen` as it goes.

    Raises:
        UserError: the root is not that of a run.
    """
    run = read_run(store)
    done = sorted(done_shards(store))
    named: set[str] = set()
    for shard in done:
        try:
            manifest = json.loads(store.read(manifest_path(shard)))
            missing = MANIFEST_KEYS - manifest.keys()
        except (ValueError, AttributeError) as error:
            yield Problem(manifest_path(shard), f"is no JSON: {error}")
            continue
        if missing:
            yield Problem(manifest_path(shard), f"has no {', '.join(sorted(missing))}")
            continue
        seen.shards += 1
        seen.samples += manifest["samples"]
        seen.rejects += len(manifest["rejects"])
        seen.parts_by_device += parts_by_device(manifest)
        named |= {part["path"] for part in manifest["parts"]}
        accounted = {reject["sample_index"] for reject in manifest["rejects"]}
        for part in manifest["parts"]:
            seen.parts += 1
            seen.rows += part["rows"]
            yield from check_part(store, part, manifest, run, accounted)
        yield from check_manifest(shard, manifest, run, accounted)
    yield from _unnamed_parts(store, frozenset(done), named, run)
    yield from _unfinished_rejects(store, frozenset(done))
    yield from _left_behind(store)
    yield from _lost_manifests(store, len(done))


def check_manifest(
    shard: str, manifest: Mapping[str, Any], run: Mapping[str, Any], accounted: set[int]
) -> Iterator[Problem]:
    """The account of a shard adds up; `accounted` are the samples that have a row or a reject."""
    path = manifest_path(shard)
    if manifest["fingerprint"] != run["fingerprint"]:
        yield Problem(path, f"fingerprint {manifest['fingerprint'][:12]} is not the run's {run['fingerprint'][:12]}")
    if accounted != set(range(manifest["samples"])):
        lost = sorted(set(range(manifest["samples"])) - accounted)
        yield Problem(path, f"of {manifest['samples']:,} samples, {len(lost):,} have no row and no reject: {lost[:5]}")
    rows = sum(part["rows"] for part in manifest["parts"])
    if rows != manifest["rows"]:
        yield Problem(path, f"says {manifest['rows']:,} rows, its parts have {rows:,}")


def check_part(
    store: Store, part: Mapping[str, Any], manifest: Mapping[str, Any], run: Mapping[str, Any], accounted: set[int]
) -> Iterator[Problem]:
    """A part is there, is the bytes that its manifest says, and every row of it can be used.

    Adds the sample of each row to `accounted`.
    """
    path = part["path"]
    try:
        with store.open(path) as file:
            digest, size_bytes = sha256_of(file)
            if (digest, size_bytes) != (part["sha256"], part["size_bytes"]):
                yield Problem(path, f"{size_bytes:,} bytes with another sha256 than the manifest's")
                return
            file.seek(0)
            footer = read_footer(file)
            continuous = footer.get("continuous", False)
            if read_schema(file) != schema(footer["posterior"], footer["first_frame"], footer["columns"], continuous):
                yield Problem(path, "its columns are not those of this format version")
            yield from (Problem(path, what) for what in _footer_problems(footer, part, manifest, run))
            part_samples = run["identity"]["output"]["part_samples"]
            begin = part["slice_index"] // segments_of(run["identity"]) * part_samples
            samples = range(begin, begin + part_samples)
            for what in _row_problems(read_rows(file), footer, part, samples, accounted):
                yield Problem(path, what)
    except FileNotFoundError:
        yield Problem(path, "is named by a manifest but is not there")
    except ValueError as error:
        yield Problem(path, str(error))


def _footer_problems(
    footer: Mapping[str, Any], part: Mapping[str, Any], manifest: Mapping[str, Any], run: Mapping[str, Any]
) -> Iterator[str]:
    expected = {"fingerprint": run["fingerprint"], "shard": manifest["shard"], "bucket": part["bucket"]}
    for key, value in expected.items():
        if footer[key] != value:
            yield f"its footer says {key} {footer[key]}, not {value}"
    if footer["slice"]["index"] != part["slice_index"]:
        yield f"its footer says slice {footer['slice']['index']}, not {part['slice_index']}"


def _row_problems(
    rows: Iterator[dict[str, Any]],
    footer: Mapping[str, Any],
    part: Mapping[str, Any],
    expected: range,
    accounted: set[int],
) -> Iterator[str]:
    shape = [int(side) for side in part["bucket"].split("x")]
    clips = []
    for row in rows:
        clips.append([row["sample_index"], row["window_index"]])
        yield from _latent_problems(row, shape)
    samples = {sample for sample, _ in clips}
    accounted |= samples
    if clips != footer["slice"]["clips"].get(part["bucket"]):
        yield f"holds {len(clips):,} rows that are not those of its footer"
    if len(clips) != part["rows"]:
        yield f"holds {len(clips):,} rows, its manifest says {part['rows']:,}"
    if not all(sample in expected for sample in samples):
        yield "holds samples of another slice"


def _latent_problems(row: Mapping[str, Any], shape: list[int]) -> Iterator[str]:
    channels, _, *picture = shape
    shapes = {"vae_latent": shape, "vae_logvar": shape, "first_frame_latent": [channels, 1, *picture]}
    for name, expected in shapes.items():
        if f"{name}_bytes" not in row:
            continue
        if row[f"{name}_shape"] != expected:
            yield f"row {row['id']}: {name} has shape {row[f'{name}_shape']}, its bucket asks for {expected}"
            continue
        try:
            latent = decode_latent(row[f"{name}_bytes"], expected, row[f"{name}_dtype"])
        except ValueError:
            yield f"row {row['id']}: {name} has {len(row[f'{name}_bytes']):,} bytes for {math.prod(expected):,} values"
            continue
        if not np.isfinite(latent).all():
            yield f"row {row['id']}: {name} has values that are not finite"


def _unnamed_parts(store: Store, done: frozenset[str], named: set[str], run: Mapping[str, Any]) -> Iterator[Problem]:
    """Files among the latents that no manifest names: parts of shards under way, or what readers must not take."""
    for bucket in bucket_names(store):
        for name in store.names(bucket_path(bucket)):
            path, owner = f"{bucket_path(bucket)}/{name}", slice_of_file(name)
            if path not in named and (owner is None or owner[0] in done):
                yield Problem(path, "is there, but no manifest names it")
            elif path not in named:
                yield from _unfinished_part(store, path, run)


def _unfinished_part(store: Store, path: str, run: Mapping[str, Any]) -> Iterator[Problem]:
    """Nothing says the sha256 of a part before its shard's manifest, but a damaged one would stop the run."""
    try:
        with store.open(path) as file:
            footer = read_footer(file)
            if footer["fingerprint"] != run["fingerprint"]:
                yield Problem(path, f"fingerprint {footer['fingerprint'][:12]} is not the run's")
            clips = [[row["sample_index"], row["window_index"]] for row in read_rows(file)]
            if clips != footer["slice"]["clips"].get(footer["bucket"]):
                yield Problem(path, f"holds {len(clips):,} rows that are not those of its footer")
    except ValueError as error:
        yield Problem(path, str(error))


def _unfinished_rejects(store: Store, done: frozenset[str]) -> Iterator[Problem]:
    for name in store.names(REJECTS):
        path, owner = f"{REJECTS}/{name}", slice_of_file(name)
        if owner and owner[0] not in done:
            try:
                json.loads(store.read(path))
            except ValueError as error:
                yield Problem(path, f"is no JSON: {error}")


def _left_behind(store: Store) -> Iterator[Problem]:
    """Half-written files of killed processes: no reader sees them, but they take room."""
    for folder in ("", MANIFESTS, REJECTS, *map(bucket_path, bucket_names(store))):
        for name in store.left_behind(folder):
            yield Problem(f"{folder}/{name}".lstrip("/"), "was left half-written by a process that was killed")


def _lost_manifests(store: Store, done: int) -> Iterator[Problem]:
    """A run that was complete has had a manifest for each shard."""
    if store.exists(SUCCESS_FILE):
        shards = json.loads(store.read(SUCCESS_FILE))["shards"]
        if done < shards:
            yield Problem(SUCCESS_FILE, f"says that {shards:,} shards were done, {done:,} have a manifest")
