"""The documents say what is there: links, paths and tests that exist, commands and options that the parser takes."""

import ast
import re
import shlex
from argparse import SUPPRESS, ArgumentParser, _SubParsersAction
from functools import cache
from pathlib import Path

import pytest
from support.documents import DOCUMENTS, FENCE, command_lines
from support.paths import ROOT

from jobs.arguments import parse
from jobs.cli import build_parser
from jobs.examples import EXAMPLES

CURRENT = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]  # a changelog also names what is gone
FOLDERS = ("benchmarks", "configs", "docs", "encoder", "examples", "jobs", "pipeline", "tests")
README_LINES = 135


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(path: Path) -> str:
    return FENCE.sub("", path.read_text())


def inline_code(path: Path) -> list[str]:
    return re.findall(r"`([^`]+)`", prose(path))


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(path: Path) -> list[str]:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(path))
    return [link for link in links if "://" not in link and not _leads_somewhere(path, link)]


def _leads_somewhere(path: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = path.parent / name if name else path
    return target.exists() and (not anchor or anchor in anchors(target))


def missing_paths(path: Path) -> list[str]:
    """Paths, modules and names of source files in a document that this repository does not have."""
    words = inline_code(path)
    named = [word for word in words if re.fullmatch(rf"({'|'.join(FOLDERS)})/[\w./*-]*", word)]
    modules = [match[1] for word in words if (match := re.match(r"python -m (benchmarks\.\w+)", word))]
    files = [word for word in words if re.fullmatch(r"\w+\.(py|c|h)", word)]
    return [
        *(word for word in named if not any(ROOT.glob(word.rstrip("/")))),
        *(module for module in modules if not (ROOT / f"{module.replace('.', '/')}.py").exists()),
        *(word for word in files if word not in file_names()),
    ]


@cache
def file_names() -> set[str]:
    return {file.name for folder in FOLDERS for file in (ROOT / folder).rglob("*.*")}


def missing_from_docstring(path: Path) -> list[str]:
    """Source files that the docstring of a module names and this repository does not have."""
    text = path.read_text()
    return _missing_files(ast.get_docstring(ast.parse(text)) or "") if _missing_files(text) else []


def _missing_files(text: str) -> list[str]:
    return [name for name in re.findall(r"\w+\.(?:py|c|h)\b", text) if name not in file_names()]


def missing_tests(path: Path) -> list[str]:
    """Names of test files that do not exist, and `…parts…` of tests that the files named beside them do not have."""
    tests: dict[str, list[str]] = {}
    for file in (ROOT / "tests").rglob("test_*.py"):
        tests.setdefault(file.stem, []).extend(re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE))
    missing: list[str] = []
    for line in prose(path).splitlines():
        words = re.findall(r"`([^`]+)`", line)
        names = [word for word in words if re.fullmatch(r"test_\w+", word)]
        parts = [word.strip("…") for word in words if re.fullmatch(r"…\w+…?", word)]
        beside = [test for name in names for test in tests.get(name, ())]
        missing += [name for name in names if name not in tests]
        missing += [part for part in parts if not any(part in test for test in beside)]
    return missing


def parsers() -> dict[str, ArgumentParser]:
    """Every command by its whole name, such as `bench encoder`, with its parser."""
    return _below(build_parser(), "")


def _below(parser: ArgumentParser, name: str) -> dict[str, ArgumentParser]:
    groups = [action for action in parser._actions if isinstance(action, _SubParsersAction)]
    if not groups:
        return {name: parser}
    return {
        whole: leaf
        for word, child in groups[0].choices.items()
        for whole, leaf in _below(child, f"{name} {word}".strip()).items()
    }


def options_of(parser: ArgumentParser) -> set[str]:
    """The options that `--help` shows: a former name, which is refused with the new one, is not among them."""
    shown = [action for action in parser._actions if action.help != SUPPRESS]
    return {option for action in shown for option in action.option_strings if option.startswith("--")}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_no_link_between_documents_is_dead(path: Path) -> None:
    assert dead_links(path) == []


@pytest.mark.parametrize("path", CURRENT, ids=name_of)
def test_every_path_that_a_document_names_exists(path: Path) -> None:
    assert missing_paths(path) == []


def test_every_file_that_the_docstring_of_a_module_names_exists() -> None:
    modules = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    missing = {name_of(path): missing_from_docstring(path) for path in modules}
    assert {name: names for name, names in missing.items() if names} == {}


@pytest.mark.parametrize("path", CURRENT, ids=name_of)
def test_every_test_that_a_document_names_exists(path: Path) -> None:
    assert missing_tests(path) == []


def test_what_does_not_exist_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A\n[a](nowhere.md) [b](page.md#c) [d](#a)\n"
        "`pipeline/nowhere.py` `gone.py` `python -m benchmarks.gone` `test_gone` `…gone_too…`"
    )
    assert dead_links(page) == ["nowhere.md", "page.md#c"]
    assert missing_paths(page) == ["pipeline/nowhere.py", "benchmarks.gone", "gone.py"]
    assert missing_tests(page) == ["test_gone", "gone_too"]
    module = tmp_path / "module.py"
    module.write_text('"""It does not decode (gone.py, decode.py)."""\n')
    assert missing_from_docstring(module) == ["gone.py"]


@pytest.mark.parametrize("path", CURRENT, ids=name_of)
def test_every_command_in_a_document_is_one_that_the_parser_takes(path: Path) -> None:
    for line in command_lines(path):
        parse(build_parser(), shlex.split(line)[1:])


@pytest.mark.parametrize("name", parsers())
def test_the_help_of_a_command_ends_with_an_example_that_the_parser_takes(name: str) -> None:
    *_, head, example = parsers()[name].format_help().splitlines()
    assert (head, example) == ("example:", f"  {EXAMPLES[name]}")
    assert example.split()[: 1 + len(name.split())] == ["latentmill", *name.split()]
    parse(build_parser(), shlex.split(example)[1:])


def test_the_page_of_commands_names_each_command_with_all_its_options_and_no_other() -> None:
    _, *sections = re.split(r"^## latentmill ", (ROOT / "docs" / "commands.md").read_text(), flags=re.MULTILINE)
    written = {section.splitlines()[0]: set(re.findall(r"--[a-z][a-z-]*", section)) for section in sections}
    assert written == {name: options_of(parser) - {"--help"} for name, parser in parsers().items()}


def test_the_index_links_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / link).resolve() for link in re.findall(r"\]\(([^)#\s]+)\)", index.read_text())}
    assert set((ROOT / "docs").rglob("*.md")) - {index} <= linked


def test_the_readme_is_short_and_names_what_to_run_before_a_change() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= README_LINES
    assert "make test" in text
    assert "make check" in text
