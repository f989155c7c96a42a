"""The pages on format and architecture name every column, key and room that there is."""

import re

from support.paths import ROOT

from pipeline.output.accounts import RejectJson
from pipeline.output.manifests import Manifest, PartJson
from pipeline.output.parts import Footer
from pipeline.output.schema import schema

STAGES = ("read", "probe", "clip", "decode", "encode", "write")


def rows_of(text: str) -> list[list[str]]:
    """The cells of every row of the tables in a page."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def section(heading: str) -> str:
    text = (ROOT / "docs" / "format.md").read_text()
    return text.split(f"## {heading}\n")[1].split("\n## ")[0]


def names_in(cells: list[list[str]]) -> set[str]:
    return {name for first, *_ in cells for name in re.findall(r"`(\w+)`", first)}


def test_the_page_on_format_has_the_columns_of_a_part_with_their_types_in_order() -> None:
    columns = schema("moments", image_latent=True, continuous=True)
    written = [(cells[0].strip("`"), cells[1]) for cells in rows_of(section("Rows")) if cells[0].startswith("`")]
    assert written == [(column.name, str(column.type).replace("item: ", "")) for column in columns]


def test_the_page_on_format_has_the_keys_of_a_manifest() -> None:
    assert names_in(rows_of(section("Manifest"))) == Manifest.__required_keys__ | Manifest.__optional_keys__


def test_the_page_on_format_has_the_keys_of_each_part_and_reject_of_a_manifest() -> None:
    meanings = {cells[0].strip("`"): cells[1] for cells in rows_of(section("Manifest"))}
    for key, entry in (("parts", PartJson), ("rejects", RejectJson)):
        assert entry.__required_keys__ | entry.__optional_keys__ <= set(re.findall(r"`(\w+)`", meanings[key]))


def test_the_page_on_format_has_the_keys_of_a_footer() -> None:
    assert names_in(rows_of(section("Footer"))) == Footer.__required_keys__ | Footer.__optional_keys__


def test_the_page_on_format_has_every_reason_that_the_code_gives_beside_its_stage() -> None:
    pair = re.compile(rf'"({"|".join(STAGES)})",\s*"([a-z_]+)",')
    given = {found for path in (ROOT / "pipeline").rglob("*.py") for found in pair.findall(path.read_text())}
    written = {(cells[0].strip("`"), cells[1].strip("`")) for cells in rows_of(section("Reasons of rejects"))}
    assert given
    assert given <= written


def test_the_page_on_architecture_names_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    folders = {path.parent for package in ("encoder", "pipeline", "jobs") for path in (ROOT / package).rglob("*.py")}
    assert [str(folder) for folder in folders if f"`{folder.relative_to(ROOT)}/" not in text] == []
