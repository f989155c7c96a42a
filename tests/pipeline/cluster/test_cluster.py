"""The cluster's loop on a real Ray: how it ends, what Prometheus reads of it, and the last words of its replicas."""

import os
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from ray.exceptions import RayActorError
from support.nodes import cluster_of
from support.runs import moved, output_files, run_all, simulated_run, simulated_samples, write_tar

import encoder
from encoder.simulated import WEIGHTS_SHA256
from pipeline.cluster import claims as cluster_claims
from pipeline.cluster.fleet import Fleet, ReplicaCount, WorkQueue
from pipeline.cluster.logs import Logs, log_files
from pipeline.cluster.metrics import RayMetrics, of_fleet
from pipeline.cluster.nodes import node_here
from pipeline.cluster.replica import LatentsJob
from pipeline.latents.helping import SharedClaims
from pipeline.monitor.events import LogsNotKept, ShardDone, SliceDone

Values = dict[tuple[str, ...], float]

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def test_a_replica_that_is_in_the_middle_of_a_file_when_the_run_ends_leaves_none_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = ray.remote(num_cpus=0)(SharedClaims)  # or the second would leave the part to the first
    monkeypatch.setattr(cluster_claims, "start_claims", lambda: impatient.remote(least_patience_seconds=0.5))
    write_tar(tmp_path / "s.tar", simulated_samples(1))
    config, met, out = simulated_run(tmp_path, 1, runtime={"replicas": 2}), set[int](), tmp_path / "out"

    def meet(number: int) -> Callable[[object], None]:
        """Both replicas come to the last step of the same part; the second takes it when all is done."""

        def until(there: Callable[[], bool]) -> None:
            deadline = time.monotonic() + 60
            while not there() and time.monotonic() < deadline:
                time.sleep(0.02)

        def link_late(source: Path, target: Path) -> None:
            if number == 2:
                until(lambda: bool(list((out / "manifests").glob("s-*.json"))))
                time.sleep(1)
            elif "latents" in target.parts:
                until(lambda: len(list(target.parent.glob(".tmp-*"))) == 2)
            link(source, target)

        def replace_link(replica: object) -> None:
            os.link = link_late  # type: ignore[assignment]

        link = os.link
        return replace_link

    cluster = cluster_of(config)

    def prepare_replicas() -> None:
        for replica in cluster._running.values():
            if replica.node and replica.number not in met:
                ray.get(replica.actor.__ray_call__.remote(meet(replica.number)))
                met.add(replica.number)

    events = list(cluster.run(prepare_replicas))
    cluster.stop()
    assert met == {1, 2}
    assert isinstance(events[-1], ShardDone)
    run_all(moved(config, tmp_path / "calm"), encoder.load("simulated", weights="simulated:1"))
    assert output_files(out) == output_files(tmp_path / "calm")


def scraped(address: str, run: str) -> Values:
    """Our metrics of a run as a node shows them to Prometheus: sums over processes, by name and our tags' values."""
    with urllib.request.urlopen(address, timeout=10) as answer:
        lines = [line for line in answer.read().decode().splitlines() if line.startswith("ray_latentmill_")]
    sums: Values = {}
    for line in lines:
        name, _, rest = line.partition("{")
        texts, _, value = rest.rpartition("} ")
        tags = dict(pair.split("=", 1) for pair in texts.split(","))
        if tags["run"] == f'"{run}"':
            at = (name, *(tags[tag].strip('"') for tag in ("stage", "reason", "state", "fate") if tag in tags))
            sums[at] = sums.get(at, 0) + float(value)
    return sums


def wait_for_metrics(address: str, run: str, there: Callable[[Values], bool]) -> Values:
    deadline = time.monotonic() + 120
    while not there(found := scraped(address, run)):
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
    return found


def test_a_run_is_seen_where_prometheus_reads_ray_s_metrics(tmp_path: Path) -> None:
    write_tar(tmp_path / "s0.tar", [*simulated_samples(3), ("clip-003.simulated", b"<html>")])
    write_tar(tmp_path / "s1.tar", simulated_samples(2))
    config = simulated_run(tmp_path, 1, runtime={"replicas": 1})
    run, cluster = LatentsJob(config, WEIGHTS_SHA256).run, cluster_of(config)
    events = list(cluster.run(check=lambda: None))
    driver, fleet = RayMetrics(run), Fleet(WorkQueue(max_attempts=1), ReplicaCount(1, 1))
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    gauges = {("ray_latentmill_shards", "waiting"), ("ray_latentmill_replicas", "at_work")}

    def all_there(found: Values) -> bool:
        driver.add(of_fleet(fleet, loading=0))  # as a run that goes on does every few seconds
        return (
            found.get(("ray_latentmill_shards_done_total",)) == 2
            and found.get(("ray_latentmill_frames_total",), 0) >= 25
            and gauges <= found.keys()
        )

    metrics = wait_for_metrics(address, run, all_there)
    cluster.stop()
    written = sum(event.size_bytes for event in events if isinstance(event, SliceDone))
    assert metrics[("ray_latentmill_clips_total",)] == 5
    assert metrics[("ray_latentmill_samples_total",)] == 6
    assert metrics[("ray_latentmill_frames_total",)] == 25
    assert metrics[("ray_latentmill_written_bytes_total",)] == written
    assert [at[0] for at in metrics if "rejects" in at[0]] == ["ray_latentmill_rejects_total"]
    assert metrics[("ray_latentmill_stage_seconds_total", "encode")] > 0


class Talker:
    """Stands for a replica."""

    def files(self) -> dict[str, str]:
        return log_files()

    def say_and_die(self, words: str) -> None:
        print(words, file=sys.stderr, flush=True)
        os._exit(1)


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


def test_ray_has_no_thread_that_would_print_what_dead_raylets_logged() -> None:
    assert ray.is_initialized()
    assert not [thread.name for thread in threading.enumerate() if "listen_error" in thread.name]
