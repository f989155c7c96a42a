"""What can only be measured on a GPU, in one command: self-test, tests, encoders, kernels, the whole pipeline.

    make gpu

Each step is a command of its own: one that fails is noted with the end of what it printed, and the others still run.
Writes benchmarks/results/gpu.json, and gpu.md beside it: one page to send back.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "gpu.json"
TAIL_LINES = 15
BENCH, PROFILE = ("-m", "jobs", "bench"), ("-m", "benchmarks.gpu_kernels")
BESIDE_DIFFUSERS = ("--device", "cuda", "--dtypes", "float32", "bfloat16", "--backends", "diffusers", "direct")


@dataclass(frozen=True, slots=True)
class Step:
    """A command of Python; `{json}` among its arguments stands for the file in which it leaves what it measured."""

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float = 1800.0


STEPS = (
    Step("doctor", ("-m", "jobs", "doctor")),
    Step("tests", ("-m", "pytest", "-m", "gpu", "--no-header"), {"LATENTMILL_REQUIRE_CUDA": "1"}),
    Step("cogvideox", (*BENCH, "encoder", *BESIDE_DIFFUSERS, "--shapes", "17x256x256", "49x480x720", "--json={json}")),
    Step("wan", (*BENCH, "encoder", "--name=wan", *BESIDE_DIFFUSERS, "--shapes", "81x480x832", "--json={json}")),
    Step("cogvideox_kernels", (*PROFILE, "cogvideox", "49x480x720", "bfloat16", "--json={json}")),
    Step("wan_kernels", (*PROFILE, "wan", "81x480x832", "bfloat16", "--json={json}")),
    Step(
        "pipeline",
        (*BENCH, "pipeline", "encoder.dtype=bfloat16", "clip.frames=49", "clip.buckets=[480x720]", "--json={json}"),
    ),
)


def main(steps: Sequence[Step] = STEPS, results: Path = RESULTS) -> int:
    measured = {step.name: run(step) for step in steps}
    results.write_text(json.dumps(measured, indent=1) + "\n")
    results.with_suffix(".md").write_text(page(measured))
    print(f"wrote {results} and {results.with_suffix('.md')}")
    return int(any(each["exit_code"] for each in measured.values()))


def run(step: Step) -> dict[str, Any]:
    """The exit code, seconds and last lines of a step, and what it measured if it did."""
    print(f"{step.name} …", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file, began = Path(folder) / "measured.json", time.monotonic()
        command = [sys.executable, *(argument.replace("{json}", str(file)) for argument in step.arguments)]
        try:
            ended = subprocess.run(
                command,
                env=os.environ | step.environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=step.timeout_seconds,
            )
            exit_code, output = ended.returncode, ended.stdout
        except subprocess.TimeoutExpired as late:
            exit_code, output = 124, f"{late.stdout or ''}\nended after {step.timeout_seconds:g} s"
        return {
            "exit_code": exit_code,
            "seconds": round(time.monotonic() - began, 1),
            "last_lines": output.splitlines()[-TAIL_LINES:],
            "measured": json.loads(file.read_text()) if file.exists() else None,
        }


def page(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: how each step ended, then what each printed last."""
    rows = [
        f"| {name} | {'done' if step['exit_code'] == 0 else 'FAILED'} | {step['seconds']:g} |"
        for name, step in measured.items()
    ]
    sections = [f"## {name}\n```text\n" + "\n".join(step["last_lines"]) + "\n```" for name, step in measured.items()]
    return "\n".join(["# On a GPU", "| step | | seconds |", "|---|---|---|", *rows, *sections]) + "\n"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    sys.exit(main())
