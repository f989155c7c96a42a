"""What makes two runs the same: all that changes rows or bytes, its fingerprint, and where two of them differ.

It does not read configurations (config.py) or compare output roots (run.py).
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pipeline.config.load import ClipConfig, Config

FORMAT_VERSION = 1  # of the rows, the footers and the rules that make them: another number makes another fingerprint
NAME_CHARACTERS = 12


def identity(config: Config, weights_sha256: str) -> dict[str, Any]:
    """All that changes rows or bytes, as plain values: what two runs must share to write in one root."""
    return {
        "format_version": FORMAT_VERSION,
        "input": config.input.rules(),
        "filter": config.filter.model_dump(mode="json"),
        "output": config.output.model_dump(mode="json", exclude={"path"}),
        "clip": clip_values(config.clip),
        "encoder": config.encoder.rules() | {"weights_sha256": weights_sha256},
    }


def clip_values(clip: ClipConfig) -> dict[str, Any]:
    """What a run says of its clips. Continuous rows are named only where they are: older outputs know no such key."""
    return clip.model_dump(mode="json", exclude=None if clip.continuous else {"continuous", "segments"})


def describe(config: Config, encoder_identity: Mapping[str, Any]) -> dict[str, Any]:
    """What the footer of every part of a run says, whichever shard it is of."""
    return {
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint(identity(config, encoder_identity["weights_sha256"])),
        "encoder": dict(encoder_identity),
        "preprocessing": {
            "clip": clip_values(config.clip),
            "input": config.input.rules(),
            "filter": config.filter.model_dump(mode="json"),
            "resize": "uint8 antialiased bicubic, then centre crop",
            "value_range": [-1, 1],
        },
        "posterior": config.output.posterior,
        "first_frame": config.output.first_frame,
        "columns": {name: column.type for name, column in config.input.parsed_columns.items()},
        "sample_seed": config.output.seed if config.output.posterior == "sample" else None,
        "dtype": config.output.dtype,
        "part_samples": config.output.part_samples,
        **({"continuous": True} if config.clip.continuous else {}),
    }


def fingerprint(identity_values: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON of an identity."""
    canonical = json.dumps(identity_values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def run_name(fingerprint: str) -> str:
    """What logs and metrics call a run: the beginning of its fingerprint, enough to tell runs apart."""
    return fingerprint[:NAME_CHARACTERS]


def differing_fields(theirs: Mapping[str, Any], ours: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One `path: theirs -> ours` line for every leaf that differs."""
    lines: list[str] = []
    for key in sorted(theirs.keys() | ours.keys()):
        path, left, right = f"{prefix}{key}", theirs.get(key), ours.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            lines += differing_fields(left, right, f"{path}.")
        elif left != right:
            lines.append(f"{path}: {json.dumps(left)} there, {json.dumps(right)} now")
    return lines
