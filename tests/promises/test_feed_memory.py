"""However long videos are, what waits in the object store is bounded by `runtime.ahead_bytes`, and nothing hangs."""

from pathlib import Path

import pytest
from support.nodes import cluster_of
from support.runs import simulated_run, write_tar

from jobs.commands.bench_simulated import logical_cpus
from pipeline.cluster.joining import connected
from pipeline.cluster.metrics import object_store_used_bytes
from pipeline.monitor.events import ShardDone, SliceDone
from pipeline.video.simulated import SimulatedVideo, write_simulated

FILM_FRAMES, SIZE_PX, AHEAD_BYTES = 241, (480, 640), 200_000_000  # a film is 222 MB, and one object of it 64 MiB


@pytest.mark.ray
def test_films_that_do_not_fit_are_streamed_within_the_bound(tmp_path: Path) -> None:
    film = write_simulated(SimulatedVideo(FILM_FRAMES, *SIZE_PX, 8.0, 0.5))
    write_tar(tmp_path / "s.tar", ((f"{number}.simulated", film) for number in range(4)))
    clip = {"frames": 49, "window": "full", "continuous": True, "fps": None, "buckets": ["480x640"]}
    config = simulated_run(tmp_path, 4, clip=clip, runtime={"replicas": 1, "ahead_bytes": AHEAD_BYTES})
    peak_bytes = 0
    with logical_cpus(2), connected(config.runtime):
        cluster = cluster_of(config)

        def look() -> None:
            nonlocal peak_bytes
            peak_bytes = max(peak_bytes, object_store_used_bytes())

        events = list(cluster.run(look))
        cluster.stop()
    assert [event.samples for event in events if isinstance(event, ShardDone)] == [4]
    assert sum(event.rows for event in events if isinstance(event, SliceDone)) == 4 * 5
    assert 32 << 20 <= peak_bytes <= AHEAD_BYTES, "of 890 MB of frames in all"
