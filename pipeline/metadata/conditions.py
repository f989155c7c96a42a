"""Conditions on a sample's JSON, as in `filter.where`: a small language, parsed and evaluated, never executed."""

import ast
import operator
from collections.abc import Callable
from typing import Any

from pipeline.metadata.fields import MISSING, field_at

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
ALLOWED = "comparisons, in, and, or, not, numbers, quoted strings, lists of these, and dotted names of JSON fields"


class MissingFieldError(LookupError):
    """A condition uses a field that is missing from the sample's JSON."""


def parse_condition(text: str) -> ast.expr:
    """The syntax tree of a condition such as `aesthetic.score >= 5 and not nsfw`.

    Only Python's grammar is used, never Python: nothing is called, imported or subscripted.

    Raises:
        ValueError: it is not a condition.
    """
    try:
        condition = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"cannot read condition {text!r} ({error}): it may contain {ALLOWED}") from None
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
            raise ValueError(f"{ast.unparse(node)!r} is not allowed in a condition: it may contain {ALLOWED}")
    for part in parts:
        _check(part)


def names_in(text: str) -> frozenset[str]:
    """The dotted names of JSON fields that a condition uses. Raises ValueError as `parse_condition`."""
    nodes = ast.walk(parse_condition(text))
    return frozenset(_dotted(node) for node in nodes if isinstance(node, ast.Name | ast.Attribute))


def _dotted(node: ast.expr) -> str:
    """`a.b.c` of a name; "" for an attribute of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    inner = _dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{inner}.{node.attr}" if inner and isinstance(node, ast.Attribute) else ""


def evaluate(node: ast.expr, tree: Any) -> Any:
    """The value of a parsed condition for the JSON `tree`; `and` and `or` stop as soon as they are decided.

    Raises:
        MissingFieldError: it uses a field that is missing.
        TypeError: it compares values that cannot be compared.
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
