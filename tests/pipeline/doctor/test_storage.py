"""What the doctor says of input, weights and output, on a disk and on stores that refuse or overwrite."""

from pathlib import Path

import pytest

from pipeline.doctor.findings import Finding
from pipeline.doctor.storage import check_input, check_output, check_weights, marked, nearest_folder
from pipeline.storage.store import Store


def test_an_output_that_can_be_written_is_in_order_and_left_as_it_was(tmp_path: Path) -> None:
    (found,) = check_output(str(tmp_path), None)
    assert found.level == "ok"
    assert "B/s" in found.found
    assert list(tmp_path.iterdir()) == []


def test_the_folder_that_is_there_is_tried(tmp_path: Path) -> None:
    assert nearest_folder(str(tmp_path / "new" / "run")) == str(tmp_path)
    assert nearest_folder("s3://bucket/run") == "s3://bucket/run"


def test_an_output_that_each_node_has_for_itself_is_bad(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    with marked(str(ours)) as marker:
        (elsewhere,) = check_output(str(theirs), marker)
        (here,) = check_output(str(ours), marker)
    assert (elsewhere.level, here.level) == ("bad", "ok")
    assert "another folder" in elsewhere.found
    assert [*ours.iterdir(), *theirs.iterdir()] == []


def refused(*_: object) -> None:
    raise PermissionError("AccessDenied for //key:secret@host")


def test_an_output_that_refuses_is_bad_and_its_secrets_stay_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "create", refused)
    (found,) = check_output(str(tmp_path), None)
    assert (found.level, "AccessDenied" in found.found, "secret" in found.found) == ("bad", True, False)
    assert "docs/credentials.md" in found.advice
    with marked(str(tmp_path)) as marker:
        assert marker is None


def test_storage_that_overwrites_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overwriting(store: Store, path: str, data: bytes) -> bool:
        store.replace(path, data)
        return True

    monkeypatch.setattr(Store, "create", overwriting)
    (found,) = check_output(str(tmp_path), None)
    assert (found.level, "replace each other's parts" in found.found) == ("bad", True)


def test_storage_that_deletes_nothing_is_enough_for_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "delete", refused)
    levels = [found.level for found in check_output(str(tmp_path), None)]
    assert levels == ["ok", "warn"]


def of_input(*files: Path) -> Finding:
    return check_input([str(file) for file in files], 9)


def test_shards_are_read(tmp_path: Path) -> None:
    shard = tmp_path / "a.tar"
    shard.write_bytes(bytes(1000))
    assert of_input(shard).level == "ok"
    assert "1 of 9 shards" in of_input(shard).found
    missing = of_input(shard, tmp_path / "b.tar")
    assert (missing.level, "b.tar" in missing.found) == ("bad", True)


def test_weights_are_on_the_machine_or_fetched(tmp_path: Path) -> None:
    levels = [check_weights(where).level for where in ("random:0", "hf://a/b", str(tmp_path), str(tmp_path / "vae"))]
    assert levels == ["ok", "ok", "ok", "bad"]
