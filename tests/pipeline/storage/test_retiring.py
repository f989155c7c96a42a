"""The orderly end of a run: replicas that are no longer needed leave no half-written file behind."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import RetiredError
from pipeline.storage import store as store_module
from pipeline.storage.store import RetiringStore


def test_retiring_waits_for_the_file_that_is_being_created_and_none_begins_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end, said = threading.Event(), threading.Event(), list[str]()

    def create_slowly(target: Path, write: Callable[..., object]) -> bool:
        begun.set()
        may_end.wait(60)
        said.append("created")
        return True

    monkeypatch.setattr(store_module, "create_local", create_slowly)
    store = RetiringStore(str(tmp_path))
    writer = threading.Thread(target=store.create, args=("a", b"1"))
    retiring = threading.Thread(target=lambda: (store.retire(), said.append("retired")))
    writer.start()
    assert begun.wait(60)
    retiring.start()
    retiring.join(0.2)
    assert retiring.is_alive(), "a file is being created"
    may_end.set()
    writer.join()
    retiring.join()
    assert said == ["created", "retired"]
    for create in (lambda: store.create("b", b"1"), lambda: store.create_from("c", str(tmp_path / "d"))):
        with pytest.raises(RetiredError, match="the run is over"):
            create()


def test_several_files_are_created_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meet = threading.Barrier(2, timeout=60)

    def create_together(target: Path, write: Callable[..., object]) -> bool:
        meet.wait()
        return True

    monkeypatch.setattr(store_module, "create_local", create_together)
    store = RetiringStore(str(tmp_path))
    writers = [threading.Thread(target=store.create, args=(name, b"1")) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    store.retire()
    assert not meet.broken
