"""Whether a replica died with its node, and when a run without GPUs says so, follow from names and times alone."""

import os
import threading
from pathlib import Path

import pytest
from ray.exceptions import RaySystemError

from pipeline.cluster import nodes
from pipeline.cluster.cpus import quotas, usable_cpus
from pipeline.cluster.gpus import AGAIN_SECONDS, BUSY_SECONDS, Waiting
from pipeline.cluster.nodes import VERDICT_SECONDS, Death, Head, died_with_node, end_actor
from pipeline.errors import HeadLostError, TransientError
from pipeline.monitor.events import WaitingForGpus

AT = 1000.0
LATER = AT + VERDICT_SECONDS + 1


def test_a_death_on_a_lost_node_is_the_node_s() -> None:
    assert died_with_node(Death(1, "n1", "gone", AT), {"n1": AT + 1}, AT + 1) is True
    assert died_with_node(Death(1, "n1", "gone", AT), {"n1": AT - 5}, AT) is True


def test_a_death_is_open_until_its_node_had_time_to_go_too() -> None:
    death = Death(1, "n1", "gone", AT)
    assert died_with_node(death, {"n2": AT}, AT + 1) is None
    assert died_with_node(death, {"n2": AT}, LATER) is False


def test_a_replica_that_never_said_where_it_was_may_have_been_on_any_lost_node() -> None:
    assert died_with_node(Death(1, "", "gone", AT), {"n2": AT - 10}, AT) is True
    assert died_with_node(Death(1, "", "gone", AT), {"n2": AT - 500}, LATER) is False


def test_an_error_that_a_replica_raised_is_explained_by_no_node() -> None:
    assert died_with_node(Death(1, "n1", "OSError", AT, of_itself=True), {"n1": AT}, AT) is False


def test_a_run_without_gpus_says_so_at_once_and_every_minute() -> None:
    waiting = Waiting(None)
    said = [at for at in range(200) if waiting.look(2, 0, 0, AT + at)]
    assert said == [0, AGAIN_SECONDS, 2 * AGAIN_SECONDS, 3 * AGAIN_SECONDS]


def test_a_run_whose_gpus_are_in_use_says_so_once_placing_takes_too_long() -> None:
    waiting = Waiting(None)
    said = {at: event for at in range(30) if (event := waiting.look(2, 0, 4, AT + at))}
    assert said == {BUSY_SECONDS: WaitingForGpus(2, 4)}
    assert str(said[BUSY_SECONDS]) == "0 of 2 replicas placed: the cluster's 4 GPUs are in use"
    assert waiting.look(2, 1, 4, AT + 100) is None


def test_a_run_waits_for_gpus_as_long_as_it_may_and_counts_anew_after_each_replica() -> None:
    waiting = Waiting(2.0)
    for at, placed in ((0, 0), (100, 0), (119, 1), (130, 0), (249, 0)):
        waiting.look(2, placed, 0, AT + at)
    with pytest.raises(TransientError, match=r"for 2 minutes \(runtime.wait_for_gpus_minutes\)"):
        waiting.look(2, 0, 0, AT + 250)


@pytest.mark.parametrize(
    ("files", "line", "granted"),
    [
        ({"cpu.max": "200000 100000"}, "0::/", [2]),
        ({"cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, "0::/a/b", [2]),
        ({"a/b/cpu.max": "800000 100000", "a/cpu.max": "400000 100000"}, "0::/a/b", [8, 4]),
        ({"cpu/job/cpu.cfs_quota_us": "300000", "cpu/job/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/job", [3]),
        ({"cpu/job/cpu.cfs_quota_us": "-1", "cpu/job/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/job", []),
        ({"cpu.max": "100000 100000"}, "7:memory:/a", []),
    ],
)
def test_the_cpus_of_a_container_are_those_of_its_cgroups(
    tmp_path: Path, files: dict[str, str], line: str, granted: list[int]
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert quotas(tmp_path, [line]) == granted


def test_a_process_may_use_no_more_cpus_than_its_affinity_names() -> None:
    assert 1 <= usable_cpus() <= len(os.sched_getaffinity(0))


def test_a_head_that_is_lost_while_it_is_asked_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "HEAD_LOST_SECONDS", 0.0)
    monkeypatch.setattr(nodes, "PROBE_SECONDS", 0.05)
    head, released = Head("127.0.0.1:1"), threading.Event()
    assert head.ask(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        head.ask(lambda: 1 // 0)
    with pytest.raises(HeadLostError, match=r"Ray's head at 127\.0\.0\.1:1 does not answer any more"):
        head.ask(lambda: released.wait(60))
    released.set()


def test_an_actor_that_ray_has_given_up_is_no_error_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[object] = []

    def kill(actor: object) -> None:
        ended.append(actor)
        raise RaySystemError("Actor creation cancelled.")

    monkeypatch.setattr(nodes.ray, "kill", kill)
    end_actor("replica")
    assert ended == ["replica"]
