"""The command `export`: a finished run as the files that a trainer reads."""

import argparse

from jobs.arguments import Subparsers, add_command, path_text
from jobs.console import Counting, say
from pipeline.dataset.export.target import NAMES
from pipeline.storage.store import Store


def add(subparsers: Subparsers) -> None:
    """Adds `export`."""
    text = "write a finished run as the files that a trainer reads; run it again to continue where it stopped"
    parser = add_command(subparsers, "export", export, text)
    parser.add_argument("out", help="the output.path of a run")
    parser.add_argument("--to", required=True, choices=NAMES, metavar="TARGET", help=f"one of: {', '.join(NAMES)}")
    parser.add_argument("into", metavar="dest", type=path_text, help="a folder or fsspec URL for the files")
    parser.add_argument("--text", metavar="NAME", help="the text embeddings below OUT/text/ that go with the latents")
    text = "only the rows of a table that latentmill select wrote"
    parser.add_argument("--select", type=path_text, metavar="FILE", help=text)
    parser.add_argument("--split", metavar="NAME", help="only this split of the selection, such as train")
    text = "the mean of each posterior, or a sample (default: what the target takes)"
    parser.add_argument("--posterior", choices=("mean", "sample"), help=text)


def export(chosen: argparse.Namespace) -> int:
    from pipeline.dataset.export.exporting import Wish, prepare_export

    wish = Wish(chosen.to, chosen.text, chosen.select, chosen.split, chosen.posterior)
    prepared = prepare_export(Store(chosen.out), Store(chosen.into), wish)
    prepared.run(Counting("rows are exported"))
    rows, shapes = len(prepared.table), prepared.shapes
    say(f"{rows:,} rows, {len(shapes):,} shapes: {prepared.into.root}; the trainer finds them by")
    for line in prepared.target.arguments(shapes, rows):
        say(f"  {line}")
    return 0
