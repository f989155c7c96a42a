"""A GPU is faulty when replicas die there again and again, whatever they were at."""

from pipeline.cluster.gpus import DEATHS_OF_A_GPU, Gpu, GpuHealth

FIRST, SECOND = Gpu("node-a", "0"), Gpu("node-a", "1")


def test_replicas_that_die_at_different_shards_or_while_they_load_make_their_gpu_faulty() -> None:
    assert DEATHS_OF_A_GPU == 2
    health = GpuHealth()
    assert not health.died(FIRST, ["a"])
    assert not health.died(SECOND, [])
    assert health.died(FIRST, ["b"])
    assert health.died(SECOND, [])
    assert health.faulty == {FIRST, SECOND}


def test_a_shard_that_kills_every_replica_makes_no_gpu_faulty() -> None:
    health = GpuHealth()
    assert not any(health.died(FIRST, shards) for shards in (["a"], ["a", "b"], ["a"], ["c", "a"]))
    assert health.died(FIRST, ["c"]), "another shard fails there too"


def test_a_gpu_that_commits_something_begins_anew() -> None:
    health = GpuHealth()
    health.died(FIRST, ["a"])
    health.works(FIRST)
    assert not health.died(FIRST, ["b"])
    assert health.faulty == set()


def test_only_the_gpus_of_nodes_that_are_there_count() -> None:
    health = GpuHealth({FIRST, SECOND, Gpu("node-b", "0")})
    assert health.faulty_on({"node-a", "node-c"}) == 2
    assert health.faulty_on(frozenset()) == 0
