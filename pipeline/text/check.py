"""Checks one root of text embeddings against its manifests, and against the captions that the rows have now."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pipeline.config.load import recorded_config
from pipeline.errors import LatentmillError, ShardError
from pipeline.output.accounts import reject_from_json
from pipeline.output.manifests import READERS, read_manifest
from pipeline.output.parts import sha256_of
from pipeline.output.paths import SUCCESS_FILE, TEXT_PARTS, UNCOND_FILE, done_shards, manifest_path, slice_of_file
from pipeline.output.run_file import RunFile, read_run
from pipeline.storage.store import Store
from pipeline.text.captions import Captions, Clip, StoredText, captions_in_force, differences, read_clips
from pipeline.text.manifests import TextManifest, TextPartJson, read_text_manifest
from pipeline.text.parts import part_problems, read_text_footer, texts_in

Problem = tuple[str, str]  # a file below the root, and what is wrong with it


@dataclass(frozen=True, slots=True)
class _Root:
    latents: Store
    texts: Store
    run: RunFile
    captions: Captions


def check_texts(latents: Store, texts: Store) -> Iterator[Problem]:
    """Everything that is wrong with text embeddings: files, accounts, and rows whose caption is another now.

    Raises:
        UserError: the table of captions cannot be read.
    """
    run = read_run(texts)
    root = _Root(latents, texts, run, captions_in_force(recorded_config(run).texts))
    done, of_latents = done_shards(texts), done_shards(latents)
    named: set[str] = set()
    with ThreadPoolExecutor(READERS) as pool:
        for paths, problems in pool.map(lambda shard: _check_shard(root, shard), sorted(done & of_latents)):
            named |= paths
            yield from problems
    for name in texts.names(TEXT_PARTS):
        path = f"{TEXT_PARTS}/{name}"
        owner = slice_of_file(path)
        if path not in named and (owner is None or owner[0] in done):
            yield path, "exists, but no manifest names it"
        elif path not in named:
            yield from _file_problems(root, path)
    if done or texts.exists(SUCCESS_FILE):
        yield from _file_problems(root, UNCOND_FILE)
    if texts.exists(SUCCESS_FILE) and (lost := sorted(of_latents - done)):
        yield SUCCESS_FILE, f"says that all shards were done, but {len(lost):,} have no manifest: {lost[0]}"


def _check_shard(root: _Root, shard: str) -> tuple[set[str], list[Problem]]:
    path = manifest_path(shard)
    try:
        manifest = read_text_manifest(root.texts, shard)
    except ShardError as error:
        return set(), [(path, str(error))]
    parts = manifest["parts"]
    problems = [(path, what) for what in _manifest_problems(manifest, root.run)]
    try:
        slices: Mapping[int, Sequence[Clip]] = read_clips(
            root.latents, read_manifest(root.latents, shard), root.captions
        )
    except LatentmillError as error:
        return {part["path"] for part in parts}, [*problems, (path, str(error))]
    by_slice = {part["slice_index"]: part for part in parts}
    rejects = [reject_from_json(reject) for reject in manifest["rejects"]]
    for index, clips in slices.items():
        part = by_slice.pop(index, None)
        stored: list[StoredText] = []
        if part:
            stored, found = _check_part(root, part, manifest)
            problems += found
            if found:
                continue
        samples = {clip.sample_index for clip in clips}
        own = [reject for reject in rejects if reject.sample_index in samples]
        where = part["path"] if part else path
        problems += [(where, what) for what in differences(clips, stored, own)]
    problems += [(part["path"], "is of a slice without rows") for part in by_slice.values()]
    return {part["path"] for part in parts}, problems


def _manifest_problems(manifest: TextManifest, run: RunFile) -> Iterator[str]:
    if manifest["fingerprint"] != run["fingerprint"]:
        yield "its fingerprint is not that of run.json"
    if (rows := sum(part["rows"] for part in manifest["parts"])) != manifest["captions"]:
        yield f"says {manifest['captions']:,} captions, its parts have {rows:,}"


def _check_part(root: _Root, part: TextPartJson, manifest: TextManifest) -> tuple[list[StoredText], list[Problem]]:
    """The texts of a part, and what is wrong with it."""
    path = part["path"]
    try:
        with root.texts.open(path) as file:
            if sha256_of(file) != (part["sha256"], part["size_bytes"]):
                return [], [(path, "its sha256 is not the manifest's")]
            file.seek(0)
            footer = read_text_footer(file)
            problems = [(path, what) for what in part_problems(file, footer)]
    except FileNotFoundError:
        return [], [(path, "is named by a manifest but does not exist")]
    except ValueError as error:
        return [], [(path, str(error))]
    pairs: dict[str, tuple[Any, Any]] = {
        "fingerprint": (footer["fingerprint"], root.run["fingerprint"]),
        "shard": (footer["shard"], manifest["shard"]),
        "slice": (footer["slice_index"], part["slice_index"]),
    }
    for key, (found, expected) in pairs.items():
        if found != expected:
            problems.append((path, f"its footer says {key} {found}, not {expected}"))
    return texts_in(footer), problems


def _file_problems(root: _Root, path: str) -> Iterator[Problem]:
    """A part whose shard has no manifest yet, or the prompts of no row."""
    try:
        with root.texts.open(path) as file:
            footer = read_text_footer(file)
            if footer["fingerprint"] != root.run["fingerprint"]:
                yield path, "its fingerprint is not that of run.json"
            yield from ((path, what) for what in part_problems(file, footer))
    except FileNotFoundError:
        yield path, "does not exist: latentmill text makes it again"
    except ValueError as error:
        yield path, str(error)
