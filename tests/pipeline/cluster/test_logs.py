"""Logs of replicas are copied while they grow, and once more when a replica has died."""

import os
import sys
import threading
from pathlib import Path

import pytest
import ray
from ray.exceptions import RayActorError

from pipeline.cluster.logs import LogKeeper, Logs, end_of, log_files, told
from pipeline.cluster.nodes import node_here
from pipeline.monitor.events import LogsNotKept


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


class Talker:
    """Stands for a replica."""

    def files(self) -> dict[str, str]:
        return log_files()

    def say_and_die(self, words: str) -> None:
        print(words, file=sys.stderr, flush=True)
        os._exit(1)


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_the_last_words_of_a_replica_that_died_are_kept_and_storage_that_fails_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    actor = ray.remote(num_cpus=0)(Talker).remote()
    kept, lost = Logs(str(tmp_path / "logs"), "run"), Logs(str(tmp_path / "file" / "logs"), "run")
    files = ray.get(actor.files.remote())
    for logs in (kept, lost):
        logs.keep(7, node_here(), files)
    with pytest.raises(RayActorError):
        ray.get(actor.say_and_die.remote("last words"))
    kept.left(7)
    while kept._keepers:
        assert not list(kept.look()), "an idle node has no keeper, or no autoscaler would take it away"
    said: list[LogsNotKept] = []
    while not said:
        said += lost.look()
    lost.left(7)
    lost.end()
    assert not list(lost.look())
    (log,) = (tmp_path / "logs" / "run").glob("replica-0007-*.err")
    assert "last words" in log.read_text()
    assert "NotADirectoryError" in said[0].error


def test_without_a_place_nothing_is_kept() -> None:
    logs = Logs(None, "run")
    logs.keep(1, "node", {"err": "/tmp/log"})
    assert not list(logs.look())
    logs.end()


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_ray_has_no_thread_that_would_print_what_dead_raylets_logged() -> None:
    assert ray.is_initialized()
    assert not [thread.name for thread in threading.enumerate() if "listen_error" in thread.name]
