"""Rates and the time left follow from looks at the output root alone."""

from pathlib import Path

import pytest
from support.makers import commit_run, commit_shard

from jobs.cli import main
from jobs.commands import inspect
from pipeline.audit.status import ShardStatus
from pipeline.audit.watch import line_of, look_of
from pipeline.input.listing import shard_name

DONE = ShardStatus("a", "done", 8, 6, 2, 4, {}, {"encode": 3.0, "device_idle": 1.0})
RUNNING, LEFT = ShardStatus("b", "running", slices=1), ShardStatus("c", "left")


def test_a_first_look_has_no_rate() -> None:
    assert line_of([look_of([DONE, LEFT], 5.0)]) == (
        "1/2 shards, 6 clips, 2 rejects, device busy 75%, waiting for the next look"
    )


def test_the_rate_and_the_time_left_are_those_of_the_parts_between_looks() -> None:
    looks = [look_of([DONE, LEFT, LEFT], 0.0), look_of([DONE, RUNNING, LEFT], 60.0)]
    assert line_of(looks).endswith("1.00 parts a minute, about 7 min left")


def test_a_run_that_makes_nothing_says_for_how_long() -> None:
    looks = [look_of([RUNNING, LEFT], 0.0), look_of([RUNNING, LEFT], 300.0)]
    assert line_of(looks) == "0/2 shards, 0 clips, 0 rejects, nothing committed in 5 min"


def test_status_watches_until_the_run_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = ["/a.tar", "/b.tar"]
    store = commit_run(tmp_path / "out", urls)
    commit_shard(store, shard_name(urls[0]))
    waited: list[int] = []

    def sleep(seconds: int) -> None:
        waited.append(seconds)
        commit_shard(store, shard_name(urls[1]))

    monkeypatch.setattr(inspect.time, "sleep", sleep)
    assert main(["status", store.root, "--watch", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert waited == [3]
    assert lines[0].startswith("1/2 shards")
    assert lines[1].startswith("2/2 shards")
    assert any(line.startswith("shards done: 2") for line in lines)
