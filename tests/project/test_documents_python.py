"""What is offered to Python programs: the public names, what importing them loads, and the program in the docs."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from support.jobs import config_file
from support.paths import ROOT
from support.runs import MakeConfig, samples_of, write_tar

PUBLIC = {
    "encoder": {
        *("AUTO", "DIRECT", "SHIPPED_WEIGHTS", "SIMULATED", "ChunkPlan", "Convolutions", "Dtype", "NormScope"),
        *(
            "LatentSpec",
            "ReceptiveField",
            "VideoDecoder",
            "check_cuda",
            "load",
            "load_decoder",
            "machine",
            "names",
            "set_threads",
            "spec_of",
        ),
        *("TextEncoder", "TextPresetName", "load_text", "text_identity"),
        *("chunk_plan", "plan_from", "ServiceRecord", "read_service_records"),
    },
    "pipeline": {"execute", "load_config", "prepare"},
}
LIGHT = {"encoder": {"torch"}, "pipeline": {"torch", "ray", "decord", "av", "pyarrow"}}
LONGEST_EXAMPLE = 10  # statements and blank lines


def example() -> str:
    return (ROOT / "docs" / "python.md").read_text().split("```python\n")[1].split("```")[0]


@pytest.mark.parametrize(("package", "names"), PUBLIC.items(), ids=PUBLIC)
def test_a_package_offers_its_public_names_and_no_others(package: str, names: set[str]) -> None:
    module = importlib.import_module(package)
    assert set(module.__all__) == names
    assert all(hasattr(module, name) for name in names)


@pytest.mark.parametrize("package", PUBLIC)
def test_a_name_that_is_not_offered_is_an_error_that_says_so(package: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'exekute'"):
        importlib.import_module(package).exekute  # noqa: B018


@pytest.mark.parametrize(("package", "heavy"), LIGHT.items(), ids=LIGHT)
def test_importing_a_package_loads_no_heavy_library(package: str, heavy: set[str]) -> None:
    program = f"import sys, {package}; print(*({heavy} & sys.modules.keys()))"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []


def test_the_program_of_the_docs_has_ten_lines() -> None:
    ast.parse(example())
    assert len(example().splitlines()) <= LONGEST_EXAMPLE


@pytest.mark.ray
@pytest.mark.usefixtures("one_cpu")
def test_the_program_of_the_docs_runs(
    make_config: MakeConfig,
    tmp_path: Path,
    videos: tuple[bytes, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_tar(tmp_path / "s.tar", samples_of(videos[:2]))
    monkeypatch.setattr(sys, "argv", ["example.py", config_file(make_config(), tmp_path / "c.yaml")])
    exec(example(), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    assert "1 of 1 shards to do" in printed
    assert "2 clips, 0 shards left, exit code 0" in printed
    assert (tmp_path / "out" / "_SUCCESS.json").exists()
