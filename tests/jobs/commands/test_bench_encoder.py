"""`bench encoder`: backends side by side on one clip, with ratios that follow from the times it writes."""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest

from encoder import bench
from jobs.cli import main

pytest.importorskip("diffusers")


@pytest.mark.slow
def test_backends_are_measured_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = bench._peak_bytes

    def peak_bytes(asked: bench.Bench, folder: str, variant: bench.Variant, *rest: Any) -> int | None:
        """Elsewhere only once, as a process takes seconds to import all; the next test has one of another backend."""
        own = variant == bench.Variant("diffusers", "float32")
        return (elsewhere if own else bench._peak_bytes_here)(asked, folder, variant, *rest)

    monkeypatch.setattr(bench, "_peak_bytes", peak_bytes)
    out = tmp_path / "bench.json"
    backends = ["diffusers", "direct"]
    command = ["bench", "encoder", "--name", "tiny", "--shapes", "5x16x24", "--dtypes", "float32", "bfloat16"]
    assert main([*command, "--rounds", "2", "--threads", "1", "--json", str(out), "--backends", *backends]) == 0
    assert "float32 diffusers" in capsys.readouterr().out
    measured = json.loads(out.read_text())
    lines = measured["results"]
    assert [(line["dtype"], line["convolutions"]) for line in lines] == [
        (dtype, backend) for dtype in ("float32", "bfloat16") for backend in backends
    ]
    assert measured["matmul_gflops"].keys() == {"float32", "bfloat16"}
    peers = {line["dtype"]: line["median_seconds"] for line in lines if line["convolutions"] == "diffusers"}
    for line in lines:
        assert len(line["seconds"]) == 2
        assert line["peak_bytes"] >= 0
        assert line["median_seconds"] == pytest.approx(statistics.median(line["seconds"]), abs=2e-4)
        assert line["seconds_per_frame"] == pytest.approx(line["median_seconds"] / 5, rel=0.02)
        assert line["times_faster"] == pytest.approx(peers[line["dtype"]] / line["median_seconds"], abs=0.01)
        assert line["relative_error"] < (1e-4 if line["dtype"] == "float32" else 0.1)
    assert lines[0]["relative_error"] == 0 < lines[2]["relative_error"]


@pytest.mark.slow
@pytest.mark.parametrize(("backends", "code"), [(["direct"], 0), (["diffusers", "direct"], 2)])
def test_only_the_diffusers_backend_needs_diffusers(
    backends: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    command = ["bench", "encoder", "--name", "tiny", "--shapes", "5x16x24", "--dtypes", "float32", "--rounds", "1"]
    assert main([*command, "--backends", *backends]) == code
    assert ("--backends diffusers needs diffusers" in capsys.readouterr().err) == bool(code)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shapes", "17x128"], "cannot read '17x128': write FRAMESxHEIGHTxWIDTH"),
        (["--shapes", "6x16x16"], "a legal count is 1 + 4k"),
        (["--backends", "fft"], "convolutions is 'fft', but it must be one of"),
        (["--name", "tinny"], "did you mean tiny"),
    ],
)
def test_arguments_that_cannot_be_measured_are_refused_with_what_is_allowed(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "_matmul_gflops", lambda *_: 1.0)  # it is measured first
    assert main(["bench", "encoder", "--name", "tiny", "--rounds", "1", "--dtypes", "float32", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_former_name_of_an_option_is_refused_with_the_new_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["bench", "encoder", "--ways", "direct", "auto"])
    assert left.value.code == 2
    assert "--ways is now called --backends" in capsys.readouterr().err
