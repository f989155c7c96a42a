"""The texts of an export: whether the target's models take them, and which captions were embedded."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.export.target import FAMILIES, TINY, Row, Target
from pipeline.errors import UserError
from pipeline.output.paths import TEXT_PARTS, text_names, text_path
from pipeline.output.run_file import find_run
from pipeline.storage.store import Store

CAPTION_COLUMNS = ["shard", "sample_index", "window_index", "caption_index", "caption"]


def check_text(source: Store, name: str | None, to: str, target: Target) -> str | None:
    """The fingerprint of the texts, None without any. Raises UserError where the target cannot train with them."""
    encoder = target.encoder["name"]
    if not target.takes_text and name and encoder != TINY:
        raise UserError(f"{to} embeds captions by a script of its own, which the export prints: leave out --text")
    if not name:
        if target.takes_text:
            there = ", ".join(text_names(source)) or "none yet"
            raise UserError(
                f"{to} trains with text embeddings: latentmill text makes them, --text names them ({there})"
            )
        return None
    run = find_run(Store(source.url(text_path(name))))
    if run is None:
        there = ", ".join(text_names(source)) or "none"
        raise UserError(f"--text {name}: {source.root} has no such texts, it has {there}: run latentmill text")
    rules = run["identity"]["text"]
    made_by, family = (rules.get("preset") or {}).get("name") or str(rules.get("pipeline")), FAMILIES.get(encoder, "")
    if not made_by.lower().startswith(family):
        raise UserError(
            f"--text {name} was embedded by the rules of {made_by}: models of {encoder} take those of {family}"
        )
    return run["fingerprint"]


def with_embedded_captions(rows: Iterable[Row], source: Store, name: str | None) -> Iterator[Row]:
    """The rows, each with the caption whose embedding the loader gives; with its own where no text is exported."""
    found = _embedded(source, name) if name else {}
    for row in rows:
        place = (row.shard, row.sample_index)
        caption = found.get((*place, row.window_index), found.get((*place, None)))
        yield row if caption is None else replace(row, caption=caption)


def _embedded(source: Store, name: str) -> dict[tuple[str, int, int | None], str]:
    """The first caption of each place in the texts of a name; the window None stands for all of a sample."""
    folder = f"{text_path(name)}/{TEXT_PARTS}"
    found: dict[tuple[str, int, int | None], tuple[int, str]] = {}
    for part in source.names(folder):
        with source.open(f"{folder}/{part}") as file:
            table: pa.Table = pq.read_table(file, columns=CAPTION_COLUMNS, partitioning=None)
        for *place, number, caption in zip(*(table[column].to_pylist() for column in CAPTION_COLUMNS), strict=True):
            key = (place[0], place[1], place[2])
            found[key] = min(found.get(key, (number, caption)), (number, caption))
    return {key: caption for key, (_, caption) in found.items()}
