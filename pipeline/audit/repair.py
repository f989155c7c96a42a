"""Setting aside what must be made again: bad parts, or slices whose rejects should be retried.

Files move below `set-aside/`, and the next run makes what is missing. Only half-written files of killed writers are
deleted.
"""

import time
from collections.abc import Iterable, Iterator

from pipeline.audit.verify import Problem
from pipeline.output.accounts import RejectJson, reject_from_json, slice_numbers
from pipeline.output.manifests import read_manifests
from pipeline.output.paths import (
    MANIFESTS,
    REMOVED,
    SET_ASIDE,
    SUCCESS_FILE,
    bucket_names,
    done_shards,
    file_name,
    index_path,
    manifest_path,
    part_path,
    rejects_path,
    slice_of_file,
    text_names,
    text_part_path,
    text_path,
    text_root,
)
from pipeline.output.run_file import read_run
from pipeline.storage.local_files import TEMPORARY
from pipeline.storage.store import Store


def repair(store: Store, problems: Iterable[Problem]) -> list[str]:
    """Sets aside each bad file and the manifest of its shard. Returns the paths that were moved.

    Half-written files of killed writers are deleted.
    """
    bad = {problem.path for problem in problems if not problem.path.startswith(f"{REMOVED}/")}  # remove ends those
    half_written = {path for path in bad if file_name(path).startswith(TEMPORARY)}
    for path in half_written:
        store.remove_left_behind(path)
    return set_aside(store, sorted({path for one in bad - half_written for path in _with_manifest(one)}))


def _with_manifest(path: str) -> Iterator[str]:
    yield path
    root = text_root(path)
    if (owner := slice_of_file(path)) and f"{MANIFESTS}/" not in path:
        yield f"{root}{manifest_path(owner[0])}"
        yield from () if root else (index_path(owner[0]),)


def retry_rejects(store: Store, stage: str | None, reason: str | None) -> tuple[int, list[str]]:
    """Sets aside every slice that holds a reject of this stage and reason (None: any), with its shard's manifest.

    Its texts go with it, as it may get rows that have none.

    Returns:
        How many rejects will be tried again, and the paths that were moved.

    Raises:
        UserError: no run began in this root.
    """
    numbers, buckets, texts = slice_numbers(read_run(store)["identity"]), bucket_names(store), text_names(store)
    rejects, paths = 0, []
    for manifest in read_manifests(store, sorted(done_shards(store))):
        chosen = [reject for reject in manifest["rejects"] if _is_chosen(reject, stage, reason)]
        rejects += len(chosen)
        shard = manifest["shard"]["name"]
        for slice_index in sorted({index for reject in chosen for index in numbers.slices(reject["sample_index"])}):
            paths += [rejects_path(shard, slice_index), *(part_path(shard, slice_index, name) for name in buckets)]
            paths += [f"{text_path(name)}/{text_part_path(shard, slice_index)}" for name in texts]
        paths += [manifest_path(shard), index_path(shard)] if chosen else []
        paths += [f"{text_path(name)}/{manifest_path(shard)}" for name in texts] if chosen else []
    return rejects, set_aside(store, paths)


def _is_chosen(reject: RejectJson, stage: str | None, reason: str | None) -> bool:
    """Filtered samples were left out on purpose: they are chosen only where their stage or reason is named."""
    named = stage or reason
    chosen = stage in (None, reject["stage"]) and reason in (None, reject["reason"])
    one = reject_from_json(reject)
    return chosen and not one.is_removed and bool(named or not one.is_filtered)


def set_aside(store: Store, paths: Iterable[str]) -> list[str]:
    """Moves those of `paths` that exist to `set-aside/TIME/`.

    Manifests go first, so that a kill in between leaves none that names a missing part.
    """
    found = [path for path in paths if store.exists(path)]
    if not found:
        return []
    marks = {f"{text_root(path)}{SUCCESS_FILE}" for path in found}
    found += [mark for mark in marks if mark not in found and store.exists(mark)]
    folder = f"{SET_ASIDE}/{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**9:09d}"
    for path in sorted(found, key=lambda path: (file_name(path) != SUCCESS_FILE, f"{MANIFESTS}/" not in path)):
        store.move(path, f"{folder}/{path}")
    return found
