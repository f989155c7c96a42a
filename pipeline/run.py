"""A run from configuration to outcome: claims the root, makes what is left, sums up.

It does not make latents (task.py), talk to Ray (cluster.py) or print (jobs/).
"""

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

from encoder import AUTO
from pipeline.audit.history_file import kept_history
from pipeline.audit.summary import write_report
from pipeline.clips.plan import check_clip_config, check_segments
from pipeline.cluster.cluster import Cluster
from pipeline.cluster.convolutions import measure_convolutions
from pipeline.cluster.fleet import WorkQueue, shards_left, within_limit
from pipeline.cluster.joining import connected
from pipeline.cluster.replica import Job, LatentsJob
from pipeline.config.identity import FORMAT_VERSION, fingerprint, identity, run_name
from pipeline.config.load import Config
from pipeline.config.text import OF_PIPELINE
from pipeline.dataset.card import describe_dataset
from pipeline.input.listing import shards_of
from pipeline.latents.load import load_encoder, load_to_look_at
from pipeline.monitor.events import Event, ShardFailed
from pipeline.output.manifests import read_manifests
from pipeline.output.paths import done_shards
from pipeline.output.run_file import RunFile, Summary, check_run, claim_run, create_success, find_run, read_run
from pipeline.output.schema import check_columns
from pipeline.records import ShardRef
from pipeline.storage.store import Store
from pipeline.storage.urls import public_url

if TYPE_CHECKING:  # torch takes seconds: what is refused before weights are read is refused without it
    from encoder.video_encoder import VideoEncoder

LIBRARIES = ("latentmill", "torch", "ray", "decord2", "av", "pyarrow", "webdataset", "fsspec", "numpy", "pillow")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked configuration: its shards, which of them are done, and what makes its latents.

    `tunable` names the convolutions that `encoder.convolutions: auto` chooses algorithms for.
    """

    config: Config
    shards: tuple[ShardRef, ...]
    done: frozenset[str]
    identity: dict[str, Any]
    tunable: tuple[str, ...]

    @property
    def left(self) -> tuple[ShardRef, ...]:
        return shards_left(self.shards, self.done)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. `failed` names the shards given up, with the last error of each."""

    run: str
    summary: Summary
    failed: dict[str, str]
    left: int
    within_limit: bool

    @property
    def exit_code(self) -> int:
        return 0 if not self.left and self.within_limit else 1


def prepare(config: Config) -> Prepared:
    """Reads weights and lists shards; refuses what cannot work before any replica is started. Raises as `examine`."""
    return examine(config)[0]


def examine(config: Config, probing: bool = False) -> "tuple[Prepared, VideoEncoder]":
    """As `prepare`, with the encoder that was loaded for it: as a replica would, where its speed is to be probed.

    Raises:
        UserError: configuration, weights, shards or the output root do not fit.
    """
    shards = shards_of(config.input)
    check_columns(config.input.columns)
    if config.runtime.logs is not None:
        Store(config.runtime.logs)  # which refuses what is no URL
    store = Store(config.output.path)
    loaded = load_encoder(config.encoder, device="auto") if probing else load_to_look_at(config.encoder)
    check_clip_config(config.clip, loaded.spec)
    check_segments(config.clip, loaded.receptive_field)
    config = as_noted(config, store) if loaded.tunable else with_convolutions(config, {})
    values = identity(config, loaded.weights_sha256)
    check_run(store, values)
    return Prepared(config, shards, done_shards(store), values, loaded.tunable), loaded


def with_convolutions(config: Config, choice: Mapping[str, str]) -> Config:
    """The configuration with `choice` for `encoder.convolutions: auto`; one that says something else as it is."""
    if config.encoder.convolutions != AUTO:
        return config
    return config.replaced({"encoder.convolutions": dict(choice)})


def as_noted(config: Config, store: Store) -> Config:
    """The configuration with what the root's run.json notes for `auto`; as it is where there is none."""
    run = find_run(store)
    noted = run["identity"].get("encoder", {}).get("convolutions", AUTO) if run else AUTO
    return with_convolutions(config, noted) if isinstance(noted, dict) else config


def claim_root(store: Store, prepared: Prepared) -> None:
    """Creates run.json unless it exists. Raises as `claim_run`."""
    run: RunFile = {
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint(prepared.identity),
        "identity": prepared.identity,
        "config": public_config(prepared.config),
        "versions": versions_of(LIBRARIES),
        "created_unix_seconds": int(time.time()),
    }
    claim_run(store, run)


def public_config(config: Config) -> dict[str, Any]:
    """The resolved configuration without what URLs may hide."""
    values: dict[str, Any] = config.model_dump(mode="json")
    values["input"]["shards"] = [_public_pattern(pattern) for pattern in config.input.shards]
    if config.input.table is not None:
        values["input"]["table"]["files"] = [_public_pattern(pattern) for pattern in config.input.table.files]
    values["output"]["path"] = public_url(config.output.path)
    if config.runtime.logs is not None:
        values["runtime"]["logs"] = public_url(config.runtime.logs)
    if "://" in config.encoder.weights:
        values["encoder"]["weights"] = public_url(config.encoder.weights)
    if (text := config.text) is not None:
        values["text"]["encoder"] = f"{OF_PIPELINE if text.of_pipeline else ''}{public_url(text.location)}"
        values["text"]["captions"] = public_url(text.captions) if text.captions else None
    return values


def _public_pattern(pattern: str) -> str:
    return f"@{public_url(pattern[1:])}" if pattern.startswith("@") else public_url(pattern)


def versions_of(libraries: Iterable[str]) -> dict[str, str]:
    """The versions of Python and of libraries, here."""
    return {"python": platform.python_version()} | {name: _version(name) for name in libraries}


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "unknown"


def execute(
    prepared: Prepared,
    on_start: Callable[[int, int, str], None],
    on_event: Callable[[Event], None],
    check: Callable[[], None],
) -> Outcome:
    """Makes every shard that is left, then writes summary, report and, where nothing is left, _SUCCESS.json.

    Args:
        on_start: called with the number of replicas that have a place, how many are wanted, and the run's name.
        on_event: called with every event.
        check: called several times a second; what it raises ends the run, which the next one resumes.
    """
    store = Store(prepared.config.output.path)
    failed: dict[str, str] = {}
    measures = prepared.config.encoder.convolutions == AUTO
    claims_later = prepared.left and (measures or prepared.config.runtime.address is not None)
    if not claims_later:
        claim_root(store, prepared)  # a root that cannot be written is said before Ray takes its seconds
    if prepared.left:
        with connected(prepared.config.runtime):
            if measures:
                prepared = _measured(prepared, store, on_event, check)
            if claims_later:
                claim_root(store, prepared)
            job = LatentsJob(prepared.config, prepared.identity["encoder"]["weights_sha256"])
            with kept_history(store, check) as (history, checked):
                for event in made_by_replicas(job, prepared.left, on_start, checked):
                    note_failure(failed, event)
                    history.add(event)
                    on_event(event)
    return conclude(prepared, store, failed)


def _measured(
    prepared: Prepared, store: Store, on_event: Callable[[Event], None], check: Callable[[], None]
) -> Prepared:
    """With what `auto` comes to for convolutions, unless another driver has noted it in the meantime."""
    config = prepared.config
    choice = measure_convolutions(config, prepared.tunable, on_event, check)
    config = with_convolutions(as_noted(config, store), choice)
    return replace(prepared, config=config, identity=identity(config, prepared.identity["encoder"]["weights_sha256"]))


def made_by_replicas(
    job: Job, left: Iterable[ShardRef], on_start: Callable[[int, int, str], None], check: Callable[[], None]
) -> Iterator[Event]:
    """Has the replicas of a job make every shard that is left, on the connected Ray."""
    queue = WorkQueue(job.config.limits.max_attempts)
    queue.extend(left)
    cluster = Cluster(job, queue)
    try:
        held = cluster.place(check)
        on_start(held, cluster.replicas, job.run)
        yield from cluster.run(check)
    finally:
        cluster.stop()


def note_failure(failed: dict[str, str], event: Event) -> None:
    """Keeps the last error of each shard that was given up."""
    if isinstance(event, ShardFailed) and event.final:
        failed[event.shard] = event.error


def conclude(prepared: Prepared, store: Store, failed: Mapping[str, str]) -> Outcome:
    """Sums up what stands in storage; writes summary.json, report.html and, where all is done, _SUCCESS.json."""
    done = done_shards(store)
    manifests = list(read_manifests(store, [shard.name for shard in prepared.shards if shard.name in done]))
    left = len(shards_left(prepared.shards, done))
    run = read_run(store)
    summary = write_report(store, run, manifests, left, failed)
    describe_dataset(store, run, manifests)
    outcome = Outcome(
        run=run_name(run["fingerprint"], prepared.config.output.path),
        summary=summary,
        failed=dict(failed),
        left=left,
        within_limit=within_limit(
            summary["samples_rejected"], summary["samples"], prepared.config.limits.max_reject_fraction
        ),
    )
    if not outcome.left:
        create_success(store, summary)
    return outcome
