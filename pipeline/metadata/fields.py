"""Values in a sample's JSON, at dotted paths: captions, typed columns and spans."""

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from pipeline.metadata.text import printable
from pipeline.records import Span

MISSING: Final = object()  # differs from None, which is JSON's null
COLUMN_PATTERN = re.compile(r"json:(?P<path>[^:\s]+?)(:(?P<type>string|float|int|bool))?")
LARGEST = {"int": 2**63, "float": 2**1023}
ELEMENTS = "[]"  # after a key of a path: each element of the list there
PYTHON_WORDS = {"True": True, "False": False}  # as pandas writes them
CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)")

Value = str | float | int | bool | None


@dataclass(frozen=True, slots=True)
class Column:
    """A column that the user asks for: the dotted path of its values, and their type."""

    path: str
    type: str


def parse_column(text: str) -> Column:
    """Reads `json:PATH:TYPE`; TYPE is string by default. Raises ValueError where the text is something else."""
    match = COLUMN_PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(
            f"cannot read column {text!r}: write json:PATH or json:PATH:TYPE, with TYPE string, float, int or bool"
        )
    return Column(match["path"], match["type"] or "string")


class Number(float):
    """A number of a JSON text that knows how it was written: as a text, 1.10 differs from 1.1."""

    def __new__(cls, written: str) -> "Number":
        number = super().__new__(cls, written)
        number.written = written
        return number

    written: str

    def __str__(self) -> str:
        return self.written


def read_json(text: str) -> Any:
    """The value of a JSON text; MISSING where the text is not JSON."""
    try:
        return json.loads(text, parse_float=Number)
    except (ValueError, RecursionError):
        return MISSING


def read_cell(text: str) -> Any:
    """What a text holds where a value is asked for: JSON or a literal as Python prints it, else the text itself."""
    if text in PYTHON_WORDS:
        return PYTHON_WORDS[text]
    try:
        value = json.loads(text, parse_constant=str, parse_float=Number)
    except (ValueError, RecursionError):
        value = _read_literal(text)
    return text if isinstance(value, str) else value


def _read_literal(text: str) -> Any:
    """A list, tuple or dictionary as Python prints it; any other text as it is."""
    if not text.lstrip().startswith(("[", "(", "{")):
        return text
    try:
        value = ast.literal_eval(text.strip())
        return json.loads(json.dumps(value))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return text


def field_at(tree: Any, path: str) -> Any:
    """The value at a dotted path; MISSING where there is none.

    `captions[].text` is the list of the texts of all elements of `captions`. A text on the way, as in the cell of a
    table, is read as JSON or as a Python literal.
    """
    tree = _opened(tree)
    if not isinstance(tree, dict):
        return MISSING
    if path in tree:  # also a key that contains a dot, as columns of tables may
        return tree[path]
    key, _, rest = path.partition(".")
    if key.endswith(ELEMENTS):
        return _fields_of_each(tree.get(key.removesuffix(ELEMENTS), MISSING), rest)
    return field_at(tree[key], rest) if rest and key in tree else MISSING


def _fields_of_each(elements: Any, path: str) -> Any:
    elements = _opened(elements)
    if not isinstance(elements, list):
        return MISSING
    found = [field_at(element, path) if path else element for element in elements]
    inner = path.endswith(ELEMENTS) or f"{ELEMENTS}." in path
    flat = [one for value in found for one in (value if inner and isinstance(value, list) else [value])]
    return [value for value in flat if value is not MISSING]


def _opened(value: Any) -> Any:
    return read_cell(value) if isinstance(value, str) else value


def root_of(path: str) -> str:
    """The first key of a path: the column of a table."""
    return path.partition(".")[0].removesuffix(ELEMENTS)


def texts_of(value: Any, null: str | None = None) -> tuple[str, ...]:
    """A string, or each string of a list. Other values are written as JSON; MISSING is left out.

    Args:
        null: what stands for null in a list; None leaves it out.
    """
    values = [null if one is None else one for one in value] if isinstance(value, list) else [value]
    return tuple(_written(one) for one in values if one is not None and one is not MISSING)


def _written(value: Any) -> str:
    return str(value) if isinstance(value, str | Number) else json.dumps(value)


def column_values(metadata: str, columns: Mapping[str, Column]) -> dict[str, Value]:
    """The value of each column by its name; None where it is missing or not of the column's type."""
    tree = read_json(metadata) if columns else MISSING
    return {name: typed(field_at(tree, column.path), column.type) for name, column in columns.items()}


def typed(value: Any, type_: str) -> Value:
    """A JSON value as string, float, int or bool; None where the conversion would change it."""
    if value is None or value is MISSING:
        return None
    if type_ == "string":
        return printable(_written(value))
    if isinstance(value, bool) or type_ == "bool":
        return value if isinstance(value, bool) and type_ == "bool" else None
    if not isinstance(value, int | float):
        return None
    if not abs(value) < LARGEST[type_]:  # also true of NaN
        return None
    if type_ == "int":
        return int(value) if value == int(value) else None
    return float(value)


def spans_at(metadata: str, path: str, unit: str) -> tuple[Span, ...]:
    """The spans that a JSON text lists at a path, as in `[[0, 2.5], [2.5, 7]]`.

    Times may be written as clocks show them, and the list as a text: `"['0:00:00.000', '0:00:05.005']"` is one span.

    Raises:
        ValueError: they are missing, are not pairs of numbers, or are not ascending and disjoint.
    """
    pairs = _opened(field_at(read_json(metadata), path))
    if not isinstance(pairs, list) or not pairs:
        raise ValueError(f"no list of spans at {path} in the sample's JSON")
    if all(isinstance(one, str) for one in pairs):
        pairs = [pairs]
    spans = tuple(_span(pair, unit) for pair in pairs)
    for before, after in pairwise(spans):
        if after.begin < before.end:
            raise ValueError(f"{after} begins before {before} ends: spans must ascend and not overlap")
    return spans


def _span(pair: Any, unit: str) -> Span:
    ends = [_seconds(one) if unit == "seconds" else one for one in pair] if isinstance(pair, list) else []
    numbers = len(ends) == 2 and all(isinstance(one, int | float) and not isinstance(one, bool) for one in ends)
    if not numbers or not 0 <= ends[0] < ends[1] < 2**53:
        clock = ", or clock times such as 0:00:05.005" if unit == "seconds" else ""
        raise ValueError(
            f"cannot read span {str(pair)[:100]}: write [BEGIN, END] in {unit}{clock}, with 0 <= BEGIN < END"
        )
    begin, end = (one if isinstance(one, int) else float(one) for one in ends)
    return Span(begin, end, unit)


def _seconds(value: Any) -> Any:
    """The seconds of a clock time such as 1:02:03.5; anything else as it is."""
    match = CLOCK.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return value
    hours, minutes, seconds = match.groups()
    return 3600 * int(hours or 0) + 60 * int(minutes) + float(seconds.replace(",", "."))
