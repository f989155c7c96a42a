"""Runs with continuous rows."""

import io
from pathlib import Path
from typing import Any

from pipeline.config.load import Config
from pipeline.output.parts import read_rows

CONTINUOUS = {"window": "full", "continuous": True, "fps": None}
BUCKETS = ["32x48", "48x32"]


def stored(config: Config) -> list[dict[str, Any]]:
    """Every row of an output root, by sample and window."""
    parts = sorted((Path(config.output.path) / "latents").rglob("*.parquet"))
    rows = [row for part in parts for row in read_rows(io.BytesIO(part.read_bytes()))]
    return sorted(rows, key=lambda row: (row["sample_index"], row["window_index"]))
