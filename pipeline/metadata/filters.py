"""Which samples are left out on purpose: by a condition on their JSON, or by what the video's header says.

It does not decode: the condition is decided before a decoder starts, the header before the first frame.
"""

import ast
import operator
from collections.abc import Callable
from typing import Any

from pipeline.errors import SampleError
from pipeline.metadata.fields import MISSING, field_at, read_json
from pipeline.records import FILTER_STAGE as STAGE
from pipeline.records import Reason, Sample, VideoHeader

COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
}
ALLOWED = "comparisons, in, and, or, not, numbers, texts in quotes, lists of these, and dotted names of JSON fields"


class MissingFieldError(LookupError):
    """A condition needs a field that the sample's JSON has not."""


def parse_condition(text: str) -> ast.expr:
    """The tree of a condition such as `aesthetic.score >= 5 and not nsfw`; ValueError where it is none.

    It is Python's grammar and never Python: nothing is called, imported or subscripted.
    """
    try:
        condition = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text!r} is no condition ({error}): it may hold {ALLOWED}") from None
    _check(condition)
    return condition


def _check(node: ast.expr) -> None:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None):
            return
        case ast.Name() | ast.Attribute() if _dotted(node):
            return
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float())):
            return
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            parts = [operand]
        case ast.BoolOp(values=parts) | ast.List(elts=parts):
            pass
        case ast.Compare(left=left, ops=ops, comparators=right) if all(type(op) in COMPARISONS for op in ops):
            parts = [left, *right]
        case _:
            raise ValueError(f"{ast.unparse(node)!r} cannot stand in a condition: it may hold {ALLOWED}")
    for part in parts:
        _check(part)


def _dotted(node: ast.expr) -> str:
    """`a.b.c` of a name; "" where a name is built on something else."""
    if isinstance(node, ast.Name):
        return node.id
    inner = _dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{inner}.{node.attr}" if inner and isinstance(node, ast.Attribute) else ""


def evaluate(node: ast.expr, tree: Any) -> Any:
    """The value of a checked condition over the JSON `tree`; `and` and `or` look no further than they must.

    Raises:
        MissingFieldError: it needs a field that is not there.
        TypeError: it compares what cannot be compared.
    """
    match node:
        case ast.Constant(value=value):
            return value
        case ast.List(elts=parts):
            return [evaluate(part, tree) for part in parts]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -evaluate(operand, tree)
        case ast.UnaryOp(operand=operand):
            return not evaluate(operand, tree)
        case ast.BoolOp(op=op, values=parts):
            holds = (bool(evaluate(part, tree)) for part in parts)
            return all(holds) if isinstance(op, ast.And) else any(holds)
        case ast.Compare(left=left, ops=ops, comparators=rest):
            return _compare(left, ops, rest, tree)
    value = field_at(tree, _dotted(node))
    if value is MISSING:
        raise MissingFieldError(_dotted(node))
    return value


def _compare(left: ast.expr, ops: list[ast.cmpop], rest: list[ast.expr], tree: Any) -> bool:
    value = evaluate(left, tree)
    for op, node in zip(ops, rest, strict=True):
        other = evaluate(node, tree)
        if not COMPARISONS[type(op)](value, other):
            return False
        value = other
    return True


def without_decoding(where: str | None, sample: Sample) -> Reason | None:
    """Why a sample can be, or is to be, left out before it is decoded."""
    try:
        check_metadata(where, sample.metadata)
    except SampleError as error:
        return error.why
    return Reason("read", *sample.problem) if sample.problem else None


def check_metadata(where: str | None, metadata: str) -> None:
    """Raises SampleError of stage `filter` where the sample's JSON does not meet the condition `where`."""
    if where is None:
        return
    try:
        if evaluate(parse_condition(where), read_json(metadata)):
            return
    except MissingFieldError as error:
        raise SampleError(STAGE, "missing_field", f"filter.where needs {error}, which the JSON has not") from None
    except TypeError as error:
        raise SampleError(STAGE, "not_comparable", f"filter.where: {error}") from None
    raise SampleError(STAGE, "where", f"not {where}")


def check_header(
    header: VideoHeader, min_seconds: float | None, min_short_side_px: int | None, min_fps: float | None
) -> None:
    """Raises SampleError of stage `filter` where a video is shorter, smaller or slower than asked for, if asked."""
    short_side_px = min(header.width_px, header.height_px)
    if min_seconds is not None and header.duration_seconds < min_seconds:
        raise SampleError(STAGE, "too_short", f"{header.duration_seconds:.3f} s, filter.min_seconds is {min_seconds:g}")
    if min_short_side_px is not None and short_side_px < min_short_side_px:
        what = f"{header.width_px}x{header.height_px} (width x height)"
        raise SampleError(STAGE, "too_small", f"{what}, filter.min_short_side_px is {min_short_side_px}")
    if min_fps is not None and header.mean_fps < min_fps:
        raise SampleError(STAGE, "fps_too_low", f"{header.mean_fps:.3f} frames a second, filter.min_fps is {min_fps:g}")
