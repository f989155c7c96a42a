"""`make gpu` keeps going when a step fails, and its tables tell kernels apart; the same lines run on a CPU."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import STEPS, Step, main
from benchmarks.gpu_kernels import Kernel, by_class, class_of, kernels_of
from jobs.cli import build_parser


@pytest.mark.slow
def test_a_step_that_fails_or_hangs_is_noted_and_the_others_still_run(tmp_path: Path) -> None:
    steps = (
        Step("broken", ("-c", "print('no driver'); raise SystemExit(3)")),
        Step("late", ("-c", "import time; print('begun', flush=True); time.sleep(60)"), timeout_seconds=2),
        Step("told", ("-c", "import os; assert os.environ['ASKED'] == '1'"), {"ASKED": "1"}),
        Step("measured", ("-c", "import sys; open(sys.argv[1], 'w').write('[7]')", "{json}")),
    )
    assert main(steps, tmp_path / "gpu.json") == 1
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [step["exit_code"] for step in found.values()] == [3, 124, 0, 0]
    assert found["broken"]["last_lines"] == ["no driver"]
    assert found["measured"]["measured"] == [7]
    page = (tmp_path / "gpu.md").read_text()
    assert "| broken | FAILED |" in page
    assert "| told | done |" in page


def test_the_steps_are_commands_that_exist() -> None:
    commands = [step.arguments[2:] for step in STEPS if step.arguments[:2] == ("-m", "jobs")]
    assert commands
    for arguments in commands:
        build_parser().parse_args(arguments)


def test_kernels_are_told_apart() -> None:
    names = {
        "channel_moments": "norms",
        "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32": "convolutions",
        "void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm>": "linear",
        "Memcpy HtoD (Pinned -> Device)": "copies",
        "something else": "other",
    }
    assert {name: class_of(name) for name in names} == names
    table = by_class([Kernel("memset", 1.0, 2), Kernel("conv3d", 2.0, 3), Kernel("memcpy", 0.5, 1)])
    assert table == {
        "convolutions": {"seconds": 2.0, "launches": 3},
        "copies": {"seconds": 1.5, "launches": 3},
    }


def test_an_encoder_is_profiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # the profiler sees the threads that it began in
    kernels = kernels_of("tiny", (9, 32, 48), "float32", "cpu")
    assert {"convolutions"} <= by_class(kernels).keys()
    assert kernels == sorted(kernels, key=lambda kernel: -kernel.seconds)
