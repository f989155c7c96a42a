"""Text encoders with random weights and a tokenizer trained here, in folders as diffusers' pipelines have them."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

TRAINED_ON = ("a cat sits on the mat", "two dogs run over a field of grass", "the sun goes down over water") * 20
LETTER = "a"
KINDS: dict[str, tuple[Any, Any]] = {"t5": (T5Config, T5EncoderModel), "umt5": (UMT5Config, UMT5EncoderModel)}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A small Unigram tokenizer that ends captions with </s>, as T5's does."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    special = ["<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(
        TRAINED_ON, trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="<unk>")
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", padding_side="right"
    )


def make_text_encoder(folder: Path, kind: str, seed: int = 0, **sizes: int) -> Path:
    """Writes `text_encoder/` and `tokenizer/` of a T5 (`t5`) or UMT5 (`umt5`), small but for `sizes`; the folder."""
    tokenizer = make_tokenizer()
    config, model = KINDS[kind]
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, **sizes}
    torch.manual_seed(seed)
    made = model(config(vocab_size=tokenizer.vocab_size, feed_forward_proj="gated-gelu", **sizes))
    made.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder


def caption_of(tokens: int, tokenizer: Any) -> str:
    """A caption that the tokenizer turns into so many tokens, its end not counted."""
    text = LETTER * tokens
    assert len(tokenizer(text).input_ids) == tokens + 1, "the letter is a token, and two of them are two"
    return text
