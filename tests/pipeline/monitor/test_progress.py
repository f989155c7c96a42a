"""What a run shows counts what happened, on a terminal and in a file, and takes no markup from errors."""

import io

import pytest
from rich.console import Console
from support.makers import made_reject

from pipeline.monitor.events import (
    ConvolutionsHalved,
    Event,
    GpuExcluded,
    LogsNotKept,
    Progress,
    ReplicaJoined,
    ReplicaLost,
    ReplicaReleased,
    ShardDone,
    ShardFailed,
    SliceDone,
    WaitingForGpus,
)
from pipeline.monitor.progress import RunProgress
from pipeline.monitor.run_counts import RunCounts

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
EVENTS: tuple[Event, ...] = (
    Progress("a", 49),
    SliceDone("a", 0, 3, 1200, (made_reject(0), made_reject(1)), 10, reused=False),
    ShardFailed("b", "ShardError: [bold]cut[/bold] short", final=False),
    ShardFailed("c", "ShardError: [/] gone", final=True),
    ShardDone("a", 3, {}),
)


def shown(events: tuple[Event, ...] = EVENTS, terminal: bool = False) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=200)
    with RunProgress(shards=10, shards_done=4, console=console) as progress:
        progress.started(replicas=1, wanted=2, run="0123456789ab")
        for event in events:
            progress.event(event)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_run_begins_with_what_is_to_do() -> None:
    assert shown(()) == "6 of 10 shards to do, replicas: 1 of 2 have a GPU, run 0123456789ab\n"


def test_a_finished_shard_is_a_line_with_all_counts() -> None:
    assert "5/10 shards, 1,200 clips, 2 rejects, " in shown().splitlines()[-1]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_failed_shard_is_shown_with_its_error_as_it_is(terminal: bool) -> None:
    text = shown(terminal=terminal)
    assert "shard b failed, will be tried again: ShardError: [bold]cut[/bold] short" in text
    assert "shard c failed, given up: ShardError: [/] gone" in text


def test_lines_are_few_where_there_is_no_terminal() -> None:
    assert len(shown((Progress("a", 1),) * 1000).splitlines()) == 1


def test_replicas_that_come_and_go_are_told_and_counted() -> None:
    joined = [ReplicaJoined(number, "n", "10.0.0.7") for number in (1, 2, 3)]
    gone = (ReplicaLost(2, "n", "[gone]", "10.0.0.7"), ReplicaReleased(3, "n", "10.0.0.7"))
    first, *_, lost, released, last = shown((*joined, *gone, ShardDone("a", 3, {}))).splitlines()[1:]
    assert first == "replica 1 joined at 10.0.0.7"
    assert lost == "replica 2 was lost at 10.0.0.7: [gone]"
    assert released == "replica 3 is let go at 10.0.0.7: what is left has work for fewer"
    assert "1 replicas" in last


def test_a_run_whose_gpus_are_in_use_says_so() -> None:
    assert shown((WaitingForGpus(2, gpus=4),)).splitlines()[1:] == [
        "0 of 2 replicas placed: the cluster's 4 GPUs are in use"
    ]


def test_faulty_gpus_and_too_little_memory_are_told() -> None:
    faulty, halved = shown((GpuExcluded("n", "3", "[gone]", "10.0.0.7"), ConvolutionsHalved("a", 2))).splitlines()[1:]
    assert faulty == "GPU 3 of 10.0.0.7 is excluded: replicas die there, the last of [gone]"
    assert halved.startswith("shard a: too little GPU memory, 2 convolutions")


def test_logs_that_cannot_be_kept_are_told() -> None:
    (line,) = shown((LogsNotKept("OSError: full"),)).splitlines()[1:]
    assert line == "logs of replicas cannot be kept (runtime.logs): OSError: full"


def test_a_recent_rate_is_that_of_the_last_minute() -> None:
    counts = RunCounts(0, began_at=0.0)
    counts.add(Progress("a", 6000), 10.0)
    counts.add(Progress("a", 600), 100.0)
    assert (counts.rate(110.0), counts.recent_rate(110.0)) == (60.0, 10.0)


def test_a_terminal_shows_the_counts() -> None:
    text = shown(terminal=True)
    assert "5/10" in text
    assert "1,200 clips, 2 rejects" in text


def test_the_display_ends_with_an_error_of_the_run() -> None:
    terminal = io.StringIO()
    with pytest.raises(ValueError, match="broken"), RunProgress(1, 0, Console(file=terminal, force_terminal=True)):
        raise ValueError("broken")
    assert terminal.getvalue().rpartition(HIDE_CURSOR)[2].count(SHOW_CURSOR) == 1
