"""The folder that a text encoder lies in: where its weights and its tokenizer are, and what identifies them.

It needs neither torch nor transformers, so that a driver can compare runs without loading an encoder.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encoder.text.presets import TextPreset, preset_of

WEIGHT_SUFFIXES = (".safetensors", ".bin")
# Components of a diffusers pipeline that take no part in encoding a prompt
OTHER_COMPONENTS = ("transformer", "unet", "vae", "audio_vae", "vocoder", "connectors", "image_encoder")
NOT_OF_TOKENIZERS = (".index.json", ".md", "generation_config.json", "/config.json")
BLOCK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class TextFolder:
    """A text encoder and its tokenizer, each in a folder, which may be the same one."""

    weights: Path
    tokenizer: Path

    def identity(self) -> dict[str, str]:
        """sha256 of the encoder's files, and of the tokenizer's."""
        weights = [file for file in _files(self.weights) if file.suffix in WEIGHT_SUFFIXES]
        config = self.weights / "config.json"
        return {
            "weights_sha256": _sha256(self.weights, [config, *weights]),
            "tokenizer_sha256": _sha256(self.tokenizer, filter(_is_tokenizers, _files(self.tokenizer))),
        }


def text_folder(path: str) -> TextFolder:
    """The text encoder in a diffusers pipeline's folder, or in one that transformers wrote.

    Raises:
        ValueError: the folder has no encoder, or no tokenizer.
    """
    root = Path(path)
    inner = (root / "text_encoder").is_dir()
    found = TextFolder(root / "text_encoder", root / "tokenizer") if inner else TextFolder(root, root)
    if not (found.weights / "config.json").is_file():
        raise ValueError(
            f"{found.weights} has no config.json: give a diffusers pipeline's folder, or one with a text encoder and "
            "its tokenizer as transformers saves them"
        )
    if not any((found.tokenizer / name).is_file() for name in ("tokenizer.json", "spiece.model", "tokenizer.model")):
        raise ValueError(f"{found.tokenizer} has no tokenizer: tokenizer.json or spiece.model is missing")
    return found


def preset_folder(preset: TextPreset, path: str) -> TextFolder:
    """The text encoder of a preset. Raises ValueError as `text_folder`, or where it is of another kind."""
    folder = text_folder(path)
    model_type = read_json(folder.weights / "config.json").get("model_type")
    if model_type != preset.model_type:
        raise ValueError(
            f"preset {preset.name} needs a {preset.model_type} encoder: {folder.weights} holds {model_type}"
        )
    return folder


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a checkpoint. Raises ValueError where there is none."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no JSON object")
    return values


def prompt_components(pipeline: str) -> dict[str, bool]:
    """The components that a diffusers pipeline's folder names, and whether they take part in encoding a prompt.

    Raises:
        ValueError: the folder is not that of a pipeline.
    """
    index = read_json(Path(pipeline) / "model_index.json")
    named = {name: any(value) for name, value in index.items() if isinstance(value, list)}
    return {name: there and name.rstrip("_0123456789") not in OTHER_COMPONENTS for name, there in named.items()}


def pipeline_identity(pipeline: str) -> dict[str, str]:
    """sha256 of what encodes prompts in a diffusers pipeline's folder: its tokenizers, and all else of it."""
    root = Path(pipeline)
    used = [name for name, is_used in prompt_components(pipeline).items() if is_used]
    of_tokenizers = [name for name in used if name.startswith(("tokenizer", "processor"))]
    files = {name: list(_files(root / name)) for name in used}
    rest = [root / "model_index.json", *(file for name in used if name not in of_tokenizers for file in files[name])]
    return {
        "weights_sha256": _sha256(root, rest),
        "tokenizer_sha256": _sha256(root, [file for name in of_tokenizers for file in files[name]]),
    }


def text_identity(preset: str | None, path: str, dtype: str) -> dict[str, Any]:
    """What embeddings depend on: the rule of a preset, or the pipeline; precision; weights and tokenizer.

    Raises:
        ValueError: nothing at the path can encode text.
    """
    if preset is None:
        kind = read_json(Path(path) / "model_index.json").get("_class_name", "")
        return {"pipeline": kind, "dtype": dtype, **pipeline_identity(path)}
    rules = preset_of(preset)
    return {"preset": rules.rules(), "dtype": dtype, **preset_folder(rules, path).identity()}


def _files(folder: Path) -> list[Path]:
    """The files of a folder, without hidden ones, those below it included."""
    return [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.startswith(".")]


def _is_tokenizers(file: Path) -> bool:
    return file.suffix not in WEIGHT_SUFFIXES and not f"/{file.name}".endswith(NOT_OF_TOKENIZERS)


def _sha256(root: Path, files: Iterable[Path]) -> str:
    """One digest of the names and contents of files."""
    digest = hashlib.sha256()
    for file in sorted(files):
        with file.open("rb") as opened:
            of_file = hashlib.sha256()
            while block := opened.read(BLOCK_BYTES):
                of_file.update(block)
        digest.update(f"{file.relative_to(root).as_posix()} {of_file.hexdigest()}\n".encode())
    return digest.hexdigest()
