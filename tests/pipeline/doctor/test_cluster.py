"""What the doctor says of a configuration, and of every node of its cluster."""

from pathlib import Path

import pytest
from support.jobs import config_file
from support.nodes import add_gpus, idle_head
from support.runs import MakeConfig, samples_of, write_tar

from jobs.cli import main
from pipeline.cluster.nodes import NodeFacts
from pipeline.config.runtime import RuntimeConfig
from pipeline.doctor import cluster
from pipeline.doctor.cluster import HERE, check_configuration, check_nodes, diagnose
from pipeline.errors import TransientError

GPU_NODE, CPU_NODE = NodeFacts("a", "10.0.0.1", 8, 96), NodeFacts("b", "10.0.0.2", 0, 32)


@pytest.mark.parametrize(
    ("runtime", "nodes", "level"),
    [
        (RuntimeConfig(), [CPU_NODE], "ok"),
        (RuntimeConfig(address="auto"), [CPU_NODE], "warn"),
        (RuntimeConfig(address="auto", replicas=2), [CPU_NODE], "ok"),
        (RuntimeConfig(device="cuda"), [CPU_NODE], "bad"),
        (RuntimeConfig(replicas=9), [GPU_NODE, CPU_NODE], "warn"),
        (RuntimeConfig(address="auto"), [GPU_NODE, CPU_NODE], "ok"),
    ],
)
def test_the_gpus_of_a_cluster_are_compared_with_what_replicas_ask_for(
    runtime: RuntimeConfig, nodes: list[NodeFacts], level: str
) -> None:
    found = check_nodes(runtime, nodes)
    assert found.level == level
    assert bool(found.advice) is (level != "ok")


def test_what_a_run_would_refuse_is_said_in_its_words(make_config: MakeConfig) -> None:
    (found,), prepared, _ = check_configuration(make_config())
    assert (found.level, "nothing matches" in found.found, prepared) == ("bad", True, None)


def test_a_clip_that_does_not_fit_into_memory_is_bad(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tar(tmp_path / "s.tar", [])

    def too_large(*_: object) -> None:
        raise cluster.UserError("clip: too large")

    monkeypatch.setattr(cluster, "check_memory", too_large)
    found, _, scratch_bytes = check_configuration(make_config(runtime={"device": "cpu"}))
    assert [(one.level, one.subject) for one in found] == [("ok", "configuration"), ("bad", "memory")]
    assert scratch_bytes == 3 * 2 * 2 * 16 * 2 * 4 * 6  # samples, moments, bytes, c t h w


def test_where_ray_does_not_start_the_rest_is_looked_at_all_the_same(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tar(tmp_path / "s.tar", [])

    def refusing(_: RuntimeConfig) -> None:
        raise TransientError("a local Ray does not start here: no room")

    monkeypatch.setattr(cluster, "connected", refusing)
    found = dict.fromkeys(diagnose(make_config()))
    assert {where for where, _ in found} == {HERE}
    assert [one.subject for _, one in found if one.level == "bad"] == ["Ray"]
    assert {"configuration", "input", "output", "weights", "decoders"} <= {one.subject for _, one in found}


@pytest.mark.ray
def test_every_node_is_asked_and_a_gpu_that_is_only_claimed_is_bad(
    make_config: MakeConfig, tmp_path: Path, videos: tuple[bytes, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    write_tar(tmp_path / "s.tar", samples_of(videos[:1]))
    with idle_head() as nodes:
        add_gpus(nodes, 1)
        address = nodes.address.rpartition(":")[0]
        config = make_config(runtime={"address": nodes.address})
        assert main(["doctor", config_file(config, tmp_path / "c.yaml")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "ok    Ray: nodes: 2, GPUs: 1, CPUs: 1" in lines
    assert sum(line.startswith("bad   GPU: replicas refuse this GPU") for line in lines) == 1
    assert any(line.startswith("ok    decoders") and f"[{address}, {address}]" in line for line in lines)
    assert any(line.startswith("ok    output") and line.endswith(f"[{address}]") for line in lines)
    assert {path.name for path in tmp_path.iterdir()} == {"s.tar", "c.yaml"}
