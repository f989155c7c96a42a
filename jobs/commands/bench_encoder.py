"""The command `bench encoder`: what to measure from its arguments, and the table and JSON of what was.

It does not measure: encoder/bench.py does.
"""

import argparse
import json
import os
import re
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from pipeline.errors import UserError

WIDTH = 110  # of the table, where the terminal's is less, or there is none

console = Console(soft_wrap=True)
WAYS = "diffusers, and values of encoder.convolutions"


def add_options(parser: argparse.ArgumentParser) -> None:
    """What `bench encoder` takes."""
    parser.add_argument("--name", default="cogvideox", help="cogvideox (default), wan or tiny")
    parser.add_argument("--weights", default="random:0", help="a diffusers VAE folder, or random:SEED (default)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is timed (default: 3)")
    parser.add_argument("--shapes", nargs="+", default=["17x128x192"], metavar="TxHxW", help="clips, in pixels")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="default: float32 bfloat16")
    ways = ["diffusers", "direct", "auto"]
    parser.add_argument("--ways", nargs="+", default=ways, help=WAYS)
    parser.add_argument("--json", metavar="FILE", help="write what was measured")


def bench(chosen: argparse.Namespace) -> int:
    """Measures, prints the table and writes the JSON."""
    from encoder import bench as measuring  # torch takes seconds to import: only who encodes pays

    shapes = tuple(_shape(text) for text in chosen.shapes)
    variants = tuple(measuring.Variant(dtype, way) for dtype in chosen.dtypes for way in chosen.ways)
    what = measuring.Bench(chosen.name, chosen.weights, shapes, variants, chosen.rounds, chosen.device, chosen.threads)
    try:
        machine, *lines = measuring.run(what)
    except ModuleNotFoundError as error:
        raise UserError(
            f"--ways diffusers needs {error.name}, which is not installed: pip install latentmill[bench], or measure "
            "without it: --ways direct auto"
        ) from None
    except ValueError as error:
        raise UserError(f"bench: {error}") from None
    results = measuring.with_ratios(lines)
    _print(machine, results)
    if chosen.json:
        Path(chosen.json).write_text(json.dumps({**machine, "results": results}, indent=1) + "\n")
    return 0


def _shape(text: str) -> tuple[int, int, int]:
    parts = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text)
    if parts is None:
        raise UserError(f"--shapes: {text!r} is no clip: write FRAMESxHEIGHTxWIDTH, such as 17x128x192")
    return int(parts[1]), int(parts[2]), int(parts[3])


def _print(machine: dict[str, Any], results: list[dict[str, Any]]) -> None:
    console.print(f"{machine['encoder']} on {machine['device']}, {machine['threads']} threads", highlight=False)
    headers = ("clip", "way", "seconds", "s/frame", "faster", "error", "MB", "kernels MB", "of peak")
    table = Table(*(Column(header, no_wrap=True) for header in headers), box=None, pad_edge=False)
    for line in results:
        fraction = line["direct_gflops"] / machine["matmul_gflops"][line["dtype"]]
        table.add_row(
            line["shape"],
            f"{line['dtype']} {line['convolutions']}",
            f"{line['median_seconds']:.3g}",
            f"{line['seconds_per_frame']:.3g}",
            f"{line['times_faster']}x" if "times_faster" in line else "",
            f"{line['relative_error']:.2g}",
            _megabytes(line["peak_bytes"]),
            _megabytes(line.get("kernel_bytes")),
            f"{fraction:.2f}",
        )
    Console(width=max(console.width, WIDTH)).print(table)
    console.print("faster: than diffusers in that precision; of peak: of this machine's products of matrices, counting")
    console.print("direct multiplications; error: relative root mean square, against the first line of the clip;")
    console.print(
        "MB: peak of memory above the weights and the kernels that a way keeps beside them; ours get the clip's"
    )
    console.print("uint8 frames chunk by chunk and drop what is encoded, diffusers gets them whole, which counts")


def _megabytes(size_bytes: int | None) -> str:
    return "" if size_bytes is None else f"{size_bytes / 1e6:,.0f}"
