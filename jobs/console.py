"""The terminal: plain lines and tables. The only file of jobs that imports rich."""

import time
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Column, Table

console = Console(soft_wrap=True)
SAY_SECONDS = 10.0


def say(text: str) -> None:
    """Prints text as it is, where rich would read brackets as markup and colour numbers."""
    console.print(text, markup=False, highlight=False)


def say_over(text: str) -> None:
    """Prints text in the place of what was printed so before; on a line of its own where there is no terminal."""
    if console.is_terminal:
        print(f"\r\x1b[2K{text}", end="", flush=True)
    else:
        say(text)


def say_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table with lines around its header."""
    console.print(_filled(Table(*headers), rows))


def say_columns(headers: Sequence[str], rows: Iterable[Sequence[str]], least_width: int = 0) -> None:
    """Prints columns without lines; `least_width` characters even where the terminal says that it has fewer."""
    columns = (Column(header, no_wrap=True) for header in headers)
    wide = Console(width=max(console.width, least_width))
    wide.print(_filled(Table(*columns, box=None, pad_edge=False), rows))


def _filled(table: Table, rows: Iterable[Sequence[str]]) -> Table:
    for row in rows:
        table.add_row(*row)
    return table


class Counting:
    """Says every few seconds how many of how many are done; `what` follows the numbers."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._say_at = time.monotonic() + SAY_SECONDS

    def __call__(self, done: int, of: int) -> None:
        if (now := time.monotonic()) >= self._say_at:
            self._say_at = now + SAY_SECONDS
            say(f"{done:,} of {of:,} {self._what}")
