"""Text encoders of video models: captions in, the embeddings that each family's pipeline would make of them out.

The only file that knows transformers.
"""

import html
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from encoder.computed_by import computed_by
from encoder.loading import device_of
from encoder.text.files import preset_folder, text_identity
from encoder.text.presets import TextPreset, preset_of

BATCH_TOKENS = 8192  # of a batch, padding included
EMBEDDING, MASK = "text_embedding", "text_mask"


@dataclass(frozen=True, slots=True)
class EncodedText:
    """What an encoder makes of one caption: arrays by name, float32 `n d` or bool `n` for masks.

    `tokens` are those of the whole caption, with its end token; `truncated` says whether some were cut off. Both are
    None where only the pipeline knows.
    """

    arrays: dict[str, npt.NDArray[Any]]
    tokens: int | None
    truncated: bool | None


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """One text encoder on one device. `identity` says what its embeddings depend on, `computed_by` what it runs on."""

    encode: Callable[[Sequence[str]], list[EncodedText]]
    identity: dict[str, Any] = field(hash=False)
    computed_by: dict[str, str] = field(hash=False)


def load_preset(name: str, weights: str, dtype: str, device: str) -> TextEncoder:
    """The text encoder of a preset, from a folder. Raises ValueError where the folder does not fit."""
    preset = preset_of(name)
    folder, on = preset_folder(preset, weights), device_of(device)
    transformers = _transformers()
    kind = {"t5": transformers.T5EncoderModel, "umt5": transformers.UMT5EncoderModel}[preset.model_type]
    model = kind.from_pretrained(folder.weights, dtype=getattr(torch, dtype), local_files_only=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder.tokenizer, local_files_only=True)
    encode = _Preset(preset, tokenizer, model.eval().requires_grad_(False).to(on), on)
    return TextEncoder(encode, text_identity(name, weights, dtype), computed_by(on, in_c=False))


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise ValueError("text encoders need transformers: pip install 'latentmill[text]'") from None
    transformers.utils.logging.disable_progress_bar()
    return transformers


@dataclass(frozen=True, slots=True)
class _Preset:
    """A preset's tokenizer and encoder on a device."""

    preset: TextPreset
    tokenizer: Any
    model: Any
    device: torch.device

    def __call__(self, captions: Sequence[str]) -> list[EncodedText]:
        """The embeddings of captions, in order; which of them share a batch depends on their lengths alone."""
        if not captions:
            return []  # a tokenizer refuses an empty batch
        cleaned = [clean(caption) if self.preset.clean else caption for caption in captions]
        tokens = [len(ids) for ids in self.tokenizer(cleaned, add_special_tokens=True, verbose=False).input_ids]
        most = self.preset.max_tokens
        padded = [min(count, most) if self.preset.trim else most for count in tokens]
        made: dict[int, EncodedText] = {}
        for batch in batches(padded):
            arrays = self._arrays([cleaned[index] for index in batch])
            for index, of_one in zip(batch, arrays, strict=True):
                made[index] = EncodedText(of_one, tokens[index], tokens[index] > most)
        return [made[index] for index in range(len(captions))]

    def _arrays(self, captions: list[str]) -> Iterator[dict[str, npt.NDArray[Any]]]:
        preset = self.preset
        inputs = self.tokenizer(
            captions,
            padding="longest" if preset.trim else "max_length",
            max_length=preset.max_tokens,
            truncation=True,
            add_special_tokens=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        ids, mask = inputs.input_ids, inputs.attention_mask.bool()
        if preset.empty_is_masked:
            empty = torch.tensor([not caption for caption in captions])
            ids, mask = ids.masked_fill(empty[:, None], 0), mask & ~empty[:, None]
        with torch.inference_mode():
            given = None if preset.attend_padding else mask.to(self.device)
            rows: Tensor = self.model(ids.to(self.device), attention_mask=given).last_hidden_state.float().cpu()
        for of_one, of_mask in zip(rows, mask, strict=True):
            kept = of_one[: int(of_mask.sum())] if preset.trim else of_one
            yield {EMBEDDING: kept.numpy()} | ({MASK: of_mask.numpy()} if preset.keep_mask else {})


def clean(caption: str) -> str:
    """A caption as Wan's pipelines clean it."""
    import ftfy  # lazily: only captions of some presets need it

    mended = html.unescape(html.unescape(ftfy.fix_text(caption))).strip()
    return re.sub(r"\s+", " ", mended).strip()


def batches(padded_tokens: Sequence[int], most_tokens: int = BATCH_TOKENS) -> list[list[int]]:
    """Indices of captions in batches of similar length, longest first, none over `most_tokens` unless of one."""
    order = sorted(range(len(padded_tokens)), key=lambda index: (-padded_tokens[index], index))
    made: list[list[int]] = []
    for index in order:
        if made and (len(made[-1]) + 1) * padded_tokens[made[-1][0]] <= most_tokens:
            made[-1].append(index)
        else:
            made.append([index])
    return made
