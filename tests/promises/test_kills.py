"""Random kills of random processes of a run under way: nothing lost, nothing twice, the same bytes.

LATENTMILL_SOAK sets how many are killed; 20 and more try S3 too. The whole of it is benchmarks/faults.py.
"""

import json
import os
from pathlib import Path

import pytest

from benchmarks import faults

KILLS = int(os.environ.get("LATENTMILL_SOAK", "3"))
STORAGE = ("local", "s3") if KILLS >= 20 else ("local",)


@pytest.mark.ray
@pytest.mark.usefixtures("one_cpu")
@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_random_kills_lose_nothing_and_change_nothing(tmp_path: Path) -> None:
    kills, out = str(KILLS), tmp_path / "faults.json"
    size = ["--kills", kills, "--seconds", "1200", "--samples", "8", "--frames", "5"]
    faults.main([*size, "--out", str(out), "--storage", *STORAGE])
    results = json.loads(out.read_text())
    for storage in STORAGE:
        found = results[storage]
        assert found["kills"]["total"] == KILLS // len(STORAGE)
        assert {"driver", "replica", "decoder"} <= found["kills"].keys()
        assert found["runs"] >= 1
        assert found["samples"] == found["runs"] * 4 * 8
        for what in ("samples_lost", "clips_lost", "clips_duplicated", "files_different", "problems"):
            assert found[what] == 0, (storage, what, found)
