"""A root as a run leaves it verifies; whatever is changed in it afterwards is found, in the file where it is."""

import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.makers import DEVICE, WIDE, WIDE_BUCKET, commit_run, commit_shard, fill_slice, made_ledger, made_row
from support.runs import output_files

from jobs.cli import main
from jobs.commands import verify as verify_command
from pipeline.audit.verify import Verified, verify
from pipeline.errors import UserError
from pipeline.output.manifests import removed_path, write_removed
from pipeline.output.parts import FOOTER_KEY
from pipeline.output.paths import bucket_path, manifest_path, part_path
from pipeline.storage.store import Store

URL = "/data/videos.tar"
PART = part_path("videos", 2, WIDE_BUCKET)  # samples 6 and 7
MANIFEST = manifest_path("videos")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root as a run leaves it."""
    folder = tmp_path_factory.mktemp("sound") / "out"
    commit_shard(commit_run(folder, [URL]), "videos", URL)
    return folder


@pytest.fixture
def root(sound: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(sound, tmp_path / "out"))


def problems(root: Path) -> list[tuple[str, str]]:
    return [(problem.path, problem.what) for problem in verify(Store(str(root)), Verified())]


def edit_manifest(root: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((root / MANIFEST).read_text())
    edit(manifest)
    (root / MANIFEST).write_text(json.dumps(manifest))


def replace_part(root: Path, content: bytes) -> None:
    """Another content of the part, which the manifest agrees with."""
    (root / PART).write_bytes(content)

    def agree(manifest: dict[str, Any]) -> None:
        (part,) = (part for part in manifest["parts"] if part["path"] == PART)
        part |= {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}

    edit_manifest(root, agree)


def edit_table(root: Path, edit: Callable[[pa.Table], pa.Table]) -> None:
    footer = {FOOTER_KEY: pq.read_metadata(root / PART).metadata[FOOTER_KEY]}
    table = pq.read_table(root / PART, partitioning=None).replace_schema_metadata(footer)
    sink = io.BytesIO()
    pq.write_table(edit(table), sink)
    replace_part(root, sink.getvalue())


def edit_cell(root: Path, column: str, edit: Callable[[Any], Any]) -> None:
    """Changes a column in the first row of the part."""

    def edited(table: pa.Table) -> pa.Table:
        values = table[column].to_pylist()
        values[0] = edit(values[0])
        at = table.column_names.index(column)
        return table.set_column(at, table.field(at), pa.array(values, table.field(at).type))

    edit_table(root, edited)


def edit_footer(root: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    def edited(table: pa.Table) -> pa.Table:
        footer = json.loads(table.schema.metadata[FOOTER_KEY])
        edit(footer)
        return table.replace_schema_metadata({FOOTER_KEY: json.dumps(footer)})

    edit_table(root, edited)


def test_a_root_as_a_run_leaves_it_verifies(root: Path) -> None:
    seen = Verified()
    assert list(verify(Store(str(root)), seen)) == []
    assert seen == Verified(shards=1, parts=3, rows=4, samples=8, rejects=4, parts_by_device=Counter({DEVICE: 3}))


def test_a_file_that_is_rewritten_unchanged_is_fine(root: Path) -> None:
    edit_table(root, lambda table: table)
    edit_footer(root, lambda footer: None)
    edit_cell(root, "vae_latent_bytes", lambda latent: latent)
    assert problems(root) == []


def test_verifying_changes_nothing(root: Path) -> None:
    before = output_files(root)
    assert problems(root) == []
    assert output_files(root) == before


def flip_byte(root: Path) -> None:
    content = bytearray((root / PART).read_bytes())
    content[len(content) // 2] ^= 1
    (root / PART).write_bytes(content)


def cut_short(root: Path) -> None:
    (root / PART).write_bytes((root / PART).read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip_byte, cut_short])
def test_a_damaged_part_is_found(root: Path, damage: Callable[[Path], None]) -> None:
    damage(root)
    assert (PART, f"{(root / PART).stat().st_size:,} bytes whose sha256 is not the manifest's") in problems(root)


def test_a_missing_part_is_found_and_so_are_its_samples(root: Path) -> None:
    (root / PART).unlink()
    assert problems(root) == [
        (PART, "is named by a manifest but does not exist"),
        (MANIFEST, "of 8 samples, 2 have no row and no reject: [6, 7]"),
    ]


@pytest.mark.parametrize("name", ["videos-00009.parquet", "copy.parquet", "videos-00002.parquet.bak", "notes.txt"])
def test_a_file_among_the_latents_that_no_manifest_names_is_found(root: Path, name: str) -> None:
    path = f"{bucket_path(WIDE_BUCKET)}/{name}"
    shutil.copy(root / PART, root / path)
    assert problems(root) == [(path, "exists, but no manifest names it")]


def test_parts_of_an_unfinished_shard_are_fine(root: Path) -> None:
    fill_slice(made_ledger(Store(str(root)), "under-way"), (WIDE, None)).commit()
    assert problems(root) == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["vae_latent", "vae_logvar"])
def test_a_value_that_is_not_finite_is_found(root: Path, name: str, value: float) -> None:
    edit_cell(root, f"{name}_bytes", lambda latent: np.float32(value).tobytes() + latent[4:])
    assert problems(root) == [(PART, f"row videos/clip-006: {name} has values that are not finite")]


def test_a_latent_of_another_length_is_found(root: Path) -> None:
    edit_cell(root, "vae_latent_bytes", lambda latent: latent.rstrip(latent[-1:]))
    ((path, what),) = problems(root)
    assert path == PART
    assert what.startswith("row videos/clip-006: vae_latent has 23")
    assert what.endswith("bytes for 60 values")


def test_a_latent_of_another_shape_is_found(root: Path) -> None:
    edit_cell(root, "vae_latent_shape", lambda shape: shape[::-1])
    assert problems(root) == [
        (PART, "row videos/clip-006: vae_latent has shape [5, 3, 2, 2], its bucket needs [2, 2, 3, 5]")
    ]


def test_rows_that_the_footer_does_not_name_are_found(root: Path) -> None:
    edit_cell(root, "sample_index", lambda index: index + 100)
    assert {(PART, "holds 2 rows that are not those of its footer"), (PART, "holds samples of another slice")} <= set(
        problems(root)
    )


def test_a_lost_row_is_found(root: Path) -> None:
    edit_table(root, lambda table: table.slice(1))
    assert problems(root) == [
        (PART, "holds 1 rows that are not those of its footer"),
        (PART, "holds 1 rows, its manifest says 2"),
        (MANIFEST, "of 8 samples, 1 have no row and no reject: [6]"),
    ]


def test_a_missing_column_is_found(root: Path) -> None:
    edit_table(root, lambda table: table.drop_columns(["caption"]))
    assert problems(root) == [(PART, "its columns are not those of this format version")]


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("fingerprint", "e" * 64, f"its footer says fingerprint {'e' * 64}, not {'f' * 64}"),
        ("bucket", "1x1x1x1", f"its footer says bucket 1x1x1x1, not {WIDE_BUCKET}"),
        ("shard", {}, "its footer says shard {}, not "),
        ("slice", {"index": 1, "clips": {}}, "its footer says slice 1, not 2"),
    ],
)
def test_a_part_of_something_else_is_found(root: Path, key: str, value: object, what: str) -> None:
    edit_footer(root, lambda footer: footer.update({key: value}))
    assert any(path == PART and found.startswith(what) for path, found in problems(root))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"<html>"])
def test_a_part_that_is_not_parquet_is_found(root: Path, content: bytes) -> None:
    replace_part(root, content)
    assert any(path == PART and what.startswith("not a complete Parquet file") for path, what in problems(root))


def test_a_sample_that_was_neither_written_nor_rejected_is_found(root: Path) -> None:
    edit_manifest(root, lambda manifest: manifest["rejects"].pop(0))
    assert problems(root) == [(MANIFEST, "of 8 samples, 1 have no row and no reject: [2]")]


@pytest.mark.parametrize("consistent", [False, True])
def test_a_wrong_count_of_rows_is_found(root: Path, consistent: bool) -> None:
    def add_a_row(manifest: dict[str, Any]) -> None:
        manifest["rows"] += 1
        manifest["parts"][-1]["rows"] += consistent

    edit_manifest(root, add_a_row)
    of_part, of_manifest = (PART, "holds 2 rows, its manifest says 3"), (MANIFEST, "says 5 rows, its parts have 4")
    assert problems(root) == [of_part if consistent else of_manifest]


def test_a_manifest_of_another_configuration_is_found(root: Path) -> None:
    edit_manifest(root, lambda manifest: manifest.update(fingerprint="e" * 64))
    assert problems(root) == [(MANIFEST, "fingerprint eeeeeeeeeeee is not the run's ffffffffffff")]


def test_a_damaged_manifest_is_found(root: Path) -> None:
    (root / MANIFEST).write_text("{")
    assert (MANIFEST, "is not valid JSON") in [(path, what.partition(":")[0]) for path, what in problems(root)]


def test_a_lost_manifest_of_a_complete_run_is_found(root: Path) -> None:
    (root / "_SUCCESS.json").write_text('{"shards": 1}')
    assert problems(root) == []
    (root / MANIFEST).unlink()
    assert problems(root) == [("_SUCCESS.json", "says that 1 shards were done, 0 have a manifest")]


def test_a_image_latent_is_checked_too(tmp_path: Path) -> None:
    store = commit_run(tmp_path / "out", [URL])
    ledger = made_ledger(store, "videos", URL)
    ledger = made_ledger(store, "videos", URL, description={**ledger.description, "image_latent": "first_frame"})
    first_frame = made_row(0).latent[:, :1]
    writer = fill_slice(ledger, (), image_latent=True)
    for index, bad in enumerate((first_frame, made_row(0).latent)):
        row = made_row(index, image_latent=bad)
        writer.counts.add(row.sample)
        writer.add(row)
    ledger.commit_manifest([writer.commit()], {})
    assert problems(tmp_path / "out") == [
        (
            part_path("videos", 0, WIDE_BUCKET),
            "row clip-001: image_latent has shape [2, 2, 3, 5], its bucket needs [2, 1, 3, 5]",
        )
    ]


def test_a_folder_that_no_run_wrote_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not the output of a run"):
        problems(tmp_path)


def test_what_is_checked_is_told_shard_by_shard(root: Path) -> None:
    told: list[tuple[int, int]] = []
    assert not list(verify(Store(str(root)), Verified(), lambda done, of: told.append((done, of))))
    assert told == [(1, 1)]


class AskedStore(Store):
    """Notes which small files are read."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.asked: list[str] = []

    def read(self, path: str) -> bytes:
        self.asked.append(path)
        return super().read(path)


def test_only_shards_with_a_list_of_removed_rows_are_asked_for_it(root: Path) -> None:
    commit_shard(Store(str(root)), "others", "/data/others.tar")
    write_removed(Store(str(root)), "others", [])
    store = AskedStore(str(root))
    assert not list(verify(store, Verified()))
    assert [path for path in store.asked if path.startswith("removed/")] == [removed_path("others")]


def test_a_root_with_many_problems_is_listed_up_to_a_limit(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(verify_command, "LISTED_PROBLEMS", 2)
    for number in range(5):
        (root / "latents" / f"bucket={WIDE_BUCKET}" / f"stray-{number}.txt").write_text("")
    assert main(["verify", str(root)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum("no manifest names it" in line for line in lines) == 2
    assert "... and 3 more" in lines
