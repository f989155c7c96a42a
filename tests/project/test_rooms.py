"""The shape of the code: imports run one way through the rooms, heavy libraries have a room, files stay short."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest
from support.paths import ROOT

PACKAGES = ("encoder", "pipeline", "jobs")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
LONGEST_FILE, LONGEST_FUNCTION, MOST_FILES = 300, 50, 12
MOST_COMMANDS = 20  # a file for each command or group of them
COPIED_FILES = {"pipeline.dataset.loader": 624}  # users copy it, so that it is one file
# A room imports only from lines below it; rooms on one line do not know each other.
PIPELINE = (
    {"text_run", "doctor"},
    {"run"},
    {"cluster", "audit", "estimate", "dataset"},
    {"text"},
    {"latents"},
    {"video"},
    {"clips", "input", "output", "monitor"},
    {"config"},
    {"metadata", "storage"},
    {"records"},
    {"errors", "spread"},
)
ENCODER = (
    {"bench"},
    {"__init__"},
    {"video_decoder"},
    {"diffusers_vae", "simulated", "text"},
    {"loading"},
    {"families", "video_encoder"},
    {"tuning"},
    {"weights", "streaming", "computed_by"},
    {"checkpoints"},
    {"models"},
    {"kernels", "posterior"},
    {"device", "spec"},
)
# What code outside of encoder/ may import of it
DOORS = {"encoder", "encoder.video_encoder"}
BENCH_DOOR = ("jobs.commands.bench_encoder", "encoder.bench")
LIBRARIES = {
    "ray": {"pipeline.cluster"},
    "decord": {"pipeline.video"},
    "av": {"pipeline.video"},
    "PIL": {"pipeline.audit", "pipeline.video"},
    "webdataset": {"pipeline.input"},
    "fsspec": {"pipeline.storage", "pipeline.dataset"},
    "pydantic": {"pipeline.config", "jobs.submit"},
    "yaml": {"pipeline.config", "pipeline.dataset", "jobs.submit"},
    "rich": {"pipeline.monitor", "jobs.console"},
    "pyarrow": {"pipeline.output", "pipeline.input", "pipeline.dataset", "pipeline.text"},
    "triton": {"encoder.kernels"},
    "safetensors": {"encoder.weights"},
    "diffusers": {"encoder.bench", "encoder.diffusers_vae", "encoder.text"},
    "transformers": {"encoder.text"},
    "ftfy": {"encoder.text"},
}
Function = ast.FunctionDef | ast.AsyncFunctionDef
Import = tuple[str, str]  # the full name of a module, and of one that it imports


def name_of(path: Path, root: Path = ROOT) -> str:
    """`pipeline/video/probe.py` is pipeline.video.probe, `pipeline/video/__init__.py` pipeline.video.__init__."""
    return ".".join(path.relative_to(root).with_suffix("").parts)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Every module that a file imports, in functions and type checks too; `from a import b` is `a.b`."""
    return frozenset(_imports(tree_of(path)))


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports(files: Iterable[Path], root: Path = ROOT) -> list[Import]:
    return [(name_of(path, root), module) for path in files for module in sorted(imports_of(path))]


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def against_the_order(found: Iterable[Import], package: str, order: tuple[set[str], ...]) -> list[Import]:
    """The imports within a package that do not point from a room to one on a line below it."""
    line = {f"{package}.{room}": number for number, rooms in enumerate(order) for room in rooms}
    door = f"{package}.__init__"
    wrong = []
    for module, imported in found:
        if module.split(".")[0] != package or imported.split(".")[0] != package:
            continue
        ours, theirs = room_of(module), room_of(imported)
        theirs = theirs if theirs in line else door
        if ours != theirs and not line.get(ours, -1) < line[theirs]:
            wrong.append((module, imported))
    return wrong


def past_the_doors(found: Iterable[Import]) -> list[Import]:
    """The imports from outside of encoder/ that are not of a door, or of a name that a door offers."""
    offered = {f"{door}.{name}" for door in DOORS for name in importlib.import_module(door).__all__}
    return [
        (module, imported)
        for module, imported in found
        if not module.startswith("encoder.")
        and imported.split(".")[0] == "encoder"
        and imported not in DOORS | offered
        and (module, imported) != BENCH_DOOR
    ]


def planted(folder: Path, name: str, text: str) -> list[Import]:
    path = folder / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return imports([path], folder)


def test_imports_run_one_way_through_the_rooms_of_the_pipeline() -> None:
    found = [(module, imported) for module, imported in imports(FILES) if module != "pipeline.__init__"]
    assert against_the_order(found, "pipeline", PIPELINE) == []


def test_imports_run_one_way_through_the_rooms_of_the_encoder() -> None:
    assert against_the_order(imports(FILES), "encoder", ENCODER) == []


@pytest.mark.parametrize("imported", ["pipeline.latents.task", "pipeline.run", "pipeline.input.tar"])
def test_an_import_against_the_order_is_found(tmp_path: Path, imported: str) -> None:
    found = planted(tmp_path, "pipeline/clips/new.py", f"from {imported} import something")
    assert against_the_order(found, "pipeline", PIPELINE) == [("pipeline.clips.new", f"{imported}.something")]


def test_an_import_of_the_encoders_door_from_within_is_found(tmp_path: Path) -> None:
    found = planted(tmp_path, "encoder/kernels/new.py", "import encoder")
    assert against_the_order(found, "encoder", ENCODER) == [("encoder.kernels.new", "encoder")]


def test_the_encoder_is_imported_by_its_doors() -> None:
    assert past_the_doors(imports(FILES)) == []


@pytest.mark.parametrize("imported", ["spec.LatentSpec", "video_encoder.Tiled", "bench.machine"])
def test_an_import_past_the_doors_is_found(tmp_path: Path, imported: str) -> None:
    module, _, name = imported.partition(".")
    found = planted(tmp_path, "pipeline/clips/new.py", f"from encoder.{module} import {name}")
    assert past_the_doors(found) == [("pipeline.clips.new", f"encoder.{imported}")]


def test_every_room_is_on_a_line_of_the_order() -> None:
    rooms = {"pipeline": set().union(*PIPELINE) | {"__init__"}, "encoder": set().union(*ENCODER)}
    for package, known in rooms.items():
        assert {room_of(name_of(path)).split(".")[1] for path in FILES if name_of(path).startswith(package)} == known


def test_packages_do_not_import_those_above_them() -> None:
    above = {"encoder": {"pipeline", "jobs"}, "pipeline": {"jobs"}, "jobs": set()}
    for module, imported in imports(FILES):
        assert imported.split(".")[0] not in above[module.split(".")[0]], module


def test_the_encoder_knows_torch_and_its_weights_and_nothing_of_ours() -> None:
    known = sys.stdlib_module_names | {"encoder", "torch", "numpy", "safetensors"}
    known |= {"diffusers", "ftfy", "transformers", "triton"}
    for module, imported in imports(FILES):
        assert not module.startswith("encoder.") or imported.split(".")[0] in known, module


def test_commands_compute_nothing() -> None:
    heavy = {"torch", "ray", "av", "decord", "pyarrow", "webdataset", "fsspec"}
    for module, imported in imports(FILES):
        assert not module.startswith("jobs.") or imported.split(".")[0] not in heavy, module


@pytest.mark.parametrize(("library", "homes"), LIBRARIES.items(), ids=LIBRARIES)
def test_a_heavy_library_is_imported_in_its_room_alone(library: str, homes: set[str]) -> None:
    assert {room_of(module) for module, imported in imports(FILES) if imported.split(".")[0] == library} == homes


def test_diffusers_is_imported_where_it_is_used() -> None:
    for path in FILES:
        top_level = [node for node in tree_of(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not any(name.startswith("diffusers") for name in _imports(ast.Module(top_level, []))), path


def test_the_values_that_flow_and_the_errors_know_nothing_else() -> None:
    known = sys.stdlib_module_names | {"numpy"}
    for module, imported in imports([ROOT / "pipeline" / "records.py", ROOT / "pipeline" / "errors.py"]):
        assert imported.split(".")[0] in known or imported.startswith("pipeline.errors."), module


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("pipeline.video.decode", {"torch", "ray", "PIL"}),
        ("jobs.cli", {"torch", "ray", "decord"}),
        ("pipeline.run", {"torch", "decord"}),
    ],
)
def test_nobody_waits_for_a_library_that_is_not_used(module: str, heavy: set[str]) -> None:
    program = f"import sys, {module}; print(*({heavy} & sys.modules.keys()))"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []


def test_a_folder_has_few_files_and_says_what_it_holds() -> None:
    for folder in {path.parent for path in FILES}:
        files = list(folder.glob("*.py"))
        most = MOST_COMMANDS if folder.name == "commands" else MOST_FILES
        assert len(files) <= most + 1, f"{folder} beside its __init__.py"
        assert (ast.get_docstring(tree_of(folder / "__init__.py")) or "").strip(), folder


def test_a_file_is_short_and_says_what_it_holds() -> None:
    for path in FILES:
        name = name_of(path)
        assert len(path.read_text("utf-8").splitlines()) <= COPIED_FILES.get(name, LONGEST_FILE), name
        assert (ast.get_docstring(tree_of(path)) or "").strip(), name


def test_a_function_is_short() -> None:
    lines = {
        f"{name_of(path)}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, Function)
    }
    assert {name: length for name, length in lines.items() if length > LONGEST_FUNCTION} == {}


def test_tests_lie_where_the_code_lies() -> None:
    elsewhere = {"support", "promises", "project", "benchmarks"}
    for path in (ROOT / "tests").rglob("test_*.py"):
        room = path.relative_to(ROOT / "tests").parent
        assert room.parts[0] in elsewhere or (ROOT / room).is_dir(), path
