"""What makes two runs the same: everything that changes rows or bytes, its fingerprint, and how two of them differ."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from encoder import SIMULATED
from pipeline.config.latents import ClipConfig
from pipeline.config.load import Config
from pipeline.storage.urls import public_url

FORMAT_VERSION = 2  # of the rows, the footers and the rules that make them; part of the fingerprint
NAME_CHARACTERS, ROOT_CHARACTERS = 12, 6


def identity(config: Config, weights_sha256: str) -> dict[str, Any]:
    """Everything that changes rows or bytes, as plain values: two runs may share an output only if it is equal."""
    return {
        "format_version": FORMAT_VERSION,
        "input": config.input.rules(),
        "filter": config.filter.model_dump(mode="json"),
        "output": config.output.model_dump(mode="json", exclude={"path"}),
        "clip": clip_values(config.clip),
        "encoder": config.encoder.rules() | {"weights_sha256": weights_sha256},
        **({"simulated": True} if config.encoder.name == SIMULATED else {}),
    }


def clip_values(clip: ClipConfig) -> dict[str, Any]:
    """The clip section as a run records it, with the keys of continuous rows only where those are used.

    Outputs of earlier versions, which had no such keys, so keep their fingerprints.
    """
    return clip.model_dump(mode="json", exclude=None if clip.continuous else {"continuous", "segments"})


def describe(config: Config, encoder_identity: Mapping[str, Any]) -> dict[str, Any]:
    """What the footers of all parts of a run have in common."""
    return {
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint(identity(config, encoder_identity["weights_sha256"])),
        "encoder": dict(encoder_identity),
        "preprocessing": {
            "clip": clip_values(config.clip),
            "input": config.input.rules(),
            "filter": config.filter.model_dump(mode="json"),
            "resize": "uint8 antialiased bicubic, then centre crop",
            "background": "black",  # of transparent areas
            "value_range": [-1, 1],
            **({"images": "upright by EXIF, ICC profiles to sRGB (perceptual)"} if config.input.image else {}),
        },
        "posterior": config.output.posterior,
        "image_latent": config.output.image_latent,
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


def short(fingerprint: str) -> str:
    """The beginning of a fingerprint, enough to tell configurations apart."""
    return fingerprint[:NAME_CHARACTERS]


def run_name(fingerprint: str, root: str) -> str:
    """The name of a run in logs and metrics. Runs of one configuration that write to two roots have two names."""
    return f"{short(fingerprint)}-{hashlib.sha256(public_url(root).encode()).hexdigest()[:ROOT_CHARACTERS]}"


def differing_fields(theirs: Mapping[str, Any], ours: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One line for every leaf that differs, with its dotted path and both values."""
    lines: list[str] = []
    for key in sorted(theirs.keys() | ours.keys()):
        path, left, right = f"{prefix}{key}", theirs.get(key), ours.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            lines += differing_fields(left, right, f"{path}.")
        elif left != right:
            lines.append(f"{path}: {json.dumps(left)} there, {json.dumps(right)} now")
    return lines
