"""Text embeddings stored trimmed against padded, and embedded in batches by length against padded to the full length.

Weights are random and captions are made up, of lengths as those of video captions: `python -m benchmarks.texts` writes
benchmarks/results/texts.json. The width is that of Wan's encoder, its depth is not: seconds are ratios.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the tests' text encoders

import numpy as np

import encoder
from encoder import TextEncoder
from encoder.text.presets import PRESETS
from pipeline.text.parts import TextPartWriter
from pipeline.text.slices import Embedded

RESULTS = Path(__file__).parent / "results" / "texts.json"
CAPTIONS, ROUNDS = 64, 5
MEDIAN_TOKENS, SPREAD = 90, 0.6  # of a lognormal distribution
PADDED = "padded"
LETTERS = "acdefgilmnorstuvw"  # that its training text has


def captions_of(count: int, seed: int = 0) -> list[str]:
    """Captions of lengths that are far apart, of random letters, which the tokenizer takes as a token each or so."""
    draw = random.Random(seed)
    lengths = [min(600, max(3, round(MEDIAN_TOKENS * draw.lognormvariate(0, SPREAD)))) for _ in range(count)]
    return ["".join(draw.choices(LETTERS, k=length)) for length in lengths]


def load(folder: Path, preset: str) -> TextEncoder:
    return encoder.load_text(preset, weights=str(folder), dtype="bfloat16")


def sizes_of(loaded: TextEncoder, captions: list[str], rows: int) -> dict[str, int]:
    """Bytes of embeddings that have zeros up to so many rows, as pipelines return them, and of the part with them."""
    with tempfile.TemporaryFile() as scratch:
        writer = TextPartWriter(scratch)
        values = 0
        for number, (caption, one) in enumerate(zip(captions, loaded.encode(captions), strict=True)):
            embedding = one.arrays["text_embedding"]
            arrays = {"text_embedding": np.pad(embedding, ((0, max(0, rows - len(embedding))), (0, 0)))}
            row = Embedded(caption, arrays, one.tokens, one.truncated).row(("shard", number, None, 0), "bfloat16")
            values += len(row.arrays["text_embedding"]["bytes"])
            writer.add(row)
        writer.close({})
        return {"embedding_bytes": values, "file_bytes": scratch.seek(0, 2), "tokens": writer.tokens}


def seconds_of(loaded: TextEncoder, captions: list[str]) -> float:
    began = time.perf_counter()
    loaded.encode(captions)
    return time.perf_counter() - began


def measure(width: int, layers: int) -> dict[str, Any]:
    from support.texts import make_text_encoder

    PRESETS[PADDED] = replace(PRESETS["wan"], name=PADDED, trim=False)
    captions = captions_of(CAPTIONS)
    with tempfile.TemporaryDirectory() as folder:
        made = make_text_encoder(Path(folder), "umt5", d_model=width, num_layers=layers, d_ff=256, num_heads=8)
        ways = {"trimmed": load(made, "wan"), PADDED: load(made, PADDED)}
        rows = {"trimmed": 0, PADDED: PRESETS["wan"].max_tokens}
        sizes = {name: sizes_of(ways["trimmed"], captions, count) for name, count in rows.items()}
        runs: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, loaded in ways.items():
                runs[name].append(seconds_of(loaded, captions))
    seconds = {name: statistics.median(values) for name, values in runs.items()}
    return {
        "captions": CAPTIONS,
        "width": width,
        "layers": layers,
        "rounds": ROUNDS,
        "sizes": sizes,
        "padded_to_trimmed_embedding_bytes": sizes[PADDED]["embedding_bytes"] / sizes["trimmed"]["embedding_bytes"],
        "padded_to_trimmed_file_bytes": sizes[PADDED]["file_bytes"] / sizes["trimmed"]["file_bytes"],
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "padded_to_trimmed_seconds": seconds[PADDED] / seconds["trimmed"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    out = parser.parse_args().out
    results = {"machine": encoder.machine("cpu"), "wide": measure(4096, 1), "deep": measure(512, 8)}
    out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
