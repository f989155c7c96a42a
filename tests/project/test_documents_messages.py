"""The messages that the page on troubleshooting quotes are those that the code prints."""

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest
from support.paths import ROOT

HOLE = "\x00"  # where a message has a value


def messages_of(tree: ast.AST) -> Iterator[str]:
    """Every text of a module, with holes for what is put in; texts that are joined by + are taken together."""
    for node in ast.walk(tree):
        text = _text(node)
        if text is not None:
            yield text


def _text(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) or HOLE for part in node.values)
    return None


@cache
def all_messages() -> tuple[str, ...]:
    files = (path for package in ("encoder", "pipeline", "jobs") for path in (ROOT / package).rglob("*.py"))
    return tuple(text for path in files for text in messages_of(ast.parse(path.read_text())))


def is_printed(quoted: str, messages: tuple[str, ...]) -> bool:
    """Whether one message has all pieces of the quoted one in order; `…` stands for anything."""
    pattern = re.compile(".*".join(map(re.escape, quoted.split("…"))), re.DOTALL)
    return any(pattern.search(message) for message in messages)


def quoted_messages() -> list[str]:
    rows = re.findall(r"^\| (.+?) \| .+ \| .+ \|$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    return [match[1] for first in rows if (match := re.fullmatch(r"`(.+)`", first))]


@pytest.mark.parametrize("quoted", quoted_messages())
def test_a_message_that_the_page_quotes_is_in_the_code(quoted: str) -> None:
    assert len(quoted.replace("…", "").strip(" :()")) >= 8, "enough to be found"
    assert is_printed(quoted, all_messages())


def test_a_message_that_nobody_prints_is_found() -> None:
    messages = tuple(messages_of(ast.parse('raise E(f"{name} is damaged ({error}): set it aside")')))
    assert is_printed("… is damaged (…): set it aside", messages)
    assert not is_printed("… is broken (…): set it aside", messages)


def test_the_page_has_messages_for_each_part_of_a_run() -> None:
    assert len(quoted_messages()) > 25
