"""The terminal: plain lines and tables. The only file of jobs that imports rich."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.table import Column, Table
from rich.text import Text

console = Console(soft_wrap=True)
SAY_SECONDS = 10.0
MOST_COLUMNS, LEAST_LINES, LINES_BELOW = 160, 10, 2  # of a picture
Pixels = Any  # an array; commands compute nothing with it


def say(text: str) -> None:
    """Prints text as it is, where rich would read brackets as markup and colour numbers."""
    console.print(text, markup=False, highlight=False)


def say_over(text: str) -> None:
    """Prints text in the place of what was printed so before; on a line of its own where there is no terminal."""
    if console.is_terminal:
        print(f"\r\x1b[2K{text[: console.width - 1]}", end="", flush=True)  # a line that wraps would stay
    else:
        say(text)


def say_above(text: str) -> None:
    """Prints a line that stays, above what `say_over` prints next."""
    if console.is_terminal:
        print("\r\x1b[2K", end="")
    say(text)


def draws_colours() -> bool:
    return console.is_terminal and console.color_system is not None


def say_picture(draw: Callable[[int, int], Pixels]) -> None:
    """Prints what `draw` gives for a width and a height in pixels: `h w 3` up to 255. A character shows two pixels."""
    rows = draw(min(console.width, MOST_COLUMNS), 2 * max(console.height - LINES_BELOW, LEAST_LINES))
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        cells = (Style(color=_colour(above), bgcolor=_colour(below)) for above, below in zip(upper, lower, strict=True))
        console.print(Text.assemble(*(("\u2580", cell) for cell in cells)))


def _colour(pixel: Sequence[int]) -> Color:
    red, green, blue = map(int, pixel)
    return Color.from_rgb(red, green, blue)


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
