"""Setting aside what must be made again: bad parts, or slices whose rejects deserve another try.

It makes nothing, and deletes only what killed writers left half-written: other files move below `set-aside/`, and the
next run makes what is missing.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipeline.audit.status import read_run
from pipeline.audit.summary import read_manifests
from pipeline.audit.verify import Problem
from pipeline.output.ledger import (
    MANIFESTS,
    SUCCESS_FILE,
    bucket_names,
    done_shards,
    manifest_path,
    part_path,
    rejects_path,
    segments_of,
    slice_of_file,
)
from pipeline.records import Reject
from pipeline.storage.local_files import TEMPORARY
from pipeline.storage.store import Store

SET_ASIDE = "set-aside"


def repair(store: Store, problems: Iterable[Problem]) -> list[str]:
    """Sets aside each bad file and the manifest of its shard. Returns the paths that were moved.

    Half-written files of killed writers are deleted.
    """
    bad = {problem.path for problem in problems}
    half_written = {path for path in bad if path.rpartition("/")[2].startswith(TEMPORARY)}
    for path in half_written:
        store.remove_left_behind(path)
    return set_aside(store, sorted({path for one in bad - half_written for path in _with_manifest(one)}))


def _with_manifest(path: str) -> Iterator[str]:
    yield path
    name = path.rpartition("/")[2]
    if (slice_ := slice_of_file(name)) and not path.startswith(f"{MANIFESTS}/"):
        yield manifest_path(slice_[0])


def retry_rejects(store: Store, stage: str | None, reason: str | None) -> tuple[int, list[str]]:
    """Sets aside every slice that holds a reject of this stage and reason (None: any), with its shard's manifest.

    Returns:
        How many rejects will be tried again, and the paths that were moved.

    Raises:
        UserError: the root is not that of a run.
    """
    identity = read_run(store)["identity"]
    part_samples, segments = identity["output"]["part_samples"], segments_of(identity)
    buckets = bucket_names(store)
    rejects, paths = 0, []
    for manifest in read_manifests(store, sorted(done_shards(store))):
        chosen = [reject for reject in manifest["rejects"] if _is_asked_for(reject, stage, reason)]
        rejects += len(chosen)
        shard = manifest["shard"]["name"]
        ranges = sorted({reject["sample_index"] // part_samples for reject in chosen})
        for number in (number * segments + segment for number in ranges for segment in range(segments)):
            paths += [rejects_path(shard, number), *(part_path(shard, number, bucket) for bucket in buckets)]
        paths += [manifest_path(shard)] if chosen else []
    return rejects, set_aside(store, paths)


def _is_asked_for(reject: Mapping[str, Any], stage: str | None, reason: str | None) -> bool:
    """Filtered samples were left out on purpose: they are tried again only where their stage or reason is named."""
    named = stage or reason
    chosen = stage in (None, reject["stage"]) and reason in (None, reject["reason"])
    return chosen and bool(named or not Reject.from_json(reject).is_filtered)


def set_aside(store: Store, paths: Iterable[str]) -> list[str]:
    """Moves those of `paths` that exist to `set-aside/TIME/`; manifests first, so that no kill leaves a false one."""
    there = [path for path in paths if store.exists(path)]
    if not there:
        return []
    if store.exists(SUCCESS_FILE):
        there.append(SUCCESS_FILE)
    folder = f"{SET_ASIDE}/{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**9:09d}"
    for path in sorted(there, key=lambda path: (path != SUCCESS_FILE, not path.startswith(f"{MANIFESTS}/"))):
        store.move(path, f"{folder}/{path}")
    return there
