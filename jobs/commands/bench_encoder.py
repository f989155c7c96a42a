"""The command `bench encoder`: its arguments, and the table and JSON of what encoder/bench.py measures."""

import argparse
import json
import os
import re
from pathlib import Path
from typing import Any

from jobs.arguments import Subparsers, add_command, path_text, renamed
from jobs.console import say, say_columns
from pipeline.errors import UserError

LEAST_WIDTH = 110  # of the table, also without a terminal
HEADERS = ("clip", "backend", "seconds", "s/frame", "speedup", "error", "MB", "kernels MB", "of peak")
NOTES = """\
speedup: over diffusers in that precision; of peak: of this machine's matrix products, counting the
multiplications of direct convolution; error: relative root mean square, against the first line of the clip;
MB: peak of memory above the weights and above the kernels that a backend keeps beside them; ours get the clip's
uint8 frames chunk by chunk and drop what is encoded, diffusers gets them whole, which counts"""


def add(subparsers: Subparsers) -> None:
    """Adds `bench encoder`."""
    text = "encoders alone: our convolution algorithms beside diffusers' own code, with error and memory"
    parser = add_command(subparsers, "encoder", bench, text)
    parser.add_argument("--name", default="cogvideox", help="cogvideox (default), wan or tiny")
    text = "a diffusers VAE folder, or random:SEED (default)"
    parser.add_argument("--weights", type=path_text, default="random:0", help=text)
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is timed (default: 3)")
    parser.add_argument("--shapes", nargs="+", default=["17x128x192"], metavar="TxHxW", help="clips, in pixels")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="default: float32 bfloat16")
    backends, text = ["diffusers", "direct", "auto"], "diffusers, and values of encoder.convolutions"
    parser.add_argument("--backends", nargs="+", default=backends, help=text)
    renamed(parser, "--ways", "--backends")
    text = "without a GPU: what the CUDA path moves, launches and multiplies for a clip"
    parser.add_argument("--count", action="store_true", help=text)
    parser.add_argument("--json", type=path_text, metavar="FILE", help="write what was measured")


def bench(chosen: argparse.Namespace) -> int:
    """Measures, prints the table and writes the JSON."""
    from encoder import bench as measuring  # lazily: torch takes seconds to import

    shapes = tuple(_shape(text) for text in chosen.shapes)
    if chosen.count:
        return _count(chosen, [line for dtype in chosen.dtypes for line in measuring.count(chosen.name, shapes, dtype)])
    variants = tuple(measuring.Variant(dtype, backend) for dtype in chosen.dtypes for backend in chosen.backends)
    what = measuring.Bench(chosen.name, chosen.weights, shapes, variants, chosen.rounds, chosen.device, chosen.threads)
    try:
        machine, *lines = measuring.run(what)
    except ModuleNotFoundError as error:
        raise UserError(
            f"--backends diffusers needs {error.name}, which is not installed: pip install latentmill[bench], or "
            "measure without it: --backends direct auto"
        ) from None
    except ValueError as error:
        raise UserError(f"bench: {error}") from None
    results = measuring.with_ratios(lines)
    _print(machine, results)
    if chosen.json:
        Path(chosen.json).write_text(json.dumps({**machine, "results": results}, indent=1) + "\n")
    return 0


def _count(chosen: argparse.Namespace, results: list[dict[str, Any]]) -> int:
    for line in results:
        say(f"{chosen.name} {line['shape']} {line['dtype']}: {line['flops'] / 1e12:.1f} TFLOP, counted without a GPU")
        kinds = {**line["by_kind"], "all": line}
        rows = ((kind, f"{each['bytes_moved'] / 1e9:.1f}", f"{each['kernels']:,}") for kind, each in kinds.items())
        say_columns(("operations", "GB", "kernels"), rows)
    if chosen.json:
        Path(chosen.json).write_text(json.dumps({"encoder": chosen.name, "results": results}, indent=1) + "\n")
    return 0


def _shape(text: str) -> tuple[int, int, int]:
    parts = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text)
    if parts is None:
        raise UserError(f"--shapes: cannot read {text!r}: write FRAMESxHEIGHTxWIDTH, such as 17x128x192")
    return int(parts[1]), int(parts[2]), int(parts[3])


def _print(machine: dict[str, Any], results: list[dict[str, Any]]) -> None:
    say(f"{machine['encoder']} on {machine['device']}, {machine['threads']} threads")
    say_columns(HEADERS, (_row(line, machine["matmul_gflops"][line["dtype"]]) for line in results), LEAST_WIDTH)
    say(NOTES)


def _row(line: dict[str, Any], peak_gflops: float) -> tuple[str, ...]:
    return (
        line["shape"],
        f"{line['dtype']} {line['convolutions']}",
        f"{line['median_seconds']:.3g}",
        f"{line['seconds_per_frame']:.3g}",
        f"{line['times_faster']}x" if "times_faster" in line else "",
        f"{line['relative_error']:.2g}",
        _megabytes(line["peak_bytes"]),
        _megabytes(line.get("kernel_bytes")),
        f"{line['direct_gflops'] / peak_gflops:.2f}",
    )


def _megabytes(size_bytes: int | None) -> str:
    return "" if size_bytes is None else f"{size_bytes / 1e6:,.0f}"
