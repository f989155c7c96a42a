"""Drawings in SVG, without any script: pure functions of numbers."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from pipeline.audit.report.elements import drawing, wide
from pipeline.monitor.words import duration, number

WIDTH = 720.0
LEFT = 76.0  # of the labels beside an axis
ROW = 14.0


def over_time(title: str, rates: Sequence[float], step_seconds: float) -> str:
    """An area of rates, one for each step of time."""
    height, bottom = 150.0, 120.0
    most = max(rates, default=0.0) or 1.0
    step = (WIDTH - LEFT) / max(len(rates), 1)
    tops = " ".join(
        f"{LEFT + step * at:.1f},{bottom - 100 * rate / most:.1f} {LEFT + step * (at + 1):.1f},"
        f"{bottom - 100 * rate / most:.1f}"
        for at, rate in enumerate(rates)
    )
    area = f'<polygon class="good" points="{LEFT:g},{bottom:g} {tops} {WIDTH:g},{bottom:g}"/>'
    labels = _text(LEFT - 6, 24, f"{number(most)}", "end") + _text(LEFT - 6, bottom, "0", "end")
    shapes = area + _axis(bottom) + labels + _times(step_seconds * len(rates), bottom + 18)
    return wide(drawing(title, WIDTH, height, shapes))


def strips(title: str, rates: Mapping[str, Sequence[float]], step_seconds: float) -> str:
    """A strip for each row, stronger in colour where its rate is higher."""
    most = max((rate for row in rates.values() for rate in row), default=0.0) or 1.0
    shapes, height = "", 0.0
    for name, row in rates.items():
        step = (WIDTH - LEFT) / max(len(row), 1)
        shapes += _text(LEFT - 6, height + 11, name, "end")
        shapes += "".join(
            f'<rect class="good" x="{LEFT + step * at:.1f}" y="{height:g}" width="{step:.2f}" height="{ROW - 2:g}" '
            f'fill-opacity="{rate / most:.2f}"/>'
            for at, rate in enumerate(row)
            if rate
        )
        height += ROW
    seconds = step_seconds * max(map(len, rates.values()), default=0)
    return wide(drawing(title, WIDTH, height + 20, shapes + _axis(height) + _times(seconds, height + 16)))


def flow(title: str, whole: tuple[str, int], parts: Sequence[tuple[str, int, str]]) -> str:
    """From one count on the left to those that it divides into: (name, count, kind) with kinds good, loss and left."""
    name, count = whole
    parts = [part for part in parts if part[1]]
    height, gap, begin, end = 160.0, 16.0, 150.0, 470.0
    shapes = f'<rect class="left" x="{begin - 12:g}" y="0" width="12" height="{height:g}"/>'
    shapes += _text(begin - 20, height / 2, f"{count:,} {name}", "end")
    top, right = 0.0, 0.0
    for label, amount, kind in parts:
        size = height * amount / max(count, 1)
        middle = (begin + end) / 2
        shapes += (
            f'<path class="{kind}" fill-opacity=".35" d="M{begin:g},{top:.1f} C{middle:g},{top:.1f} {middle:g},'
            f"{right:.1f} {end:g},{right:.1f} L{end:g},{right + size:.1f} C{middle:g},{right + size:.1f} {middle:g},"
            f'{top + size:.1f} {begin:g},{top + size:.1f} Z"/>'
            f'<rect class="{kind}" x="{end:g}" y="{right:.1f}" width="12" height="{max(size, 1):.1f}"/>'
        )
        shapes += _text(end + 20, right + max(size, 8) / 2 + 4, f"{amount:,} {label}")
        top, right = top + size, right + max(size, 1) + gap
    return wide(drawing(title, WIDTH, max(height, right) + 4, shapes))


def histogram(title: str, counts: Sequence[float], width: float = WIDTH, height: float = 90.0, ends: str = "") -> str:
    """Bars side by side; `ends` is written below them."""
    most = max(counts, default=0) or 1
    step = width / max(len(counts), 1)
    shapes = "".join(
        f'<rect class="good" x="{step * at:.2f}" y="{height * (1 - count / most):.2f}" width="{step * 0.9:.2f}" '
        f'height="{height * count / most:.2f}"/>'
        for at, count in enumerate(counts)
        if count
    )
    below = _text(0, height + 14, ends) if ends else ""
    return drawing(title, width, height + (18 if ends else 0), shapes + below)


def small_multiples(drawings: Iterable[tuple[str, str]]) -> str:
    """Small drawings in a grid, each with its caption."""
    cells = (f"<figure>{drawn}<figcaption>{escape(caption)}</figcaption></figure>" for caption, drawn in drawings)
    return f'<div class="tiles">{"".join(cells)}</div>'


def _axis(y: float) -> str:
    return f'<line class="axis" x1="{LEFT:g}" x2="{WIDTH:g}" y1="{y:g}" y2="{y:g}"/>'


def _times(seconds: float, y: float) -> str:
    return _text(LEFT, y, "0") + _text(WIDTH, y, duration(seconds), "end")


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
