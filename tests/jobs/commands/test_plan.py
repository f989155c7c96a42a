"""What `plan` says besides numbers."""

from pathlib import Path

import pytest
from support.jobs import config_file
from support.runs import MakeConfig, samples_of, write_tar

from jobs.cli import main
from jobs.commands.plan import precision_note
from pipeline.estimate import preview


@pytest.mark.parametrize("name", ["wan", "wan2.2"])
def test_the_cost_of_bfloat16_is_said_where_the_familys_own_code_encodes_in_float32(name: str) -> None:
    assert "bfloat16 changes latents by 1%" in (precision_note(name, "bfloat16") or "")
    assert precision_note(name, "float32") is None
    assert precision_note("cogvideox", "bfloat16") is None


def test_hours_have_a_cost_where_a_price_is_given(
    make_config: MakeConfig,
    tmp_path: Path,
    videos: tuple[bytes, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_tar(tmp_path / "s.tar", samples_of(videos[:2]))
    monkeypatch.setattr(preview, "TIMING_SECONDS", 0.02)
    file = config_file(make_config(clip={"frames": 5, "buckets": ["32x48"]}), tmp_path / "c.yaml")
    assert main(["plan", file, "--probe", "2", "--gpu-hour-price", "2.5"]) == 0
    printed = capsys.readouterr().out
    assert "cost of encoding at 2.5 an hour: 0.00 ± 0.00" in printed
    assert "kB to read" in printed
    assert main(["plan", file, "--gpu-hour-price", "2.5"]) == 2
    assert "needs a price of 0 or more, and --probe N" in capsys.readouterr().err
