"""The C sources of this folder, compiled for the machine they run on when they are first wanted.

It does not know what they compute. Nothing is kept on disk: compiling takes less than a second.
"""

import ctypes
import os
import shlex
import shutil
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from encoder.kernels.torch_winograd import TILE_PX
from encoder.kernels.winograd import MOST_OUTPUTS, filtering

SOURCES = ("winograd.c", "norms.c")
PANEL = 32  # output channels whose kernels lie together
# Not -ffast-math: a library with it makes the whole process round small numbers to zero.
OPTIONS = ("-O3", "-march=native", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros")
COMPILING_SECONDS = 120


class NoCompilerError(ValueError):
    """The C sources cannot be compiled on this machine."""


def library() -> ctypes.CDLL:
    """The compiled functions.

    Raises:
        NoCompilerError: no compiler was found, or none of them can.
    """
    loaded = _loaded()
    if isinstance(loaded, str):
        raise NoCompilerError(
            f"the ways in C need a compiler where the encoder runs, but {loaded}: install gcc or clang, set CC to one, "
            "or pip install 'latentmill[compiler]'; or, unless a run has noted them, choose convolutions without C"
        )
    return loaded[0]


def compiles() -> bool:
    """Whether `library` gives the functions."""
    return not isinstance(_loaded(), str)


@cache
def compiler_version() -> str:
    """What the compiler of the functions says of itself; NoCompilerError as `library`."""
    library()
    loaded = _loaded()
    assert not isinstance(loaded, str), "library() would have raised"
    compiler = loaded[1]
    said = subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=COMPILING_SECONDS)
    return (said.stdout.splitlines() or [shlex.join(compiler)])[0]


def compilers() -> list[list[str]]:
    """Commands that compile C here, the one that CC names first."""
    named = [shlex.split(os.environ["CC"])] if os.environ.get("CC") else []
    found = [[path] for name in ("cc", "gcc", "clang") if (path := shutil.which(name))]
    packaged = [[sys.executable, "-m", "ziglang", "cc"]] if find_spec("ziglang") else []
    return named + found + packaged


@cache
def _loaded() -> tuple[ctypes.CDLL, list[str]] | str:
    """The functions and the command that compiled them, or why there are none."""
    reason = "there is none"
    for compiler in compilers():
        with TemporaryDirectory(prefix="latentmill-") as folder:
            made = Path(folder) / "encoder.so"
            try:
                subprocess.run(
                    [*compiler, *OPTIONS, *_definitions(), *_sources(), "-o", str(made)],
                    check=True, capture_output=True, text=True, timeout=COMPILING_SECONDS,
                )  # fmt: skip
                return ctypes.CDLL(str(made)), compiler
            except subprocess.CalledProcessError as failed:
                reason = f"{shlex.join(compiler)} said: {failed.stderr.strip()[:400]}"
            except (OSError, subprocess.TimeoutExpired) as failed:
                reason = f"{shlex.join(compiler)} failed: {failed}"
    return reason


def _sources() -> list[str]:
    return [str(Path(__file__).parent / name) for name in SOURCES]


def _definitions() -> list[str]:
    ways = [filtering(outputs) for outputs in range(1, MOST_OUTPUTS + 1)]
    alone = torch.ones(1, 1)  # a clip's first frame, which has a kernel by itself
    return [
        f"-DTILE={TILE_PX}",
        f"-DPANEL={PANEL}",
        f"-DINPUT_MATRICES={_initializer([alone, *(each.input for each in ways)])}",
        f"-DOUTPUT_MATRICES={_initializer([alone, *(each.output for each in ways)])}",
    ]


def _initializer(matrices: list[Tensor]) -> str:
    """Matrices as C writes them; what is zero but for rounding is exactly zero."""
    rows = [[",".join(f"{x if abs(x) > 1e-12 else 0:.9g}" for x in row) for row in each.tolist()] for each in matrices]
    return "{" + ",".join("{" + ",".join(f"{{{row}}}" for row in each) + "}" for each in rows) + "}"
