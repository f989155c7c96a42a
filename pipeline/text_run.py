"""A run over the texts of a finished run: claims their root, embeds what is left, sums up.

It does not embed (text/task.py), talk to Ray (cluster.py) or print (jobs/).
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.audit.status import refresh_report
from pipeline.cluster.fleet import shards_left, within_limit
from pipeline.cluster.joining import connected
from pipeline.config.identity import FORMAT_VERSION, fingerprint
from pipeline.config.load import Config, apply_overrides, load_config, parse_config, recorded_config
from pipeline.config.text import NAME
from pipeline.errors import UserError
from pipeline.monitor.events import Event
from pipeline.output.paths import SUCCESS_FILE, UNCOND_FILE, done_shards, index_path, text_path
from pipeline.output.run_file import RunFile, check_run, claim_run, read_run
from pipeline.run import LIBRARIES, made_by_replicas, note_failure, public_config, versions_of
from pipeline.storage.store import Store
from pipeline.text.captions import captions_in_force, table_version
from pipeline.text.load import default_name, encoder_identity, text_identity
from pipeline.text.manifests import TextTotals, read_text_manifests, table_json, totals_of
from pipeline.text.task import FinishedShard, TextJob

TEXT_LIBRARIES = (*LIBRARIES, "transformers", "tokenizers", "ftfy", "diffusers")
CONFIG_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class PreparedTexts:
    """A checked configuration for texts: the shards whose latents are done, and which of them have their texts."""

    job: TextJob
    shards: tuple[FinishedShard, ...]
    done: frozenset[str]

    @property
    def config(self) -> Config:
        return self.job.config

    @property
    def store(self) -> Store:
        """The root of the texts."""
        return _texts_store(self.config, self.job.name)

    @property
    def left(self) -> tuple[Any, ...]:
        return shards_left(self.shards, self.done)


@dataclass(frozen=True, slots=True)
class TextOutcome:
    """How a run over texts ended. `latents_left`: the run whose rows these are is unfinished.

    `of_earlier_tables` counts the shards whose captions were read from another version of their table.
    """

    run: str
    totals: TextTotals
    failed: dict[str, str]
    left: int
    latents_left: bool
    of_earlier_tables: int
    within_limit: bool

    @property
    def exit_code(self) -> int:
        return 0 if not (self.left or self.latents_left) and self.within_limit else 1


def text_config(out: str, overrides: Sequence[str]) -> Config:
    """The configuration for texts: that of a YAML file, or what the run in `out` recorded; with overrides.

    `runtime` is not taken from a record: where the latents were made says nothing about where texts are.

    Raises:
        UserError: there is no run, or the configuration cannot work.
    """
    if out.endswith(CONFIG_SUFFIXES) and Path(out).is_file():
        return load_config(out, overrides)
    store = Store(out)
    recorded = recorded_config(read_run(store)).model_dump(mode="json", exclude={"runtime"})
    recorded["output"]["path"] = store.root
    return parse_config(apply_overrides(recorded, overrides))


def prepare_texts(config: Config, name: str | None = None) -> PreparedTexts:
    """Reads what identifies the encoder and lists shards; refuses what cannot work before any replica is started.

    Raises:
        UserError: the encoder, the captions or the root do not fit.
    """
    store = Store(config.output.path)
    run = read_run(store)
    of_encoder = encoder_identity(config.texts)
    name = name or default_name(config.texts, of_encoder)
    if not NAME.fullmatch(name):
        raise UserError(f"--name {name!r}: use letters, digits, . _ and -, beginning with a letter or digit")
    captions_in_force(config.texts)  # to refuse a table that cannot be used
    job = TextJob(config, name, text_identity(config.texts, of_encoder, run))
    check_run(_texts_store(config, name), job.identity, "--name")
    shards = tuple(FinishedShard(shard, store.url(index_path(shard))) for shard in sorted(done_shards(store)))
    texts = _texts_store(config, name)
    done = done_shards(texts)
    if not texts.exists(UNCOND_FILE):
        done -= {shard.name for shard in shards[:1]}  # whoever makes a shard makes that file first
    return PreparedTexts(job, shards, done)


def _texts_store(config: Config, name: str) -> Store:
    return Store(Store(config.output.path).url(text_path(name)))


def execute_texts(
    prepared: PreparedTexts,
    on_start: Callable[[int, int, str], None],
    on_event: Callable[[Event], None],
    check: Callable[[], None],
) -> TextOutcome:
    """Embeds the captions of every shard that is left; arguments as those of `execute`."""
    failed: dict[str, str] = {}
    store, config = prepared.store, prepared.config
    claim_run(store, _run_file(prepared), "--name")
    if prepared.left:
        with connected(config.runtime):
            for event in made_by_replicas(prepared.job, prepared.left, on_start, check):
                note_failure(failed, event)
                on_event(event)
    return conclude_texts(prepared, failed)


def _run_file(prepared: PreparedTexts) -> RunFile:
    return {
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint(prepared.job.identity),
        "identity": prepared.job.identity,
        "config": public_config(prepared.config),
        "versions": versions_of(TEXT_LIBRARIES),
        "created_unix_seconds": int(time.time()),
    }


def conclude_texts(prepared: PreparedTexts, failed: dict[str, str]) -> TextOutcome:
    """Sums up what stands in storage; writes the run's report again and, where all is done, _SUCCESS.json."""
    store, latents = prepared.store, Store(prepared.config.output.path)
    done = done_shards(store)
    names = [shard.name for shard in prepared.shards if shard.name in done]
    manifests = list(read_text_manifests(store, names))
    totals, table = totals_of(manifests), table_json(table_version(prepared.config.texts))
    outcome = TextOutcome(
        run=prepared.job.run,
        totals=totals,
        failed=failed,
        left=len(prepared.shards) - len(names),
        latents_left=not latents.exists(SUCCESS_FILE),
        of_earlier_tables=sum(manifest["table"] != table for manifest in manifests),
        within_limit=within_limit(
            totals["rejects"], totals["rejects"] + totals["captions"], prepared.config.limits.max_reject_fraction
        ),
    )
    if not outcome.left and not outcome.latents_left and store.exists(UNCOND_FILE):
        store.create(SUCCESS_FILE, json.dumps(totals, indent=1).encode())
    refresh_report(latents)
    return outcome
