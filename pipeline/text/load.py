"""The text encoder that a configuration names, brought to this node, and what makes two runs of it the same.

encoder/text/ has the encoders, pipeline/storage/node_cache.py fetches their files.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import encoder
from encoder import TextEncoder
from pipeline.config.identity import FORMAT_VERSION
from pipeline.config.text import TextConfig
from pipeline.errors import ConfigError
from pipeline.output.run_file import RunFile
from pipeline.storage.node_cache import local_copy
from pipeline.storage.urls import is_remote, public_url

T = TypeVar("T")


def load_text_encoder(config: TextConfig, device: str) -> TextEncoder:
    """Loads the encoder onto `device`; remote weights are downloaded once per node.

    Raises:
        ConfigError: nothing is there, it does not fit the preset, or a library is not installed.
    """
    return _with_folder(
        config, lambda folder: encoder.load_text(config.preset, weights=folder, dtype=config.dtype, device=device)
    )


def encoder_identity(config: TextConfig) -> dict[str, Any]:
    """What its embeddings depend on, found without loading it. Raises ConfigError as `load_text_encoder`."""
    return _with_folder(config, lambda folder: encoder.text_identity(config.preset, folder, config.dtype))


def _with_folder(config: TextConfig, use: Callable[[str], T]) -> T:
    where = config.location
    try:
        return use(local_copy(where) if is_remote(where) else where)
    except FileNotFoundError:
        raise ConfigError(f"text.encoder: nothing is at {public_url(where)}") from None
    except ValueError as error:
        raise ConfigError(f"text: {error}") from error


def text_identity(config: TextConfig, of_encoder: dict[str, Any], run: RunFile) -> dict[str, Any]:
    """Everything that decides what is embedded and how, for rows of this run."""
    return {
        "format_version": FORMAT_VERSION,
        "latents": run["fingerprint"],
        "text": of_encoder | config.rules(),
    }


def default_name(config: TextConfig, of_encoder: dict[str, Any]) -> str:
    """The name of text embeddings that are given none: the preset's, or the pipeline's class."""
    return config.preset or str(of_encoder["pipeline"])
