"""`bench pipeline --simulate`: what its figures are made of, and a small rehearsal of ours beside its peers."""

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from encoder import ServiceRecord
from jobs.cli import main
from jobs.commands.bench_rehearsal import Rehearsal, config_of, make_shards, make_videos
from jobs.commands.bench_simulated import DriverSample, counted, of_driver, reported_busy
from pipeline.errors import UserError
from pipeline.input.listing import shards_of
from pipeline.input.samples import samples_of
from pipeline.video.simulated import read_simulated

SMALL = ["bench", "pipeline", "--simulate", "1", "--simulate-decode", "1", "--clips", "4", "--shape", "9x32x48"]
SMALL += ["--cpus", "2", "--rounds", "1"]


def rehearsal(**changes: Any) -> Rehearsal:
    values = {"ms_per_frame": 1.0, "decode_ms_per_frame": 1.0, "cpus": 2, "clips": 4, "replicas": 1}
    return Rehearsal(**({**values, "shape": (9, 32, 48)} | changes))


def clips(*ends: float, frames: int = 9) -> list[ServiceRecord]:
    """Services of one second each."""
    return [ServiceRecord(end - 1, end, frames) for end in ends]


def test_the_span_begins_when_the_warm_up_clips_were_served_and_ends_with_the_run() -> None:
    figures = counted(clips(11, 12, 14, 15, 17, 18), began=3.0, ended=22.0, rehearsal=rehearsal())
    assert (figures["seconds"], figures["clips"], figures["clips_per_second"]) == (10.0, 4, 0.4)
    assert figures["device_busy"] == 0.4
    assert (figures["start_seconds"], figures["warm_up_seconds"]) == (7.0, 2.0)


def test_service_before_and_after_the_span_is_not_counted() -> None:
    served = [*clips(11, 12), ServiceRecord(11.5, 13.5, 9), *clips(14, 15, 18)]
    served.sort(key=lambda service: service.end)
    figures = counted(served, began=0.0, ended=17.5, rehearsal=rehearsal())
    assert figures["device_busy"] == pytest.approx((1.5 + 1 + 1 + 0.5) / 5.5, abs=1e-4)


def test_devices_of_several_replicas_share_the_span() -> None:
    two = rehearsal(replicas=2)
    figures = counted(clips(11, 11, 12, 12, 13, 13), began=0.0, ended=13.0, rehearsal=two)
    assert (figures["device_busy"], figures["clips_per_second"]) == (1.0, 2.0)


def test_clips_that_are_missing_are_said() -> None:
    with pytest.raises(UserError, match="5 clips were encoded of 6"):
        counted(clips(1, 2, 3, 4, 5), began=0.0, ended=6.0, rehearsal=rehearsal())


def test_clips_that_two_replicas_made_count_once() -> None:
    figures = counted(clips(1, 2, 3, 4, 5, 6, 7), began=0.0, ended=7.0, rehearsal=rehearsal(replicas=2))
    assert (figures["clips"], figures["clips_per_second"], figures["device_busy"]) == (4, 0.8, 0.5)


def test_reported_busy_is_the_share_of_the_replicas_time_in_which_they_encoded() -> None:
    assert reported_busy({"encode": 6.0, "wait_for_frames": 4.0}, 10.0, 1) == 0.6
    assert reported_busy({"encode": 6.0}, 10.0, 2) == 0.3


def test_the_driver_is_charged_for_the_span_alone() -> None:
    samples = [DriverSample(at, cpu, memory) for at, cpu, memory in ((1, 5.0, 80), (3, 6.0, 90), (5, 6.5, 92))]
    figures = of_driver(samples, start=2.0, clips=100)
    assert figures == {"driver_cpu_ms_per_clip": 5.0, "driver_growth_bytes": 2}


@pytest.mark.parametrize("decode_ms", [1.0, None])
def test_shards_hold_the_clips_to_warm_up_with_and_those_measured(tmp_path: Path, decode_ms: float | None) -> None:
    settings = rehearsal(decode_ms_per_frame=decode_ms, replicas=2, cpus=3, clips=5, shape=(1, 32, 48))
    config = config_of(settings, [], make_shards(tmp_path / "shards", settings, make_videos(settings)))
    found = {shard.name: [sample.key for sample in samples_of(shard, config)] for shard in shards_of(config.input)}
    assert [len(keys) for keys in found.values()] == [2, 2, 3, 2]
    assert [name.startswith("warm-up") for name in found] == [True, True, False, False]


def test_the_first_video_that_is_measured_may_take_long(tmp_path: Path) -> None:
    settings = rehearsal(slow_video_seconds=18.0)
    config = config_of(settings, [], make_shards(tmp_path / "shards", settings, make_videos(settings)))
    videos = [read_simulated(sample.video) for shard in shards_of(config.input) for sample in samples_of(shard, config)]
    assert [video and video.ms_per_frame for video in videos] == [1.0, 1.0, 2000.0, 1.0, 1.0, 1.0]


@pytest.mark.ray
def test_ours_and_a_peer_are_measured_by_what_the_device_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    assert main([*SMALL, "--peers", "serial", "--json", str(out)]) == 0
    measured = json.loads(out.read_text())
    assert measured["simulated"] is True
    assert "ray_data" not in measured
    for name in ("ours", "serial"):
        one = measured[name]
        assert one["clips"] == 4
        assert one["device_busy"] == pytest.approx(4 * 9 * 0.001 / one["seconds"], rel=0.05)
        assert one["clips_per_second"] == pytest.approx(4 / one["seconds"], rel=0.01)
    ours = measured["ours"]
    assert ours["reported_busy"] == pytest.approx(ours["seconds_by_stage"]["encode"] / ours["seconds"], rel=0.01)
    assert ours["object_store_peak_bytes"] >= 0
    assert ours["driver_cpu_ms_per_clip"] >= 0
    assert "simulated device, 1 ms a frame of 9x32x48" in capsys.readouterr().out


def test_without_a_checkout_peers_are_refused_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "benchmarks":
            raise ModuleNotFoundError("No module named 'benchmarks'", name=name)
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(SMALL) == 2
    assert "below benchmarks/ of a checkout" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--simulate", "-1"], ["--shape", "9x32"], ["--shape", "0x32x48"], ["--cpus", "0"]])
def test_settings_that_make_no_sense_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([*SMALL, *wrong])
    assert left.value.code == 2
    assert wrong[1] in capsys.readouterr().err
