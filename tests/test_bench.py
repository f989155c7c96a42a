"""`bench encoder`: ways side by side on one clip, with ratios that are those of the times it notes."""

import json
import statistics
from pathlib import Path

import pytest

from encoder.bench import with_ratios
from jobs.cli import main

pytest.importorskip("diffusers")


def test_ways_are_measured_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    ways = ["diffusers", "direct", "winograd"]
    command = ["bench", "encoder", "--name", "tiny", "--shapes", "5x16x24", "--dtypes", "float32", "bfloat16"]
    assert main([*command, "--rounds", "2", "--threads", "1", "--json", str(out), "--ways", *ways]) == 0
    assert "float32 diffusers" in capsys.readouterr().out
    measured = json.loads(out.read_text())
    lines = measured["results"]
    assert [(line["dtype"], line["convolutions"]) for line in lines] == [
        (dtype, way) for dtype in ("float32", "bfloat16") for way in ways
    ]
    assert measured["matmul_gflops"].keys() == {"float32", "bfloat16"}
    peers = {line["dtype"]: line["median_seconds"] for line in lines if line["convolutions"] == "diffusers"}
    for line in lines:
        assert len(line["seconds"]) == 2
        assert line["median_seconds"] == pytest.approx(statistics.median(line["seconds"]), abs=2e-4)
        assert line["times_faster"] == pytest.approx(peers[line["dtype"]] / line["median_seconds"], abs=0.01)
        assert line["relative_error"] < (1e-4 if line["dtype"] == "float32" else 0.1)
    assert lines[0]["relative_error"] == 0 < lines[3]["relative_error"]


def test_without_diffusers_among_the_ways_there_is_no_ratio() -> None:
    line = {"shape": "5x16x24", "dtype": "float32", "convolutions": "direct", "median_seconds": 1.0, "peak_bytes": 1}
    assert with_ratios([line]) == [line]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shapes", "17x128"], "is no clip: write FRAMESxHEIGHTxWIDTH"),
        (["--shapes", "6x16x16"], "a legal count is 1 + 4k"),
        (["--ways", "fft"], "convolutions is 'fft', but it must be one of"),
        (["--name", "tinny"], "did you mean tiny"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_what_can(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "encoder", "--name", "tiny", "--rounds", "1", "--dtypes", "float32", *arguments]) == 2
    assert message in capsys.readouterr().err
