"""The files of a whole run: run.json, gpu.json and _SUCCESS.json, each created once, and summary.json."""

import json
from collections.abc import Mapping
from typing import Any, TypedDict

from pipeline.config.identity import FORMAT_VERSION, differing_fields, fingerprint
from pipeline.errors import ConfigError, RunMismatchError, UserError
from pipeline.output.paths import GPU_FILE, RUN_FILE, SUCCESS_FILE, SUMMARY_FILE
from pipeline.output.statistics import StatisticsJson
from pipeline.storage.store import Store


class RunFile(TypedDict):
    """run.json: what makes the run's rows, and the configuration and library versions that began it."""

    format_version: int
    fingerprint: str
    identity: dict[str, Any]
    config: dict[str, Any]
    versions: dict[str, str]
    created_unix_seconds: int


class Totals(TypedDict):
    """The sums of some manifests."""

    shards: int
    samples: int
    samples_with_clips: int
    samples_rejected: int
    samples_filtered: int
    rows: int
    rejects: int
    ignored_files: int
    clips_without_caption: int
    convolutions_halved: int
    losses: dict[str, int]
    parts: int
    size_bytes: int
    rejects_by_reason: dict[str, int]
    filtered_by_reason: dict[str, int]
    rows_by_bucket: dict[str, int]
    seconds_by_stage: dict[str, float]
    encoder_busy_fraction: float | None
    latent_statistics: StatisticsJson
    parts_by_device: dict[str, int]


class Besides(TypedDict, total=False):
    """What the summary says of a run with a simulated encoder, and of one with text embeddings (totals by name)."""

    simulated: bool
    texts: dict[str, dict[str, Any]]


class Summary(Totals, Besides):
    """summary.json, and _SUCCESS.json where no shard is left."""

    shards_left: int
    shards_failed: dict[str, str]


def find_run(store: Store) -> RunFile | None:
    """The run.json of a root; None where no run began there. Raises UserError where it is of another format."""
    try:
        run: RunFile = json.loads(store.read(RUN_FILE))
    except (FileNotFoundError, NotADirectoryError):
        return None
    if (version := run.get("format_version", FORMAT_VERSION)) != FORMAT_VERSION:
        raise UserError(
            f"{store.root} is of format {version}, this version reads format {FORMAT_VERSION}: use a new output.path"
        )
    return run


def read_run(store: Store) -> RunFile:
    """The run.json of a root. Raises UserError where there is none."""
    run = find_run(store)
    if run is None:
        raise UserError(f"{store.root} is not the output of a run: it has no run.json")
    return run


def check_run(store: Store, identity: Mapping[str, Any], key: str = "output.path") -> None:
    """Raises RunMismatchError where a run with another identity began in this root, which `key` names."""
    run = find_run(store)
    if run and run["fingerprint"] != fingerprint(identity):
        fields = "; ".join(differing_fields(run["identity"], identity))
        raise RunMismatchError(f"{store.root} was begun with another configuration ({fields}): use a new {key}")


def claim_run(store: Store, run: RunFile, key: str = "output.path") -> None:
    """Creates run.json unless it exists, then checks that the one that exists has the same identity.

    Raises:
        UserError: it has another one, or the root cannot be written.
    """
    try:
        store.create(RUN_FILE, json.dumps(run, indent=1).encode())
    except OSError as error:
        raise ConfigError(f"output.path: {store.root} cannot be written: {error.strerror or error}") from None
    check_run(store, run["identity"], key)


def claim_gpu(store: Store, model: str) -> None:
    """Notes the GPU model of a run that must not mix several; run.json is written before any GPU is known.

    Raises:
        UserError: another model is noted.
    """
    if store.create(GPU_FILE, json.dumps({"model": model}).encode()):
        return
    noted = json.loads(store.read(GPU_FILE))["model"]
    if noted != model:
        raise UserError(
            f"runtime.mixed_gpus: a replica has a {model}, but this run began on a {noted}: give the run only GPUs "
            "of that model, or set runtime.mixed_gpus to allow"
        )


def write_summary(store: Store, summary: Summary) -> None:
    store.replace(SUMMARY_FILE, json.dumps(summary, indent=1).encode())


def create_success(store: Store, summary: Summary) -> None:
    """Marks the run as complete, unless it is marked already."""
    store.create(SUCCESS_FILE, json.dumps(summary, indent=1).encode())


def renew_success(store: Store) -> None:
    """Gives _SUCCESS.json, where it is, the totals of summary.json, which a removal has changed."""
    if store.exists(SUCCESS_FILE):
        store.replace(SUCCESS_FILE, store.read(SUMMARY_FILE))


def completed_shards(store: Store) -> int | None:
    """How many shards _SUCCESS.json counts; None where the run was never complete."""
    return int(json.loads(store.read(SUCCESS_FILE))["shards"]) if store.exists(SUCCESS_FILE) else None
