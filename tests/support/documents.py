"""The documents of the project, and what stands in their blocks of code."""

import re
from collections.abc import Collection
from pathlib import Path

from support.paths import ROOT

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)


def code_blocks(path: Path, language: str) -> list[str]:
    return [text for known, text in FENCE.findall(path.read_text()) if known == language]


def command_lines(path: Path) -> list[str]:
    """Each command of ours in a document, on one line without its comment."""
    texts = [re.sub(r"\\\n\s*", "", text) for text in code_blocks(path, "sh")]
    lines = [line.split(" #")[0].strip() for text in texts for line in text.splitlines()]
    return [line for line in lines if line.startswith("latentmill ")]


def commands_of(names: Collection[str]) -> list[str]:
    """The commands of ours with some names in all documents, each once."""
    found = dict.fromkeys(line for path in DOCUMENTS for line in command_lines(path))
    return [line for line in found if line.split()[1] in names]
