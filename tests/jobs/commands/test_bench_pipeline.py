"""`bench pipeline`: runs beside their encoder alone on the same clips, and how its figures are computed."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.runs import samples_of, write_tar

from jobs.cli import main
from jobs.commands.bench_pipeline import Ran, compared
from pipeline.errors import UserError
from pipeline.estimate.ceiling import Limit

TINY = ["bench", "pipeline", "encoder.name=tiny", "clip.buckets=[32x48]", "clip.frames=5", "--rounds", "1"]


def alone(seconds: float, clips: int = 4, frames: int = 36) -> Limit:
    return Limit({"device": "cpu", "threads": 1, "torch": "2"}, {}, clips, frames, seconds)


def ran(seconds: float, clips: int = 4, frames: int = 36) -> Ran:
    return Ran(clips, frames, seconds, {"encode": seconds / 2}, 1.0, 2.0)


def test_rates_and_ratio_are_of_the_medians_and_stages_of_the_median_run() -> None:
    measured = compared([alone(3.0), alone(1.0), alone(2.0)], [ran(9.0), ran(4.0), ran(2.5)])
    assert measured["limit"]["clips_per_second"] == 2.0
    assert measured["limit"]["frames_per_second"] == 18.0
    assert measured["pipeline"]["frames_per_second"] == 9.0
    assert measured["pipeline"]["seconds"] == [9.0, 4.0, 2.5]
    assert measured["pipeline"]["seconds_by_stage"] == {"encode": 2.0}
    assert measured["ratio"] == 0.5


@pytest.mark.parametrize("empty", [{"limits": [alone(0.0, 0, 0)]}, {"runs": [ran(1.0, 0, 0)]}])
def test_shards_without_a_clip_are_refused(empty: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="no clip came"):
        compared(**{"limits": [alone(1.0)], "runs": [ran(1.0)]} | empty)


@pytest.mark.ray
@pytest.mark.usefixtures("one_cpu")
def test_runs_and_their_limit_are_measured_on_the_same_clips(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    assert main([*TINY, "--clips", "2", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    measured = json.loads(out.read_text())
    limit_, run = measured["limit"], measured["pipeline"]
    assert (limit_["clips"], limit_["frames"]) == (2, 10)
    assert (run["clips"], run["frames"]) in [(2, 10), (1, 5)], "all of three clips but what was reported first"
    assert measured["ratio"] == pytest.approx(run["frames_per_second"] / limit_["frames_per_second"], abs=1e-3)
    rounding = 5e-4 / run["seconds"][0]  # seconds are written in milliseconds
    assert run["frames_per_second"] == pytest.approx(run["frames"] / run["seconds"][0], rel=1e-2 + rounding)
    assert {"encode", "wait_for_frames", "write"} <= run["seconds_by_stage"].keys()
    assert run["seconds_by_stage"]["encode"] < run["seconds"][0]
    assert f"the pipeline reaches {measured['ratio']:.1%} of the limit" in printed


def test_one_shard_is_refused_as_the_first_is_not_counted(
    videos: tuple[bytes, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tar(tmp_path / "s.tar", samples_of(videos[:1]))
    assert main([*TINY, "--shards", f"{tmp_path}/*.tar"]) == 2
    assert "needs two shards or more" in capsys.readouterr().err


@pytest.mark.parametrize(("what", "own"), [("encoder", "--backends"), ("pipeline", "--config")])
def test_the_help_of_each_benchmark_lists_its_own_options(
    what: str, own: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["bench", what, "--help"])
    assert left.value.code == 0
    printed = capsys.readouterr().out
    assert [option for option in ("--backends", "--config") if option in printed] == [own]
