"""`bench decode` measures every step of decoding a clip, and says what it cannot measure."""

import json
from functools import partial
from pathlib import Path

import pytest

from jobs.cli import main
from pipeline.config.latents import ClipConfig
from pipeline.video.bench import clip_cost


@pytest.mark.slow
def test_every_step_of_a_clip_is_measured_beside_the_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(clip_cost, "SIZES_PX", {"720p": (216, 144)})  # smaller, to be quick
    monkeypatch.setattr(clip_cost, "ClipConfig", partial(ClipConfig, buckets=("96x144",)))
    file = tmp_path / "decode.json"
    assert main(["bench", "decode", "--sizes", "720p", "--rounds", "1", "--json", str(file)]) == 0
    (result,) = json.loads(file.read_text())["results"]
    assert result["ours"].keys() == {"read", "decode", "convert", "resize"}
    assert result["clip_frames"] == 49
    assert result["source_frames"] == 181
    assert "plain decord" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "message"), [(["--sizes", "4k"], "720p or 1080p"), (["--rounds", "0"], "1 or")])
def test_what_cannot_be_measured_is_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "decode", *arguments]) == 2
    assert message in capsys.readouterr().err
