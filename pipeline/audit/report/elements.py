"""Elements of the page. Every text that comes in is escaped here, and nowhere else."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

NONE = '<p class="note">none</p>'
BAR_REM = 14.0


def section(title: str, *content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(content)}</section>"


def paragraph(text: str, kind: str = "") -> str:
    return f"<p{_class(kind)}>{escape(text)}</p>"


def note(text: str) -> str:
    return paragraph(text, "note")


def code(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def folded(title: str, content: str) -> str:
    """What is shown when it is clicked."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def beside(*content: str) -> str:
    """Next to each other where there is room."""
    return f'<div class="side">{"".join(f"<div>{one}</div>" for one in content if one)}</div>'


def titled(title: str, content: str) -> str:
    return f"<h3>{escape(title)}</h3>{content}"


def tiles(values: Mapping[str, str]) -> str:
    """A few figures, large."""
    cells = (f'<div class="tile"><b>{escape(value)}</b>{escape(name)}</div>' for name, value in values.items())
    return f'<div class="tiles">{"".join(cells)}</div>'


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], numbers: frozenset[int] = frozenset()) -> str:
    """A table of texts; columns in `numbers` stand right. Scrolls sideways where it is too wide."""
    head = "".join(f"<th>{escape(name)}</th>" for name in headers)
    body = "".join(f"<tr>{''.join(_cell(text, at in numbers) for at, text in enumerate(row))}</tr>" for row in rows)
    top = f"<tr>{head}</tr>" if any(headers) else ""
    return wide(f"<table>{top}{body}</table>") if body else NONE


def _cell(text: str, is_number: bool) -> str:
    return f'<td class="number">{escape(text)}</td>' if is_number else f"<td>{escape(text)}</td>"


def facts(values: Mapping[str, Any]) -> str:
    """Names and what they are."""
    rows = ((name, f"{value:,}" if isinstance(value, int) else str(value)) for name, value in values.items())
    return table(("", ""), rows)


def bars(values: Mapping[str, float]) -> str:
    """A bar for each value, with its number."""
    if not values:
        return NONE
    largest = max(values.values()) or 1
    rows = (
        f'<tr><td>{escape(name)}</td><td class="number">{value:,}</td>'
        f'<td><span class="bar" style="width:{BAR_REM * value / largest:.2f}rem"></span></td></tr>'
        for name, value in values.items()
    )
    return wide(f"<table>{''.join(rows)}</table>")


def drawing(title: str, width: float, height: float, shapes: str) -> str:
    """An SVG drawing of so many units, whose `title` is what a reader of the screen says."""
    box = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    return f'<svg {box} role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>{shapes}</svg>'


def wide(content: str) -> str:
    """Scrolls sideways on a narrow screen instead of shrinking."""
    return f'<div class="wide">{content}</div>'


def picture(jpeg: bytes, caption: str) -> str:
    data = base64.b64encode(jpeg).decode()
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
