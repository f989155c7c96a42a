"""Logs of replicas are copied while they grow, and once more when a replica has died."""

from pathlib import Path

import pytest

from pipeline.cluster.logs import LogKeeper, Logs, end_of, told


def test_a_log_is_copied_when_it_has_grown(tmp_path: Path) -> None:
    log, copy = tmp_path / "worker.err", tmp_path / "kept" / "run" / "replica-0001.err"
    keeper = LogKeeper(str(tmp_path / "kept"), "run")
    keeper.keep({copy.name: str(log), "empty.out": str(tmp_path / "none")})
    log.write_text("a line\n")
    keeper.copy()
    assert copy.read_text() == "a line\n"
    copy.unlink()
    keeper.copy()
    assert not copy.exists(), "nothing is new"
    with log.open("a") as grown:
        grown.write("another\n")
    keeper.copy()
    assert copy.read_text() == "a line\nanother\n"
    assert [path.name for path in copy.parent.iterdir()] == [copy.name], "what was never written has no copy"


def test_of_a_long_log_the_end_is_kept(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"0123456789")
    assert end_of(tmp_path / "log", 3) == b"789"
    assert end_of(tmp_path / "log", 30) == b"0123456789"


def test_a_log_tells_the_traceback_of_a_failure_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="cannot read"), told("shard a, place 0"):
        raise OSError("cannot read https://user:pa55@host/a.tar")
    said = capsys.readouterr().err
    assert "shard a, place 0: began" in said
    assert "shard a, place 0: failed\nTraceback" in said
    assert "cannot read https://host/a.tar" in said
    assert "pa55" not in said


def test_without_a_place_nothing_is_kept() -> None:
    logs = Logs(None, "run")
    logs.keep(1, "node", {"err": "/tmp/log"})
    assert not list(logs.look())
    logs.end()
