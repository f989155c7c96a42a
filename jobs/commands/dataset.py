"""The commands `index`, `card`, `select` and `remove`: a finished run as training data."""

import argparse
from collections import Counter

from jobs.arguments import Subparsers, add_command, path_text
from jobs.console import say
from pipeline.audit.status import refresh_report
from pipeline.errors import UserError
from pipeline.output.paths import CARD_FILE, done_shards
from pipeline.output.run_file import read_run, renew_success
from pipeline.storage.store import Store


def add(subparsers: Subparsers) -> None:
    """Adds `index`, `card`, `select` and `remove`."""
    of_index = add_command(subparsers, "index", index, "make the index of each finished shard again, from its parts")
    of_card = add_command(subparsers, "card", card, "write README.md, the dataset card, and statistics.json again")
    of_select = add_command(subparsers, "select", select, "write a small table of the rows wanted, for the loader")
    of_remove = add_command(subparsers, "remove", remove, "take rows out for good, or finish a stopped removal")
    of_remove.add_argument("--where", metavar="CONDITION", help="a condition over the columns of the index")
    text = "a file with an id, a SHARD/KEY or a sample's key on each line"
    of_remove.add_argument("--keys", type=path_text, metavar="FILE", help=text)
    of_remove.add_argument("--reason", default="", metavar="TEXT", help="why, for the accounts; needed with rows")
    for parser in (of_index, of_card, of_select, of_remove):
        parser.add_argument("out", help="the output.path of a run")
    text = "a condition over the columns of the index and of joined tables, such as 'num_frames >= 49 and score > 5'"
    of_select.add_argument("--where", metavar="CONDITION", help=text)
    text = "a table (.parquet, .csv, .tsv, .jsonl) whose columns stand beside those of the index; may be repeated"
    of_select.add_argument("--join", action="append", default=[], type=path_text, metavar="TABLE", help=text)
    of_select.add_argument("--on", default="id", metavar="COLUMN", help="the column that both have (default: id)")
    text = "a split and its share of the samples; the rest is train; may be repeated"
    of_select.add_argument("--split", action="append", default=[], type=_split, metavar="NAME=FRACTION", help=text)
    of_select.add_argument("--out", dest="table", required=True, type=path_text, metavar="FILE", help="a .parquet file")


def _split(text: str) -> tuple[str, float]:
    name, _, fraction = text.partition("=")
    try:
        return name, float(fraction)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=FRACTION, as in val=0.01") from None


def index(chosen: argparse.Namespace) -> int:
    from pipeline.output.index import write_index
    from pipeline.output.manifests import read_manifests

    store = Store(chosen.out)
    read_run(store)
    shards = sorted(done_shards(store))
    for manifest in read_manifests(store, shards):
        write_index(store, manifest)
    say(f"{len(shards):,} shards are indexed")
    return 0


def card(chosen: argparse.Namespace) -> int:
    from pipeline.dataset.card import describe_dataset
    from pipeline.output.manifests import read_manifests

    store = Store(chosen.out)
    describe_dataset(store, read_run(store), list(read_manifests(store, sorted(done_shards(store)))))
    say(store.url(CARD_FILE))
    return 0


def select(chosen: argparse.Namespace) -> int:
    from pipeline.dataset import select as selection

    store = Store(chosen.out)
    read_run(store)
    rows = selection.read_index(store)
    every = len(rows)
    for table in chosen.join:
        rows = selection.joined(rows, selection.read_table(table), chosen.on)
    if chosen.where:
        rows = selection.chosen(rows, chosen.where)
    if not len(rows):
        raise UserError(f"none of {every:,} rows meets the condition")
    splits = selection.split_of(rows, dict(chosen.split)) if chosen.split else None
    selection.write_selection(rows, splits, chosen.table)
    found = Counter([] if splits is None else splits.to_pylist())
    counts = "".join(f", {name}: {count:,}" for name, count in sorted(found.items()))
    say(f"{len(rows):,} of {every:,} rows selected{counts}: {chosen.table}")
    return 0


def remove(chosen: argparse.Namespace) -> int:
    from pipeline.dataset import remove as removal
    from pipeline.dataset.select import chosen as meeting
    from pipeline.dataset.select import read_index
    from pipeline.storage.files import read_url

    store = Store(chosen.out)
    read_run(store)
    if (chosen.where or chosen.keys) and not chosen.reason:
        raise UserError("--reason is missing: say why these rows are removed")
    if chosen.where or chosen.keys:
        rows = read_index(store)
        if chosen.keys:
            rows = removal.rows_named(rows, set(read_url(chosen.keys).decode().split("\n")) - {""})
        if chosen.where:
            rows = meeting(rows, chosen.where)
        removal.deny(store, rows, chosen.reason)
        say(f"{len(rows):,} rows are removed")
    changed = removal.finish_removals(store)
    say(f"{len(changed):,} shards are changed")
    refresh_report(store)
    renew_success(store)
    return card(chosen)
