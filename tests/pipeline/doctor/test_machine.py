"""What the doctor says of one machine, from what is there and with stand-ins for what is not."""

import pytest
from support.runs import MakeConfig

import encoder
from jobs.cli import main
from jobs.doctor.doctor import in_words
from pipeline.doctor import machine
from pipeline.doctor.cluster import HERE
from pipeline.doctor.findings import Finding, bad, ok, warn
from pipeline.doctor.machine import (
    check_compiler,
    check_decoders,
    check_devices,
    check_libraries,
    check_scratch,
    check_shared_memory,
    look_at_machine,
)
from pipeline.video import decord_pictures

WITHOUT_WHEEL = ({"driver": "580.65", "torch": "2.10.0+cpu"}, "torch finds no CUDA device: install a wheel", None)
GB = 10**9


def test_this_machine_can_run() -> None:
    found = list(look_at_machine(None, {}))
    assert {"libraries", "decoders", "shared memory", "temporary files"} <= {finding.subject for finding in found}
    assert [finding for finding in found if finding.level == "bad"] == []


def test_every_finding_that_is_not_in_order_says_what_to_do() -> None:
    found = [
        check_libraries({"ray": "unknown"}, {}),
        check_libraries({"torch": "2.9.1"}, {"torch": "2.10.0"}),
        check_compiler(None, "none"),
        check_shared_memory(64e6, 64 * GB),
        check_scratch("/tmp", 100 * GB, 99 * GB, GB, 2 * GB),
        check_scratch("/tmp", 100 * GB, 99 * GB, GB, 0),
    ]
    assert [finding.level for finding in found] == ["bad", "warn", "warn", "warn", "bad", "warn"]
    assert all(finding.advice for finding in found)


def test_what_is_enough_is_in_order(make_config: MakeConfig) -> None:
    found = [
        check_libraries({"torch": "2.10.0", "latentmill": "unknown"}, {"torch": "2.10.0"}),
        check_compiler(None, "gcc"),
        check_compiler(make_config(encoder={"convolutions": "direct"}), "none"),
        check_shared_memory(10 * GB, 64 * GB),
        check_shared_memory(3 * GB, 8 * GB),
        check_scratch("/tmp", 100 * GB, 50 * GB, 50 * GB, 2 * GB),
    ]
    assert [finding.level for finding in found] == ["ok"] * len(found)


def test_convolutions_in_c_need_a_compiler(make_config: MakeConfig) -> None:
    assert check_compiler(make_config(encoder={"convolutions": "winograd_c"}), "none").level == "bad"


def test_two_libraries_of_one_name_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_installed", lambda: {"decord", "decord2"})
    assert "chance" in check_libraries({"ray": "2.60.0"}, {}).found


def test_decoders_that_do_not_work_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_decoders().level == "ok"
    of_decord = decord_pictures.decord_pictures
    monkeypatch.setattr(decord_pictures, "decord_pictures", lambda *of: list(of_decord(*of))[:-1])
    assert "[0, 1, 2, 3] and [0, 1, 2, 3, 4]" in check_decoders().found

    def broken(*_: object) -> None:
        raise RuntimeError("no codec")

    monkeypatch.setattr(decord_pictures, "decord_pictures", broken)
    assert (check_decoders().level, "no codec" in check_decoders().found) == ("bad", True)


def test_a_machine_with_a_driver_and_a_cpu_wheel_is_bad(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(encoder, "check_cuda", lambda dtype: WITHOUT_WHEEL)
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "install a wheel" in printed
    assert "a run would fail: 1 bad" in printed


def test_a_gpu_that_works_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "check_cuda", lambda dtype: ({"driver": "580.65", "devices": "H200"}, None, None))
    assert list(check_devices(None)) == [ok("GPU", "driver 580.65, devices H200")]


def test_findings_of_several_nodes_are_told_once() -> None:
    same, other = ok("decoders", "alike"), bad("GPU", "none", "install a driver")
    found: list[tuple[str, Finding]] = [(f"10.0.0.{n}", same) for n in range(6)]
    lines = list(in_words([(HERE, warn("Ray", "few", "more")), *found, ("10.0.0.5", other)]))
    assert lines == [
        "warn  Ray: few",
        "      -> more",
        "ok    decoders: alike [10.0.0.0, 10.0.0.1, 10.0.0.2, 10.0.0.3 and 2 more]",
        "bad   GPU: none [10.0.0.5]",
        "      -> install a driver",
        "a run would fail: 1 bad, 1 to be warned of",
    ]
