"""A driver's history is written while it goes on and at its end, and no store that fails or is slow holds it up."""

import threading
import time
from pathlib import Path

import pytest
from support.makers import commit_run

from jobs.cli import main
from pipeline.audit import history_file
from pipeline.audit.history_file import kept_history, read_history
from pipeline.audit.status import read_live
from pipeline.monitor.events import Progress
from pipeline.monitor.live import FRESH_SECONDS
from pipeline.storage.store import Store


def until(happened: threading.Event | None = None, store: Store | None = None) -> None:
    """Waits until an event happens, or a store has a history."""
    for _ in range(500):
        if (happened and happened.is_set()) or (store and read_history(store)):
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_file, "WRITE_SECONDS", 0.0)


def test_a_run_can_be_seen_while_it_goes_on_and_is_over_at_its_end(
    tmp_path: Path, often: None, capsys: pytest.CaptureFixture[str]
) -> None:
    store = commit_run(tmp_path / "out", ["/a.tar"])
    checks: list[int] = []
    with kept_history(store, lambda: checks.append(1)) as (history, check):
        history.add(Progress("a", 49))
        check()
        until(store=store)
        (live,) = read_live(store, time.time())
        assert live["recent_frames_per_second"] > 0
        assert main(["status", store.root]) == 1
        assert f"a run at {live['host']} since" in capsys.readouterr().out
    assert checks == [1]
    (kept,) = read_history(store)
    assert kept["frames"] == {"-1": [49]}
    assert kept["ended_unix_seconds"]
    assert read_live(store, time.time()) == []


def test_an_error_of_the_run_ends_its_history(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(RuntimeError, match="broken"), kept_history(store, lambda: None):
        raise RuntimeError("broken")
    assert read_history(store)[0]["ended_unix_seconds"]


def test_of_killed_runs_only_the_last_is_told(tmp_path: Path, often: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_file.HistoryFile, "end", lambda _: None)  # as if it was killed
    store = Store(str(tmp_path))
    for _ in range(2):
        with kept_history(store, lambda: None) as (_, check):
            check()
    assert len(read_history(store)) == 2
    assert len(read_live(store, time.time())) == 2
    assert len(read_live(store, time.time() + 2 * FRESH_SECONDS)) == 1


def test_a_slow_store_does_not_hold_up_the_run(tmp_path: Path, often: None, monkeypatch: pytest.MonkeyPatch) -> None:
    writes, begun, go_on = [], threading.Event(), threading.Event()

    def replace(store: Store, path: str, data: bytes) -> None:
        writes.append(path)
        begun.set()
        assert go_on.wait(30)

    monkeypatch.setattr(Store, "replace", replace)
    with kept_history(Store(str(tmp_path)), lambda: None) as (_, check):
        check()
        until(begun)
        for _ in range(10):
            check()
        assert len(writes) == 1, "the others did not wait for it"
        go_on.set()
    assert len(writes) == 2


def test_a_store_that_cannot_be_written_does_not_end_the_run(tmp_path: Path, often: None) -> None:
    (tmp_path / "history").write_text("a file where the folder would be")
    with kept_history(Store(str(tmp_path)), lambda: None) as (_, check):
        check()
