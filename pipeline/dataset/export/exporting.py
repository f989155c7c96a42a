"""An export from start to end: checks that the target can train on these rows, then writes what is missing.

The order of rows is the loader's without shuffling, and each file has a name that follows from its rows alone. Files
are created once, in order, so that an export that was stopped goes on at the first one that is missing.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import groupby
from typing import IO, Any

import numpy as np
import pyarrow as pa
import torch

from pipeline.config.identity import differing_fields
from pipeline.dataset.export.automodel import Automodel
from pipeline.dataset.export.cogvideo import CogVideo
from pipeline.dataset.export.dfm import Dfm
from pipeline.dataset.export.fastvideo import FastVideo
from pipeline.dataset.export.finetrainers import Finetrainers
from pipeline.dataset.export.ltx import Ltx
from pipeline.dataset.export.musubi import Musubi
from pipeline.dataset.export.target import NAMES, Clip, Posterior, Row, Shape, Target
from pipeline.dataset.export.texts import check_text, with_embedded_captions
from pipeline.dataset.loader import Latents
from pipeline.dataset.select import read_index
from pipeline.errors import UserError
from pipeline.output.parts import Footer, read_footer
from pipeline.output.run_file import read_run
from pipeline.storage.store import Store

MakeTarget = Callable[[Mapping[str, Any], str, bool], Target]
KINDS: tuple[MakeTarget, ...] = (FastVideo, Finetrainers, CogVideo, Ltx, Musubi, Automodel, Dfm)
TARGETS = dict(zip(NAMES, KINDS, strict=True))
CLAIM = "export.json"  # what an export was begun with
NO_TEXT = torch.empty(1, 0, 0)
COLUMNS = [field.name for field in fields(Row) if field.name != "number"]


@dataclass(frozen=True, slots=True)
class Wish:
    """What a user asks for: the target, and which rows, texts and values of the posterior."""

    target: str
    text: str | None = None
    selection: str | None = None
    split: str | None = None
    posterior: Posterior | None = None


@dataclass(frozen=True)
class Export:
    """A checked export into `into`. `table` has the rows in their order, `latents` gives their tensors in the same."""

    source: Store
    into: Store
    target: Target
    wish: Wish
    table: pa.Table
    latents: Latents

    @cached_property
    def shapes(self) -> list[Shape]:
        names = [field.name for field in fields(Shape)]
        found = self.table.select(names).group_by(names).aggregate([]).to_pylist()
        return sorted(Shape(**values) for values in found)

    def rows(self, first: int = 0) -> Iterator[Row]:
        """The rows from one on."""
        number = first
        for batch in self.table.slice(first).to_batches(max_chunksize=10_000):
            for values in batch.to_pylist():
                yield Row(number, **values)
                number += 1

    @property
    def captioned_rows(self) -> Iterator[Row]:
        """The rows with the captions that were embedded, which are read when the first row is asked for."""
        return with_embedded_captions(self.rows(), self.source, self.wish.text)

    def done(self) -> int:
        """How many rows, from the first on, have their files."""
        there: dict[str, set[str]] = {}
        for path, rows in groupby(self.rows(), self.target.path):
            folder, _, name = path.rpartition("/")
            if folder not in there:
                there[folder] = set(self.into.names(folder))
            if name not in there[folder]:
                return next(rows).number
        return len(self.table)

    def run(self, progress: Callable[[int, int], None]) -> None:
        """Writes what is missing; `progress` is told how many of how many rows are done."""
        for path, clips in groupby(self._clips(self.done(), progress), lambda clip: self.target.path(clip.row)):
            self.target.write(path, clips, self._create)
        for path, data in self.target.lists(self.shapes, self.captioned_rows):
            self.into.replace(path, data)

    def _clips(self, first: int, progress: Callable[[int, int], None]) -> Iterator[Clip]:
        start = {"plan": self.latents.plan, "epoch": 0, "step": first, "batch": 0, "begun_at": first}
        self.latents.load_state_dict(start)
        for row, batch in zip(self.rows(first), self.latents, strict=True):
            if batch["id"][0] != row.id:
                raise UserError(f"{self.source.root} was changed while it was exported: run this again")
            text, mask = (batch.get(name, NO_TEXT)[0] for name in ("text_embedding", "text_mask"))
            yield Clip(row, batch["latent"][0], batch["caption"][0], text, mask)
            progress(row.number + 1, len(self.table))

    @contextmanager
    def _create(self, path: str) -> Iterator[IO[bytes]]:
        """A file to write, which appears under its name once it is whole."""
        with tempfile.NamedTemporaryFile(prefix="latentmill-export-") as file:
            yield file
            file.flush()
            self.into.create_from(path, file.name)


def prepare_export(source: Store, into: Store, wish: Wish) -> Export:
    """Checks everything before a file is written.

    Raises:
        UserError: this is not a run, the target cannot train on what is asked for, or another export is in `into`.
    """
    run, rows = read_run(source), read_index(source, COLUMNS)
    footer = _footer(source, str(rows["part"][0]))
    encoder = footer["encoder"]
    target = TARGETS[wish.target](encoder, into.root.rstrip("/"), wish.text is not None)
    if encoder["name"] not in target.encoders:
        known = ", ".join(sorted(target.encoders))
        raise UserError(f"{wish.target} has no model for latents of {encoder['name']}: it trains on those of {known}")
    if target.scale and not encoder.get("scaling"):
        raise UserError(f"{wish.target} takes scaled latents, and these weights did not say how: use the loader")
    posterior = _posterior(wish, target, footer["posterior"])
    texts = check_text(source, wish.text, wish.target, target)
    latents = _latents(source, wish, posterior, target)
    order = np.concatenate([rows for _, rows in latents.steps(0)])
    export = Export(source, into, target, wish, _decoded(rows.take(order)), latents)
    if refusal := target.refusal(export.shapes, export.captioned_rows):
        raise UserError(refusal)
    _claim(
        into,
        {
            "target": wish.target,
            "latents": run["fingerprint"],
            "text": texts,
            "posterior": posterior,
            "rows": latents.plan["rows"],
            "index": latents.plan["index"],
        },
    )
    return export


def _footer(source: Store, part: str) -> Footer:
    with source.open(part) as file:
        return read_footer(file)


def _posterior(wish: Wish, target: Target, stored: str) -> Posterior:
    """What is exported of the posterior. Raises UserError where the target does not take it, or it is not stored."""
    if wish.posterior and wish.posterior not in target.posteriors:
        raise UserError(f"{wish.target} takes {', '.join(target.posteriors)}: leave out --posterior {wish.posterior}")
    chosen = wish.posterior or target.posteriors[0]
    if stored not in (chosen, "moments"):
        others = [other for other in target.posteriors if other == stored]
        remedy = f"use --posterior {stored}" if others else "make them with output.posterior=moments"
        raise UserError(f"{wish.target} takes {chosen}, and the rows hold {stored}: {remedy}")
    return chosen


def _latents(source: Store, wish: Wish, posterior: Posterior, target: Target) -> Latents:
    try:
        return Latents(
            source.root,
            batch=1,
            step_batches=1,
            shuffle=False,
            split=wish.split,
            selection=wish.selection,
            text=wish.text,
            posterior=posterior,
            scale=target.scale,
        )
    except (ValueError, FileNotFoundError) as error:
        raise UserError(str(error)) from None


def _decoded(table: pa.Table) -> pa.Table:
    """Its columns as plain strings, where they are dictionaries."""
    plain = [
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in table.schema
    ]
    return table.cast(pa.schema(plain))


def _claim(into: Store, identity: Mapping[str, Any]) -> None:
    """Marks a folder as that of this export. Raises UserError where it is that of another one."""
    try:
        if into.create(CLAIM, json.dumps(identity, indent=1).encode()):
            return
    except OSError as error:
        raise UserError(f"{into.root} cannot be written: {error.strerror or error}") from None
    if differing := differing_fields(json.loads(into.read(CLAIM)), identity):
        raise UserError(f"{into.root} holds another export ({'; '.join(differing)}): use a new folder")
