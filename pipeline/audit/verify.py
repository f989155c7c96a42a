"""Reopens everything that a run wrote and checks it against its footers and manifests. Nothing is changed."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.config.identity import short
from pipeline.output.accounts import slice_numbers
from pipeline.output.latent_bytes import decode_latent
from pipeline.output.manifests import (
    READERS,
    Manifest,
    PartJson,
    denying_shards,
    is_finished,
    parts_by_device,
    removed_path,
)
from pipeline.output.parts import Footer, read_footer, read_rows, read_schema, sha256_of
from pipeline.output.paths import (
    SUCCESS_FILE,
    done_shards,
    latent_files,
    manifest_path,
    reject_files,
    slice_of_file,
    text_names,
    text_path,
    written_folders,
)
from pipeline.output.run_file import RunFile, completed_shards, read_run
from pipeline.output.schema import LATENTS, schema
from pipeline.storage.store import Store
from pipeline.text.check import check_texts

REQUIRED_KEYS = {"fingerprint", "parts", "rejects", "rows", "samples", "shard"}


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and in which file."""

    path: str
    what: str


@dataclass(slots=True)
class Verified:
    """How much was checked."""

    shards: int = 0
    parts: int = 0
    rows: int = 0
    samples: int = 0
    rejects: int = 0
    parts_by_device: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Verified") -> None:
        self.shards += other.shards
        self.parts += other.parts
        self.rows += other.rows
        self.samples += other.samples
        self.rejects += other.rejects
        self.parts_by_device += other.parts_by_device


@dataclass(frozen=True, slots=True)
class _Shard:
    """What was found of one shard: its part of the counts, the paths that its manifest names, and what is wrong."""

    seen: Verified = field(default_factory=Verified)
    named: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)


def verify(
    store: Store, seen: Verified, on_shard: Callable[[int, int], None] = lambda done, of: None
) -> Iterator[Problem]:
    """Checks every manifest and every part that it names, several shards at a time; counts into `seen` as it goes.

    `on_shard` is called after each shard with how many are checked, of how many.

    Raises:
        UserError: no run began in this root.
    """
    run = read_run(store)
    done = sorted(done_shards(store))
    denying = frozenset(denying_shards(store))  # listed once: to ask for each shard's list would be a request a shard
    named: set[str] = set()
    with ThreadPoolExecutor(READERS) as pool:
        checked = pool.map(lambda name: _check_shard(store, name, run, name in denying), done)
        for number, shard in enumerate(checked, start=1):
            seen.add(shard.seen)
            named |= shard.named
            yield from shard.problems
            on_shard(number, len(done))
    yield from _unnamed_parts(store, frozenset(done), named, run)
    yield from _unfinished_rejects(store, frozenset(done))
    yield from _left_behind(store)
    yield from _lost_manifests(store, len(done))
    for name in text_names(store):
        for path, what in check_texts(store, Store(store.url(text_path(name)))):
            yield Problem(f"{text_path(name)}/{path}", what)


def _check_shard(store: Store, name: str, run: RunFile, denies: bool) -> _Shard:
    path = manifest_path(name)
    try:
        manifest: Manifest = json.loads(store.read(path))
        missing = REQUIRED_KEYS - manifest.keys()
    except (ValueError, AttributeError) as error:
        return _Shard(problems=[Problem(path, f"is not valid JSON: {error}")])
    if missing:
        return _Shard(problems=[Problem(path, f"lacks {', '.join(sorted(missing))}")])
    accounted = {reject["sample_index"] for reject in manifest["rejects"]}
    parts = manifest["parts"]
    problems = [problem for part in parts for problem in check_part(store, part, manifest, run, accounted)]
    if denies and not is_finished(store, name, manifest):
        what = f"names rows that are still there: run latentmill remove {store.root} to finish"
        problems.append(Problem(removed_path(name), what))
    problems += check_manifest(name, manifest, run, accounted)
    rows = sum(part["rows"] for part in parts)
    devices = parts_by_device(manifest["parts"])
    seen = Verified(1, len(parts), rows, manifest["samples"], len(manifest["rejects"]), devices)
    return _Shard(seen, {part["path"] for part in parts}, problems)


def check_manifest(shard: str, manifest: Manifest, run: RunFile, accounted: set[int]) -> Iterator[Problem]:
    """The counts of a shard add up; `accounted` are the samples that have a row or a reject."""
    path = manifest_path(shard)
    if manifest["fingerprint"] != run["fingerprint"]:
        yield Problem(path, _other_run(manifest["fingerprint"], run))
    if accounted != set(range(manifest["samples"])):
        lost = sorted(set(range(manifest["samples"])) - accounted)
        yield Problem(path, f"of {manifest['samples']:,} samples, {len(lost):,} have no row and no reject: {lost[:5]}")
    rows = sum(part["rows"] for part in manifest["parts"])
    if rows != manifest["rows"]:
        yield Problem(path, f"says {manifest['rows']:,} rows, its parts have {rows:,}")


def _other_run(theirs: str, run: RunFile) -> str:
    return f"fingerprint {short(theirs)} is not the run's {short(run['fingerprint'])}"


def check_part(
    store: Store, part: PartJson, manifest: Manifest, run: RunFile, accounted: set[int]
) -> Iterator[Problem]:
    """A part exists, has the bytes that its manifest says, and every row of it can be used.

    Adds the sample of each row to `accounted`.
    """
    path = part["path"]
    try:
        with store.open(path) as file:
            digest, size_bytes = sha256_of(file)
            if (digest, size_bytes) != (part["sha256"], part["size_bytes"]):
                yield Problem(path, f"{size_bytes:,} bytes whose sha256 is not the manifest's")
                return
            file.seek(0)
            footer = read_footer(file)
            continuous = footer.get("continuous", False)
            if read_schema(file) != schema(
                footer["posterior"], footer["image_latent"] != "none", footer["columns"], continuous
            ):
                yield Problem(path, "its columns are not those of this format version")
            yield from (Problem(path, what) for what in _footer_problems(footer, part, manifest, run))
            samples = slice_numbers(run["identity"]).samples(part["slice_index"])
            for what in _row_problems(read_rows(file), footer, part, samples, accounted):
                yield Problem(path, what)
    except FileNotFoundError:
        yield Problem(path, "is named by a manifest but does not exist")
    except ValueError as error:
        yield Problem(path, str(error))


def _footer_problems(footer: Footer, part: PartJson, manifest: Manifest, run: RunFile) -> Iterator[str]:
    pairs = {
        "fingerprint": (footer["fingerprint"], run["fingerprint"]),
        "shard": (footer["shard"], manifest["shard"]),
        "bucket": (footer["bucket"], part["bucket"]),
        "slice": (footer["slice"]["index"], part["slice_index"]),
    }
    for key, (found, expected) in pairs.items():
        if found != expected:
            yield f"its footer says {key} {found}, not {expected}"


def _row_problems(
    rows: Iterator[dict[str, Any]],
    footer: Footer,
    part: PartJson,
    expected: range,
    accounted: set[int],
) -> Iterator[str]:
    shape = [int(side) for side in part["bucket"].split("x")]
    clips = []
    for row in rows:
        clips.append(_clip(row))
        yield from _latent_problems(row, shape, footer["image_latent"] == "padded")
    samples = {sample for sample, _ in clips}
    accounted |= samples
    yield from _clip_problems(clips, footer)
    if len(clips) != part["rows"]:
        yield f"holds {len(clips):,} rows, its manifest says {part['rows']:,}"
    if not all(sample in expected for sample in samples):
        yield "holds samples of another slice"


def _clip(row: Mapping[str, Any]) -> list[int]:
    return [row["sample_index"], row["window_index"]]


def _clip_problems(clips: list[list[int]], footer: Footer) -> Iterator[str]:
    if clips != footer["slice"]["clips"].get(footer["bucket"]):
        yield f"holds {len(clips):,} rows that are not those of its footer"


def _latent_problems(row: Mapping[str, Any], shape: list[int], padded: bool) -> Iterator[str]:
    channels, _, *picture = shape
    image = shape if padded else [channels, 1, *picture]
    for name, expected in zip(LATENTS, (shape, shape, image), strict=True):
        if f"{name}_bytes" not in row:
            continue
        if row[f"{name}_shape"] != expected:
            yield f"row {row['id']}: {name} has shape {row[f'{name}_shape']}, its bucket needs {expected}"
            continue
        try:
            latent = decode_latent(row[f"{name}_bytes"], expected, row[f"{name}_dtype"])
        except ValueError:
            yield f"row {row['id']}: {name} has {len(row[f'{name}_bytes']):,} bytes for {math.prod(expected):,} values"
            continue
        if not np.isfinite(latent).all():
            yield f"row {row['id']}: {name} has values that are not finite"


def _unnamed_parts(store: Store, done: frozenset[str], named: set[str], run: RunFile) -> Iterator[Problem]:
    """Files among the latents that no manifest names: parts of unfinished shards, or files that should not be there."""
    for path in latent_files(store):
        owner = slice_of_file(path)
        if path not in named and (owner is None or owner[0] in done):
            yield Problem(path, "exists, but no manifest names it")
        elif path not in named:
            yield from _unfinished_part(store, path, run)


def _unfinished_part(store: Store, path: str, run: RunFile) -> Iterator[Problem]:
    """Before its shard has a manifest, the sha256 of a part is not on record, but a damaged part would stop the run."""
    try:
        with store.open(path) as file:
            footer = read_footer(file)
            if footer["fingerprint"] != run["fingerprint"]:
                yield Problem(path, _other_run(footer["fingerprint"], run))
            for what in _clip_problems([_clip(row) for row in read_rows(file)], footer):
                yield Problem(path, what)
    except ValueError as error:
        yield Problem(path, str(error))


def _unfinished_rejects(store: Store, done: frozenset[str]) -> Iterator[Problem]:
    for path in reject_files(store):
        owner = slice_of_file(path)
        if owner and owner[0] not in done:
            try:
                json.loads(store.read(path))
            except ValueError as error:
                yield Problem(path, f"is not valid JSON: {error}")


def _left_behind(store: Store) -> Iterator[Problem]:
    """Half-written files of killed processes: no reader sees them, but they take up space."""
    for folder in written_folders(store):
        for name in store.left_behind(folder):
            yield Problem(f"{folder}/{name}".lstrip("/"), "was left half-written by a process that was killed")


def _lost_manifests(store: Store, done: int) -> Iterator[Problem]:
    """A complete run had a manifest for each shard."""
    shards = completed_shards(store)
    if shards is not None and done < shards:
        yield Problem(SUCCESS_FILE, f"says that {shards:,} shards were done, {done:,} have a manifest")
