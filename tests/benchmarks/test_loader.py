"""The benchmark of the loader: made-up rows that can be read, resumes that are counted, an index that starts."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.loader import SMALL, on_s3, resumed, start
from benchmarks.loader_data import write_rows
from benchmarks.loader_readers import READERS, ids_left, measure, missing
from pipeline.dataset.loader import THREADS, Latents


def test_peers_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(READERS, "nobody", READERS["ours"].__class__("no_such_module", READERS["ours"].open))
    assert missing()["nobody"] == "No module named 'no_such_module'"
    assert "ours" not in missing()


def test_an_epoch_is_measured(tmp_path: Path) -> None:
    root = write_rows(tmp_path / "out", 64, SMALL)
    figures = measure("ours", root, str(tmp_path))
    assert figures["samples"] == 64
    assert figures["megabytes_read_per_sample"] > 0


def test_the_loader_loses_and_repeats_nothing_when_it_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(name: str, root: str, folder: Path, stop: str) -> Any:
        """In this process; in one of its own it is read where requests are counted."""
        return ids_left(name, root, str(folder), int(stop))

    monkeypatch.setattr("benchmarks.loader._read", read)
    assert resumed(tmp_path, ["ours"], 2, rows=96)["ours"] == {
        "stops": 2,
        "rows_lost": 0,
        "rows_repeated": 0,
        "stops_with_another_order": 0,
    }


@pytest.mark.slow
def test_an_index_without_parts_starts(tmp_path: Path) -> None:
    assert start(tmp_path, 2000)["seconds"] > 0
    rows = Counter(bucket for bucket, _ in Latents(str(tmp_path / "index-2000"), 5, 5).steps(0))
    assert set(rows.values()) == {40}


@pytest.mark.s3
def test_requests_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "DEFAULT_REGION"):
        monkeypatch.setenv(f"AWS_{name}", "")  # to be put back after the test
    monkeypatch.setattr("benchmarks.loader.LARGE", SMALL)
    counted = on_s3(tmp_path, ["ours"])["ours"]
    assert counted["requests_by_kind"]["list"] == 1
    footers = 2 * THREADS  # each of two parts by all threads at once, at most
    assert 64 < counted["requests_by_kind"]["get"] <= 64 + 1 + footers
