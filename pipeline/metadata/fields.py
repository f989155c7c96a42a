"""Values in a sample's JSON, at dotted paths: captions, typed columns and spans."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from pipeline.records import Span

MISSING: Final = object()  # differs from None, which is JSON's null
COLUMN_PATTERN = re.compile(r"json:(?P<path>[^:\s]+?)(:(?P<type>string|float|int|bool))?")
LARGEST = {"int": 2**63, "float": 2**1023}

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


def read_json(text: str) -> Any:
    """The value of a JSON text; MISSING where the text is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return MISSING


def field_at(tree: Any, path: str) -> Any:
    """The value at a dotted path; MISSING where there is none."""
    for key in path.split("."):
        if not isinstance(tree, dict) or key not in tree:
            return MISSING
        tree = tree[key]
    return tree


def texts_of(value: Any) -> tuple[str, ...]:
    """A string, or each string of a list. Other values are written as JSON; null and MISSING are left out."""
    values = value if isinstance(value, list) else [value]
    return tuple(_as_text(one) for one in values if one is not None and one is not MISSING)


def printable(text: str) -> str:
    """The text with escapes for what UTF-8 cannot encode: names in another encoding, halves of surrogate pairs."""
    return text.encode("utf-8", "backslashreplace").decode()


def _as_text(value: Any) -> str:
    return printable(value) if isinstance(value, str) else json.dumps(value)


def column_values(metadata: str, columns: Mapping[str, Column]) -> dict[str, Value]:
    """The value of each column by its name; None where it is missing or not of the column's type."""
    tree = read_json(metadata) if columns else MISSING
    return {name: typed(field_at(tree, column.path), column.type) for name, column in columns.items()}


def typed(value: Any, type_: str) -> Value:
    """A JSON value as string, float, int or bool; None where the conversion would change it."""
    if value is None or value is MISSING:
        return None
    if type_ == "string":
        return _as_text(value)
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

    Raises:
        ValueError: they are missing, are not pairs of numbers, or are not ascending and disjoint.
    """
    pairs = field_at(read_json(metadata), path)
    if not isinstance(pairs, list) or not pairs:
        raise ValueError(f"no list of spans at {path} in the sample's JSON")
    spans = tuple(_span(pair, unit) for pair in pairs)
    for before, after in pairwise(spans):
        if after.begin < before.end:
            raise ValueError(f"{after} begins before {before} ends: spans must ascend and not overlap")
    return spans


def _span(pair: Any, unit: str) -> Span:
    numbers = isinstance(pair, list) and len(pair) == 2 and all(type(one) in (int, float) for one in pair)
    if not numbers or not 0 <= pair[0] < pair[1] < 2**53:
        raise ValueError(f"cannot read span {str(pair)[:100]}: write [BEGIN, END] in {unit}, with 0 <= BEGIN < END")
    return Span(pair[0], pair[1], unit)
