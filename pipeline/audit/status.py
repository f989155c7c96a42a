"""The progress of a run, read from its output root alone, during the run or later."""

import itertools
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

from pipeline.audit.history_file import read_history
from pipeline.audit.report.data import LATENTS_ALONE, Pictures
from pipeline.audit.summary import write_report
from pipeline.config.input import InputConfig
from pipeline.input.listing import shards_of
from pipeline.monitor.live import LiveJson, is_fresh
from pipeline.output.manifests import Manifest, parts_by_device, read_manifests, reject_count
from pipeline.output.paths import done_shards, latent_files, reject_files, slice_of_file, text_names, text_path
from pipeline.output.run_file import RunFile, Summary, read_run
from pipeline.storage.store import Store
from pipeline.text.manifests import TextTotals, read_text_manifests, totals_of


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """One shard: `state` is done, running (some slices are committed) or left.

    `parts_by_device` says of a done one what computed its parts, `seconds` where the time of its replica went.
    """

    name: str
    state: str
    samples: int = 0
    rows: int = 0
    rejects: int = 0
    slices: int = 0
    parts_by_device: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


def read_status(store: Store, known: Iterable[ShardStatus] = ()) -> list[ShardStatus]:
    """Every shard of the run, in the order of its inputs. Raises UserError where no run began.

    The manifests of shards that are done in `known`, an earlier look at the same run, are not read again.
    """
    done, begun = done_shards(store), committed_slices(store)
    names = _names(read_run(store), done | begun.keys())
    found = {shard.name: shard for shard in known if shard.state == "done" and shard.name in done}
    for manifest in read_manifests(store, done - found.keys()):
        name = manifest["shard"]["name"]
        found[name] = _done(manifest, len(begun.get(name, ())))
    return [found.get(name) or _unfinished(name, len(begun.get(name, ()))) for name in names]


def read_live(store: Store, at_unix_seconds: float) -> list[LiveJson]:
    """What runs that go on say of themselves; and of the last run, even if it has said nothing for long."""
    histories = read_history(store)
    unended = [(one["live"], one is histories[-1]) for one in histories if not one.get("ended_unix_seconds", 1)]
    return [live for live, is_last in unended if is_last or is_fresh(live, at_unix_seconds)]


def _names(run: RunFile, there: Set[str]) -> list[str]:
    """The shards of a run in the order of its inputs, then those that are there though no input lists them."""
    names = _input_names(run)
    return names + sorted(there - set(names))


def _input_names(run: RunFile) -> list[str]:
    """The run's shards as its inputs list them now; none where the inputs are gone, or their rules have changed."""
    try:
        return [shard.name for shard in shards_of(InputConfig.model_validate(run["config"]["input"]))]
    except ValueError:
        return []


def committed_slices(store: Store) -> dict[str, set[int]]:
    """Slices that have a part or a reject file, by shard."""
    slices: dict[str, set[int]] = {}
    for shard, number in filter(None, map(slice_of_file, itertools.chain(latent_files(store), reject_files(store)))):
        slices.setdefault(shard, set()).add(number)
    return slices


def _unfinished(name: str, slices: int) -> ShardStatus:
    return ShardStatus(name, "running" if slices else "left", slices=slices)


def _done(manifest: Manifest, slices: int) -> ShardStatus:
    rejects, devices = reject_count(manifest), parts_by_device(manifest["parts"])
    counts = (manifest["samples"], manifest["rows"], rejects, slices)
    return ShardStatus(manifest["shard"]["name"], "done", *counts, devices, manifest["seconds"])


@dataclass(frozen=True, slots=True)
class TextStatus:
    """Text embeddings of one name: the totals of the shards that have theirs, and how many others have latents."""

    name: str
    totals: TextTotals
    left: int


def read_text_status(store: Store) -> list[TextStatus]:
    """How far each text embedding of the run is."""
    of_latents, found = done_shards(store), []
    for name in text_names(store):
        texts = Store(store.url(text_path(name)))
        done = done_shards(texts) & of_latents
        found.append(TextStatus(name, totals_of(read_text_manifests(texts, sorted(done))), len(of_latents - done)))
    return found


def refresh_report(store: Store, pictures: Pictures = LATENTS_ALONE) -> Summary:
    """Writes summary.json and report.html of a run anew, from what stands in storage."""
    run, done = read_run(store), done_shards(store)
    names = _names(run, done | committed_slices(store).keys())
    finished = [name for name in names if name in done]
    return write_report(store, run, read_manifests(store, finished), len(names) - len(finished), {}, pictures)
