"""The texts of one finished shard from start to end in one process: read, embed, write, commit; an event per slice.

cluster/ runs it in an actor, as it runs latents/task.py; tests and debuggers run it as it is.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from encoder import TextEncoder
from pipeline.config.identity import fingerprint, run_name
from pipeline.config.load import Config
from pipeline.config.text import TextConfig
from pipeline.errors import TransientError, UserError
from pipeline.latents.background import Background
from pipeline.latents.helping import Claims, NoClaims, helping_order
from pipeline.latents.stopwatch import Stopwatch
from pipeline.monitor.events import Event, Progress, ShardDone, ShardRead, SliceDone
from pipeline.monitor.stages import ENCODE
from pipeline.output.manifests import read_manifest
from pipeline.output.paths import TEXT_PARTS, UNCOND_FILE, slice_of_file, text_part_path, text_path
from pipeline.records import ShardRef
from pipeline.storage.store import RetiringStore, Store
from pipeline.text.captions import Captions, Clip, Unit, captions_in_force, read_clips, units_of
from pipeline.text.load import load_text_encoder
from pipeline.text.manifests import TextSlice, commit_text_manifest, text_manifest
from pipeline.text.slices import Embedded, TextSliceWriter, adopt, write_uncond

GROUP_CAPTIONS = 64  # that are embedded at once, in batches by length: bounds the memory
GROUPS_BEHIND = 2  # groups and commits that may wait to be written, while the next group is embedded
LOOK_SECONDS = 0.5  # between looks at slices that another replica is at
Slices = Mapping[int, Sequence[Clip]]


@dataclass(frozen=True, slots=True)
class FinishedShard:
    """A shard whose latents are done; `url` is that of its index."""

    name: str
    url: str


@dataclass(frozen=True, slots=True)
class TextTask:
    """Makes the texts of shards with one encoder; several threads may each make a shard with it.

    `latents` is the root of the run, which is only read, `store` that of the texts. Once `draining` is set no slice is
    begun any more.
    """

    latents: Store
    store: Store
    encoder: TextEncoder
    captions: Captions
    description: Mapping[str, Any]
    claims: Claims = field(default_factory=NoClaims)
    draining: threading.Event = field(default_factory=threading.Event)
    _encoding: Any = field(default_factory=threading.Lock)  # a tokenizer serves one thread at a time

    def write_uncond(self, config: TextConfig) -> None:
        """Creates the embeddings of the empty and the negative prompts, unless they are there."""
        if not self.store.exists(UNCOND_FILE):
            write_uncond(self.store, self.description, self._embed(["", *config.negative]))

    def run(self, shard: ShardRef, watch: Stopwatch | None = None, place: int = 0) -> Iterator[Event]:
        """Makes what is missing of a shard and commits its manifest; `watch` adds up where the time goes.

        Raises:
            ShardError: the shard has no index, or parts of other captions or another configuration.
            TransientError: the node is being drained.
        """
        watch = watch or Stopwatch()
        slices = self._slices(shard)
        made: list[TextSlice] = []
        for event in self._made(shard, slices, self._whole(shard, slices, place), watch):
            if isinstance(event, TextSlice):
                made.append(event)
            else:
                yield event
        made.sort(key=lambda one: one.index)
        manifest = text_manifest(self.description, shard.name, made, self.captions.source, watch.seconds)
        commit_text_manifest(self.store, manifest)
        samples = len({clip.sample_index for clips in slices.values() for clip in clips})
        yield ShardDone(shard.name, samples, watch.seconds)

    def help(self, shard: ShardRef, place: int, watch: Stopwatch | None = None) -> Iterator[Event]:
        """Joins others who make the same shard: slices in an order of its own, then all of it as `run` does."""
        watch = watch or Stopwatch()
        slices = self._slices(shard)
        order = [sorted(slices)[number] for number in helping_order(len(slices), place)]
        for event in self._made(shard, slices, self._scattered(shard, order, place), watch):
            if not isinstance(event, TextSlice | ShardRead):
                yield event
        yield from self.run(shard, watch, place)

    def _slices(self, shard: ShardRef) -> Slices:
        return read_clips(self.latents, read_manifest(self.latents, shard.name), self.captions)

    def _whole(self, shard: ShardRef, slices: Slices, place: int) -> Iterator[tuple[int, bool]]:
        """(slice, whether it is there already), in order; those that others are at come last."""
        there, left = self._there(shard), []
        for index in slices:
            if index in there:
                yield index, True
            elif self.claims.take(shard.name, place, index) == "mine":
                yield index, False
            else:
                left.append(index)
        for index in left:
            while self.claims.take(shard.name, place, index) == "taken" and not self.draining.is_set():
                time.sleep(LOOK_SECONDS)
            yield index, self.store.exists(text_part_path(shard.name, index))

    def _scattered(self, shard: ShardRef, order: Sequence[int], place: int) -> Iterator[tuple[int, bool]]:
        """The slices that nobody is at or has committed."""
        there = self._there(shard)
        yield from (
            (index, False)
            for index in order
            if index not in there and self.claims.take(shard.name, place, index) == "mine"
        )

    def _there(self, shard: ShardRef) -> set[int]:
        """The slices of a shard that have a part; the name of another shard may begin with its own."""
        owners = filter(None, map(slice_of_file, self.store.names_from(TEXT_PARTS, f"{shard.name}-")))
        return {index for name, index in owners if name == shard.name}

    def _made(
        self, shard: ShardRef, slices: Slices, steps: Iterator[tuple[int, bool]], watch: Stopwatch
    ) -> Iterator[TextSlice | Event]:
        """Every slice as it is committed, with its event; in between, how many tokens were embedded."""
        with ExitStack() as writers, Background[TextSlice | None]("texts", GROUPS_BEHIND) as background:
            for index, is_there in steps:
                if self.draining.is_set():
                    raise TransientError("its node is being drained: what was whole is committed")
                if is_there:
                    found = adopt(self.store, self.description["fingerprint"], shard.name, index, slices[index])
                    yield from (found, _slice_done(shard.name, found, reused=True))
                    continue
                units, rejects = units_of(slices[index])
                writer = TextSliceWriter(self.store, self.description, shard.name, index, slices[index], rejects)
                writers.callback(writer.close)
                for tokens in self._embed_slice(units, writer, background, watch):
                    yield Progress(shard.name, 0, tokens)
                background.submit(partial(self._commit, writer, watch))
                yield from self._committed(shard, background.ready())
            yield ShardRead(shard.name)
            yield from self._committed(shard, background.drain())

    def _embed_slice(
        self,
        units: Sequence[Unit],
        writer: TextSliceWriter,
        background: "Background[TextSlice | None]",
        watch: Stopwatch,
    ) -> Iterator[int]:
        """Embeds the captions of a slice group by group; gives the tokens of each."""
        for group in _groups(units):
            captions = list(dict.fromkeys(caption for unit in group for caption in unit.captions))
            with watch(ENCODE):
                embedded = dict(zip(captions, self._embed(captions), strict=True))
            background.submit(partial(self._write, writer, group, embedded, watch))
            yield sum(one.rows for one in embedded.values())

    def _embed(self, captions: Sequence[str]) -> list[Embedded]:
        with self._encoding:
            encoded = self.encoder.encode(captions)
        pairs = zip(captions, encoded, strict=True)
        return [Embedded(caption, one.arrays, one.tokens, one.truncated) for caption, one in pairs]

    def _write(
        self, writer: TextSliceWriter, group: Sequence[Unit], embedded: Mapping[str, Embedded], watch: Stopwatch
    ) -> None:
        with watch("write"):
            for unit in group:
                writer.add(unit, [embedded[caption] for caption in unit.captions])

    def _commit(self, writer: TextSliceWriter, watch: Stopwatch) -> TextSlice:
        with watch("commit"):
            committed = writer.commit()
        writer.close()
        self.claims.made(writer.shard, writer.index)
        return committed

    def _committed(self, shard: ShardRef, results: Sequence[TextSlice | None]) -> Iterator[TextSlice | Event]:
        for made in results:
            if made is not None:
                yield made
                yield _slice_done(shard.name, made, reused=False)


def _groups(units: Sequence[Unit]) -> Iterator[list[Unit]]:
    """Units in order, in groups of as few as have GROUP_CAPTIONS captions."""
    group: list[Unit] = []
    for unit in units:
        group.append(unit)
        if sum(len(one.captions) for one in group) >= GROUP_CAPTIONS:
            yield group
            group = []
    if group:
        yield group


def _slice_done(shard: str, made: TextSlice, reused: bool) -> SliceDone:
    return SliceDone(
        shard=shard,
        slice_index=made.index,
        samples=0,
        rows=0,
        rejects=made.rejects,
        size_bytes=made.size_bytes,
        reused=reused,
        captions=made.captions,
    )


@dataclass(frozen=True, slots=True)
class TextJob:
    """What the replicas of one run over texts have in common: they are sent to where each of them runs."""

    config: Config
    name: str
    identity: dict[str, Any]
    decodes: bool = False

    @property
    def run(self) -> str:
        """The name of the run in logs and metrics."""
        return run_name(fingerprint(self.identity), f"{self.config.output.path.rstrip('/')}/{text_path(self.name)}")

    def task(self, device: str, claims: Claims, replicas: int) -> TextTask:
        """What a replica works with, its encoder on the device."""
        text = self.config.texts
        loaded = load_text_encoder(text, device)
        if any(self.identity["text"][key] != value for key, value in loaded.identity.items()):
            raise UserError(f"text.encoder: {text.encoder} holds another encoder here than at the driver")
        task = text_task(self.config, self.name, self.identity, loaded, claims)
        task.write_uncond(text)
        return task


def text_task(
    config: Config, name: str, identity: Mapping[str, Any], loaded: TextEncoder, claims: Claims | None = None
) -> TextTask:
    """Makes texts with a loaded encoder."""
    description = {
        "format_version": identity["format_version"],
        "fingerprint": fingerprint(identity),
        "text": identity["text"],
        "dtype": config.texts.dtype,
        "computed_by": loaded.computed_by,
    }
    latents = Store(config.output.path)
    store = RetiringStore(latents.url(text_path(name)))
    return TextTask(latents, store, loaded, captions_in_force(config.texts), description, claims or NoClaims())
