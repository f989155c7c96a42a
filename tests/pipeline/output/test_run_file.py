"""A root belongs to the run that began it: run.json is created once, and another configuration is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.identity import fingerprint
from pipeline.errors import ConfigError, RunMismatchError, UserError
from pipeline.output.run_file import RunFile, check_run, claim_run, completed_shards, find_run, read_run
from pipeline.storage.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out"))


def made_run(created_unix_seconds: int = 1, **identity: Any) -> RunFile:
    return {
        "format_version": 2,
        "fingerprint": fingerprint(identity),
        "identity": identity,
        "config": {},
        "versions": {},
        "created_unix_seconds": created_unix_seconds,
    }


def test_the_first_run_of_a_root_is_kept(store: Store) -> None:
    assert find_run(store) is None
    check_run(store, {"frames": 49})
    claim_run(store, made_run(frames=49))
    claim_run(store, made_run(created_unix_seconds=2, frames=49))
    assert read_run(store) == made_run(frames=49)


def test_another_configuration_is_refused_with_what_differs(store: Store) -> None:
    claim_run(store, made_run(frames=49))
    for refuse in (lambda: check_run(store, {"frames": 17}), lambda: claim_run(store, made_run(frames=17))):
        with pytest.raises(RunMismatchError, match=r"\(frames: 49 there, 17 now\): use a new output.path"):
            refuse()


def test_a_root_of_another_format_is_refused_by_its_number(store: Store) -> None:
    claim_run(store, made_run())
    store.replace("run.json", json.dumps(made_run() | {"format_version": 1}).encode())
    with pytest.raises(UserError, match="is of format 1, this version reads format 2: use a new output"):
        read_run(store)


def test_a_root_without_a_run_is_named(store: Store) -> None:
    with pytest.raises(UserError, match=r"out is not the output of a run: it has no run\.json"):
        read_run(store)


def test_a_root_that_cannot_be_written_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"output.path: .*/file/out cannot be written"):
        claim_run(Store(str(tmp_path / "file" / "out")), made_run())


def test_a_run_is_complete_once_it_has_its_success_file(store: Store) -> None:
    assert completed_shards(store) is None
    store.create("_SUCCESS.json", b'{"shards": 2}')
    assert completed_shards(store) == 2
