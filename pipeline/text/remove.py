"""Takes the texts of removed rows out of every root of text embeddings, with accounts that add up."""

import io
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pipeline.output.manifests import Place
from pipeline.output.parts import read_rows, sha256_of
from pipeline.output.paths import manifest_path, text_names, text_part_path, text_path
from pipeline.storage.store import Store
from pipeline.text.manifests import TextManifest, TextPartJson, read_text_manifest
from pipeline.text.parts import TextFooter, TextPartWriter, TextRow, arrays_in, read_text_footer


def remove_texts(
    latents: Store, shard: str, slices: Sequence[int], denied: Collection[Place], left: Collection[int]
) -> None:
    """Takes out of slices the texts of denied rows; one for all windows of a sample goes with its last window.

    Args:
        left: the samples that still have a row.
    """
    paths = [text_part_path(shard, index) for index in slices]
    for name in text_names(latents):
        store = Store(latents.url(text_path(name)))
        for path in filter(store.exists, paths):
            _rewrite(store, path, denied, left)
        if store.exists(manifest_path(shard)):
            _note(store, shard, paths)


def _is_kept(sample: int, window: int | None, denied: Collection[Place], left: Collection[int]) -> bool:
    return sample in left if window is None else (sample, window) not in denied


def _rewrite(store: Store, path: str, denied: Collection[Place], left: Collection[int]) -> None:
    with store.open(path) as file:
        footer = read_text_footer(file)
    kept = [row for row in footer["rows"] if _is_kept(row[0], row[1], denied, left)]
    if not kept:
        store.delete(path)
    elif kept != footer["rows"]:
        store.replace(path, _with_rows(store, path, footer, kept))


def _with_rows(store: Store, path: str, footer: TextFooter, kept: Sequence[Any]) -> bytes:
    """The part with only these rows."""
    scratch = io.BytesIO()
    writer = TextPartWriter(scratch)
    with store.open(path) as file:
        for row in read_rows(file):
            if [row["sample_index"], row["window_index"], row["caption_index"], row["caption_sha256"]] in kept:
                writer.add(_row(row))
    writer.close(footer)
    return scratch.getvalue()


def _row(values: Mapping[str, Any]) -> TextRow:
    arrays = {
        name: {what: values[f"{name}_{what}"] for what in ("shape", "dtype", "bytes")} for name in arrays_in([*values])
    }
    place = (values["shard"], values["sample_index"], values["window_index"], values["caption_index"])
    return TextRow(place, values["caption"], values["tokens"], values["truncated"], arrays)


def _note(store: Store, shard: str, paths: Collection[str]) -> None:
    """The manifest of a shard with what some of its parts now are."""
    before = read_text_manifest(store, shard)
    there = [part for part in before["parts"] if part["path"] not in paths or store.exists(part["path"])]
    footers = [_footer(store, part["path"]) for part in there]
    parts = [
        _part(store, part, footer) if part["path"] in paths else part
        for part, footer in zip(there, footers, strict=True)
    ]
    new: TextManifest = {
        **before,
        "captions": sum(part["rows"] for part in parts),
        "tokens": sum(footer["tokens"] for footer in footers),
        "truncated": sum(footer["truncated"] for footer in footers),
        "parts": parts,
    }
    store.replace(manifest_path(shard), json.dumps(new, indent=1).encode())


def _part(store: Store, old: TextPartJson, footer: TextFooter) -> TextPartJson:
    with store.open(old["path"]) as file:
        digest, size_bytes = sha256_of(file)
    return {**old, "rows": len(footer["rows"]), "size_bytes": size_bytes, "sha256": digest}


def _footer(store: Store, path: str) -> TextFooter:
    with store.open(path) as file:
        return read_text_footer(file)
