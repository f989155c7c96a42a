"""The C sources of this folder, compiled on first use for the machine they run on.

Nothing is kept on disk: compiling takes less than a second.
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
from encoder.kernels.winograd import MAX_OUTPUTS, filtering

SOURCES = ("winograd.c", "norms.c")
PANEL = 32  # output channels whose kernels are stored together
# Not -ffast-math: loading a library built with it makes the whole process flush small numbers to zero.
OPTIONS = ("-O3", "-march=native", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros")
COMPILING_SECONDS = 120


class NoCompilerError(ValueError):
    """The C sources cannot be compiled on this machine."""


def library() -> ctypes.CDLL:
    """The compiled functions.

    Raises:
        NoCompilerError: no compiler was found, or none of them works.
    """
    loaded = _loaded()
    if isinstance(loaded, str):
        raise NoCompilerError(
            f"convolutions in C need a compiler where the encoder runs, but {loaded}: install gcc or clang, set CC to "
            "one, or pip install 'latentmill[compiler]'; a new run may also choose other convolutions"
        )
    return loaded[0]


def compiles() -> bool:
    """Whether the C sources can be compiled here."""
    return not isinstance(_loaded(), str)


@cache
def compiler_version() -> str:
    """The first line of the compiler's --version. Raises NoCompilerError as `library` does."""
    library()
    loaded = _loaded()
    assert not isinstance(loaded, str), "library() would have raised"
    compiler = loaded[1]
    printed = subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=COMPILING_SECONDS)
    return (printed.stdout.splitlines() or [shlex.join(compiler)])[0]


def compilers() -> list[list[str]]:
    """Commands that compile C here; the one in the environment variable CC comes first."""
    named = [shlex.split(os.environ["CC"])] if os.environ.get("CC") else []
    found = [[path] for name in ("cc", "gcc", "clang") if (path := shutil.which(name))]
    packaged = [[sys.executable, "-m", "ziglang", "cc"]] if find_spec("ziglang") else []
    return named + found + packaged


@cache
def _loaded() -> tuple[ctypes.CDLL, list[str]] | str:
    """The functions and the command that compiled them, or the reason why there are none."""
    reason = "there is none"
    for compiler in compilers():
        with TemporaryDirectory(prefix="latentmill-") as folder:
            built = Path(folder) / "encoder.so"
            try:
                subprocess.run(
                    [*compiler, *OPTIONS, *_definitions(), *_sources(), "-o", str(built)],
                    check=True, capture_output=True, text=True, timeout=COMPILING_SECONDS,
                )  # fmt: skip
                return ctypes.CDLL(str(built)), compiler
            except subprocess.CalledProcessError as failed:
                reason = f"{shlex.join(compiler)} failed: {failed.stderr.strip()[:400]}"
            except (OSError, subprocess.TimeoutExpired) as failed:
                reason = f"{shlex.join(compiler)} failed: {failed}"
    return reason


def _sources() -> list[str]:
    return [str(Path(__file__).parent / name) for name in SOURCES]


def _definitions() -> list[str]:
    filterings = [filtering(outputs) for outputs in range(1, MAX_OUTPUTS + 1)]
    first = torch.ones(1, 1)  # for a clip's first frame, which is multiplied by a kernel of its own
    return [
        f"-DTILE={TILE_PX}",
        f"-DPANEL={PANEL}",
        f"-DINPUT_MATRICES={_initializer([first, *(each.input for each in filterings)])}",
        f"-DOUTPUT_MATRICES={_initializer([first, *(each.output for each in filterings)])}",
    ]


def _initializer(matrices: list[Tensor]) -> str:
    """Matrices as a C initializer; what is zero except for rounding becomes exactly zero."""
    rows = [[",".join(f"{x if abs(x) > 1e-12 else 0:.9g}" for x in row) for row in each.tolist()] for each in matrices]
    return "{" + ",".join("{" + ",".join(f"{{{row}}}" for row in each) + "}" for each in rows) + "}"
