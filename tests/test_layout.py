"""The shape of the code: imports point one way, a heavy library has one home, files and functions stay short."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("encoder", "pipeline", "jobs")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
LONGEST_FILE, LONGEST_FUNCTION = 300, 50
HOMES = {
    "ray": {"cluster", "ray_decoder", "ray_metrics"},
    "decord": {"decode"},
    "pyarrow": {"parts", "tables"},
    "webdataset": {"shards"},
    "fsspec": {"store"},
    "av": {"probe", "decode_pyav", "synthetic"},
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere in a tree, functions and type checks too; `from a import b` is `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_of(package: str) -> dict[str, set[str]]:
    """By the name of each module of a package, what it imports."""
    return {path.stem: set(imported(tree_of(path))) for path in FILES if path.parent.name == package}


def packages_of(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def own_imports(package: str) -> dict[str, set[str]]:
    """By the name of each module of a package, the modules of the same package that it imports."""
    found = imports_of(package)
    return {
        name: {other for other in found if any(module.split(".")[:2] == [package, other] for module in modules)}
        for name, modules in found.items()
    }


def test_the_encoder_knows_torch_and_its_weights_and_nothing_of_ours() -> None:
    for name, modules in imports_of("encoder").items():
        others = packages_of(modules) - sys.stdlib_module_names - {"encoder", "torch", "safetensors", "diffusers"}
        assert others <= {"numpy"}, name


def test_diffusers_is_imported_where_it_is_used() -> None:
    for path in FILES:
        top_level = [node for node in tree_of(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert "diffusers" not in packages_of(set(imported(ast.Module(top_level, [])))), named(path)


def test_imports_point_from_the_commands_to_the_pipeline_to_the_encoder() -> None:
    for modules in imports_of("pipeline").values():
        assert "jobs" not in packages_of(modules)
    for modules in imports_of("jobs").values():
        assert not packages_of(modules) & (HOMES.keys() | {"torch"})


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_make_no_circle(package: str) -> None:
    TopologicalSorter(own_imports(package)).prepare()


def test_only_a_run_talks_to_the_cluster_and_only_commands_run() -> None:
    imports = own_imports("pipeline")
    assert imports["events"] == {"records"}
    assert {name for name, modules in imports.items() if "cluster" in modules} == {"run"}
    assert {name for name, modules in imports.items() if "run" in modules} == set()


@pytest.mark.parametrize("name", ["records", "errors"])
def test_the_values_that_flow_and_the_errors_know_nothing_else(name: str) -> None:
    assert own_imports("pipeline")[name] == set()
    assert packages_of(imports_of("pipeline")[name]) <= sys.stdlib_module_names | {"numpy"}


@pytest.mark.parametrize(("library", "homes"), HOMES.items(), ids=HOMES)
def test_a_heavy_library_is_imported_in_its_home_alone(library: str, homes: set[str]) -> None:
    assert {name for name, modules in imports_of("pipeline").items() if library in packages_of(modules)} == homes


@pytest.mark.parametrize(
    ("module", "heavy"), [("pipeline.decode", {"torch", "ray"}), ("jobs.cli", {"torch", "ray", "decord"})]
)
def test_nobody_waits_for_a_library_that_is_not_used(module: str, heavy: set[str]) -> None:
    program = f"import sys, {module}; print(*({heavy} & sys.modules.keys()))"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []


@pytest.mark.parametrize("path", FILES, ids=named)
def test_a_file_is_short_and_says_what_it_does_and_what_it_does_not(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= LONGEST_FILE
    sentences = re.findall(r"[.](?:\s|$)", ast.get_docstring(tree_of(path)) or "")
    assert len(sentences) >= 2


@pytest.mark.parametrize("path", FILES, ids=named)
def test_a_function_is_short(path: Path) -> None:
    lines = {
        node.name: (node.end_lineno or 0) - node.lineno + 1
        for node in ast.walk(tree_of(path))
        if isinstance(node, Function)
    }
    assert {name: length for name, length in lines.items() if length > LONGEST_FUNCTION} == {}


def test_tests_lie_flat() -> None:
    tests = ROOT / "tests"
    helpers = {"conftest.py", "faulty_proxy.py", "makers.py"}
    files = sorted(tests.rglob("*.py"))
    assert [path for path in files if path.parent != tests] == []
    assert [path.name for path in files if path.name not in helpers and not path.name.startswith("test_")] == []
