"""Prompts as a diffusers pipeline encodes them, whichever it is (`text.encoder: diffusers:FOLDER`).

Captions are encoded one at a time, as some pipelines let captions of one batch change each other.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from encoder.computed_by import computed_by
from encoder.loading import device_of
from encoder.text.files import prompt_components, text_identity
from encoder.text.preset_encoder import EMBEDDING, MASK, EncodedText, TextEncoder

# Our names of what most pipelines return; everything else keeps the pipeline's
COLUMNS = {
    "prompt_embeds": EMBEDDING,
    "prompt_attention_mask": MASK,
    "prompt_embeds_mask": MASK,
    "pooled_prompt_embeds": "pooled_embedding",
}


def load_pipeline(folder: str, dtype: str, device: str) -> TextEncoder:
    """The text side of a pipeline, without its transformer and VAE. Raises ValueError where it cannot be used."""
    from diffusers import DiffusionPipeline

    on = device_of(device)
    unused = {name: None for name, is_used in prompt_components(folder).items() if not is_used}
    try:
        load: Any = DiffusionPipeline.from_pretrained  # untyped there
        pipeline = load(folder, dtype=getattr(torch, dtype), local_files_only=True, **unused)
    except (OSError, AttributeError, TypeError) as error:
        raise ValueError(f"diffusers cannot load the pipeline in {folder}: {error}") from None
    kind = type(pipeline).__name__
    if not hasattr(pipeline, "encode_prompt"):
        raise ValueError(f"{kind} has no encode_prompt: use a preset")
    if str(pipeline.dtype) != f"torch.{dtype}":  # an older diffusers takes no `dtype`, and does not say so
        raise ValueError(f"diffusers loaded {kind} as {pipeline.dtype}, not {dtype}: install a newer diffusers")
    encode = _Pipeline(pipeline.to(on), returned_names(pipeline.encode_prompt), _arguments(pipeline))
    return TextEncoder(encode, text_identity(None, folder, dtype), computed_by(on, in_c=False))


@dataclass(frozen=True, slots=True)
class _Pipeline:
    """A pipeline, the names of what its `encode_prompt` returns, and the arguments that it is called with."""

    pipeline: Any
    names: tuple[str, ...]
    arguments: dict[str, Any]

    def __call__(self, captions: Sequence[str]) -> list[EncodedText]:
        return [self._encoded(caption) for caption in captions]

    def _encoded(self, caption: str) -> EncodedText:
        with torch.inference_mode():
            returned = self.pipeline.encode_prompt(prompt=caption, **self.arguments)
        returned = returned if isinstance(returned, tuple | list) else (returned,)
        assert len(returned) == len(self.names), f"encode_prompt returned {len(returned)} values for {self.names}"
        arrays = {
            COLUMNS.get(name, name): _array(name, value[0])
            for name, value in zip(self.names, returned, strict=True)
            if isinstance(value, Tensor) and not name.startswith("negative_")
        }
        return EncodedText(arrays, int(arrays[MASK].sum()) if MASK in arrays else None, None)


def _arguments(pipeline: Any) -> dict[str, Any]:
    """What a call of the pipeline would pass on to `encode_prompt`, whose own defaults may be others."""
    called = inspect.signature(pipeline.__call__).parameters
    taken = inspect.signature(pipeline.encode_prompt).parameters
    passed = {
        name: called[name].default
        for name in ("max_sequence_length", "prompt_template")
        if name in taken and name in called and called[name].default is not inspect.Parameter.empty
    }
    return passed | ({"do_classifier_free_guidance": False} if "do_classifier_free_guidance" in taken else {})


def _array(name: str, tensor: Tensor) -> npt.NDArray[Any]:
    """A mask as bool, all else as float32."""
    return tensor.bool().cpu().numpy() if "mask" in name.split("_") else tensor.float().cpu().numpy()


def returned_names(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of the variables that a function returns. Raises ValueError where its last return has others."""
    defined = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function)))).body[0]
    last = defined.body[-1] if isinstance(defined, ast.FunctionDef) else None
    value = last.value if isinstance(last, ast.Return) else None
    parts = value.elts if isinstance(value, ast.Tuple) else [value]
    names = tuple(part.id for part in parts if isinstance(part, ast.Name))
    if len(names) != len(parts):
        raise ValueError(f"{function.__qualname__} does not say what it returns: use a preset")
    return names
