"""What is released: a wheel and a source distribution that hold all that runs, tried as a user would install them."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from support.paths import ROOT

PACKAGES = ("encoder", "pipeline", "jobs", "configs")
IS_SOAK = "LATENTMILL_SOAK" in os.environ


@pytest.fixture(scope="module")
def sources() -> set[str]:
    """All files of the packages that git knows, but what is for people who have a checkout."""
    listed = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, check=True, capture_output=True, text=True)
    return {path for path in listed.stdout.split() if not path.startswith("jobs/docker/")}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, sources: set[str]) -> Path:
    """A folder with the wheel and the source distribution of what git knows."""
    folder = tmp_path_factory.mktemp("release")
    for path in sources | {"pyproject.toml", "README.md", "LICENSE"}:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes((ROOT / path).read_bytes())
    build = "from setuptools import build_meta as b; b.build_wheel('dist'); b.build_sdist('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=folder, check=True, capture_output=True)
    return folder / "dist"


@pytest.mark.slow
def test_wheel_and_source_hold_every_file_of_the_packages(built: Path, sources: set[str]) -> None:
    (wheel,), (source,) = built.glob("*.whl"), built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        assert sources <= set(archive.namelist())
    with tarfile.open(source) as tar:
        assert sources <= {name.partition("/")[2] for name in tar.getnames()}


@(pytest.mark.ray if IS_SOAK else pytest.mark.slow)
def test_the_wheel_runs_in_any_folder(built: Path, tmp_path: Path) -> None:
    """Soaks run the whole demo, on Ray."""
    venv.create(tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", python]  # to give the new one its own would take seconds
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))  # ours has them; our own code is not found by it
    (tmp_path / "elsewhere").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = ["demo", "demo"] if IS_SOAK else ["doctor"]  # which decodes a video of its own
    latentmill = python.with_name("latentmill")
    subprocess.run([latentmill, *command], cwd=tmp_path / "elsewhere", env=environment, check=True, timeout=300)
    where = [python, "-c", "import pipeline; print(pipeline.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert found.stdout.startswith(str(site))
