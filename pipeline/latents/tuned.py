"""What `encoder.convolutions: auto` came to on this machine before: measuring again would take many seconds."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import encoder
from pipeline.config.latents import EncoderConfig
from pipeline.storage.node_cache import cache_folder

Choice = dict[str, str]  # by convolution, the name of an algorithm


def tuning_key(config: EncoderConfig, shapes: Sequence[str], machine: Mapping[str, str], threads: int) -> str:
    """A name for all that the fastest algorithms depend on.

    Args:
        shapes: the encoder's convolutions, as `VideoEncoder.tunable` names them.
        machine: as `encoder.machine` says.
    """
    values = {"dtype": config.dtype, "shapes": sorted(shapes), "machine": dict(machine), "threads": threads}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


def key_here(config: EncoderConfig, shapes: Sequence[str], threads: int) -> str:
    """`tuning_key` of this process's device."""
    return tuning_key(config, shapes, encoder.machine(), threads)


def kept(key: str) -> Choice | None:
    """What was chosen under this key on this machine; None where nothing was, or the file is damaged."""
    try:
        choice = json.loads(_file(key).read_bytes())
    except (OSError, ValueError):
        return None
    return choice if isinstance(choice, dict) else None


def keep(key: str, choice: Choice) -> None:
    """Keeps a choice for later runs on this machine, where there is a place for it."""
    try:
        folder = _file(key).parent
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as file:
            json.dump(choice, file)
        os.replace(file.name, _file(key))
    except OSError:
        return  # measured again by the next run


def _file(key: str) -> Path:
    return cache_folder() / "convolutions" / f"{key}.json"
