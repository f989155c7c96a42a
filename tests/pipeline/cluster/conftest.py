"""A local Ray for the tests of a module that need no more of it."""

import os
from collections.abc import Iterator

import pytest
from support.paths import ROOT

from jobs.commands.bench_simulated import logical_cpus
from pipeline.cluster.joining import connected
from pipeline.config.runtime import RuntimeConfig


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A local Ray of two CPUs, as a run starts one. Its workers find what tests share."""
    with pytest.MonkeyPatch.context() as monkeypatch, logical_cpus(2):
        monkeypatch.setenv("RAY_metrics_report_interval_ms", "500")  # a test waits for them
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
        with connected(RuntimeConfig()):
            yield
