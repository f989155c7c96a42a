"""The matrix of throughput: its commands are ones that the parser takes, and its table says what limits each case."""

import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.throughput import BEGIN, DECODE_MS, DEVICE_MS, END, PAGE, REPLICAS, Case, cases, ceilings, filled, table
from jobs.cli import build_parser


def ran(clips_per_second: float, device_busy: float) -> dict[str, Any]:
    return {"clips_per_second": clips_per_second, "device_busy": device_busy}


def result(device_ms: float, decode_ms: float | None, replicas: int, **runs: Any) -> dict[str, Any]:
    """As `bench pipeline --simulate --json` writes it, as far as the table looks at it."""
    of = {"simulated": True, "shape": [49, 480, 720], "cpus": 16}
    return {**of, "ms_per_frame": device_ms, "decode_ms_per_frame": decode_ms, "replicas": replicas, **runs}


MEASURED = {
    "simulated": True,
    "processor": "x86_64",
    "cores": 2,
    "clips": 60,
    "real_decode_cpu_seconds": 0.8,
    "results": [
        result(0.0, 0.0, 1, ours=ran(12.0, 0.0), ray_data=ran(8.0, 0.0), serial=ran(9.0, 0.0)),
        result(4.0, 18.0, 1, ours=ran(4.9, 0.96), ray_data=ran(4.6, 0.9), serial=ran(0.9, 0.18)),
        result(2.0, 42.0, 1, ours=ran(7.0, 0.686), ray_data=ran(6.5, 0.64), serial=ran(0.5, 0.05)),
        result(16.4, None, 4, ours=ran(2.4, 0.48), ray_data=ran(2.2, 0.44)),
        result(2.0, 0.0, 1, ours=ran(9.0, 0.88), ray_data=ran(7.0, 0.7), serial=ran(5.0, 0.5)),
    ],
}


def test_every_case_is_a_command_that_the_parser_takes() -> None:
    for case in cases():
        chosen = build_parser().parse_args(case.command(60, 2, Path("out.json"))[3:])
        assert Case(chosen.simulate, chosen.simulate_decode, chosen.replicas) == case
        assert (chosen.clips, chosen.rounds, chosen.cpus, chosen.shape) == (60, 2, 16, (49, 480, 720))
        assert chosen.json == "out.json"


def test_the_matrix_has_each_speed_of_device_and_decoder_and_what_feeding_alone_can_do() -> None:
    assert len(set(cases())) == len(cases()) == len(REPLICAS) * (len(DEVICE_MS) * len(DECODE_MS) + 1)
    assert {Case(16.4, None, 4), Case(2.0, 18.0, 1), Case(0.0, 0.0, 1), Case(0.0, 0.0, 4)} <= set(cases())


def test_only_one_replica_has_one_process_beside_it() -> None:
    assert "serial" in Case(4.9, 18.0, 1).command(8, 1, Path("f"))
    assert "serial" not in Case(4.9, 18.0, 4).command(8, 1, Path("f"))


@pytest.mark.parametrize(
    ("number", "device", "decoding", "feeding"),
    [
        (1, 1000 / (4 * 49), 16_000 / (18 * 49), math.inf),  # ours did more in another case
        (3, 4000 / (16.4 * 49), 2 / 0.8, math.inf),  # real decoders have the cores that there are
        (0, math.inf, math.inf, 12.0),
    ],
)
def test_a_stage_could_do_at_most_what_it_would_if_others_took_nothing(
    number: int, device: float, decoding: float, feeding: float
) -> None:
    found = ceilings(MEASURED["results"][number], MEASURED)
    assert found == pytest.approx({"device": device, "decoding": decoding, "feeding": feeding})


def test_the_table_has_a_line_for_each_case_and_names_its_limit() -> None:
    header, ruler, *lines = [line for line in table(MEASURED) if line.startswith("|")]
    assert len({line.count("|") for line in (header, ruler, *lines)}) == 1
    assert lines[1] == "| 4 ms | 18 ms | 1 | device | 5.10 | 4.90 | 96% | 96% | 4.60 | 90% | 0.90 |"
    assert lines[2].startswith("| 2 ms | 42 ms | 1 | decoding | 7.77 | 7.00 | 90% |")
    assert lines[3] == "| 16.4 ms | real 720p | 4 | decoding | 2.50 | 2.40 | 96% | 48% | 2.20 | 44% |  |"
    assert lines[4].startswith("| 2 ms | 0 ms | 1 | device | 10.20 |")
    assert lines[0].startswith("| 0 ms | 0 ms | 1 | feeding | 12.00 | 12.00 | 100% |")


def test_the_page_gets_the_table_between_its_marks_and_stays_as_it_is_elsewhere() -> None:
    page = PAGE.read_text()
    once = filled(page, "| a |")
    assert f"{BEGIN}\n| a |\n{END}" in once
    assert filled(once, "| b |").replace("| b |", "| a |") == once
    assert once.split(BEGIN)[0] == page.split(BEGIN)[0]
    assert once.split(END)[1] == page.split(END)[1]
