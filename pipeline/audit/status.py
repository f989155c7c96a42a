"""Where a run stands, read from its output root alone, while it goes on or later.

It does not talk to Ray and opens no part.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.audit.summary import parts_by_device, read_manifests
from pipeline.config.input import InputConfig
from pipeline.errors import UserError
from pipeline.input.listing import shards_of
from pipeline.output.ledger import REJECTS, RUN_FILE, bucket_names, bucket_path, done_shards, slice_of_file
from pipeline.storage.store import Store


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """One shard: `state` is done, running (some slices are committed) or left.

    `parts_by_device` says of a done one what computed its parts.
    """

    name: str
    state: str
    samples: int = 0
    rows: int = 0
    rejects: int = 0
    slices: int = 0
    parts_by_device: Mapping[str, int] = field(default_factory=dict)


def read_run(store: Store) -> dict[str, Any]:
    """run.json of a root. Raises UserError where there is none."""
    try:
        run: dict[str, Any] = json.loads(store.read(RUN_FILE))
    except FileNotFoundError:
        raise UserError(f"{store.root} is not the output of a run: it has no run.json") from None
    return run


def read_status(store: Store) -> list[ShardStatus]:
    """Every shard of the run, in the order of its inputs."""
    run = read_run(store)
    done = done_shards(store)
    names = _input_names(run)
    begun = committed_slices(store)
    names += sorted((done | begun.keys()) - set(names))
    manifests = {manifest["shard"]["name"]: manifest for manifest in read_manifests(store, done)}
    return [_status(name, manifests.get(name), len(begun.get(name, ()))) for name in names]


def _input_names(run: Mapping[str, Any]) -> list[str]:
    """The run's shards as its inputs list them now; none where they are gone, or another version named them."""
    try:
        return [shard.name for shard in shards_of(InputConfig.model_validate(run["config"]["input"]))]
    except ValueError:
        return []


def committed_slices(store: Store) -> dict[str, set[int]]:
    """Slices that have a part or a reject file, by shard."""
    files = [name for bucket in bucket_names(store) for name in store.names(bucket_path(bucket))]
    slices: dict[str, set[int]] = {}
    for shard, number in filter(None, map(slice_of_file, files + store.names(REJECTS))):
        slices.setdefault(shard, set()).add(number)
    return slices


def _status(name: str, manifest: Mapping[str, Any] | None, slices: int) -> ShardStatus:
    if manifest is None:
        return ShardStatus(name, "running" if slices else "left", slices=slices)
    rejects = len(manifest["rejects"]) - manifest["samples_filtered"]
    devices = parts_by_device(manifest)
    return ShardStatus(name, "done", manifest["samples"], manifest["rows"], rejects, slices, devices)
