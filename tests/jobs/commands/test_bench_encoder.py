"""`bench encoder`: ways side by side on one clip, with ratios that are those of the times it notes."""

import json
import statistics
import sys
from pathlib import Path

import pytest
import torch

from encoder.bench import _clip, _few_frames, _streamed, _whole, with_ratios
from encoder.video_encoder import VideoEncoder
from jobs.cli import main

pytest.importorskip("diffusers")


@pytest.mark.slow
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
        assert line["seconds_per_frame"] == pytest.approx(line["median_seconds"] / 5, rel=0.02)
        assert line["times_faster"] == pytest.approx(peers[line["dtype"]] / line["median_seconds"], abs=0.01)
        assert line["relative_error"] < (1e-4 if line["dtype"] == "float32" else 0.1)
    assert lines[0]["relative_error"] == 0 < lines[3]["relative_error"]


def test_our_way_takes_a_clip_chunk_by_chunk_and_diffusers_the_same_pixels_whole(tiny: VideoEncoder) -> None:
    clip = _clip((21, 16, 24))
    assert len(set(clip[:, 0, 0, 0].tolist())) > 1, "it must move"
    whole = _whole(clip, tiny)
    assert torch.equal(whole, tiny.to_video(clip))
    parts = list(_streamed(tiny, clip))
    assert len(parts) == len(tiny.plan(21)) > 1
    posterior = tiny.encode(whole)
    assert torch.equal(torch.cat(parts, 2), torch.cat([posterior.mean, posterior.logvar], 1))


def test_few_frames_have_every_length_of_chunk(tiny: VideoEncoder) -> None:
    for frames in range(1, 80, 4):
        assert set(tiny.plan(_few_frames(frames))) == set(tiny.plan(frames))


@pytest.mark.slow
@pytest.mark.parametrize(("ways", "code"), [(["direct"], 0), (["diffusers", "direct"], 2)])
def test_diffusers_is_needed_by_its_own_way_alone(
    ways: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    command = ["bench", "encoder", "--name", "tiny", "--shapes", "5x16x24", "--dtypes", "float32", "--rounds", "1"]
    assert main([*command, "--ways", *ways]) == code
    assert ("--ways diffusers needs diffusers" in capsys.readouterr().err) == bool(code)


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
