"""The orderly end of a run: replicas that are no longer needed leave no half-written file behind."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from support.runs import MakeConfig, moved, output_files, run_all, samples_of, write_tar

from encoder.video_encoder import VideoEncoder
from pipeline.cluster import claims as cluster_claims
from pipeline.cluster.cluster import Cluster
from pipeline.cluster.fleet import WorkQueue
from pipeline.cluster.joining import connected
from pipeline.cluster.replica import LatentsJob
from pipeline.errors import RetiredError
from pipeline.input.listing import list_shards
from pipeline.latents.helping import SharedClaims
from pipeline.monitor.events import ShardDone
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


@pytest.mark.ray
@pytest.mark.usefixtures("one_cpu")
def test_a_replica_that_is_in_the_middle_of_a_file_when_the_run_ends_leaves_none_behind(
    make_config: MakeConfig,
    tiny: VideoEncoder,
    videos: tuple[bytes, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    impatient = ray.remote(num_cpus=0)(SharedClaims)  # or the second would leave the part to the first
    monkeypatch.setattr(cluster_claims, "start_claims", lambda: impatient.remote(least_patience_seconds=0.5))
    write_tar(tmp_path / "s.tar", samples_of(videos[:1]))
    config, met = make_config(runtime={"replicas": 2}), set[int]()
    queue = WorkQueue(max_attempts=1)
    queue.extend(list_shards(config.input.shards))
    out = tmp_path / "out"

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

    with connected(config.runtime):
        cluster = Cluster(LatentsJob(config, tiny.weights_sha256), queue)

        def prepare_replicas() -> None:
            for replica in cluster._running.values():
                if replica.node and replica.number not in met:
                    ray.get(replica.actor.__ray_call__.remote(meet(replica.number)))
                    met.add(replica.number)

        events = list(cluster.run(prepare_replicas))
        cluster.stop()
    assert met == {1, 2}
    assert isinstance(events[-1], ShardDone)
    run_all(moved(config, tmp_path / "calm"), tiny)
    assert output_files(out) == output_files(tmp_path / "calm")
