"""One stored clip for a person: its row and its statistics per channel."""

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.errors import UserError
from pipeline.output.parts import Footer, first_row, read_columns
from pipeline.output.paths import latent_files
from pipeline.output.schema import LATENTS
from pipeline.output.statistics import channels, statistics_of
from pipeline.records import FloatLatent
from pipeline.storage.store import Store

LISTED = ("id", "key", "window_index", "bucket", "file_name", "caption")
LATENT_COLUMNS = tuple(f"{name}_bytes" for name in LATENTS)


def find_clips(store: Store, name: str) -> list[dict[str, Any]]:
    """What LISTED says of every clip with this id or sample's key, also as KEY:WINDOW; by bucket and file.

    Raises:
        UserError: there is none.
    """
    found = []
    for path in latent_files(store):
        with store.open(path) as file:
            found += [row for row in read_columns(file, LISTED) if _is_named(row, name)]
    if not found:
        raise UserError(
            f"{store.root} holds no clip {name!r}: name an id, SHARD/KEY or SHARD/KEY:WINDOW, or a sample's key"
        )
    return [row for row in found if row["id"] == name] or found


def find_row(store: Store, name: str) -> tuple[dict[str, Any], Footer]:
    """The row of the one clip that `find_clips` finds, and its file's footer.

    Raises:
        UserError: there is none, or there are several.
    """
    ids = [row["id"] for row in find_clips(store, name)]
    if len(ids) > 1:
        raise UserError(f"{len(ids):,} clips match {name!r}: name one by its id, such as {ids[0]}")
    for path in latent_files(store):
        with store.open(path) as file:
            if found := first_row(file, lambda row: row["id"] == ids[0]):
                return found
    raise AssertionError(f"{ids[0]} was there")


def _is_named(row: Mapping[str, Any], name: str) -> bool:
    return name in (row["id"], row["key"], f"{row['key']}:{row['window_index']}")


def describing(row: Mapping[str, Any]) -> dict[str, str]:
    """The row's columns as text, without the latents themselves; long values are cut."""
    return {name: _short(value) for name, value in row.items() if name not in LATENT_COLUMNS}


def channel_lines(latent: FloatLatent) -> Iterable[tuple[float, float, float, float]]:
    """(mean, standard deviation, least, largest) of each channel of `c t h w`."""
    return channels(statistics_of(latent))


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]} ..."
