"""What the CUDA path moves and launches, counted on the meta device."""

import json
from pathlib import Path

import pytest

from jobs.cli import main

MOST = {"cogvideox": ("49x480x720", 300e9, 2000), "wan": ("81x480x832", 405e9, 3200)}


@pytest.mark.slow
@pytest.mark.parametrize("name", MOST)
def test_a_clip_on_a_gpu_moves_no_more_bytes_and_launches_no_more_kernels(name: str, tmp_path: Path) -> None:
    shape, most_bytes, most_kernels = MOST[name]
    file = tmp_path / "count.json"
    what = ["--name", name, "--shapes", shape, "--dtypes", "bfloat16"]
    assert main(["bench", "encoder", "--count", *what, "--json", str(file)]) == 0
    (counted,) = json.loads(file.read_text())["results"]
    assert counted["bytes_moved"] <= most_bytes
    assert counted["kernels"] <= most_kernels
    assert sum(each["bytes_moved"] for each in counted["by_kind"].values()) == counted["bytes_moved"]
    if name == "cogvideox":
        assert counted["flops"] == pytest.approx(149e12, rel=0.02)
